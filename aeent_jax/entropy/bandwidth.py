"""Kernel bandwidths: a positive number, a rule by name, or a rule object.

A rule is any function of samples `[n, dim]` and their mask `[n]` that returns
the standard deviation of the kernel, in the unit of the samples. The rules here
are frozen dataclasses: they hash and compare by their fields, so that a
compiled function can take one as a static argument.

The rules of `RULES` are scale-aware, `s(aZ) = a s(Z)`: a dimensionless factor
times the root mean square over dimensions of the samples' standard deviation
(with n - 1, so that in one dimension it is scipy's bandwidth). Gradients flow
through that deviation. The factor of `LooMl` and `Median` depends on the
samples as well, and is a constant to the gradient.
"""

import dataclasses
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

from aeent_jax.entropy import inputs, pairwise

Rule = Callable[[jax.Array, jax.Array], jax.Array]
Bandwidth = str | float | jax.Array | Rule


def resolve(
    bandwidth: Bandwidth, samples: jax.Array, mask: jax.Array
) -> jax.Array:
    """Returns the kernel's standard deviation, in the unit of the samples.

    Args:
      bandwidth: a positive number, a name of `RULES`, or a rule.
      samples: `[n, dim]`, zero where masked.
      mask: `[n]` bool.

    Returns:
      Scalar of the samples' type; NaN for a traced value that is not positive,
      and for a rule on samples that are all equal, which have no scale.

    Raises:
      ValueError: an unknown rule, too few samples for a rule, or what is
        neither a rule nor a positive number.
    """
    if isinstance(bandwidth, str):
        if bandwidth not in RULES:
            raise ValueError(
                f"bandwidth is {bandwidth!r}, and a positive number or one of"
                f" {', '.join(sorted(RULES))} is needed: check the spelling."
            )
        bandwidth = RULES[bandwidth]
    if isinstance(bandwidth, type):
        raise ValueError(
            f"bandwidth is the class {bandwidth.__name__}, and a rule is"
            f" needed: make one, {bandwidth.__name__}(...)."
        )
    if callable(bandwidth):
        return bandwidth(samples, mask)
    return inputs.positive("bandwidth", bandwidth, samples.dtype)


@dataclasses.dataclass(frozen=True)
class Scott:
    """`n^(-1/(dim+4))` deviations.

    Reference: Scott 1992, Multivariate Density Estimation, equation 6.42.
    """

    def __call__(self, samples: jax.Array, mask: jax.Array) -> jax.Array:
        """Returns the bandwidth of `[n, dim]` samples."""
        _, deviation, count = _scale("scott", samples, mask)
        dim = samples.shape[1]
        return _positive(count ** (-1.0 / (dim + 4)) * deviation)


@dataclasses.dataclass(frozen=True)
class Silverman:
    """`(n (dim+2) / 4)^(-1/(dim+4))` deviations.

    Reference: Silverman 1986, Density Estimation, equation 4.14 for the
    Gaussian.
    """

    def __call__(self, samples: jax.Array, mask: jax.Array) -> jax.Array:
        """Returns the bandwidth of `[n, dim]` samples."""
        _, deviation, count = _scale("silverman", samples, mask)
        dim = samples.shape[1]
        factor = (count * (dim + 2) / 4.0) ** (-1.0 / (dim + 4))
        return _positive(factor * deviation)


@dataclasses.dataclass(frozen=True)
class LooMl:
    """Leave-one-out maximum likelihood: where `kde_loo` is least over s.

    With the weights w_ij of the leave-one-out density at each sample,

        d kde_loo / d log s = dim - mean_i sum_j w_ij |z_i - z_j|^2 / s^2

    is negative for small s and, because close pairs weigh most, never negative
    from `s^2 = 2` squared deviations up. Its zero is found by a fixed number of
    bisections of log s, each one pass over the pairs. Where there are several
    minima it is one of them. Samples that nearly all have an exact duplicate
    have none: their likelihood grows as s shrinks, and the lower end of the
    search, a thousandth of the deviation, comes out.

    The factor is a constant to the gradient. For `kde_loo` of the samples
    themselves that is exact, not an approximation (the envelope theorem): the
    entropy does not change with s where it is least, so how s changes with the
    samples does not matter.

    Attributes:
      steps: bisections; 20 leave log s 7e-6 wide, float32's own accuracy.
      max_queries: rows at most, evenly spaced, at which the density is read;
        it is always made of all samples. Above that many samples the minimum,
        and the envelope theorem with it, are those of the chosen rows.

    Reference: Duin 1976, On the choice of smoothing parameters for Parzen
    estimators of probability density functions.
    """

    steps: int = 20
    max_queries: int = 1024

    def __call__(self, samples: jax.Array, mask: jax.Array) -> jax.Array:
        """Returns the bandwidth of `[n, dim]` samples."""
        centred, deviation, _ = _scale("loo_ml", samples, mask)
        z = jax.lax.stop_gradient(centred / deviation)
        n, dim = z.shape
        index = _spaced(n, self.max_queries)
        counts = mask[index]
        own = jnp.where(counts, index, -1)
        chosen = inputs.Points(z[index], z, own, counts, mask)
        total = jnp.maximum(jnp.sum(counts, dtype=z.dtype), 1)

        def halve(_, ends):
            middle = (ends[0] + ends[1]) / 2
            inv_two_var = 0.5 * jnp.exp(-2 * middle)
            _, _, distance = pairwise.weighted_lse(
                chosen, inv_two_var, exclude_self=True
            )
            mean = jnp.sum(jnp.where(counts, distance, 0)) / total
            falls = 2 * inv_two_var * mean > dim
            return (
                jnp.where(falls, middle, ends[0]),
                jnp.where(falls, ends[1], middle),
            )

        # Zeros of the samples' own, so that under a device mapping the ends
        # vary over the axes that the samples vary over.
        zero = jnp.zeros_like(z, shape=())
        ends = (zero + math.log(1e-3), zero + math.log(2) / 2)
        low, high = jax.lax.fori_loop(0, self.steps, halve, ends)
        return _positive(jnp.exp((low + high) / 2) * deviation)


@dataclasses.dataclass(frozen=True)
class Median:
    """`sqrt(median_{i<j} |z_i - z_j|^2 / 2)`, the median heuristic.

    Half of all pairs are closer than sqrt(2) s. This is a scale for
    comparing samples by kernels; it does not shrink with n, so for a density it
    smooths much, and in many dimensions it approaches one deviation. Its factor
    is a constant to the gradient. NaN where more than half of the pairs are
    equal.

    Attributes:
      max_rows: rows at most, evenly spaced, whose distances are taken, so that
        memory is at most `max_rows^2` numbers.

    Reference: Garreau, Jitkrittum and Kanagawa 2017, Large sample analysis of
    the median heuristic; others leave out the division by 2.
    """

    max_rows: int = 1024

    def __call__(self, samples: jax.Array, mask: jax.Array) -> jax.Array:
        """Returns the bandwidth of `[n, dim]` samples."""
        centred, deviation, _ = _scale("median", samples, mask)
        z = jax.lax.stop_gradient(centred / deviation)
        rows = _spaced(len(z), self.max_rows)
        z, mask = z[rows], mask[rows]
        square = jnp.sum(z**2, 1)
        product = jnp.matmul(z, z.T, precision=jax.lax.Precision.HIGHEST)
        distance = square[:, None] + square[None, :] - 2 * product
        # Every pair is here twice, which leaves the median as it is.
        valid = mask[:, None] & mask[None, :] & ~jnp.eye(len(z), dtype=bool)
        median = jnp.nanmedian(jnp.where(valid, distance, jnp.nan))
        # Without any pair the caller discards the batch, as in _scale.
        median = jnp.where(jnp.any(valid), jnp.maximum(median, 0), 1)
        return _positive(jnp.sqrt(median / 2) * deviation)


def _scale(
    name: str, samples: jax.Array, mask: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Returns centred samples, their rms deviation and how many are valid."""
    n, dim = samples.shape
    if n < 2:
        raise ValueError(
            f"samples has {n} rows, and the bandwidth rule {name!r} needs"
            " at least 2: pass more latents, or a number as bandwidth."
        )
    centred, count = inputs.centre(samples, mask)
    # Fewer than two valid rows have no deviation. The caller discards that
    # batch; what matters here is that its gradient is not NaN.
    defined = count > 1
    variance = jnp.sum(centred**2) / (jnp.maximum(count - 1, 1) * dim)
    return centred, jnp.sqrt(jnp.where(defined, variance, 1)), count


def _positive(value: jax.Array) -> jax.Array:
    return jnp.where(value > 0, value, jnp.nan)


def _spaced(rows: int, most: int) -> jax.Array:
    """Returns row numbers, at most `most` and evenly spaced, int32."""
    stride = -(-rows // most)
    return jnp.arange(0, rows, stride, dtype=jnp.int32)


RULES: dict[str, Rule] = {
    "scott": Scott(),
    "silverman": Silverman(),
    "loo_ml": LooMl(),
    "median": Median(),
}
