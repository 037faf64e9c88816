"""All estimators by name, with what a trainer must know of each."""

import jax.numpy as jnp

from aeent_jax.entropy import (
    kde,
    marginal,
    mixture,
    moments,
    neighbors,
    quantised,
    spectral,
)
from aeent_jax.entropy.estimator import Estimate, Estimator
from aeent_jax.entropy.inputs import Points, Table


def none(points: Points) -> Estimate:
    """Nothing: 0 nats for any latents; whole batch. The control."""
    return Estimate(jnp.zeros((), points.queries.dtype), "I")


ESTIMATORS = Table(
    "entropy.estimator",
    none=Estimator(none, "exact where nothing is measured", min_samples=0),
    kde_loo=Estimator(
        kde.kde_loo,
        "upper bound in expectation",
        per_query=True,
        leaves_one_out=True,
        min_samples=2,
        noisy_queries=True,
        noise_argument="bandwidth",
    ),
    kde_resub=Estimator(
        kde.kde_resub,
        "neither; in expectation at most log n nats of rate",
        per_query=True,
        noisy_queries=True,
        includes_self=True,
        noise_argument="bandwidth",
    ),
    kde_kl=Estimator(
        kde.kde_kl,
        "upper bound for the mixture; at most log n nats of rate",
        per_query=True,
        includes_self=True,
        noise_argument="bandwidth",
    ),
    kde_bd=Estimator(
        kde.kde_bd,
        "lower bound for the mixture; at most log n nats of rate",
        per_query=True,
        includes_self=True,
        noise_argument="bandwidth",
    ),
    renyi2=Estimator(
        spectral.renyi2,
        "lower bound for the mixture; at most log n nats of rate",
        includes_self=True,
        noise_argument="bandwidth",
    ),
    matrix_renyi=Estimator(
        spectral.matrix_renyi,
        "neither, a scale of its own; upper bound for the mixture where"
        " alpha <= 1; at most log n nats of rate",
        includes_self=True,
        noise_argument="bandwidth",
        hyper=("alpha",),
    ),
    kde_marginal=Estimator(
        marginal.kde_marginal,
        "upper bound in expectation",
        per_query=True,
        leaves_one_out=True,
        min_samples=2,
        noisy_queries=True,
        noise_argument="bandwidth",
        hyper=("group",),
    ),
    knn=Estimator(
        neighbors.knn,
        "neither",
        per_query=True,
        leaves_one_out=True,
        min_samples=2,
        noisy_queries=True,
        noisy_samples=True,
        hyper=("k",),
    ),
    gaussian=Estimator(
        moments.gaussian,
        "upper bound for the population's covariance",
        noisy_samples=True,
        min_samples=2,
        hyper=("shrinkage", "bias_correction"),
    ),
    coding_rate=Estimator(
        moments.coding_rate,
        "upper bound for the population's covariance",
        noise_argument="sigma",
    ),
    vasicek=Estimator(
        marginal.vasicek,
        "upper bound in the limit of many rows",
        noisy_samples=True,
        min_samples=2,
        hyper=("spacing",),
    ),
    histogram=Estimator(
        marginal.histogram,
        "neither",
        noisy_samples=True,
        min_samples=2,
        hyper=("num_bins", "miller_madow"),
    ),
    mixture=Estimator(
        mixture.mixture,
        "upper bound in expectation",
        init=mixture.init,
        per_query=True,
        noisy_queries=True,
        hyper=("components", "covariance"),
    ),
    quantised=Estimator(
        quantised.quantised,
        "upper bound in expectation",
        init=quantised.init,
        per_query=True,
        noisy_queries=True,
        dither=True,
        noise_argument="width",
    ),
)
"""The closed table of all estimators, chosen by name."""
