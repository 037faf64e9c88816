"""Tables of runs side by side, baselines below, and paired differences."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from aeent_jax.evaluation import metrics
from aeent_jax.results.runs import Run

# Column of the table -> key in metrics.json.
_IMAGE_METRICS = {"AUROC": "auroc", "AP": "ap"}
_PIXEL_METRICS = {"pixel AP": "pixel_ap", "oracle Dice": "oracle_dice"}
# Key in metrics.json -> name in tables.
BASELINES: dict[str, str] = {
    "mean_intensity": "mean intensity",
    "mean_image": "mean image",
    "pca": "PCA",
}
# Keys of a configuration's group `data` that make other pixels of an image.
_PREPARATION = ("image_size", "channels", "window")
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


def has_masks(runs: Sequence[Run]) -> bool:
    """Whether some run has pixel metrics, so that tables show them."""
    return any("pixel_ap" in run.evaluation for run in runs)


def columns(runs: Sequence[Run]) -> dict[str, str]:
    """Columns of metrics in all tables of these runs -> key of the metric."""
    return _IMAGE_METRICS | (_PIXEL_METRICS if has_masks(runs) else {})


def ranked(runs: Sequence[Run]) -> list[Run]:
    """The runs that have rank metrics: evaluated, with abnormal images."""
    return [run for run in runs if "auroc" in run.evaluation]


def main_table(runs: Sequence[Run]) -> tuple[list[str], list[list[str]]]:
    """The table of runs, and below them the baselines.

    Args:
      runs: The runs.

    Returns:
      The names of the columns, and a row of text a run and a baseline: metrics
      in percent with their intervals, the rate, the speed of training.
    """
    shown = columns(runs)
    rows = [
        [
            run.name,
            *_metric_cells(run.evaluation, shown),
            _rate(run.evaluation),
            _speed(run),
        ]
        for run in runs
    ]
    rows += [
        [name, *_metric_cells(entry, shown), _NOTHING, _NOTHING]
        for name, entry in baselines(runs).items()
    ]
    return ["run", *shown, "rate, nats", "images/s"], rows


def difference_table(
    runs: Sequence[Run], found: Sequence[Difference]
) -> tuple[list[str], list[list[str]]]:
    """The table of differences.

    Args:
      runs: The runs.
      found: Their differences.

    Returns:
      The names of the columns, and a row of text a difference, in points of
      percent.
    """
    shown = columns(runs)
    rows = [
        [
            f"{difference.name} - {difference.reference}",
            *(
                points(difference.values[key])
                if key in difference.values
                else _NOTHING
                for key in shown.values()
            ),
        ]
        for difference in found
    ]
    return ["difference", *shown], rows


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
        entries = run.evaluation.get("baselines", {})
        for key, entry in entries.items():
            name = BASELINES[key]
            if "num_components" in entry:
                name = f"{name}, {entry['num_components']} components"
            # As printed: rounding may differ between machines.
            other = found.get(name, entry)
            if _metric_cells(other, _IMAGE_METRICS) != _metric_cells(
                entry, _IMAGE_METRICS
            ):
                name = f"{name} (images of {run.name})"
            found.setdefault(name, entry)
    return found


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


def have_other_pixels(first: Run, run: Run) -> bool:
    """Whether two runs are known to have seen other images under one name.

    Known only where both evaluations hold a digest of their images, as those of
    this version do, and where both prepared them alike: at another size the
    same images are other pixels, and may be paired by id.
    """
    digests = {r.evaluation.get("images_sha256") for r in (first, run)}
    if None in digests or len(digests) == 1:
        return False
    data = [r.config.get("data", {}) for r in (first, run)]
    return all(data[0].get(key) == data[1].get(key) for key in _PREPARATION)


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table whose columns also line up as plain text."""
    widths = [
        max(len(cell) for cell in column)
        for column in zip(header, *rows, strict=True)
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
    return "\n".join([line(header), line(rules), *(line(row) for row in rows)])


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
    if have_other_pixels(first, run):
        return (
            f"{run.name} and {first.name} were tested on other pixels under "
            "the same ids, so their difference means nothing: evaluate both "
            "on the same data."
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


def _metric_cells(entry, shown):
    """Cells such as "74.1 [70.3, 77.8]" for the columns that are shown."""
    cells = []
    for key in shown.values():
        if entry.get(key) is None:
            cells.append(_NOTHING)
            continue
        low, high = entry[f"{key}_interval"]
        cells.append(f"{percent(entry[key])} [{percent(low)}, {percent(high)}]")
    return cells


def percent(fraction: float) -> str:
    """A fraction as percent, without the sign: 74.1."""
    return f"{100 * fraction:.1f}"


def points(triple: tuple[float, float, float]) -> str:
    """A difference with its interval, each with its sign: +1.2 [-0.3, +2.7]."""
    value, low, high = (f"{100 * part:+.1f}" for part in triple)
    return f"{value} [{low}, {high}]"


def _rate(evaluation):
    """The rate, "infinite" where the latents carry no noise."""
    if "rate_nats" not in evaluation:
        return _NOTHING
    rate = evaluation["rate_nats"]
    return "infinite" if rate is None else f"{rate:.1f}"


def _speed(run):
    """The median training speed."""
    _, speeds = run.curve("train/images_per_second")
    return f"{np.median(speeds):.0f}" if len(speeds) else _NOTHING
