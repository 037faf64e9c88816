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

All estimators here are per query. The gradient of `value` costs less than that
of the mean of `per_query`.
"""

import math

import jax
import jax.numpy as jnp

from aeent_jax.entropy import bandwidth as bandwidths
from aeent_jax.entropy import pairwise
from aeent_jax.entropy.estimator import Estimate, masked_mean
from aeent_jax.entropy.inputs import Points


def kde_loo(
    points: Points, *, bandwidth: bandwidths.Bandwidth = "scott"
) -> Estimate:
    """Leave-one-out kernel density entropy, in nats; per query.

    `mean_i -log 1/(n-1) sum_{j != i} K(q_i, z_j)` with the normalised kernel K.
    The density at a query never contains the query's own sample, so the value
    is, in expectation and for every bandwidth, a cross-entropy and an upper
    bound of the entropy of the queries; it does not saturate. For the
    information of a channel pass `q = z + sigma*eps`, clean samples `z`, their
    row numbers and `bandwidth=sigma`. The density at a query from elsewhere
    contains all samples.

    Args:
      points: as `Estimator`.
      bandwidth: positive standard deviation of the kernel, in the unit of the
        latents, a name of `RULES`, or a rule such as `LooMl(max_queries=512)`.

    Returns:
      Estimate of kind "h", with the diagnostics of this module. `per_query` is
      about 1e30, with gradient 0, where a query has no valid neighbour; the
      caller gives a global batch with fewer than two valid rows the rate 0.

    Raises:
      ValueError: a bandwidth that is neither positive nor a rule.

    Reference: Hall and Morton 1993, On the estimation of entropy, section 3.
    """
    return _kde(points, bandwidth, exclude_self=True)


def kde_resub(
    points: Points, *, bandwidth: bandwidths.Bandwidth = "scott"
) -> Estimate:
    """Resubstitution kernel density entropy, in nats; per query.

    `-mean_i log 1/n sum_j K(q_i, z_j)`, the textbook estimate. The sum contains
    the query's own sample: on clean queries the value lies between
    `dim/2 log(2 pi s^2)` and that plus log n, whatever the data are, and its
    gradient dies at the ceiling. It is no bound. `query_index` only makes the
    distance of a query to its own sample exact.

    Args:
      points: as `Estimator`.
      bandwidth: as in `kde_loo`.

    Returns:
      Estimate of kind "h", with the diagnostics of this module.

    Raises:
      ValueError: a bandwidth that is neither positive nor a rule.

    Reference: Ahmad and Lin 1976, equation 2.
    """
    return _kde(points, bandwidth)


def kde_kl(
    points: Points, *, bandwidth: bandwidths.Bandwidth = "scott"
) -> Estimate:
    """Pairwise-KL bound of the entropy of the kernel mixture; per query.

    `kde_resub + dim/2`, in nats: an upper bound of the entropy of the mixture
    of kernels on the samples, for clean queries (the kernels' centres, not
    noisy copies). As a rate, with the bandwidth equal to the noise, it lies in
    `[0, log n]` whatever the true rate is, and its gradient dies at the
    ceiling; `diagnostics.saturation_warning` says so.

    Args:
      points: as `Estimator`; the queries are rows of the samples.
      bandwidth: as in `kde_loo`.

    Returns:
      Estimate of kind "h", with the diagnostics of this module.

    Raises:
      ValueError: a bandwidth that is neither positive nor a rule.

    Reference: Kolchinsky and Tracey 2017, Estimating mixture entropy with
    pairwise distances, equation 10 with the KL divergence of equal Gaussians.
    """
    return _kde(points, bandwidth, offset_per_dim=0.5)


def kde_bd(
    points: Points, *, bandwidth: bandwidths.Bandwidth = "scott"
) -> Estimate:
    """Bhattacharyya bound of the entropy of the kernel mixture; per query.

    `kde_kl` with twice the bandwidth, minus `dim log 2`, in nats: a lower bound
    of the entropy of the mixture of kernels on the samples, for clean queries.
    With `kde_kl` it holds that entropy between two bounds. As a rate, with the
    bandwidth equal to the noise, it lies in `[0, log n]`. A lower bound is a
    diagnostic: a trainer that makes it small has certified nothing.

    Args:
      points: as `Estimator`; the queries are rows of the samples.
      bandwidth: as in `kde_loo`; of the mixture, not the doubled one.

    Returns:
      Estimate of kind "h", with the diagnostics of this module.

    Raises:
      ValueError: a bandwidth that is neither positive nor a rule.

    Reference: Kolchinsky and Tracey 2017, Estimating mixture entropy with
    pairwise distances, equation 10 with the Bhattacharyya distance of equal
    Gaussians.
    """
    return _kde(points, bandwidth, offset_per_dim=0.5, widening=2.0)


def _kde(
    points: Points,
    bandwidth: bandwidths.Bandwidth,
    *,
    exclude_self: bool = False,
    offset_per_dim: float = 0.0,
    widening: float = 1.0,
) -> Estimate:
    """`-L_i + log(number of samples) + dim (1/2 log(2 pi s^2) + offset)`.

    Distances are compared with `widening * s`.
    """
    dtype, dim = points.samples.dtype, points.samples.shape[1]
    s = bandwidths.resolve(bandwidth, points.samples, points.sample_mask)
    total, lse, mean_distance = pairwise.weighted_lse(
        points,
        0.5 / (widening * s) ** 2,
        points.query_mask,
        exclude_self=exclude_self,
    )
    valid = jnp.sum(points.query_mask, dtype=dtype)
    count = jnp.sum(points.sample_mask, dtype=dtype)
    if exclude_self:
        count = count - (points.query_index >= 0).astype(dtype)
    kernel_volume = 0.5 * math.log(2 * math.pi) + jnp.log(s)
    rest = jnp.log(jnp.maximum(count, 1)) + dim * (
        kernel_volume + offset_per_dim
    )
    diagnostics = {
        "bandwidth": s,
        # d value / d log a where queries and samples are multiplied by a.
        "scale_gradient": masked_mean(
            mean_distance / (widening * s) ** 2, points.query_mask
        ),
    }
    return Estimate(
        # The mean of what follows; written so, its gradient costs less.
        masked_mean(rest, points.query_mask) - total / jnp.maximum(valid, 1),
        "h",
        jnp.where(points.query_mask, rest - lse, 0),
        jax.lax.stop_gradient(diagnostics),
    )
