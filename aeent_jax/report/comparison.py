"""Tables of runs side by side, baselines below, and paired differences."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from aeent_jax import metrics
from aeent_jax.report.runs import Run

# Column of the table -> key in metrics.json.
METRICS = {
    "AUROC": "auroc",
    "AP": "ap",
    "pixel AP": "pixel_ap",
    "oracle Dice": "oracle_dice",
}
_BASELINES = {
    "mean_intensity": "mean intensity",
    "mean_image": "mean image",
    "pca": "PCA",
}
_NOTHING = "-"


@dataclasses.dataclass(frozen=True)
class Difference:
    """A run's metrics minus the first run's, on the same images.

    Attributes:
      name: The run.
      reference: The first run.
      values: Key of the metric -> (difference, low, high), fractions.
    """

    name: str
    reference: str
    values: dict[str, tuple[float, float, float]]


def header() -> list[str]:
    """Names of the columns of `run_rows` and `baseline_rows`."""
    return ["run", *METRICS, "rate, nats", "images/s"]


def ranked(runs: Sequence[Run]) -> list[Run]:
    """The runs that have rank metrics: evaluated, with abnormal images."""
    return [run for run in runs if "auroc" in (run.evaluation or {})]


def run_rows(runs: Sequence[Run]) -> list[list[str]]:
    """A row of text a run, metrics in percent with their intervals."""
    return [
        [
            run.name,
            *_metric_cells(run.evaluation or {}),
            _rate(run.evaluation),
            _speed(run),
        ]
        for run in runs
    ]


def baselines(runs: Sequence[Run]) -> dict[str, dict[str, Any]]:
    """Name of the baseline -> its metrics, each distinct one once.

    Runs on the same images share their baselines; where the images or the
    numbers of components differ, the baselines do, and are told apart.

    Args:
      runs: The runs.

    Returns:
      The entries of `metrics.json`, in the order of the runs.
    """
    found: dict[str, dict[str, Any]] = {}
    for run in runs:
        entries = (run.evaluation or {}).get("baselines", {})
        for key, entry in entries.items():
            name = _BASELINES.get(key, key)
            if "num_components" in entry:
                name = f"{name}, {entry['num_components']} components"
            # As printed: rounding may differ between machines.
            if _metric_cells(found.get(name, entry)) != _metric_cells(entry):
                name = f"{name} (images of {run.name})"
            found.setdefault(name, entry)
    return found


def baseline_rows(runs: Sequence[Run]) -> list[list[str]]:
    """A row of text a baseline, in the columns of `header`."""
    return [
        [name, *_metric_cells(entry), _NOTHING, _NOTHING]
        for name, entry in baselines(runs).items()
    ]


def differences(runs: Sequence[Run]) -> tuple[list[Difference], list[str]]:
    """Differences of the other runs to the first, with paired intervals.

    Args:
      runs: The runs.

    Returns:
      The differences, and a sentence for each run that has rank metrics but no
      paired difference.
    """
    first, found, notes = runs[0], [], []
    for run in ranked(runs[1:]) if ranked([first]) else []:
        obstacle = _obstacle(first, run)
        if obstacle:
            notes.append(obstacle)
        else:
            values = _paired(first, run)
            found.append(Difference(run.name, first.name, values))
    return found, notes


def difference_rows(found: Sequence[Difference]) -> list[list[str]]:
    """A row of text a difference, in points of percent."""
    return [
        [
            f"{difference.name} - {difference.reference}",
            *(
                _points(difference.values[key])
                if key in difference.values
                else _NOTHING
                for key in METRICS.values()
            ),
        ]
        for difference in found
    ]


def markdown(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table whose columns also line up as plain text."""
    widths = [
        max(len(cell) for cell in column)
        for column in zip(columns, *rows, strict=True)
    ]

    def line(cells):
        first, *rest = (
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(cells, widths, strict=True))
        )
        return "| " + " | ".join([first, *rest]) + " |"

    rules = [
        "-" * widths[0],
        *("-" * (width - 1) + ":" for width in widths[1:]),
    ]
    return "\n".join([line(columns), line(rules), *(line(row) for row in rows)])


def _obstacle(first, run):
    """Why two runs cannot be paired, in a sentence, or ""."""
    if set(first.ids) != set(run.ids):
        shared = len(set(first.ids) & set(run.ids))
        return (
            f"{run.name} and {first.name} were tested on different images "
            f"({shared} ids in common of {len(run.ids)} and "
            f"{len(first.ids)}), so their difference has no paired interval."
        )
    labels = dict(zip(first.ids, first.labels, strict=True))
    if [labels[i] for i in run.ids] != run.labels.tolist():
        return (
            f"{run.name} and {first.name} label the same images differently, "
            "so their difference means nothing: evaluate both on the same "
            "data."
        )
    return ""


def _paired(first, run):
    """Paired differences, of pixel metrics too where the masks agree."""
    place = {name: i for i, name in enumerate(run.ids)}
    order = np.array([place[name] for name in first.ids])
    ours, theirs = run.arrays("score_maps"), first.arrays("score_maps")
    maps = {}
    if "masks" in ours and "masks" in theirs:
        masks = theirs["masks"]
        if np.array_equal(ours["masks"][order], masks):
            maps = {
                "maps_a": ours["score_maps"][order],
                "maps_b": theirs["score_maps"],
                "masks": masks,
            }
    return metrics.paired_bootstrap(
        run.scores[order], first.scores, first.labels, **maps
    )


def _metric_cells(entry):
    """Cells such as "74.1 [70.3, 77.8]" for the columns of `METRICS`."""
    cells = []
    for key in METRICS.values():
        if entry.get(key) is None:
            cells.append(_NOTHING)
            continue
        low, high = entry[f"{key}_interval"]
        cells.append(f"{percent(entry[key])} [{percent(low)}, {percent(high)}]")
    return cells


def percent(fraction: float) -> str:
    """A fraction as percent, without the sign: 74.1."""
    return f"{100 * fraction:.1f}"


def _points(triple):
    """A difference with its interval, each with its sign."""
    value, low, high = (f"{100 * part:+.1f}" for part in triple)
    return f"{value} [{low}, {high}]"


def _rate(evaluation):
    """The rate, "infinite" where the latents carry no noise."""
    if not evaluation or "rate_nats" not in evaluation:
        return _NOTHING
    rate = evaluation["rate_nats"]
    return "infinite" if rate is None else f"{rate:.1f}"


def _speed(run):
    """The median training speed."""
    _, speeds = run.curve("train/images_per_second")
    return f"{np.median(speeds):.0f}" if len(speeds) else _NOTHING
