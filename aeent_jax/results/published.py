"""Published numbers, and whether runs agree with them by a fixed rule.

A number is found by data set, method and latent size, for runs that were
trained as the publication says and in no other way. A cell, one metric of one
experiment, passes if

    |mean - published mean| <= max(2 points, 3 s),

s the standard deviation between seeds, pooled over both sides:
s^2 = ((m - 1) s_1^2 + (n - 1) s_2^2) / (m + n - 2), of m and n seeds. A side of
one seed has no spread to add and takes the other's; with one seed on both sides
s is 0, and 2 points are all that is allowed.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

from aeent_jax import config as config_lib
from aeent_jax.results import tables
from aeent_jax.results.groups import Group, deviation

LEAST_BOUND = 0.02
NUM_DEVIATIONS = 3.0

SOURCES = {
    "paper": (
        "Cai, Chen and Cheng, Rethinking Autoencoders for Medical Anomaly"
        " Detection from A Theoretical Perspective, MICCAI 2024, Tables 1 and"
        " 2: mean and standard deviation of 3 runs"
    ),
    "reference code": (
        "the PyTorch code of MedIAnomaly (Cai, Zhang, Chen and Cheng, Medical"
        " Image Analysis 2025), run once on the images of this split"
    ),
}


@dataclasses.dataclass(frozen=True)
class Number:
    """A published metric.

    Attributes:
      mean: over the seeds, a fraction.
      sd: standard deviation over the seeds, a fraction; 0 for one seed.
      seeds: how many.
      source: a key of `SOURCES`.
    """

    mean: float
    sd: float
    seeds: int
    source: str


_PAPER_COLUMNS = (
    ("rsna", "auroc"),
    ("rsna", "ap"),
    ("vindr_cxr", "auroc"),
    ("vindr_cxr", "ap"),
    ("brain_tumor", "auroc"),
    ("brain_tumor", "ap"),
    ("brats2021", "auroc"),
    ("brats2021", "ap"),
    ("brats2021", "pixel_ap"),
    ("brats2021", "oracle_dice"),
)
# Percent, as printed. The row AE[d_optimal] of Table 2 repeats cells of
# Table 1: sizes 4, 4, 32 and 16, chosen with the test labels.
_PAPER = """
ae 128   60.5±0.6 60.3±0.4  48.6±0.2 51.9±0.3  86.5±0.3 76.9±0.4  80.5±0.9 90.5±0.7 25.6±2.9 32.7±2.3
ae 64    60.7±0.6 60.7±0.6  49.0±0.2 52.0±0.3  86.8±0.1 77.2±0.2  81.3±0.2 91.0±0.2 20.8±3.1 28.8±2.8
ae 32    62.8±0.4 62.5±0.2  52.5±0.4 55.6±0.5  87.1±0.2 77.8±0.2  82.1±0.3 91.6±0.1 25.2±3.8 32.7±3.3
ae 16    67.5±0.9 66.7±0.5  56.4±0.4 60.2±0.5  85.9±0.3 76.9±0.1  82.6±0.1 92.0±0.1 33.2±2.2 39.2±1.7
ae 8     69.4±1.2 68.3±0.8  57.4±0.3 61.7±0.3  84.1±0.6 75.5±0.8  81.0±0.5 90.9±0.3 36.1±7.9 42.3±5.9
ae 4     72.9±2.1 70.3±0.9  61.3±0.6 64.1±0.8  70.8±1.4 64.1±1.0  79.4±0.1 89.6±0.3 33.4±5.4 40.0±4.2
ae 2     67.5±0.8 65.4±1.0  60.5±0.3 59.7±0.2  47.3±1.7 48.3±1.0  77.2±0.3 87.5±0.1 30.0±2.5 38.0±1.7
ae 1     66.5±0.4 63.6±0.9  59.4±1.6 58.6±1.6  36.6±0.3 42.4±0.6  72.8±0.8 84.5±0.7 35.9±5.1 40.8±3.4
vae 16   67.9±0.8 67.0±0.8  56.4±0.4 60.1±0.5  85.3±0.4 76.5±0.3  80.6±0.8 90.9±0.5 44.0±5.3 47.1±3.4
memae 16 69.6±0.4 68.1±0.4  56.9±0.9 60.9±0.9  82.6±0.6 74.3±0.2  63.9±7.7 78.5±6.9 22.8±5.6 30.8±4.8
ceae 16  68.0±0.5 66.8±0.6  56.1±0.2 60.1±0.3  85.3±1.5 76.0±1.5  81.7±1.5 91.5±0.7 28.6±3.2 35.8±2.4
"""  # noqa: E501

_REFERENCE_CODE_COLUMNS = (
    ("kermany_cxr", "auroc"),
    ("kermany_cxr", "ap"),
    ("brain_mri", "auroc"),
    ("brain_mri", "ap"),
)
_REFERENCE_CODE = """
ae 1     70.3 68.7  30.8 38.0
ae 2     71.6 73.8  36.8 40.5
ae 4     74.1 71.7  38.6 40.9
ae 8     73.3 74.6  40.7 41.5
ae 16    72.9 74.1  42.3 42.1
ae 32    71.0 71.3  40.1 41.3
ae 64    67.4 69.3  40.1 41.2
ae 128   64.9 67.1  41.2 41.7
vae 16   72.1 74.0  38.5 40.5
memae 16 74.3 74.6  42.3 42.2
ceae 16  73.3 74.7  41.1 41.6
"""

# Keys that a run shares with the publications, beside epochs, method and latent
# size.
_PROTOCOL = {
    "channel.sigma": 0.0,
    "entropy.weight": 0.0,
    "data.image_size": 64,
    "data.channels": 1,
    "data.resize": "stretch",
    "data.deduplicate": "",
    "data.validation_fraction": 0.0,
    "model.base_width": 16,
    "model.hidden_dim": 1024,
    "model.depth": 1,
    "optimizer.learning_rate": 1e-3,
    "optimizer.schedule": "constant",
    "optimizer.warmup_steps": 0,
    "optimizer.clip_norm": 0.0,
    "train.batch_size": 64,
}

Key = tuple[str, str, int]


def find(config: dict[str, Any]) -> dict[str, Number]:
    """The published metrics that a run is compared with.

    Args:
      config: flat configuration of the run.

    Returns:
      Name of the metric -> number; empty where nothing was published, or under
      another protocol.
    """
    data = config.get("data.name")
    place = (data, config.get("method"), config.get("model.latent_dim"))
    if place not in NUMBERS:
        return {}
    protocol = _PROTOCOL | {"train.epochs": config_lib.EPOCHS[data]}
    if any(config[key] != value for key, value in protocol.items()):
        return {}
    return NUMBERS[place]


def _parse(
    text: str, columns: tuple[tuple[str, str], ...], seeds: int, source: str
) -> dict[Key, dict[str, Number]]:
    """Reads a table: method, latent size, one cell per column, in percent."""
    found: dict[Key, dict[str, Number]] = {}
    for line in text.split("\n")[1:-1]:
        method, size, *cells = line.split()
        for (data, metric), cell in zip(columns, cells, strict=True):
            mean, _, sd = cell.partition("±")
            number = Number(
                float(mean) / 100, float(sd or 0) / 100, seeds, source
            )
            found.setdefault((data, method, int(size)), {})[metric] = number
    return found


NUMBERS = _parse(_PAPER, _PAPER_COLUMNS, 3, "paper") | _parse(
    _REFERENCE_CODE, _REFERENCE_CODE_COLUMNS, 1, "reference code"
)


@dataclasses.dataclass(frozen=True)
class Cell:
    """A metric of one experiment beside its published number.

    Attributes:
      metric: its key in a record.
      mean: over the seeds, a fraction.
      sd: over the seeds, a fraction; 0 for one seed.
      seeds: how many.
      published: the published number.
    """

    metric: str
    mean: float
    sd: float
    seeds: int
    published: Number

    @property
    def difference(self) -> float:
        """Ours minus the published mean."""
        return self.mean - self.published.mean

    @property
    def bound(self) -> float:
        """The largest difference that passes."""
        other = self.published
        pooled = pooled_sd(self.sd, self.seeds, other.sd, other.seeds)
        return max(LEAST_BOUND, NUM_DEVIATIONS * pooled)

    @property
    def passes(self) -> bool:
        """Whether the difference is within the bound."""
        # Published means are rounded: 2.0 points are not to fail by 1e-17.
        return abs(self.difference) <= self.bound + 1e-12


def pooled_sd(
    sd: float, seeds: int, other_sd: float, other_seeds: int
) -> float:
    """The standard deviation between seeds, pooled over two sets of seeds.

    Args:
      sd: sample standard deviation of the first set.
      seeds: size of the first set, at least 1.
      other_sd: sample standard deviation of the second set.
      other_seeds: size of the second set, at least 1.

    Returns:
      The pooled deviation; that of the other set where one is a single seed,
      and 0 where both are.
    """
    freedom = seeds + other_seeds - 2
    if not freedom:
        return 0.0
    squares = (seeds - 1) * sd**2 + (other_seeds - 1) * other_sd**2
    return math.sqrt(squares / freedom)


def cells(group: Group) -> dict[str, Cell]:
    """The cells of an experiment that have a published number.

    Args:
      group: its runs.

    Returns:
      Name of the metric -> cell.
    """
    found = {}
    for metric, number in find(group.config).items():
        values = group.values(metric)
        if len(values):
            found[metric] = Cell(
                metric,
                float(values.mean()),
                deviation(values),
                len(values),
                number,
            )
    return found


def summary(groups: Sequence[Group]) -> list[str]:
    """The count of cells that pass, the rule and the sources, as sentences.

    Args:
      groups: the rows of a table.

    Returns:
      The sentences; none where nothing was published.
    """
    found = [cell for group in groups for cell in cells(group).values()]
    if not found:
        return []
    passed = sum(cell.passes for cell in found)
    used = dict.fromkeys(cell.published.source for cell in found)
    sources = "; ".join(SOURCES[name] for name in used)
    return [
        f"Published numbers: {passed} of {len(found)} cells pass, and"
        f" {len(found) - passed} fail. A cell passes if it differs by at most"
        f" {100 * LEAST_BOUND:g} points or {NUM_DEVIATIONS:g} pooled standard"
        " deviations of the seeds, whichever is more.",
        f"Source: {sources}.",
    ]


def to_csv(groups: Sequence[Group]) -> str:
    """A row per cell, fractions in full precision; "" where there is none."""
    return tables.to_csv(
        [
            _row(group, cell)
            for group in groups
            for cell in cells(group).values()
        ]
    )


def _row(group: Group, cell: Cell) -> dict[str, object]:
    return {
        "data": group.config["data.name"],
        "method": group.config["method"],
        "latent_dim": group.config["model.latent_dim"],
        "metric": cell.metric,
        "mean": cell.mean,
        "sd": cell.sd,
        "seeds": cell.seeds,
        "published_mean": cell.published.mean,
        "published_sd": cell.published.sd,
        "published_seeds": cell.published.seeds,
        "difference": cell.difference,
        "bound": cell.bound,
        "verdict": "pass" if cell.passes else "fail",
        "source": cell.published.source,
    }
