"""Entropy and information of latent vectors, in nats.

    estimator(queries [m, dim], samples [n, dim], query_index [m], *,
              query_mask [m], sample_mask [n], **hyper) -> Estimate

Estimators are pure, differentiable and free of collectives. `samples`,
`query_index` and the masks default to `queries`, its row numbers and all-true:
`kde_loo(z).value` is the value of the whole batch. Where samples are given,
those that leave each query's own sample out (`kde_loo`, `kde_marginal`, `knn`)
need `query_index` too: `arange(m)` for the channel's output against its input,
-1 for queries from elsewhere. `ESTIMATORS[name]` is the same function by name,
with what a trainer must know about it.

On several devices, per-query estimators get a device's own rows as queries, the
gathered latents as samples, and the rows' global positions. The caller adds
`value * count / psum(count)` to that device's loss for a per-query estimator,
with the count of its valid queries, `value / number of devices` for one of the
whole batch, and sums the gradients over devices, because those through
all_gather add up. It also gives a global batch with fewer than two valid rows
the rate 0.

Estimators with parameters of their own are in `LEARNED`, whose module says how
they are called; `fit_learned` measures frozen latents with them.
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp

from aeent_jax.entropy import points
from aeent_jax.entropy.bandwidth import RULES, Channel, Fixed, LooMl, Median
from aeent_jax.entropy.diagnostics import (
    channel_diagnostics,
    saturation_warning,
)
from aeent_jax.entropy.estimate import Estimate, to_rate
from aeent_jax.entropy.information import (
    Bracket,
    mutual_information,
    total_correlation,
)
from aeent_jax.entropy.kde import kde_bd, kde_kl, kde_loo, kde_resub
from aeent_jax.entropy.learned import LEARNED, LearnedEstimator, fit_learned
from aeent_jax.entropy.marginal import histogram, kde_marginal, vasicek
from aeent_jax.entropy.moments import coding_rate, gaussian
from aeent_jax.entropy.neighbors import knn
from aeent_jax.entropy.pairwise import pairwise_lse, weighted_lse
from aeent_jax.entropy.sampling import sample_queries
from aeent_jax.entropy.scaling import rescale
from aeent_jax.entropy.spectral import matrix_renyi, renyi2
from aeent_jax.entropy.table import Table

__all__ = [
    "ESTIMATORS",
    "LEARNED",
    "RULES",
    "Bracket",
    "Channel",
    "Estimate",
    "Estimator",
    "Fixed",
    "LearnedEstimator",
    "LooMl",
    "Median",
    "channel_diagnostics",
    "coding_rate",
    "fit_learned",
    "gaussian",
    "histogram",
    "kde_bd",
    "kde_kl",
    "kde_loo",
    "kde_marginal",
    "kde_resub",
    "knn",
    "matrix_renyi",
    "mutual_information",
    "none",
    "pairwise_lse",
    "renyi2",
    "rescale",
    "sample_queries",
    "saturation_warning",
    "to_rate",
    "total_correlation",
    "vasicek",
    "weighted_lse",
]


def none(
    queries: jax.Array,
    samples: jax.Array | None = None,
    query_index: jax.Array | None = None,
    *,
    query_mask: jax.Array | None = None,
    sample_mask: jax.Array | None = None,
) -> Estimate:
    """Nothing: 0 nats for any latents; whole batch. The control."""
    resolved = points.resolve(
        queries, samples, query_index, query_mask, sample_mask, min_samples=0
    )
    return Estimate(jnp.zeros((), resolved.queries.dtype), "I")


@dataclasses.dataclass(frozen=True)
class Estimator:
    """An entry of the table: a function, and how a trainer is to call it.

    Attributes:
      function: the estimator.
      per_query: whether `value` is the mean of `per_query`, to be reduced over
        devices by sums and counts, or one number of the whole batch.
      direction: what the value is of the true one: "upper bound", "lower
        bound", "neither" or "exact", with the condition where there is one.
      noisy_queries: whether, to measure the channel, the queries are
        `z + sigma*eps` or the clean `z`.
      noisy_samples: the same of the samples.
      includes_self: whether the sum contains the query's own sample, so that
        the rate cannot exceed log n.
      noise_argument: the keyword that takes the channel's sigma, None if none.
      hyper: other keywords, each a key of the configuration's entropy group.
    """

    function: Callable[..., Estimate]
    direction: str
    per_query: bool = False
    noisy_queries: bool = False
    noisy_samples: bool = False
    includes_self: bool = False
    noise_argument: str | None = None
    hyper: tuple[str, ...] = ()

    def __call__(self, *args, **kwargs) -> Estimate:
        """Calls the estimator."""
        return self.function(*args, **kwargs)


ESTIMATORS = Table(
    none=Estimator(none, "exact where nothing is measured"),
    kde_loo=Estimator(
        kde_loo,
        "upper bound in expectation",
        per_query=True,
        noisy_queries=True,
        noise_argument="bandwidth",
    ),
    kde_resub=Estimator(
        kde_resub,
        "neither; in expectation at most log n nats of rate",
        per_query=True,
        noisy_queries=True,
        includes_self=True,
        noise_argument="bandwidth",
    ),
    kde_kl=Estimator(
        kde_kl,
        "upper bound for the mixture; at most log n nats of rate",
        per_query=True,
        includes_self=True,
        noise_argument="bandwidth",
    ),
    kde_bd=Estimator(
        kde_bd,
        "lower bound for the mixture; at most log n nats of rate",
        per_query=True,
        includes_self=True,
        noise_argument="bandwidth",
    ),
    renyi2=Estimator(
        renyi2,
        "lower bound for the mixture; at most log n nats of rate",
        includes_self=True,
        noise_argument="bandwidth",
    ),
    matrix_renyi=Estimator(
        matrix_renyi,
        "neither, a scale of its own; upper bound for the mixture where"
        " alpha <= 1; at most log n nats of rate",
        includes_self=True,
        noise_argument="bandwidth",
        hyper=("alpha",),
    ),
    kde_marginal=Estimator(
        kde_marginal,
        "upper bound in expectation",
        per_query=True,
        noisy_queries=True,
        noise_argument="bandwidth",
        hyper=("group",),
    ),
    knn=Estimator(
        knn,
        "neither",
        per_query=True,
        noisy_queries=True,
        noisy_samples=True,
        hyper=("k",),
    ),
    gaussian=Estimator(
        gaussian,
        "upper bound for the population's covariance",
        noisy_samples=True,
        hyper=("shrinkage", "bias_correction"),
    ),
    coding_rate=Estimator(
        coding_rate,
        "upper bound for the population's covariance",
        noise_argument="sigma",
    ),
    vasicek=Estimator(
        vasicek,
        "upper bound in the limit of many rows",
        noisy_samples=True,
        hyper=("spacing",),
    ),
    histogram=Estimator(
        histogram,
        "neither",
        noisy_samples=True,
        hyper=("num_bins", "miller_madow"),
    ),
)
