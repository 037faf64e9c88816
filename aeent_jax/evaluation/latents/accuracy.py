"""How far estimates of a standard Gaussian's entropy are from the truth."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from aeent_jax import entropy

DIMS = (1, 2, 4, 8, 16)
SIZES = (256, 1024, 4096)
# The estimators of the table's cells, where they exist, and their keywords.
_COLUMNS: dict[str, dict[str, Any]] = {
    "kde_resub": {"bandwidth": "scott"},
    "kde_loo": {"bandwidth": "scott"},
    "knn": {"k": 3},
}


class Accuracy(NamedTuple):
    """Errors of one estimator at one size, over seeds.

    Attributes:
      mean: nats.
      standard_error: of the mean, nats.
    """

    mean: float
    standard_error: float


def measure_accuracy(
    seeds: int, *, dims: Sequence[int] = DIMS, sizes: Sequence[int] = SIZES
) -> dict[tuple[int, int], dict[str, Accuracy]]:
    """Measures the error of h(Z) of `N(0, I)`, in nats.

    Args:
      seeds: number of sets of latents, drawn with the keys 0, 1 and so on.
      dims: sizes of a latent.
      sizes: numbers of latents.

    Returns:
      By (dim, n), by estimator.

    Raises:
      ValueError: fewer than 2 seeds.
    """
    if seeds < 2:
        raise ValueError(
            f"seeds is {seeds}, and at least 2 are needed: their scatter gives"
            " the standard error."
        )
    return {(dim, n): _measure(seeds, n, dim) for dim in dims for n in sizes}


def _measure(seeds: int, n: int, dim: int) -> dict[str, Accuracy]:
    names = [name for name in _COLUMNS if name in entropy.ESTIMATORS]

    @jax.jit
    def estimate(seed):
        z = jax.random.normal(jax.random.key(seed), (n, dim))
        return {
            name: entropy.ESTIMATORS[name](z, **_COLUMNS[name]).value
            for name in names
        }

    truth = dim / 2 * math.log(2 * math.pi * math.e)
    found = [jax.device_get(estimate(seed)) for seed in range(seeds)]
    errors = {
        name: np.array([one[name] for one in found], np.float64) - truth
        for name in names
    }
    return {
        name: Accuracy(
            float(error.mean()), float(error.std(ddof=1) / math.sqrt(seeds))
        )
        for name, error in errors.items()
    }


def format_accuracy(
    found: dict[tuple[int, int], dict[str, Accuracy]], seeds: int
) -> str:
    """Formats what `measure_accuracy` returns, as Markdown."""
    sizes = list(dict.fromkeys(n for _, n in found))
    dims = list(dict.fromkeys(dim for dim, _ in found))
    names = list(next(iter(found.values())))
    error = max(
        a.standard_error for cell in found.values() for a in cell.values()
    )
    options = ", ".join(
        f"`{name}` {key}={value}"
        for name in names
        for key, value in _COLUMNS[name].items()
    )
    rows = [
        f"| {dim} | " + " | ".join(_cell(found[dim, n]) for n in sizes) + " |"
        for dim in dims
    ]
    return "\n".join(
        [
            f"Standard Gaussian, mean error in nats over {seeds} seeds, with"
            f" standard errors of at most {error:.2f}: {' / '.join(names)}"
            f" ({options}).",
            "",
            "| dim | " + " | ".join(f"n={n}" for n in sizes) + " |",
            "|---" * (len(sizes) + 1) + "|",
            *rows,
        ]
    )


def _cell(cell: dict[str, Accuracy]) -> str:
    # Never -0.00.
    return " / ".join(f"{round(a.mean, 2) + 0.0:+.2f}" for a in cell.values())
