"""The reference autoencoder as pure functions over linen modules.

Encoder: four 4x4 convolutions of stride 2 (base x 1, 2, 4, 4 channels), each
with BatchNorm and ReLU; flatten; linear, BatchNorm, ReLU; linear to the latent.
The decoder mirrors it and ends without an activation. Source: Cai et al.,
MICCAI 2024 (arXiv 2403.09303) and MedIAnomaly (arXiv 2404.04518).
"""

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from aeent_jax.models import layers
from aeent_jax.models.arithmetic import Arithmetic

_MULTIPLIERS = (1, 2, 4, 4)
_REDUCTION = 2 ** len(_MULTIPLIERS)
NORMALISATIONS = ("none", "power")
_FLOAT32 = Arithmetic()

Variables = dict[str, Any]


class ConvBlock(nn.Module):
    """Convolution, BatchNorm, ReLU."""

    features: int
    kernel_size: int
    stride: int
    axis_name: str | None

    @nn.compact
    def __call__(self, x, mask, *, train):
        """Maps `[B, H, W, I]` to `[B, H/stride, W/stride, features]`."""
        x = layers.Conv(
            self.features, self.kernel_size, self.stride, name="conv"
        )(x)
        x = layers.BatchNorm(self.axis_name, name="norm")(x, mask, train=train)
        return nn.relu(x)


def _affine(features, spatial, name):
    """An affine map of vectors, or a linear one at each place."""
    if spatial:
        return layers.Conv(features, 1, name=name)
    return layers.Linear(features, name=name)


def _hidden(module, x, mask, train):
    """The hidden affine map of a module, BatchNorm if it has it, ReLU."""
    x = _affine(module.hidden_dim, module.spatial, "hidden")(x)
    if module.normalises_hidden:
        norm = layers.BatchNorm(module.axis_name, name="hidden_norm")
        x = norm(x, mask, train=train)
    return nn.relu(x)


def hidden_features(module, x, mask, *, train):
    """What an encoder makes of images before its last map.

    Args:
      module: within whose compact method it is called, with the attributes
        `base_width` to `spatial` of `Encoder`.
      x: `[B, H, W, C]`.
      mask: `[B]` bool, the rows that count in BatchNorm; None means all.
      train: whether to use batch statistics.

    Returns:
      `[B, hidden_dim]`; where it is spatial `[B, H/16, W/16, hidden_dim]`.
    """
    for i, multiplier in enumerate(_MULTIPLIERS, start=1):
        features = module.base_width * multiplier
        for j in range(module.depth):
            size, stride = (4, 2) if j == 0 else (3, 1)
            x = ConvBlock(
                features, size, stride, module.axis_name, name=f"block{i}_{j}"
            )(x, mask, train=train)
    if not module.spatial:
        x = x.reshape(x.shape[0], -1)
    return _hidden(module, x, mask, train)


class Encoder(nn.Module):
    """Images to latents.

    Attributes:
      latent_dim: size of the latent vector.
      base_width: channels of the first block.
      hidden_dim: size of the hidden linear layer.
      depth: convolutions in a block; the first halves the resolution.
      axis_name: mapped axis that BatchNorm synchronises over, or None.
      normalisation: of the latents, one of `NORMALISATIONS`.
      spatial: keep the places apart, with 1x1 convolutions without bias for
        the linear layers; the latent is then no vector.
      normalises_hidden: BatchNorm behind the hidden linear layer.
    """

    latent_dim: int
    base_width: int
    hidden_dim: int
    depth: int
    axis_name: str | None
    normalisation: str = "none"
    spatial: bool = False
    normalises_hidden: bool = True

    @nn.compact
    def __call__(self, x, mask, *, train):
        """Maps `x` `[B, H, W, C]` to `z` `[B, latent_dim]`.

        Where it is spatial, to `[B, H/16, W/16, latent_dim]`.
        """
        x = hidden_features(self, x, mask, train=train)
        z = _affine(self.latent_dim, self.spatial, "latent")(x)
        if self.normalisation == "none":
            return z
        norm = layers.PowerNorm(self.axis_name, name="latent_norm")
        return norm(z, mask, train=train)


class Decoder(nn.Module):
    """Latents to images.

    Attributes:
      image_size: height and width of the image.
      channels: 1 or 3.
      base_width: channels before the last layer.
      hidden_dim: size of the hidden linear layer.
      depth: convolutions in a block; the last doubles the resolution.
      axis_name: mapped axis that BatchNorm synchronises over, or None.
      heads: images that it gives, one behind the other in the last axis.
      spatial: as of the encoder.
      normalises_hidden: as of the encoder.
    """

    image_size: int
    channels: int
    base_width: int
    hidden_dim: int
    depth: int
    axis_name: str | None
    heads: int = 1
    spatial: bool = False
    normalises_hidden: bool = True

    @nn.compact
    def __call__(self, z, mask, *, train):
        """Maps what the encoder gives to `[B, H, W, heads * channels]`."""
        side = self.image_size // _REDUCTION
        places = 1 if self.spatial else side * side
        widths = [self.base_width * m for m in reversed(_MULTIPLIERS)]
        x = _hidden(self, z, mask, train)
        x = _affine(places * widths[0], self.spatial, "unflatten")(x)
        x = x.reshape(x.shape[0], side, side, widths[0])
        outputs = [*widths[1:], self.heads * self.channels]
        for i, features in enumerate(outputs, start=1):
            for j in range(self.depth - 1):
                x = ConvBlock(
                    x.shape[-1], 3, 1, self.axis_name, name=f"block{i}_{j}"
                )(x, mask, train=train)
            x = layers.ConvTranspose(features, name=f"up{i}")(x)
            if i < len(outputs):
                x = layers.BatchNorm(self.axis_name, name=f"up{i}_norm")(
                    x, mask, train=train
                )
                x = nn.relu(x)
        return x


@dataclasses.dataclass(frozen=True)
class Autoencoder:
    """Encoder and decoder as pure functions of their variables.

    `variables` is `{"params": ..., "batch_stats": ...}`, each with the entries
    `encoder` and `decoder`. With `train=True` the functions use the statistics
    of the (global, masked) batch and return the updated `batch_stats` of their
    half; with `train=False` they return it as it was.

    Attributes:
      encoder: the encoder module.
      decoder: the decoder module.
      latent_dim: size of the latent vector that the decoder takes.
      arithmetic: the numbers in which they compute.
    """

    encoder: Encoder
    decoder: Decoder
    latent_dim: int
    arithmetic: Arithmetic = Arithmetic()

    def init(self, rng: jax.Array) -> Variables:
        """Draws initial variables; the same on every device count.

        Args:
          rng: a key.

        Returns:
          `{"params": ..., "batch_stats": ...}`.
        """
        size, channels = self.decoder.image_size, self.decoder.channels
        encoder_rng, decoder_rng = jax.random.split(rng)
        x = jnp.zeros((1, size, size, channels))
        z, encoder = self.encoder.init_with_output(
            encoder_rng, x, None, train=False
        )
        z = z[..., : self.latent_dim]
        decoder = self.decoder.init(decoder_rng, z, None, train=False)
        halves = {"encoder": encoder, "decoder": decoder}
        return {
            collection: {
                name: half[collection] for name, half in halves.items()
            }
            for collection in ("params", "batch_stats")
        }

    def encode(
        self, variables: Variables, x: jax.Array, mask=None, *, train: bool
    ) -> tuple[jax.Array, Variables]:
        """Encodes images.

        Args:
          variables: as `init` returns.
          x: images in [-1, 1], `[B, H, W, C]`.
          mask: `[B]` bool, the rows that count in BatchNorm; None means all.
          train: whether to use batch statistics.

        Returns:
          `z` `[B, latent_dim]` (`[B, H/16, W/16, latent_dim]` where it is
          spatial), or as many vectors of that size side by side as
          `make_autoencoder` was told, and the encoder's `batch_stats`.
        """
        return self._apply("encoder", variables, x, mask, train)

    def decode(
        self, variables: Variables, z: jax.Array, mask=None, *, train: bool
    ) -> tuple[jax.Array, Variables]:
        """Decodes latents.

        Args:
          variables: as `init` returns.
          z: as `encode` returns.
          mask: `[B]` bool, the rows that count in BatchNorm; None means all.
          train: whether to use batch statistics.

        Returns:
          `x_hat` `[B, H, W, heads * C]` and the decoder's `batch_stats`.
        """
        return self._apply("decoder", variables, z, mask, train)

    def _apply(self, name, variables, inputs, mask, train):
        module = {"encoder": self.encoder, "decoder": self.decoder}[name]
        own = {collection: tree[name] for collection, tree in variables.items()}

        def run(inputs):
            if not train:
                outputs = module.apply(own, inputs, mask, train=False)
                return outputs, own["batch_stats"]
            outputs, updated = module.apply(
                own, inputs, mask, train=True, mutable=["batch_stats"]
            )
            return outputs, updated["batch_stats"]

        return self.arithmetic.apply(run, inputs)


def make_autoencoder(
    *,
    image_size: int,
    channels: int,
    latent_dim: int,
    base_width: int = 16,
    hidden_dim: int = 1024,
    depth: int = 1,
    axis_name: str | None = None,
    normalisation: str = "none",
    encoded_vectors: int = 1,
    heads: int = 1,
    spatial: bool = False,
    normalises_hidden: bool = True,
    arithmetic: Arithmetic = _FLOAT32,
) -> Autoencoder:
    """Builds the reference autoencoder.

    Args:
      image_size: height and width, a multiple of 16.
      channels: 1 (gray) or 3 (RGB).
      latent_dim: size of the latent vector, at least 1.
      base_width: channels of the first block; the reference has 16.
      hidden_dim: size of the linear layers; the reference has 1024.
      depth: convolutions in a block, at least 1.
      axis_name: mapped axis that BatchNorm synchronises over, or None.
      normalisation: "none", or "power" to divide the latents by their rms.
      encoded_vectors: vectors of the latent's size that the encoder gives; a
        variational one gives two.
      heads: images that the decoder gives, one behind the other.
      spatial: 1x1 convolutions for the linear layers, and no latent vector.
      normalises_hidden: BatchNorm behind the hidden linear layers.
      arithmetic: the numbers in which it computes.

    Returns:
      The network as a pair of pure functions.

    Raises:
      ValueError: if a size cannot be built, or the normalisation is unknown.
    """
    if image_size < _REDUCTION or image_size % _REDUCTION:
        raise ValueError(
            f"image_size is {image_size}, but the four halvings of this network"
            f" need a multiple of {_REDUCTION}; use 32, 64, 128, ..."
        )
    if channels not in (1, 3):
        raise ValueError(
            f"channels is {channels}, but must be 1 (gray) or 3 (RGB)."
        )
    if normalisation not in NORMALISATIONS:
        raise ValueError(
            f"channel.normalisation is {normalisation!r}; choose one of"
            f" {', '.join(NORMALISATIONS)}."
        )
    sizes = {
        "latent_dim": latent_dim,
        "base_width": base_width,
        "hidden_dim": hidden_dim,
        "depth": depth,
        "heads": heads,
    }
    for name, value in sizes.items():
        if value < 1:
            raise ValueError(f"{name} is {value}, but must be at least 1.")
    shared = {
        "base_width": base_width,
        "hidden_dim": hidden_dim,
        "depth": depth,
        "axis_name": axis_name,
        "spatial": spatial,
        "normalises_hidden": normalises_hidden,
    }
    return Autoencoder(
        Encoder(
            latent_dim * encoded_vectors, normalisation=normalisation, **shared
        ),
        Decoder(image_size, channels, heads=heads, **shared),
        latent_dim,
        arithmetic,
    )
