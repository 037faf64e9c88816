"""The noisy channel between encoder and decoder: `z~ = z + sigma*eps`.

The entries of `eps` are independent, with mean 0 and variance 1. They are
Gaussian, or uniform: the dither of a quantiser with the step `sigma*sqrt(12)`.
"""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from aeent_jax.entropy import inputs


def width(sigma: float) -> float:
    """Width of the uniform law whose standard deviation is `sigma`."""
    return sigma * math.sqrt(12)


def _uniform(key: jax.Array, shape: Sequence[int]) -> jax.Array:
    half = width(1.0) / 2
    return jax.random.uniform(key, shape, minval=-half, maxval=half)


NOISES = inputs.Table(
    "channel.noise", gaussian=jax.random.normal, uniform=_uniform
)

# Entropy of one entry of eps, in nats.
ENTROPIES = inputs.Table(
    "channel.noise",
    gaussian=0.5 * math.log(2 * math.pi * math.e),
    uniform=math.log(width(1.0)),
)


def add_noise(
    z: jax.Array,
    sigma: float,
    rng: jax.Array,
    positions: jax.Array,
    noise: str = "gaussian",
    latent_mask: jax.Array | None = None,
) -> jax.Array:
    """Returns `z + sigma*eps`, with noise that depends on `positions` alone.

    Args:
      z: clean latents, `[B, D]`.
      sigma: standard deviation; 0 returns `z`.
      rng: the key of this step.
      positions: `[B]` int, the rows' places in the global batch, so that
        another number of devices draws the same noise.
      noise: a name of `NOISES`.
      latent_mask: `[D]` bool, the dimensions that get noise; None for all.

    Returns:
      `[B, D]`.
    """
    if sigma == 0:
        return z
    keys = jax.vmap(lambda i: jax.random.fold_in(rng, i))(positions)
    draws = jax.vmap(lambda key: NOISES[noise](key, z.shape[1:]))(keys)
    noisy = z + sigma * draws
    return noisy if latent_mask is None else jnp.where(latent_mask, noisy, z)
