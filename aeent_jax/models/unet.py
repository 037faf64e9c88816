"""The UNet of the denoising autoencoder.

Five levels of two 3x3 convolutions each, whose channels double as the
resolution halves, with skips across. Every convolution has standardised weights
(Qiao et al., arXiv 1903.10520) and reflected borders, and is followed by swish
and then by GroupNorm, so that images do not mix. Source: Kascenas, Pugeault and
O'Neil, MIDL 2022, as MedIAnomaly (arXiv 2404.04518) runs it.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from aeent_jax.models import layers

_LEVELS = 5
_REDUCTION = 2 ** (_LEVELS - 1)
# Reflection at the deepest level needs two pixels.
_LEAST_SIZE = 2 * _REDUCTION
# Prevents a division by 0; PyTorch's GroupNorm has the same.
_EPSILON = 1e-5


def standardise(kernel: jax.Array) -> jax.Array:
    """Shifts and scales the weights of each output channel.

    Args:
      kernel: `[h, w, I, O]`.

    Returns:
      `[h, w, I, O]`, of mean 0 and (unbiased) standard deviation 1 over all
      axes but the last.
    """
    axes = (0, 1, 2)
    centred = kernel - jnp.mean(kernel, axes, keepdims=True)
    deviation = jnp.std(kernel, axes, ddof=1, keepdims=True)
    return centred / (deviation + _EPSILON)


def num_groups(channels: int) -> int:
    """The least divisor of the channels that is at least their square root."""
    return next(
        n
        for n in range(1, channels + 1)
        if channels % n == 0 and n * n >= channels
    )


class StandardisedConv(nn.Module):
    """3x3 convolution with standardised weights and reflected borders.

    Attributes:
      features: output channels.
    """

    features: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps `[B, H, W, I]` to `[B, H, W, features]`."""
        init = layers.uniform_init(3 * 3 * x.shape[-1])
        shape = (3, 3, x.shape[-1], self.features)
        kernel = self.param("kernel", init, shape)
        bias = self.param("bias", init, (self.features,))
        padded = jnp.pad(x, [(0, 0), (1, 1), (1, 1), (0, 0)], mode="reflect")
        convolved = lax.conv_general_dilated(
            padded,
            standardise(kernel),
            (1, 1),
            "VALID",
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )
        return convolved + bias


class Block(nn.Module):
    """Twice a convolution, swish and GroupNorm.

    Attributes:
      features: output channels.
    """

    features: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps `[B, H, W, I]` to `[B, H, W, features]`."""
        for i in range(2):
            x = StandardisedConv(self.features, name=f"conv{i}")(x)
            x = nn.GroupNorm(
                num_groups(self.features),
                epsilon=_EPSILON,
                # The difference of large squares could be negative.
                use_fast_variance=False,
                name=f"norm{i}",
            )(nn.swish(x))
        return x


class UNet(nn.Module):
    """Images to images, without a latent vector.

    Attributes:
      channels: channels of the images.
      base_width: channels of the first level.
    """

    channels: int
    base_width: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps `[B, H, W, C]` to `[B, H, W, C]`; the last layer is linear."""
        skips = []
        for level in range(_LEVELS):
            if level:
                skips.append(x)
                x = nn.avg_pool(x, (2, 2), (2, 2))
            x = Block(self.base_width * 2**level, name=f"down{level}")(x)
        for level in reversed(range(_LEVELS - 1)):
            features = self.base_width * 2**level
            # PyTorch's fan-in of a transposed convolution: its output channels.
            init = layers.uniform_init(2 * 2 * features)
            up = nn.ConvTranspose(
                features,
                (2, 2),
                (2, 2),
                transpose_kernel=True,
                kernel_init=init,
                bias_init=init,
                name=f"up{level}",
            )(x)
            x = jnp.concatenate([up, skips[level]], axis=-1)
            x = Block(features, name=f"up{level}_block")(x)
        init = layers.uniform_init(self.base_width)
        return nn.Conv(
            self.channels,
            (1, 1),
            kernel_init=init,
            bias_init=init,
            name="last",
        )(x)


def make_unet(*, image_size: int, channels: int, base_width: int) -> UNet:
    """Builds the UNet.

    Args:
      image_size: height and width, a multiple of 16 and at least 32.
      channels: 1 (gray) or 3 (RGB).
      base_width: channels of the first level; the reference has 64.

    Returns:
      The module; it has parameters and no running statistics.

    Raises:
      ValueError: if the images are too small or no multiple of 16.
    """
    if image_size < _LEAST_SIZE or image_size % _REDUCTION:
        raise ValueError(
            f"image_size is {image_size}, but the four halvings of this network"
            f" and its reflected borders need a multiple of {_REDUCTION} from"
            f" {_LEAST_SIZE}; use 32, 64, 128, ..."
        )
    return UNet(channels, base_width)
