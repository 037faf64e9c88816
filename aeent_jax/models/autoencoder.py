"""The reference autoencoder, and the discriminator of its adversary.

    x [B, H, W, C]
      four blocks of 4x4 convolution of stride 2, BatchNorm, ReLU,
      with base_width x (1, 2, 4, 4) channels
    [B, H/16, W/16, 4 base_width]
      flatten; linear, BatchNorm, ReLU; linear
    z [B, latent_dim]

The decoder mirrors the encoder and ends without an activation. Source: Cai et
al., MICCAI 2024 (arXiv 2403.09303) and MedIAnomaly (arXiv 2404.04518).
"""

import dataclasses
import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from aeent_jax.models import layers

_MULTIPLIERS = (1, 2, 4, 4)
_REDUCTION = 2 ** len(_MULTIPLIERS)
NORMALISATIONS = ("none", "power")
DTYPES = {"float32": None, "bfloat16": jnp.bfloat16}
MATMUL_PRECISIONS = {"default": None, "high": "high", "highest": "highest"}
# An affine map of vectors, or a 1x1 convolution of images that are spatial.
_AFFINE = {
    False: layers.Linear,
    True: functools.partial(layers.Conv, kernel_size=1),
}

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


def _hidden(module, x, mask, train):
    """Hidden layer of a module: map, BatchNorm where it has one, ReLU."""
    x = _AFFINE[module.spatial](module.hidden_dim, name="hidden")(x)
    if module.normalises_hidden:
        norm = layers.BatchNorm(module.axis_name, name="hidden_norm")
        x = norm(x, mask, train=train)
    return nn.relu(x)


def _hidden_features(module, x, mask, *, train):
    """Layers of an encoder before its last map.

    Args:
      module: the module whose compact method calls this function, with the
        attributes `base_width` to `spatial` of `Encoder`.
      x: `[B, H, W, C]`.
      mask: `[B]` bool, the rows that count in BatchNorm; None means all.
      train: whether to use batch statistics.

    Returns:
      `[B, hidden_dim]`; `[B, H/16, W/16, hidden_dim]` if it is spatial.
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
      depth: convolutions per block; the first one halves the resolution.
      axis_name: mapped axis that BatchNorm synchronises over, or None.
      normalisation: normalisation of the latents, one of `NORMALISATIONS`.
      spatial: 1x1 convolutions without bias in place of the linear layers; the
        latent is then an image.
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

        A spatial one gives `[B, H/16, W/16, latent_dim]`.
        """
        x = _hidden_features(self, x, mask, train=train)
        z = _AFFINE[self.spatial](self.latent_dim, name="latent")(x)
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
      depth: convolutions per block; the last one doubles the resolution.
      axis_name: mapped axis that BatchNorm synchronises over, or None.
      heads: number of images it gives, side by side in the last axis.
      spatial: as in `Encoder`.
      normalises_hidden: as in `Encoder`.
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
        """Maps latents to `[B, H, W, heads * channels]`."""
        side = self.image_size // _REDUCTION
        places = 1 if self.spatial else side * side
        widths = [self.base_width * m for m in reversed(_MULTIPLIERS)]
        x = _hidden(self, z, mask, train)
        x = _AFFINE[self.spatial](places * widths[0], name="unflatten")(x)
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


class Discriminator(nn.Module):
    """Network that tells images from reconstructions (arXiv 1805.06725).

    It has the layers of an encoder without BatchNorm behind the hidden linear
    layer. The ReLU behind that layer gives the features, and one linear map of
    the features the logit.

    Attributes:
      base_width: channels of the first block.
      hidden_dim: number of features.
      depth: convolutions per block; the first one halves the resolution.
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
        """Maps images to logits and features.

        Args:
          x: `[B, H, W, C]`.
          mask: `[B]` bool, the rows that count in BatchNorm; None means all.
          train: whether to use batch statistics.

        Returns:
          Logits `[B]`, above 0 for an image, and features `[B, hidden_dim]`.
        """
        features = _hidden_features(self, x, mask, train=train)
        logit = layers.Linear(1, name="logit")(features)
        return logit[:, 0], features


@dataclasses.dataclass(frozen=True)
class Autoencoder:
    """Encoder and decoder as pure functions of their variables.

    `variables` is `{"params": ..., "batch_stats": ...}`, each with the entries
    `encoder` and `decoder`. With `train=True`, the functions normalise by the
    statistics of the (global, masked) batch and return the updated
    `batch_stats` of their half. With `train=False`, they normalise by the
    running statistics and return them unchanged.

    Attributes:
      encoder: the encoder module.
      decoder: the decoder module.
      latent_dim: size of the latent vector that the decoder takes.
      dtype: format of the activations inside of both, and of the parameters in
        products with them, one of `DTYPES`. "bfloat16" also rounds latents and
        reconstructions once; parameters, statistics, losses and the rate stay
        float32.
      matmul_precision: precision of products in float32, one of
        `MATMUL_PRECISIONS`. "default" is the hardware's: TPUs round factors to
        bfloat16.
    """

    encoder: Encoder
    decoder: Decoder
    latent_dim: int
    dtype: str = "float32"
    matmul_precision: str = "default"

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

    def apply(
        self,
        half: str,
        variables: Variables,
        x: jax.Array,
        mask: jax.Array | None = None,
        *,
        train: bool,
    ) -> tuple[jax.Array, Variables]:
        """Encodes images, or decodes latents.

        Args:
          half: "encoder" or "decoder".
          variables: as `init` returns.
          x: images in [-1, 1], `[B, H, W, C]`; or latents `[B, latent_dim]`,
            `[B, H/16, W/16, latent_dim]` if it is spatial.
          mask: `[B]` bool, the rows that count in BatchNorm; None means all.
          train: whether to use batch statistics.

        Returns:
          `z` `[B, encoded_vectors * latent_dim]`, with the axes `[B, H/16,
          W/16]` in front if it is spatial; or `x_hat` `[B, H, W, heads * C]`;
          and the `batch_stats` of this half.
        """
        module = {"encoder": self.encoder, "decoder": self.decoder}[half]
        own = {
            collection: variables[collection][half]
            for collection in ("params", "batch_stats")
        }
        precision = MATMUL_PRECISIONS[self.matmul_precision]
        with jax.default_matmul_precision(precision):
            y, updated = module.apply(
                own,
                x.astype(DTYPES[self.dtype] or x.dtype),
                mask,
                train=train,
                mutable=["batch_stats"] if train else [],
            )
        return y.astype(x.dtype), updated.get("batch_stats", own["batch_stats"])


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
    dtype: str = "float32",
    matmul_precision: str = "default",
) -> Autoencoder:
    """Builds the reference autoencoder.

    Args:
      image_size: height and width, a multiple of 16.
      channels: 1 (gray) or 3 (RGB).
      latent_dim: size of the latent vector, at least 1.
      base_width: channels of the first block; the reference has 16.
      hidden_dim: size of the linear layers; the reference has 1024.
      depth: convolutions per block, at least 1.
      axis_name: mapped axis that BatchNorm synchronises over, or None.
      normalisation: "none", or "power" to divide the latents by their rms.
      encoded_vectors: number of vectors of the latent's size that the encoder
        gives side by side; a variational encoder gives two.
      heads: number of images that the decoder gives side by side.
      spatial: 1x1 convolutions in place of the linear layers, and an image as
        the latent.
      normalises_hidden: BatchNorm behind the hidden linear layers.
      dtype: one of `DTYPES`, as in `Autoencoder`.
      matmul_precision: one of `MATMUL_PRECISIONS`.

    Returns:
      The network as a pair of pure functions.
    """
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
        dtype,
        matmul_precision,
    )
