"""What an evaluation measures of latents, each in one compiled program.

Called outside of one, the estimators compile dozens of small programs at the
first evaluation, and move arrays to the device wherever they need them.
"""

import functools

import jax
import numpy as np

from aeent_jax import entropy


def coding_rate(z: np.ndarray, sigma: float) -> float:
    """`entropy.coding_rate` of latents on the host, in nats.

    Args:
      z: `[n, dim]`.
      sigma: standard deviation of the channel's noise.
    """
    return float(jax.device_get(_coding_rate(jax.device_put(z), sigma)))


def diagnostics(z: np.ndarray, sigma: float) -> dict[str, np.ndarray]:
    """`entropy.channel_diagnostics` of latents on the host.

    Args:
      z: `[n, dim]`.
      sigma: standard deviation of the channel's noise.

    Returns:
      Its dictionary, with the noise of a fixed key.
    """
    return jax.device_get(_diagnostics(jax.device_put(z), sigma))


@functools.partial(jax.jit, static_argnums=1)
def _coding_rate(z, sigma):
    return entropy.coding_rate(z, sigma=sigma).value


@functools.partial(jax.jit, static_argnums=1)
def _diagnostics(z, sigma):
    return entropy.channel_diagnostics(z, jax.random.key(0), sigma)
