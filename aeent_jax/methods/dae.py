"""The denoising autoencoder (Kascenas, Pugeault and O'Neil, MIDL 2022).

In training each image `x` in [-1, 1] is given to a UNet as `x + 2 n`, and the
error is that from `x`. In evaluation the image is whole. The noise `n` is

1. independent N(0, noise_std^2) on a grid of `noise_size` squared, for each
   image and channel,
2. enlarged to the image, bilinear with corner on corner,
3. rolled around both axes by numbers of pixels that a whole batch shares,
4. with `foreground_only` set to 0 where `x` is black, which is -1.

Its unit is that of images in [0, 1], as the source has them, so the factor is
that of the map to [-1, 1]. The reference applies the whole of that map to the
noise, `2 (n - 0.5)`, and so trains on images that are darker by 1 everywhere;
`compat=medianomaly` restores that. It takes for black what the darkest pixel of
a batch has. None of this has been compared with numbers of the reference.
"""

import dataclasses

import jax
import jax.numpy as jnp
import ml_collections

from aeent_jax import models
from aeent_jax.methods import autoencoders, streams
from aeent_jax.methods.method import (
    Inputs,
    Method,
    Outputs,
)

_BLACK = -1.0


@dataclasses.dataclass(frozen=True)
class Corruption:
    """The noise that is added to images in training.

    Attributes:
      noise_std: deviation of the coarse noise, for images in [0, 1].
      noise_size: side of its grid, from 2 to that of the image.
      foreground_only: whether black pixels get none.
      shifted: whether every pixel gets 1 less.
    """

    noise_std: float
    noise_size: int
    foreground_only: bool = False
    shifted: bool = False


def coarse_noise(inputs: Inputs, std: float, size: int) -> jax.Array:
    """Smooth noise for each image, before it is rolled.

    Args:
      inputs: images, and the keys of their noise.
      std: deviation of the normal numbers on the grid.
      size: side of the grid.

    Returns:
      `[B, H, W, C]`; corners of the grid lie on corners of the image.
    """
    _, *sides, channels = inputs.x.shape

    def draw(key):
        return jax.random.normal(key, (size, size, channels), inputs.x.dtype)

    grids = std * jax.vmap(draw)(streams.row_keys(inputs, streams.DAE_NOISE))
    # Pixel i is at i / scale of the grid, where centres are at i + 1/2.
    scale = (jnp.array(sides) - 1) / (size - 1)
    return jax.image.scale_and_translate(
        grids, inputs.x.shape, (1, 2), scale, (1 - scale) / 2, "linear", False
    )


def corrupt(inputs: Inputs, corruption: Corruption) -> jax.Array:
    """Adds the noise of one step, as the module says.

    Args:
      inputs: images in [-1, 1], `[B, H, W, C]`, and the key of the step.
      corruption: what is added.

    Returns:
      `[B, H, W, C]`.
    """
    x = inputs.x
    noise = coarse_noise(inputs, corruption.noise_std, corruption.noise_size)
    key = streams.batch_key(inputs, streams.DAE_ROLL)
    shift = jax.random.randint(key, (2,), 0, jnp.array(x.shape[1:3]))
    noise = jnp.roll(noise, shift, axis=(1, 2))
    if corruption.foreground_only:
        noise = jnp.where(x > _BLACK, noise, 0.0)
    return x + 2.0 * noise - float(corruption.shifted)


def from_network(
    unet: models.UNet, image_size: int, corruption: Corruption
) -> Method:
    """The denoising autoencoder on a UNet, for images of a size."""

    def init(rng: jax.Array) -> models.Variables:
        x = jnp.zeros((1, image_size, image_size, unet.channels))
        return {"params": unet.init(rng, x)["params"], "batch_stats": {}}

    def reconstruct(variables, inputs, *_, train: bool) -> Outputs:
        x = corrupt(inputs, corruption) if train else inputs.x
        x_hat = unet.apply({"params": variables["params"]}, x)
        return Outputs(x_hat, None, None, variables["batch_stats"], {})

    return Method(
        init=init,
        encode=None,
        decode=reconstruct,
        losses=autoencoders.squared_error,
        score="squared",
        latent_dim=None,
    )


def make_dae(
    config: ml_collections.ConfigDict, axis_name: str | None
) -> Method:
    """`dae`: mean squared error to the clean image; no latent vector.

    The reference has 128 pixels, batches of 16 and a `model.base_width` of 64,
    as configs/dae.py.

    Raises:
      ValueError: an image that is too small, or numbers other than float32.
    """
    del axis_name  # No statistic of the network is over images.
    compute = config.compute
    if (compute.dtype, compute.matmul_precision) != ("float32", "default"):
        raise ValueError(
            "dae has a UNet, which computes in float32 alone; set"
            " compute.dtype=float32 and compute.matmul_precision=default."
        )
    group, image_size = config.corruption, config.data.image_size
    if group.noise_size > image_size:
        raise ValueError(
            f"corruption.noise_size is {group.noise_size}, but must be at most"
            f" data.image_size, which is {image_size}."
        )
    unet = models.make_unet(
        image_size=image_size,
        channels=config.data.channels,
        base_width=config.model.base_width,
    )
    corruption = Corruption(
        noise_std=group.noise_std,
        noise_size=group.noise_size,
        foreground_only=group.foreground_only,
        shifted=config.compat == "medianomaly",
    )
    return from_network(unet, image_size, corruption)
