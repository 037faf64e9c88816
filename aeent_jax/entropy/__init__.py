"""Entropy and information of latent vectors, in nats.

    estimator(queries [m, dim], samples [n, dim], query_index [m], *,
              query_mask [m], sample_mask [n], **hyper) -> Estimate

`kde_loo(z).value` is the value of a whole batch: `samples`, `query_index` and
the masks default to the queries, their row numbers and all-true. `Estimator`
states this contract once, with what a caller on several devices does.
`ESTIMATORS` has all estimators by name. Each estimator without parameters is
also an attribute of this package: the docstring of `kde_loo` describes that
estimator and its own keywords.

A trainer gives a global batch with fewer than two valid rows the rate 0. A
learned estimator has an `init`; its parameters follow the gradient of `value`
itself, whatever the weight of the rate is. `fit_learned` does the same for
frozen latents.
"""

from aeent_jax.entropy.bandwidth import RULES, LooMl, Median
from aeent_jax.entropy.diagnostics import (
    channel_diagnostics,
    saturation_warning,
)
from aeent_jax.entropy.estimator import Estimate, Estimator, to_rate
from aeent_jax.entropy.information import (
    Bracket,
    mutual_information,
    total_correlation,
)
from aeent_jax.entropy.learned import fit_learned
from aeent_jax.entropy.pairwise import pairwise_lse
from aeent_jax.entropy.sampling import sample_queries
from aeent_jax.entropy.scaling import rescale
from aeent_jax.entropy.table import ESTIMATORS

coding_rate = ESTIMATORS["coding_rate"]
gaussian = ESTIMATORS["gaussian"]
histogram = ESTIMATORS["histogram"]
kde_bd = ESTIMATORS["kde_bd"]
kde_kl = ESTIMATORS["kde_kl"]
kde_loo = ESTIMATORS["kde_loo"]
kde_marginal = ESTIMATORS["kde_marginal"]
kde_resub = ESTIMATORS["kde_resub"]
knn = ESTIMATORS["knn"]
matrix_renyi = ESTIMATORS["matrix_renyi"]
none = ESTIMATORS["none"]
renyi2 = ESTIMATORS["renyi2"]
vasicek = ESTIMATORS["vasicek"]

__all__ = [
    "Bracket",
    "ESTIMATORS",
    "Estimate",
    "Estimator",
    "LooMl",
    "Median",
    "RULES",
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
]
