"""Estimates from second moments, in nats."""

import jax
import jax.numpy as jnp

from aeent_jax.entropy import points
from aeent_jax.entropy.estimate import Estimate


def coding_rate(
    queries: jax.Array,
    samples: jax.Array | None = None,
    query_index: jax.Array | None = None,
    *,
    query_mask: jax.Array | None = None,
    sample_mask: jax.Array | None = None,
    sigma: float | jax.Array = 1.0,
) -> Estimate:
    """Information of a Gaussian with the samples' covariance; whole batch.

    `1/2 logdet(I + C / sigma^2)` in nats, with C the covariance of the samples
    (divided by n): what the channel `z + sigma*eps` would carry if the latents
    were Gaussian. No law with covariance C carries more, so with the
    population's C it is an upper bound of the rate, exact for Gaussian latents;
    from few rows it reads low. Of the dim x dim matrix and its n x n dual
    (Sylvester's determinant identity) the smaller is factored.

    The value is a function of the samples alone, the same on every device. For
    the gradient, each of D devices contributes `value / D`, and the caller sums
    the gradients over devices.

    Args:
      queries: `[m, dim]`, used only where samples are not given.
      samples: `[n, dim]`, clean latents, default the queries.
      query_index: not used.
      query_mask: `[m]` bool, used only where samples are not given.
      sample_mask: `[n]` bool, default all.
      sigma: positive standard deviation of the channel noise, in the unit of
        the latents.

    Returns:
      Estimate of kind "I" without `per_query`.

    Raises:
      ValueError: no sample, a shape that does not fit, or a sigma that is not
        positive.

    Reference: Ma, Derksen, Hong and Wright 2007, Segmentation of multivariate
    mixed data via lossy coding and compression; here `sigma` is its distortion.
    """
    resolved = points.resolve(
        queries, samples, query_index, query_mask, sample_mask, min_samples=1
    )
    y, mask = resolved.samples, resolved.sample_mask
    sigma = points.positive("sigma", sigma, y.dtype)
    centred, count = points.centre(y, mask)
    return Estimate(half_logdet(centred / (sigma * jnp.sqrt(count))), "I")


def half_logdet(a: jax.Array) -> jax.Array:
    """Returns `1/2 logdet(I + A^T A)`, by the smaller of the two Gram matrices.

    Args:
      a: `[n, dim]`.

    Returns:
      Scalar, nats.
    """
    n, dim = a.shape
    gram = _matmul(a.T, a) if dim <= n else _matmul(a, a.T)
    factor = jnp.linalg.cholesky(gram + jnp.eye(min(n, dim), dtype=a.dtype))
    return jnp.sum(jnp.log(jnp.diagonal(factor)))


def _matmul(a: jax.Array, b: jax.Array) -> jax.Array:
    return jnp.matmul(a, b, precision=jax.lax.Precision.HIGHEST)
