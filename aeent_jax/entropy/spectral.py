"""Renyi entropies of a kernel density and of a kernel matrix, in nats.

Both are functions of all pairs of samples, hence of the whole batch. Both
contain every sample's distance 0 to itself, and as rates they cannot exceed
log n.
"""

import functools
import math
import numbers

import jax
import jax.numpy as jnp

from aeent_jax.entropy import bandwidth as bandwidths
from aeent_jax.entropy import inputs, pairwise
from aeent_jax.entropy.estimator import Estimate
from aeent_jax.entropy.inputs import Points

# Stands for the logarithm of nothing; not -inf, whose differences are NaN.
_MASKED = -1e30

# Eigenvalues below this many roundings of the largest are taken for 0.
_ROUNDINGS = 8


def renyi2(
    points: Points,
    *,
    bandwidth: bandwidths.Bandwidth = "scott",
) -> Estimate:
    """Quadratic Renyi entropy of the kernel mixture; whole batch.

    `-log 1/n^2 sum_ij exp(-D_ij / 4 s^2) + dim/2 log(4 pi s^2)` in nats, which
    is `-log` of the integral of the squared kernel density, without any
    approximation. No Renyi entropy of order above 1 exceeds Shannon's: a lower
    bound of the entropy of the mixture of kernels on the samples. As a rate,
    with the bandwidth equal to the noise, it lies between `dim/2 log(2/e)`,
    -0.15 dim, and that plus log n. Memory is O(n (dim + tile)).

    Args:
      points: as `Estimator`; clean samples.
      bandwidth: positive standard deviation of the kernel, in the unit of the
        latents, or the name of a rule in `bandwidth.RULES`.

    Returns:
      Estimate of kind "h" without `per_query`; about 1e30, with gradient 0,
      where no row is valid.

    Raises:
      ValueError: a bandwidth that is neither positive nor a rule.

    Reference: Principe 2010, Information Theoretic Learning, chapter 2.
    """
    y, mask = points.samples, points.sample_mask
    s = bandwidths.resolve(bandwidth, y, mask)
    potential, mean_distance = _potential(points, 0.25 / s**2)
    volume = y.shape[1] * (0.5 * math.log(4 * math.pi) + jnp.log(s))
    diagnostics = {
        "bandwidth": s,
        # d value / d log a where the samples are multiplied by a.
        "scale_gradient": mean_distance / (2 * s**2),
    }
    return Estimate(
        volume - potential, "h", None, jax.lax.stop_gradient(diagnostics)
    )


def matrix_renyi(
    points: Points,
    *,
    bandwidth: bandwidths.Bandwidth = "scott",
    alpha: float = 2.0,
) -> Estimate:
    """Renyi entropy of the normalised kernel matrix; whole batch.

    `1/(1-alpha) log tr A^alpha` in nats, with `A = K/n` and
    `K_ij = exp(-D_ij / 2 s^2)`; at alpha = 1 its limit `-tr A log A`, the von
    Neumann entropy. It has a scale of its own, from 0 for equal samples to
    log n for distant ones, and falls with alpha.

    As a rate, with the bandwidth equal to the noise. K holds the overlaps of
    the wave functions `sqrt N(z_i, s^2/4 I)`, so for alpha <= 1 the value is,
    by Holevo's theorem, at least the information that n equally likely latents
    send through noise of s/2, and so through noise of s: an upper bound for the
    samples' own law, as `kde_kl` is. At alpha = 2 it is
    `renyi2(s/2) - dim/2 log(pi s^2)`, a bound of nothing.

    Cost: alpha = 2 is the streamed sum of squares of A, in O(n^2 dim) and
    memory O(n (dim + tile)). Any other alpha takes eigenvalues of the n x n
    matrix, in O(n^3) and memory O(n^2): 1000 rows, not 10000. There, rounding
    grows as `eps / |1-alpha|` towards 1 (not at 1), and below 1 as eps^alpha.

    Args:
      points: as `Estimator`; clean samples.
      bandwidth: as in `renyi2`.
      alpha: positive order of the entropy, a number known while tracing.

    Returns:
      Estimate of kind "I" without `per_query`; with no valid row a number that
      means nothing, with gradient 0.

    Raises:
      ValueError: a bandwidth that is neither positive nor a rule, or an alpha
        that is no positive number.

    Reference: Sanchez Giraldo, Rao and Principe 2015, Measures of entropy from
    data using infinitely divisible kernels, section III.
    """
    alpha = _order(alpha)
    y, mask = points.samples, points.sample_mask
    s = bandwidths.resolve(bandwidth, y, mask)
    if alpha == 2:
        value = -_potential(points, 1 / s**2)[0]
    else:
        value = _spectral(alpha, _kernel_matrix(y, mask, 0.5 / s**2))
    diagnostics = {"bandwidth": s}
    return Estimate(value, "I", None, jax.lax.stop_gradient(diagnostics))


def _order(alpha: float) -> float:
    if not isinstance(alpha, numbers.Real) or not 0 < alpha < math.inf:
        raise ValueError(
            f"alpha is {alpha!r}, and a finite positive number, known while"
            " tracing, is needed: it is the order of a Renyi entropy."
        )
    return float(alpha)


def _potential(
    points: Points, inv_two_var: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Returns `log mean_ij k_ij` and `sum_ij k_ij D_ij / sum_ij k_ij`.

    Args:
      points: the samples.
      inv_two_var: scalar; `k_ij = exp(-inv_two_var D_ij)`.
    """
    y, mask = points.samples, points.sample_mask
    itself = inputs.against_itself(y, mask)
    _, lse, distance = pairwise.weighted_lse(itself, inv_two_var)
    lse = jnp.where(mask, lse, _MASKED)
    total = jax.scipy.special.logsumexp(lse)
    count = jnp.maximum(jnp.sum(mask, dtype=y.dtype), 1)
    mean_distance = jnp.sum(jnp.where(mask, jax.nn.softmax(lse) * distance, 0))
    return total - 2 * jnp.log(count), mean_distance


def _kernel_matrix(
    y: jax.Array, mask: jax.Array, inv_two_var: jax.Array
) -> jax.Array:
    """Returns `K/n`, `[n, n]` with trace 1 and zeros where masked."""
    centred, count = inputs.centre(y, mask)
    square = jnp.sum(centred**2, 1)
    product = jnp.matmul(
        centred, centred.T, precision=jax.lax.Precision.HIGHEST
    )
    distance = square[:, None] + square[None, :] - 2 * product
    is_self = jnp.eye(y.shape[0], dtype=bool)
    distance = jnp.where(is_self, 0, jnp.maximum(distance, 0))
    kernel = jnp.exp(-inv_two_var * distance)
    return jnp.where(mask[:, None] & mask[None, :], kernel, 0) / count


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _spectral(alpha: float, matrix: jax.Array) -> jax.Array:
    """Renyi entropy of the eigenvalues of a density matrix `[n, n]`.

    The derivative of `sum_k f(l_k)` is `V f'(l) V^T`, which no repeated
    eigenvalue disturbs; those of the eigenvalues one by one divide by their
    differences. First derivatives only.
    """
    return _renyi(alpha, jnp.linalg.eigvalsh(matrix))


@_spectral.defjvp
def _spectral_jvp(alpha, primals, tangents):
    (matrix,), (tangent,) = primals, tangents
    eigenvalues, vectors = jnp.linalg.eigh(matrix)
    value, slope = jax.value_and_grad(_renyi, 1)(alpha, eigenvalues)
    gradient = jnp.matmul(
        vectors * slope, vectors.T, precision=jax.lax.Precision.HIGHEST
    )
    return value, jnp.sum(gradient * tangent)


def _renyi(alpha: float, eigenvalues: jax.Array) -> jax.Array:
    """Renyi entropy of `[n]` weights, which are scaled to the sum 1."""
    eps = jnp.finfo(eigenvalues.dtype).eps
    # NaN is not below anything, and stays.
    is_zero = eigenvalues <= _ROUNDINGS * eps * jnp.max(eigenvalues)
    log = jnp.log(jnp.where(is_zero, 1, eigenvalues))
    log = jnp.where(is_zero, _MASKED, log)
    log = log - jax.scipy.special.logsumexp(log)
    if alpha == 1:
        return -jnp.sum(jnp.where(is_zero, 0, jnp.exp(log) * log))
    return jax.scipy.special.logsumexp(alpha * log) / (1 - alpha)
