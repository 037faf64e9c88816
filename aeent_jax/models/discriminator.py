"""The network that tells images from reconstructions (arXiv 1805.06725)."""

import flax.linen as nn

from aeent_jax.models import autoencoder, layers


class Discriminator(nn.Module):
    """Images to a logit, and to the features that it is a linear map of.

    The layers are those of an encoder without BatchNorm behind its hidden
    linear layer, whose ReLU gives the features.

    Attributes:
      base_width: channels of the first block.
      hidden_dim: how many features.
      depth: convolutions in a block; the first halves the resolution.
      axis_name: mapped axis that BatchNorm synchronises over, or None.
    """

    base_width: int
    hidden_dim: int
    depth: int
    axis_name: str | None
    spatial = False
    normalises_hidden = False

    @nn.compact
    def __call__(self, x, mask, *, train):
        """Maps `x` to logits and features.

        Args:
          x: `[B, H, W, C]`.
          mask: `[B]` bool, the rows that count in BatchNorm; None means all.
          train: whether to use batch statistics.

        Returns:
          Logits `[B]`, above 0 for an image, and features `[B, hidden_dim]`.
        """
        features = autoencoder.hidden_features(self, x, mask, train=train)
        logit = layers.Linear(1, name="logit")(features)
        return logit[:, 0], features
