"""Entropies of kernel density estimates, in nats.

A Gaussian kernel of standard deviation s stands on every sample, and the
density is read off at the queries. With s equal to the channel's noise, the
density is exactly the law of the channel's output for the samples at hand, so
the bandwidth is then no tuning knob.

How accurate these are. Mean error in nats for a standard Gaussian with Scott's
bandwidth, at n = 1024 (resubstitution / leave-one-out): dim 1 -.01 / .00, dim 4
-.30 / +.09, dim 8 -1.96 / +.40, dim 16 -6.61 / +1.49
(tests/entropy/accuracy_test.py measures it). From dim 8 up no kernel density
measures h(Z) absolutely at such n. The direction of each bound, the invariances
and the gradients hold at any dim.

The diagnostics of each are scalars. `bandwidth` is s, in the unit of the
latents. `scale_gradient` is the derivative of the value by log a, in nats,
where queries and samples are multiplied by a and s stays: about 0 where the
estimate has saturated.

All estimators here are per query: `value` is the masked mean of `per_query`,
with a gradient that costs less than that of the mean. On several devices each
passes its own rows as `queries`, the gathered latents as `samples` and its
rows' global positions as `query_index`, and the caller divides
psum(value * count) by psum(count), with the count of a device's valid queries.
"""

import math

import jax
import jax.numpy as jnp

from aeent_jax.entropy import bandwidth as bandwidths
from aeent_jax.entropy import points
from aeent_jax.entropy.estimate import Estimate, masked_mean
from aeent_jax.entropy.pairwise import weighted_lse


def kde_loo(
    queries: jax.Array,
    samples: jax.Array | None = None,
    query_index: jax.Array | None = None,
    *,
    query_mask: jax.Array | None = None,
    sample_mask: jax.Array | None = None,
    bandwidth: bandwidths.Bandwidth = "scott",
) -> Estimate:
    """Leave-one-out kernel density entropy, in nats; per query.

    `mean_i -log 1/(n-1) sum_{j != i} K(q_i, z_j)` with the normalised kernel K.
    The density at a query never contains the query's own sample, so the value
    is, in expectation and for every bandwidth, a cross-entropy and an upper
    bound of the entropy of the queries; it does not saturate. For the
    information of a channel pass `q = z + sigma*eps`, clean samples `z`, their
    row numbers and `bandwidth=sigma`.

    Args:
      queries: `[m, dim]`.
      samples: `[n, dim]`, default the queries.
      query_index: `[m]` integers, the row of `samples` that belongs to each
        query; -1 for a query from elsewhere, whose density then contains all
        samples. The row number where samples are the queries; samples that are
        given need it, since no default is right for both `z + sigma*eps`
        against `z` and one set of latents against another.
      query_mask: `[m]` bool, default all.
      sample_mask: `[n]` bool, default all, or the queries' where samples are
        the queries.
      bandwidth: positive standard deviation of the kernel, in the unit of the
        latents, a name of `RULES`, or a rule such as `LooMl(max_queries=512)`.

    Returns:
      Estimate of kind "h", with the diagnostics of this module. `per_query` is
      about 1e30, with gradient 0, where a query has no valid neighbour; the
      caller gives a global batch with fewer than two valid rows the rate 0.

    Raises:
      ValueError: fewer than 2 samples, samples without an index, a shape that
        does not fit, or a bandwidth that is neither positive nor a rule.

    Reference: Hall and Morton 1993, On the estimation of entropy, section 3.
    """
    resolved = points.resolve(
        queries,
        samples,
        query_index,
        query_mask,
        sample_mask,
        min_samples=2,
        leaves_one_out=True,
    )
    return _kde(resolved, bandwidth, exclude_self=True, offset=0.0)


def kde_resub(
    queries: jax.Array,
    samples: jax.Array | None = None,
    query_index: jax.Array | None = None,
    *,
    query_mask: jax.Array | None = None,
    sample_mask: jax.Array | None = None,
    bandwidth: bandwidths.Bandwidth = "scott",
) -> Estimate:
    """Resubstitution kernel density entropy, in nats; per query.

    `-mean_i log 1/n sum_j K(q_i, z_j)`, the textbook estimate. The sum contains
    the query's own sample: on clean queries the value lies between
    `dim/2 log(2 pi s^2)` and that plus log n, whatever the data are, and its
    gradient dies at the ceiling. A bound of nothing.

    Args:
      queries: `[m, dim]`.
      samples: `[n, dim]`, default the queries.
      query_index: `[m]` integers as in `kde_loo`, default the row number; here
        it only makes the distance of a query to its own sample exact.
      query_mask: `[m]` bool, default all.
      sample_mask: `[n]` bool, default all, or the queries' where samples are
        the queries.
      bandwidth: as in `kde_loo`.

    Returns:
      Estimate of kind "h", with the diagnostics of this module.

    Raises:
      ValueError: no sample, a shape that does not fit, or a bandwidth that is
        neither positive nor a rule.

    Reference: Ahmad and Lin 1976, equation 2.
    """
    resolved = points.resolve(
        queries, samples, query_index, query_mask, sample_mask, min_samples=1
    )
    return _kde(resolved, bandwidth, exclude_self=False, offset=0.0)


def kde_kl(
    queries: jax.Array,
    samples: jax.Array | None = None,
    query_index: jax.Array | None = None,
    *,
    query_mask: jax.Array | None = None,
    sample_mask: jax.Array | None = None,
    bandwidth: bandwidths.Bandwidth = "scott",
) -> Estimate:
    """Pairwise-KL bound of the entropy of the kernel mixture; per query.

    `kde_resub + dim/2`, in nats: an upper bound of the entropy of the mixture
    of kernels on the samples, for clean queries (the kernels' centres, not
    noisy copies). As a rate, with the bandwidth equal to the noise, it lies in
    `[0, log n]` whatever the true rate is, and its gradient dies at the
    ceiling; `diagnostics.saturation_warning` says so.

    Args:
      queries: `[m, dim]`, rows of `samples`.
      samples: `[n, dim]`, default the queries.
      query_index: as in `kde_resub`.
      query_mask: `[m]` bool, default all.
      sample_mask: `[n]` bool, default all, or the queries' where samples are
        the queries.
      bandwidth: as in `kde_loo`.

    Returns:
      Estimate of kind "h", with the diagnostics of this module.

    Raises:
      ValueError: as `kde_resub`.

    Reference: Kolchinsky and Tracey 2017, Estimating mixture entropy with
    pairwise distances, equation 10 with the KL divergence of equal Gaussians.
    """
    resolved = points.resolve(
        queries, samples, query_index, query_mask, sample_mask, min_samples=1
    )
    offset = 0.5 * resolved.queries.shape[1]
    return _kde(resolved, bandwidth, exclude_self=False, offset=offset)


def kde_bd(
    queries: jax.Array,
    samples: jax.Array | None = None,
    query_index: jax.Array | None = None,
    *,
    query_mask: jax.Array | None = None,
    sample_mask: jax.Array | None = None,
    bandwidth: str | float | jax.Array = "scott",
) -> Estimate:
    """Bhattacharyya bound of the entropy of the kernel mixture; per query.

    `kde_kl` with twice the bandwidth, minus `dim log 2`, in nats: a lower bound
    of the entropy of the mixture of kernels on the samples, for clean queries.
    With `kde_kl` it holds that entropy between two bounds. As a rate, with the
    bandwidth equal to the noise, it lies in `[0, log n]`. A lower bound is a
    diagnostic: a trainer that makes it small has certified nothing.

    Args:
      queries: `[m, dim]`, rows of `samples`.
      samples: `[n, dim]`, default the queries.
      query_index: as in `kde_resub`.
      query_mask: `[m]` bool, default all.
      sample_mask: `[n]` bool, default all, or the queries' where samples are
        the queries.
      bandwidth: as in `kde_loo`; of the mixture, not the doubled one.

    Returns:
      Estimate of kind "h", with the diagnostics of this module.

    Raises:
      ValueError: as `kde_resub`.

    Reference: Kolchinsky and Tracey 2017, Estimating mixture entropy with
    pairwise distances, equation 10 with the Bhattacharyya distance of equal
    Gaussians.
    """
    resolved = points.resolve(
        queries, samples, query_index, query_mask, sample_mask, min_samples=1
    )
    offset = 0.5 * resolved.queries.shape[1]
    return _kde(
        resolved, bandwidth, exclude_self=False, offset=offset, widening=2.0
    )


def _kde(
    resolved: points.Points,
    bandwidth: bandwidths.Bandwidth,
    *,
    exclude_self: bool,
    offset: float,
    widening: float = 1.0,
) -> Estimate:
    """`-L_i + log(number of samples) + dim/2 log(2 pi s^2) + offset`.

    Distances are compared with `widening * s`.
    """
    x, y, index, query_mask, sample_mask = resolved
    n, dim = y.shape
    s = bandwidths.resolve(bandwidth, y, sample_mask)
    total, lse, mean_distance = weighted_lse(
        x,
        y,
        0.5 / (widening * s) ** 2,
        query_mask,
        index,
        sample_mask=sample_mask,
        exclude_self=exclude_self,
    )
    valid = jnp.sum(query_mask, dtype=y.dtype)
    count = jnp.sum(sample_mask, dtype=y.dtype)
    if exclude_self:
        left_out = (index >= 0) & (index < n) & sample_mask[index]
        count = count - left_out.astype(y.dtype)
    kernel_volume = dim * (0.5 * math.log(2 * math.pi) + jnp.log(s))
    rest = jnp.log(jnp.maximum(count, 1)) + kernel_volume + offset
    diagnostics = {
        "bandwidth": s,
        # d value / d log a where queries and samples are multiplied by a.
        "scale_gradient": masked_mean(
            mean_distance / (widening * s) ** 2, query_mask
        ),
    }
    return Estimate(
        # The mean of what follows; written so, its gradient costs less.
        masked_mean(rest, query_mask) - total / jnp.maximum(valid, 1),
        "h",
        jnp.where(query_mask, rest - lse, 0),
        jax.lax.stop_gradient(diagnostics),
    )
