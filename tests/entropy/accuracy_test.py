"""How far estimates of a standard Gaussian's entropy are from the truth.

`pytest -s tests/entropy/accuracy_test.py -m ""` prints the table.
"""

import math

import jax
import numpy as np
import pytest

from aeent_jax import entropy

SEEDS = 32
ESTIMATORS = {
    "kde_resub": {"bandwidth": "scott"},
    "kde_loo": {"bandwidth": "scott"},
    "knn": {"k": 3},
}
# By n, by dim: mean errors in nats, which README and docstrings repeat.
TABLE = {
    256: {
        1: (-0.01, 0.02, 0.01),
        2: (-0.07, 0.05, -0.04),
        4: (-0.46, 0.16, -0.07),
        8: (-2.31, 0.59, 0.07),
        16: (-6.92, 1.91, 0.99),
    },
    1024: {
        1: (-0.01, 0.00, 0.01),
        2: (-0.04, 0.02, -0.02),
        4: (-0.30, 0.09, -0.07),
        8: (-1.96, 0.40, -0.03),
        16: (-6.61, 1.49, 0.69),
    },
    4096: {
        1: (0.00, 0.00, 0.00),
        2: (-0.02, 0.01, -0.01),
        4: (-0.19, 0.06, -0.04),
        8: (-1.62, 0.30, -0.05),
        16: (-6.34, 1.17, 0.44),
    },
}


def log(line):
    print(line)  # noqa: T201


def measure(n, dim):
    """Errors of the estimators, `[SEEDS, 3]` nats."""

    @jax.jit
    def estimate(seed):
        z = jax.random.normal(jax.random.key(seed), (n, dim))
        return [
            entropy.ESTIMATORS[name](z, **hyper).value
            for name, hyper in ESTIMATORS.items()
        ]

    truth = dim / 2 * math.log(2 * math.pi * math.e)
    values = [jax.device_get(estimate(seed)) for seed in range(SEEDS)]
    return np.array(values, np.float64) - truth


@pytest.mark.parametrize(
    "n", [256, 1024, pytest.param(4096, marks=pytest.mark.slow)]
)
def test_mean_errors_are_the_documented_ones(n):
    log(f"\nn={n}: mean error in nats, {' / '.join(ESTIMATORS)}")
    for dim, documented in TABLE[n].items():
        errors = measure(n, dim)
        mean = errors.mean(0)
        log(f"| {dim} | {' / '.join(f'{e:+.2f}' for e in mean)} |")
        # Two digits are documented, and float32 rounds in another order.
        np.testing.assert_allclose(mean, documented, rtol=0, atol=0.006)
        assert errors.std(0, ddof=1).max() / math.sqrt(SEEDS) < 0.045
