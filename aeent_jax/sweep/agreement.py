"""Whether a sweep agrees with published numbers, by a rule fixed beforehand.

A cell, one metric of one configuration, passes if

    |mean - published mean| <= max(2 points, 3 s),

s the standard deviation between seeds, pooled over both sides:
s^2 = ((m - 1) s_1^2 + (n - 1) s_2^2) / (m + n - 2), of m and n seeds. A side of
one seed has no spread to add and takes the other's; with one seed on both sides
s is 0, and 2 points are all that is allowed.
"""

import csv
import dataclasses
import io
import math
from collections.abc import Sequence

from aeent_jax.sweep import published
from aeent_jax.sweep.groups import Group, deviation

LEAST_BOUND = 0.02
NUM_DEVIATIONS = 3.0


@dataclasses.dataclass(frozen=True)
class Cell:
    """A metric of one configuration beside its published number.

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
    published: published.Number

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
      sd: of the first set, with its number of seeds less one below the line.
      seeds: of the first set, at least 1.
      other_sd: of the second set.
      other_seeds: of the second set, at least 1.

    Returns:
      The pooled deviation; that of one set where the other is a single seed,
      and 0 where both are.
    """
    freedom = seeds + other_seeds - 2
    if not freedom:
        return 0.0
    squares = (seeds - 1) * sd**2 + (other_seeds - 1) * other_sd**2
    return math.sqrt(squares / freedom)


def cells(group: Group) -> dict[str, Cell]:
    """The cells of a configuration that have a published number.

    Args:
      group: its members.

    Returns:
      Name of the metric -> cell.
    """
    found = {}
    for metric, number in published.find(group.config).items():
        values = group.values("evaluation", metric)
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
      groups: the configurations of a table.

    Returns:
      The sentences; none where nothing was published.
    """
    found = [cell for group in groups for cell in cells(group).values()]
    if not found:
        return []
    passed = sum(cell.passes for cell in found)
    used = dict.fromkeys(cell.published.source for cell in found)
    sources = "; ".join(published.SOURCES[name] for name in used)
    return [
        f"Published numbers: {passed} of {len(found)} cells pass, and"
        f" {len(found) - passed} fail. A cell passes if it differs by at most"
        f" {100 * LEAST_BOUND:g} points or {NUM_DEVIATIONS:g} pooled standard"
        " deviations of the seeds, whichever is more.",
        f"Source: {sources}.",
    ]


def to_csv(groups: Sequence[Group]) -> str:
    """A row a cell, fractions in full precision; "" where there is none."""
    stream = io.StringIO()
    writer = None
    for group in groups:
        for cell in cells(group).values():
            row = _row(group, cell)
            if writer is None:
                writer = csv.DictWriter(stream, list(row), lineterminator="\n")
                writer.writeheader()
            writer.writerow(row)
    return stream.getvalue()


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
