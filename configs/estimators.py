"""The estimators' ablation: AUROC against nats, one curve an estimator.

    aeent sweep --config=configs/estimators.py --config.data.root=DIR \
        --out=runs/estimators

trains the kermany protocol for 60 epochs under each estimator at four weights,
which are the same for all and were fixed before any result was seen. Another
data set is a key like any other: `--config.data.name=rsna`.
"""

import itertools
from collections.abc import Iterator
from typing import Any

import ml_collections

from aeent_jax import config as config_lib

# In the order of training: a sweep that is stopped early has the first row at
# every weight, and the middle weights before the others.
ESTIMATORS = (
    (
        "coding_rate",
        "kde_loo",
        "kde_marginal",
        "gaussian",
        "knn",
        "mixture",
        "quantised",
        "kde_kl",
    ),
    (
        "matrix_renyi",
        "renyi2",
        "kde_resub",
        "kde_bd",
        "vasicek",
        "histogram",
    ),
)
WEIGHTS = (1e-3, 3e-4, 3e-3, 1e-4)
# Settings that an estimator needs.
NEEDS = {"quantised": {"channel.noise": "uniform"}}


def get_config() -> ml_collections.ConfigDict:
    """Returns the configuration that all members share."""
    config = config_lib.benchmark("kermany_cxr", "controlled")
    config.train.epochs = 60
    config.entropy.controller = "fixed"
    config.checkpoint.keep = 1
    return config


def get_members(
    config: ml_collections.ConfigDict,
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields the name of each member and the keys that it sets.

    Args:
      config: the shared configuration, with what the command line changed.
    """
    del config
    nothing = {"entropy.estimator": "none", "entropy.weight": 0.0}
    yield "plain", nothing | {"channel.sigma": 0.0}
    yield "none", nothing
    for row in ESTIMATORS:
        for weight, name in itertools.product(WEIGHTS, row):
            penalty = {"entropy.estimator": name, "entropy.weight": weight}
            yield f"{name}_{weight:g}", penalty | NEEDS.get(name, {})
