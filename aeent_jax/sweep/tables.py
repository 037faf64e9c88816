"""The table of a sweep: a row per group of seeds, baselines below.

Published numbers stand beside ours. `differences` compares experiments under a
penalty of the rate with those without; `to_csv` is for programs.
"""

import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from aeent_jax.results import comparison, published, tables
from aeent_jax.results.comparison import Comparison
from aeent_jax.results.groups import DATA, LATENT, METHOD, Group
from aeent_jax.results.tables import NOTHING

_METRICS = {
    "AUROC": "auroc",
    "AP": "ap",
    "pixel AP": "pixel_ap",
    "oracle Dice": "oracle_dice",
}
_LABELS = {DATA: "data"}

# Column of a metric -> its key, and whether the numbers are published ones.
_Columns = dict[str, tuple[str, bool]]


def make_table(groups: Sequence[Group]) -> tables.Table:
    """The table for people.

    Args:
      groups: groups of the members, in the order of their settings.

    Returns:
      The columns that hold something, and a row per group; below those of a
      data set its baselines, each distinct one once.
    """
    columns = _columns(groups)
    keys = list(groups[0].settings)
    header = [
        *(_LABELS.get(key, key.split(".")[-1]) for key in keys),
        "seeds",
        *columns,
        "rate, nats",
        "bracket, nats",
        "images/s",
        "note",
    ]
    rows = []
    for data in dict.fromkeys(group.config.get(DATA) for group in groups):
        here = [group for group in groups if group.config.get(DATA) == data]
        rows += [_row(group, columns) for group in here]
        rows += _baseline_rows(here, keys, columns)
    return tables.without_empty_columns(tables.Table(header, rows))


def _columns(groups: Sequence[Group]) -> _Columns:
    columns = {}
    for name, key in _METRICS.items():
        if any(len(group.values(key)) for group in groups):
            columns[name] = (key, False)
        if any(key in published.cells(group) for group in groups):
            columns[f"published {name}"] = (key, True)
    return columns


def _row(group: Group, columns: _Columns) -> list[str]:
    rates = group.values("rate_nats")
    low, high = (
        group.values("diagnostics", "train_normal", end)
        for end in ("rate_low", "rate_up")
    )
    bracket = f"{low.mean():.1f} to {high.mean():.1f}" if len(low) else NOTHING
    speeds = [
        run.images_per_second for run in group.runs if run.images_per_second
    ]
    notes = dict.fromkeys(note for run in group.runs for note in run.notes)
    beside = published.cells(group)
    return [
        *(tables.setting(value) for value in group.settings.values()),
        str(len(group.runs)),
        *(
            _published(beside.get(key)) if is_published else _metric(group, key)
            for key, is_published in columns.values()
        ),
        tables.spread(rates) if len(rates) else "infinite",
        bracket,
        f"{np.median(speeds):.0f}" if speeds else NOTHING,
        ", ".join(notes),
    ]


def _metric(group: Group, key: str) -> str:
    """Percent: one member with its interval, several with their spread."""
    if len(group.runs) == 1:
        return tables.metric(group.evaluation, key)
    return tables.spread(100 * group.values(key))


def _published(cell: published.Cell | None) -> str:
    """A published number in percent, and whether ours agrees with it."""
    if cell is None:
        return NOTHING
    number = tables.percent(cell.published.mean)
    if cell.published.seeds > 1:
        number += f" ± {tables.percent(cell.published.sd)}"
    return f"{number} {'pass' if cell.passes else 'FAIL'}"


def _baseline_rows(
    groups: Sequence[Group], keys: Sequence[str], columns: _Columns
) -> list[list[str]]:
    """Rows of baselines, which members on the same images share."""
    rows: dict[str, tuple[tuple, list[str]]] = {}
    for group in groups:
        data = {k: v for k, v in group.config.items() if k.startswith("data.")}
        entries = group.evaluation.get("baselines", {})
        for place, name in enumerate(comparison.BASELINES):
            if name not in entries:
                continue
            entry = entries[name]
            size = entry.get("num_components", NOTHING)
            settings = data | {
                METHOD: comparison.baseline_name(name, entry),
                LATENT: size,
            }
            cells = [
                *(tables.setting(settings.get(key, NOTHING)) for key in keys),
                NOTHING,
                *(
                    NOTHING if is_published else tables.metric(entry, key)
                    for key, is_published in columns.values()
                ),
                *[NOTHING] * 3,
                "",
            ]
            rows.setdefault(json.dumps(settings), ((place, size), cells))
    return [cells for _, cells in sorted(rows.values(), key=lambda r: r[0])]


def differences(groups: Sequence[Group]) -> str:
    """Paired differences of each group under control to each that is not.

    Both means are over the seeds that both have; the intervals are over
    resampled images, the same ones for both.

    Args:
      groups: groups of the members.

    Returns:
      A table in Markdown, in points of percent; "" where no pair of groups has
      the scores of single images, which records do not hold.
    """
    rows = [
        [
            str(ours.config.get(DATA)),
            f"{one.name} - {one.reference}",
            str(num_seeds),
            *(tables.points(*one.values[key]) for key in ("auroc", "ap")),
        ]
        for ours in groups
        for theirs in groups
        if ours.is_controlled
        and not theirs.is_controlled
        and ours.config.get(DATA) == theirs.config.get(DATA)
        for one, num_seeds in _compare(ours, theirs)
    ]
    if not rows:
        return ""
    table = tables.Table(["data", "difference", "seeds", "AUROC", "AP"], rows)
    return f"{tables.markdown(table)}\n\n{comparison.PAIRED}\n"


def _compare(ours: Group, theirs: Group) -> list[tuple[Comparison, int]]:
    """The difference of a pair, or none where they have no seed in common."""
    ours_at, theirs_at = (
        {run.seed: run for run in group.runs if run.scores}
        for group in (ours, theirs)
    )
    seeds = sorted(ours_at.keys() & theirs_at.keys())
    a, b = ([side[seed] for seed in seeds] for side in (ours_at, theirs_at))
    if not seeds or comparison.obstacle(b, a):
        return []
    values = comparison.difference(a, b)
    return [(Comparison(ours.name, theirs.name, values), len(seeds))]


def to_csv(groups: Sequence[Group]) -> str:
    """All numbers of all members, a row each, in full precision."""
    settings = [*groups[0].settings, "train.seed"]
    return tables.to_csv(
        [
            {"member": run.name}
            | {key: run.config.get(key) for key in settings}
            | _numbers("", run.evaluation)
            | _numbers("", run.trained)
            | {"images_per_second": run.images_per_second}
            | {"note": ", ".join(run.notes)}
            for group in groups
            for run in group.runs
        ]
    )


def _numbers(prefix: str, tree: dict[str, Any]) -> dict[str, Any]:
    """Leaves under names such as train_normal/rho and auroc_low."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if key == "diagnostics":
            flat |= _numbers(prefix, value)
        elif isinstance(value, dict):
            flat |= _numbers(f"{prefix}{key}/", value)
        elif isinstance(value, list):
            name = f"{prefix}{key}".removesuffix("_interval")
            flat |= {f"{name}_low": value[0], f"{name}_high": value[1]}
        else:
            flat[f"{prefix}{key}"] = value
    return flat
