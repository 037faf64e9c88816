"""Latents in units of their own spread, and what that does to their entropy."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from aeent_jax.entropy import inputs


def rescale(
    z: jax.Array, how: str, mask: jax.Array | None = None
) -> tuple[jax.Array, jax.Array]:
    """Returns `(z', log_det)` with `h(Z) = h(Z') + log_det`, in nats.

    `z = mean + A z'` is an affine map that is chosen from the samples;
    `log_det` is `log |det A|`. It is for reporting: kernels and balls are
    round, so an estimate of h(Z') plus `log_det` is better than one of h(Z)
    where the dimensions differ in scale, and it changes by exactly
    `log |det B|` when the latents are multiplied by B (any B where whitened, a
    diagonal one per dimension). It is no use in training, where the encoder can
    lower `log_det` at no cost.

    Args:
      z: `[n, dim]`.
      how: `"per_dimension"` divides each dimension by its standard deviation,
        `"whitened"` makes the covariance the identity (by its Cholesky factor).
        Both with n - 1.
      mask: `[n]` bool, which rows count; default all.

    Returns:
      `z'` `[n, dim]`, zero where masked, and a scalar. A dimension without
      spread stays 0 and makes `log_det` -inf, as its entropy is; where
      whitened, a covariance that is singular gives NaN, or by rounding a very
      low number.

    Raises:
      ValueError: an unknown `how`, a shape that does not fit, or too few rows:
        2 per dimension, dim + 1 where whitened.
    """
    if how not in _MAPS:
        raise ValueError(
            f"how is {how!r}, and one of {', '.join(sorted(_MAPS))} is needed:"
            " check the spelling."
        )
    points = inputs.resolve(z, query_mask=mask, min_samples=2)
    centred, count = inputs.centre(points.samples, points.sample_mask)
    return _MAPS[how](centred, count)


def _per_dimension(
    centred: jax.Array, count: jax.Array
) -> tuple[jax.Array, jax.Array]:
    variance = jnp.sum(centred**2, 0) / jnp.maximum(count - 1, 1)
    # The gradient of the root of a zero is infinite; here it is not taken.
    constant = variance == 0
    deviation = jnp.sqrt(jnp.where(constant, 1, variance))
    log_det = jnp.sum(jnp.where(constant, -jnp.inf, jnp.log(deviation)))
    return centred / deviation, log_det


def _whitened(
    centred: jax.Array, count: jax.Array
) -> tuple[jax.Array, jax.Array]:
    n, dim = centred.shape
    if n <= dim:
        raise ValueError(
            f"z has {n} rows of {dim} dimensions, and whitening needs at least"
            f" {dim + 1} rows: pass more latents, or how='per_dimension'."
        )
    covariance = jnp.matmul(
        centred.T, centred, precision=jax.lax.Precision.HIGHEST
    ) / jnp.maximum(count - 1, 1)
    factor = jnp.linalg.cholesky(covariance)
    white = jax.scipy.linalg.solve_triangular(factor, centred.T, lower=True)
    return white.T, jnp.sum(jnp.log(jnp.diagonal(factor)))


_MAPS: dict[
    str, Callable[[jax.Array, jax.Array], tuple[jax.Array, jax.Array]]
] = {"per_dimension": _per_dimension, "whitened": _whitened}
