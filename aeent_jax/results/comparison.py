"""Tables of runs side by side, baselines below, and paired differences."""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from aeent_jax.evaluation import metrics
from aeent_jax.results import groups, tables
from aeent_jax.results.groups import Group
from aeent_jax.results.runs import Run, Scores

# Column of the table -> key in metrics.json.
_IMAGE_METRICS = {"AUROC": "auroc", "AP": "ap"}
_PIXEL_METRICS = {"pixel AP": "pixel_ap", "oracle Dice": "oracle_dice"}
# Key in metrics.json -> name in tables.
BASELINES: dict[str, str] = {
    "mean_intensity": "mean intensity",
    "nearest_image": "nearest training image",
    "mean_image": "mean image",
    "pca": "PCA",
    "shortcut": "shortcut",
}
# Keys of a configuration that make other pixels of an image.
_PREPARATION = ("data.image_size", "data.channels", "data.window")

PAIRED = (
    "Points of percent, with intervals from the same resampled images for "
    "both runs."
)
NO_INTERVAL = (
    "A number without an interval is the same in all resamples: these images "
    "cannot tell how sure it is."
)
SPREAD = "Mean and standard deviation over seeds."
OVER_SEEDS = (
    f"{SPREAD} Differences are of means over seeds, with 95 % intervals over "
    "the test images; the seeds themselves are not resampled."
)


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Metrics of one side minus those of another, on the same images.

    Attributes:
      name: the first side, a run or a group.
      reference: the other side.
      values: key of the metric -> difference and its interval, fractions; the
        interval is None where all resamples agree.
    """

    name: str
    reference: str
    values: Mapping[str, metrics.Difference]


def has_masks(runs: Sequence[Run]) -> bool:
    """Whether some run has pixel metrics, so that tables show them."""
    return any("pixel_ap" in run.evaluation for run in runs)


def columns(runs: Sequence[Run]) -> dict[str, str]:
    """Columns of metrics in all tables of these runs -> key of the metric."""
    return _IMAGE_METRICS | (_PIXEL_METRICS if has_masks(runs) else {})


def lack_interval(entries: Iterable[Mapping[str, Any]]) -> bool:
    """Whether a metric has no interval beside it, as `NO_INTERVAL` explains.

    Args:
      entries: evaluations, or baselines of them.
    """
    return any(
        entry.get(key) is not None and f"{key}_interval" not in entry
        for entry in entries
        for key in (_IMAGE_METRICS | _PIXEL_METRICS).values()
    )


def main_table(runs: Sequence[Run]) -> tables.Table:
    """The table of runs, and below them the baselines.

    Args:
      runs: the runs.

    Returns:
      A row per run and per baseline: metrics in percent with their intervals,
      the rate, the speed of training.
    """
    shown = columns(runs)
    rows = [
        [
            run.name,
            *(tables.metric(run.evaluation, key) for key in shown.values()),
            _rate(run.evaluation),
            tables.number(run.images_per_second, ".0f"),
        ]
        for run in runs
    ]
    rows += [
        [
            name,
            *(tables.metric(entry, key) for key in shown.values()),
            *[tables.NOTHING] * 2,
        ]
        for name, entry in baselines(runs).items()
    ]
    return tables.Table(["run", *shown, "rate, nats", "images/s"], rows)


def _rate(evaluation):
    """The rate, "infinite" where the latents carry no noise."""
    if "rate_nats" not in evaluation:
        return tables.NOTHING
    rate = evaluation["rate_nats"]
    return "infinite" if rate is None else f"{rate:.1f}"


def baselines(runs: Sequence[Run]) -> dict[str, dict[str, Any]]:
    """Name of the baseline -> its metrics, each distinct one once.

    Runs on the same images share their baselines; where the images or the
    numbers of components differ, the baselines do, and are told apart.

    Args:
      runs: the runs.

    Returns:
      The entries of `metrics.json`, in the order of the runs.
    """
    distinct: dict[str, dict[str, Any]] = {}
    for run in runs:
        for key, entry in run.evaluation.get("baselines", {}).items():
            name = baseline_name(key, entry)
            if "num_components" in entry:
                name = f"{name}, {entry['num_components']} components"
            # As printed: rounding may differ between machines.
            if _shown(distinct.get(name, entry)) != _shown(entry):
                name = f"{name} (images of {run.name})"
            distinct.setdefault(name, entry)
    return distinct


def baseline_name(key: str, entry: Mapping[str, Any]) -> str:
    """Name of a baseline in tables; an oracle is marked.

    Args:
      key: a key of `BASELINES`.
      entry: its entry of `metrics.json`.
    """
    if is_oracle(entry):
        return f"{entry['statistic']} alone (oracle)"
    return BASELINES[key]


def is_oracle(entry: Mapping[str, Any]) -> bool:
    """Whether a baseline was chosen with the labels of the test images."""
    return "statistic" in entry


def _shown(entry):
    return [tables.metric(entry, key) for key in _IMAGE_METRICS.values()]


def over_seeds(runs: Sequence[Run]) -> list[Group]:
    """Groups of the runs that have rank metrics, if any has several seeds.

    Args:
      runs: in any order.

    Returns:
      The groups; none where every experiment has one seed alone.
    """
    gathered = groups.by_experiment([run for run in runs if run.is_ranked])
    several = any(len(group.runs) > 1 for group in gathered)
    return gathered if several else []


def seed_table(gathered: Sequence[Group]) -> tables.Table:
    """The table of groups, with differences to the first.

    Args:
      gathered: as `over_seeds` returns.

    Returns:
      A row per group, in percent and nats.
    """
    shown = columns([run for group in gathered for run in group.runs])
    first = gathered[0]
    rows = []
    for group in gathered:
        rates = group.values("rate_nats")
        rows.append(
            [
                group.name,
                str(len(group.runs)),
                *(
                    tables.spread(100 * group.values(key))
                    for key in shown.values()
                ),
                tables.spread(rates) if len(rates) else "infinite",
                tables.NOTHING
                if group is first
                else _auroc_minus(group, first),
            ]
        )
    header = ["runs", "seeds", *shown, "rate, nats"]
    return tables.Table([*header, f"AUROC minus {first.name}"], rows)


def _auroc_minus(group, first):
    if obstacle(first.runs, group.runs):
        return "other images"
    return tables.points(*difference(group.runs, first.runs)["auroc"])


def difference_table(
    runs: Sequence[Run], differences: Sequence[Comparison]
) -> tables.Table:
    """The table of differences.

    Args:
      runs: the runs, for the columns.
      differences: between some of them.

    Returns:
      A row per difference, in points of percent.
    """
    shown = columns(runs)
    rows = [
        [
            f"{one.name} - {one.reference}",
            *(
                tables.points(*one.values[key])
                if key in one.values
                else tables.NOTHING
                for key in shown.values()
            ),
        ]
        for one in differences
    ]
    return tables.Table(["difference", *shown], rows)


def to_first(runs: Sequence[Run]) -> tuple[list[Comparison], list[str]]:
    """Differences of the other runs to the first, with paired intervals.

    Args:
      runs: the runs.

    Returns:
      The differences, and a sentence for each run that has rank metrics but no
      paired difference.
    """
    first, differences, notes = runs[0], [], []
    if not first.is_ranked:
        return [], []
    for run in runs[1:]:
        if not run.is_ranked:
            continue
        reason = obstacle([first], [run])
        if reason:
            notes.append(reason)
        else:
            values = difference([run], [first], pixels=True)
            differences.append(Comparison(run.name, first.name, values))
    return differences, notes


def obstacle(theirs: Sequence[Run], ours: Sequence[Run]) -> str:
    """Says why runs cannot be paired, in a sentence; "" where they can.

    Args:
      theirs: the runs of one side, evaluated.
      ours: the runs of the other side.

    Returns:
      The first reason.
    """
    first = theirs[0]
    for run in [*theirs[1:], *ours]:
        reason = _obstacle(first, run)
        if reason:
            return reason
    return ""


def _obstacle(first, run):
    one, other = first.scores, run.scores
    if set(one.ids) != set(other.ids):
        shared = len(set(one.ids) & set(other.ids))
        return (
            f"{run.name} and {first.name} were tested on different images "
            f"({shared} ids in common of {len(other.ids)} and "
            f"{len(one.ids)}), so their difference has no paired interval."
        )
    if not np.array_equal(other.labels[_order(other, one)], one.labels):
        return (
            f"{run.name} and {first.name} label the same images differently, "
            "so their difference means nothing: evaluate both on the same "
            "data."
        )
    if _have_other_pixels(first, run):
        return (
            f"{run.name} and {first.name} were tested on other pixels under "
            "the same ids, so their difference means nothing: evaluate both "
            "on the same data."
        )
    return ""


def _have_other_pixels(first: Run, run: Run) -> bool:
    """Whether two runs are known to have seen other images under one name.

    Known only where both evaluations hold a digest of their images, as those of
    this version do, and where both prepared them alike: at another size the
    same images are other pixels, and may be paired by id.
    """
    digests = {r.scores.images_sha256 for r in (first, run) if r.scores}
    if None in digests or len(digests) == 1:
        return False
    return all(first.config.get(k) == run.config.get(k) for k in _PREPARATION)


def _order(scores: Scores, like: Scores) -> np.ndarray:
    """The places of the other's images in these scores."""
    place = {name: i for i, name in enumerate(scores.ids)}
    return np.array([place[name] for name in like.ids], np.int64)


def difference(
    ours: Sequence[Run], theirs: Sequence[Run], *, pixels: bool = False
) -> dict[str, metrics.Difference]:
    """Paired differences of the means over seeds.

    Args:
      ours: the runs of one experiment, which `obstacle` lets pass.
      theirs: the runs of another, whose metrics are subtracted.
      pixels: whether to compare pixel metrics too, where both sides are one
        run and the masks agree.

    Returns:
      Key of the metric -> difference and interval.
    """
    like = theirs[0].scores
    a, b = (
        np.stack([run.scores.values[_order(run.scores, like)] for run in side])
        for side in (ours, theirs)
    )
    maps = _maps(ours[0], theirs[0]) if pixels else {}
    return metrics.paired_bootstrap(a, b, like.labels, **maps)


def _maps(run, first):
    """Score maps of both runs, where their masks agree."""
    ours, theirs = run.arrays("score_maps"), first.arrays("score_maps")
    if "masks" not in ours or "masks" not in theirs:
        return {}
    order = _order(run.scores, first.scores)
    if not np.array_equal(ours["masks"][order], theirs["masks"]):
        return {}
    return {
        "maps_a": ours["score_maps"][order],
        "maps_b": theirs["score_maps"],
        "masks": theirs["masks"],
    }
