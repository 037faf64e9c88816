"""Kernel bandwidths: a positive number, or a rule named after its author."""

import jax
import jax.numpy as jnp

from aeent_jax.entropy import points


def resolve(
    bandwidth: str | float | jax.Array,
    samples: jax.Array,
    mask: jax.Array,
) -> jax.Array:
    """Returns the kernel's standard deviation, in the unit of the samples.

    A rule is a factor of the number of samples and of the dimension, times the
    root mean square over dimensions of the samples' standard deviation (with
    n - 1, so that in one dimension it is scipy's bandwidth). It grows with the
    samples, and gradients flow through it. Samples that are all equal have no
    scale: NaN.

    Args:
      bandwidth: a positive number, or `"scott"` or `"silverman"`.
      samples: `[n, dim]`.
      mask: `[n]` bool.

    Returns:
      Scalar of the samples' type; NaN for a traced value that is not positive.

    Raises:
      ValueError: an unknown rule, too few samples for a rule, or a number that
        is not positive.
    """
    if not isinstance(bandwidth, str):
        return points.positive("bandwidth", bandwidth, samples.dtype)
    if bandwidth not in RULES:
        raise ValueError(
            f"bandwidth is {bandwidth!r}, and a positive number or one of"
            f" {sorted(RULES)} is needed: check the spelling."
        )
    n, dim = samples.shape
    if n < 2:
        raise ValueError(
            f"samples has {n} rows, and the bandwidth rule {bandwidth!r} needs"
            " at least 2: pass more latents, or a number as bandwidth."
        )
    centred, count = points.centre(samples, mask)
    # Fewer than two valid rows have no deviation. The caller discards that
    # batch; what matters here is that its gradient is not NaN.
    defined = count > 1
    variance = jnp.sum(centred**2) / (jnp.maximum(count - 1, 1) * dim)
    deviation = jnp.sqrt(jnp.where(defined, variance, 1))
    value = RULES[bandwidth](count, dim) * deviation
    return jnp.where(value > 0, value, jnp.nan)


def _scott(count: jax.Array, dim: int) -> jax.Array:
    """Scott 1992, Multivariate Density Estimation, equation 6.42."""
    return count ** (-1.0 / (dim + 4))


def _silverman(count: jax.Array, dim: int) -> jax.Array:
    """Silverman 1986, Density Estimation, equation 4.14 for the Gaussian."""
    return (count * (dim + 2) / 4.0) ** (-1.0 / (dim + 4))


RULES = {"scott": _scott, "silverman": _silverman}
