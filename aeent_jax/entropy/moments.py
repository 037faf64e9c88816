"""Estimates from second moments, in nats.

Covariances here are divided by n. The entropy of the Gaussian with that
covariance and the samples' mean is then minus its mean log-likelihood of the
samples, and it is the covariance that scikit-learn shrinks.
"""

import math
import numbers
from collections.abc import Callable

import jax
import jax.numpy as jnp

from aeent_jax.entropy import inputs
from aeent_jax.entropy.estimator import Estimate
from aeent_jax.entropy.inputs import Points


def coding_rate(
    points: Points,
    *,
    sigma: float | jax.Array = 1.0,
) -> Estimate:
    """Information of a Gaussian with the samples' covariance; whole batch.

    `1/2 logdet(I + C / sigma^2)` in nats, with C the covariance of the samples
    (divided by n): what the channel `z + sigma*eps` would carry if the latents
    were Gaussian. No law with covariance C carries more, so with the
    population's C it is an upper bound of the rate, exact for Gaussian latents;
    from few rows it reads low. The smaller of the dim x dim matrix and its
    n x n dual (Sylvester's determinant identity) is factored.

    Args:
      points: as `Estimator`; clean samples.
      sigma: positive standard deviation of the channel noise, in the unit of
        the latents.

    Returns:
      Estimate of kind "I" without `per_query`.

    Raises:
      ValueError: a sigma that is not positive.

    Reference: Ma, Derksen, Hong and Wright 2007, Segmentation of multivariate
    mixed data via lossy coding and compression; here `sigma` is its distortion.
    """
    y, mask = points.samples, points.sample_mask
    sigma = inputs.positive("sigma", sigma, y.dtype)
    centred, count = inputs.centre(y, mask)
    return Estimate(half_logdet(centred / (sigma * jnp.sqrt(count))), "I")


def gaussian(
    points: Points,
    *,
    shrinkage: str | float = "oas",
    bias_correction: bool = False,
) -> Estimate:
    """Entropy of a Gaussian with the samples' covariance; whole batch.

    `1/2 logdet(2 pi e S)` in nats, with `S = (1-r) C + r tr(C)/dim I`, C the
    covariance of the samples (divided by n) and r the shrinkage. No law with
    covariance C has more entropy, so with the population's C and r = 0 it is
    an upper bound, exact for Gaussian latents. For the information of a channel
    pass the noisy latents as samples.

    From n rows `1/2 logdet C` reads low, and for n <= dim it is -inf. Shrinkage
    keeps it finite for any n; the default, "oas", is made for the least squared
    error of S on Gaussian samples, and vanishes as n grows. `bias_correction`
    takes off the expected error of the unshrunk value, exactly for Gaussian
    latents: `1/2 sum_{i=1..dim} psi((n-i)/2) + dim/2 log(2/n)`. The error
    that remains has mean 0 and standard deviation
    `1/2 sqrt(sum_i trigamma((n-i)/2))`.

    Equal samples have entropy -inf. So have, without shrinkage, samples in a
    hyperplane, as far as rounding can tell one: in float32 from a condition
    number of about 1e6 up. The gradient, which does not exist there, is 0.
    Gradients flow through the rules for r.

    Args:
      points: as `Estimator`. With fewer than 2 valid samples, and without
        shrinkage with at most dim, the value is NaN and the gradient 0.
      shrinkage: a name of `SHRINKAGES`, "none", or r in [0, 1].
      bias_correction: whether to take off the bias; needs shrinkage "none".

    Returns:
      Estimate of kind "h" without `per_query`; r is among its diagnostics.

    Raises:
      ValueError: without shrinkage at most dim samples, an unknown shrinkage,
        or shrinkage together with the bias correction.

    Reference: Cover and Thomas 2006, Elements of Information Theory, theorem
    8.6.5; for the bias, Misra, Singh and Demchuk 2005, Estimation of the
    entropy of a multivariate normal distribution.
    """
    y, mask = points.samples, points.sample_mask
    n, dim = y.shape
    rule = _check_shrinkage(shrinkage, bias_correction, n, dim)
    value, r = _entropy_of_covariance(y, mask, rule)
    count = jnp.sum(mask, dtype=y.dtype)
    if bias_correction:
        value = value - half_logdet_bias(count, dim)
    value = jnp.where(count > (dim if rule == 0 else 1), value, jnp.nan)
    diagnostics = {"shrinkage": jax.lax.stop_gradient(r)}
    return Estimate(value, "h", None, diagnostics)


def half_logdet_bias(count: jax.Array, dim: int) -> jax.Array:
    """Returns `E[1/2 logdet C] - 1/2 logdet(population's)` of Gaussians, nats.

    `count * C` has a Wishart law with count - 1 degrees of freedom.

    Args:
      count: scalar, the number of rows, above dim.
      dim: size of a row.
    """
    i = jnp.arange(1, dim + 1, dtype=count.dtype)
    terms = jax.scipy.special.digamma((count - i) / 2) + jnp.log(2 / count)
    return jnp.sum(terms) / 2


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


def _check_shrinkage(
    shrinkage: str | float, bias_correction: bool, n: int, dim: int
) -> float | Callable[..., jax.Array]:
    """Returns the number r, or the rule that finds it."""
    rule = _find_shrinkage(shrinkage)
    if rule == 0 and n <= dim:
        raise ValueError(
            f"samples has {n} rows of {dim} dimensions, and a covariance"
            f" without shrinkage needs at least {dim + 1}: pass more latents,"
            ' or shrinkage="oas".'
        )
    if rule != 0 and bias_correction:
        raise ValueError(
            f"bias_correction comes with shrinkage {shrinkage!r}, and the bias"
            ' is known without shrinkage only: set shrinkage="none", or no'
            " bias_correction."
        )
    return rule


def _find_shrinkage(shrinkage) -> float | Callable[..., jax.Array]:
    if shrinkage == "none":
        return 0.0
    if isinstance(shrinkage, str) and shrinkage in SHRINKAGES:
        return SHRINKAGES[shrinkage]
    if isinstance(shrinkage, numbers.Real) and 0 <= shrinkage <= 1:
        return float(shrinkage)
    raise ValueError(
        f"shrinkage is {shrinkage!r}, and a number from 0 to 1 or one of"
        f" {', '.join(sorted([*SHRINKAGES, 'none']))} is needed: check the"
        " spelling."
    )


def _entropy_of_covariance(
    y: jax.Array, mask: jax.Array, rule: float | Callable[..., jax.Array]
) -> tuple[jax.Array, jax.Array]:
    """Returns `1/2 logdet(2 pi e S)` and the shrinkage r of S."""
    n, dim = y.shape
    centred, count = inputs.centre(y, mask)
    variance = jnp.sum(centred**2) / (count * dim)
    is_constant = variance == 0
    variance = jnp.where(is_constant, 1, variance)
    # In units of the rms deviation C has trace dim, and no square overflows.
    a = centred / jnp.sqrt(variance)
    covariance = _matmul(a.T, a) / count
    r = rule if isinstance(rule, float) else rule(a, covariance, count)
    shrunk = (1 - r) * covariance + r * jnp.eye(dim, dtype=y.dtype)
    per_dim = math.log(2 * math.pi * math.e) + jnp.log(variance)
    value = (dim * per_dim + logdet(shrunk, n)) / 2
    is_singular = is_constant | jnp.isneginf(value)
    return jnp.where(is_singular, -jnp.inf, value), jnp.asarray(r, y.dtype)


def _oas(a: jax.Array, covariance: jax.Array, count: jax.Array) -> jax.Array:
    """Oracle approximating shrinkage, without its terms in 2/dim.

    Chen, Wiesel, Eldar and Hero 2010, Shrinkage algorithms for MMSE covariance
    estimation, equation 23; the terms are left out as in scikit-learn.
    """
    del a
    dim = covariance.shape[0]
    square = jnp.sum(covariance**2)
    return _at_most_one(square + dim**2, (count + 1) * (square - dim))


def _ledoit_wolf(
    a: jax.Array, covariance: jax.Array, count: jax.Array
) -> jax.Array:
    """Shrinkage of least expected squared error, for any law.

    Ledoit and Wolf 2004, A well-conditioned estimator for large-dimensional
    covariance matrices, lemmas 3.2 to 3.4.
    """
    square = jnp.sum(covariance**2)
    fourth = jnp.sum(jnp.sum(a**2, 1) ** 2) / count
    scatter = jnp.maximum(fourth - square, 0) / count
    return _at_most_one(scatter, square - covariance.shape[0])


SHRINKAGES = {"ledoit_wolf": _ledoit_wolf, "oas": _oas}


def _at_most_one(numerator: jax.Array, denominator: jax.Array) -> jax.Array:
    """Returns the quotient, 1 where it is larger or not defined."""
    is_less = numerator < denominator
    return jnp.where(is_less, numerator / jnp.where(is_less, denominator, 1), 1)


def logdet(covariance: jax.Array, rows: int) -> jax.Array:
    """`logdet` of a covariance of that many rows; -inf where it is singular.

    `1 / (C_ii (C^-1)_ii)` is the share of a dimension's variance that all the
    others leave unexplained. Below the rounding of the covariance it is noise,
    and so would be the finite determinant.
    """
    dim = covariance.shape[0]
    eye = jnp.eye(dim, dtype=covariance.dtype)
    fixed = jax.lax.stop_gradient(covariance)
    inverse_factor = jax.scipy.linalg.solve_triangular(
        jnp.linalg.cholesky(fixed), eye, lower=True
    )
    inflation = jnp.diagonal(fixed) * jnp.sum(inverse_factor**2, 0)
    # Measured on covariances of rank dim - 1, dim 2 to 128, 20 to 40000 rows:
    # 1/inflation is at most 0.6 of this, and 10 times it and more where the
    # condition number is 1e4.
    rounding = (dim + math.sqrt(rows)) * jnp.finfo(covariance.dtype).eps
    # A failed Cholesky gives NaN, and NaN < x is false.
    is_singular = jnp.all(jnp.isfinite(fixed)) & ~jnp.all(
        inflation * rounding < 1
    )
    factor = jnp.linalg.cholesky(jnp.where(is_singular, eye, covariance))
    logdet = 2 * jnp.sum(jnp.log(jnp.diagonal(factor)))
    return jnp.where(is_singular, -jnp.inf, logdet)


def _matmul(a: jax.Array, b: jax.Array) -> jax.Array:
    return jnp.matmul(a, b, precision=jax.lax.Precision.HIGHEST)
