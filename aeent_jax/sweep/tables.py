"""Tables of a sweep, made of its records: Markdown, CSV and LaTeX.

Members that differ by their seed alone are one row of Markdown and LaTeX, which
are for people: percent, and nats with one decimal. Published numbers stand
beside ours, and the trivial baselines below. CSV is for programs: a row a
member, fractions in full precision.
"""

import csv
import io
import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from aeent_jax.results import comparison
from aeent_jax.sweep import agreement
from aeent_jax.sweep.groups import (
    DATA,
    LATENT,
    METHOD,
    SEED,
    Group,
    groups,
    setting,
)
from aeent_jax.sweep.records import Record

_METRICS = {
    "AUROC": "auroc",
    "AP": "ap",
    "pixel AP": "pixel_ap",
    "oracle Dice": "oracle_dice",
}
_LABELS = {DATA: "data"}
_NOTHING = "-"
_EMPTY = (_NOTHING, "")


def make_table(records: Sequence[Record]) -> tuple[list[str], list[list[str]]]:
    """The table for people.

    Args:
      records: of the members.

    Returns:
      The names of the columns that hold something, and a row of text a group;
      below those of a data set its baselines, each distinct one once.
    """
    found = groups(records)
    columns = _columns(found)
    keys = list(found[0].settings)
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
    for data in dict.fromkeys(group.config.get(DATA) for group in found):
        here = [group for group in found if group.config.get(DATA) == data]
        rows += [_row(group, columns) for group in here]
        rows += _baseline_rows(here, keys, columns)
    return _without_empty_columns(header, rows)


def _without_empty_columns(
    header: list[str], rows: list[list[str]]
) -> tuple[list[str], list[list[str]]]:
    kept = [
        i
        for i in range(len(header))
        if any(row[i] not in _EMPTY for row in rows)
    ]
    return [header[i] for i in kept], [[row[i] for i in kept] for row in rows]


def _columns(found: Sequence[Group]) -> dict[str, tuple[str, bool]]:
    """Columns of metrics -> its key, and whether it is of published numbers."""
    columns = {}
    for name, key in _METRICS.items():
        if any(len(group.values("evaluation", key)) for group in found):
            columns[name] = (key, False)
        if any(key in agreement.cells(group) for group in found):
            columns[f"published {name}"] = (key, True)
    return columns


def _row(group: Group, columns: dict[str, tuple[str, bool]]) -> list[str]:
    def diagnostic(name):
        return group.values("diagnostics", "train_normal", name)

    rates = group.values("evaluation", "rate_nats")
    low, high = diagnostic("rate_low"), diagnostic("rate_up")
    bracket = f"{low.mean():.1f} to {high.mean():.1f}" if len(low) else _NOTHING
    speeds = group.values("images_per_second")
    notes = dict.fromkeys(r["note"] for r in group.records if r["note"])
    beside = agreement.cells(group)
    return [
        *(setting(value) for value in group.settings.values()),
        str(len(group.records)),
        *(
            _published(beside.get(key)) if is_published else _metric(group, key)
            for key, is_published in columns.values()
        ),
        _spread(rates) if len(rates) else "infinite",
        bracket,
        f"{np.median(speeds):.0f}" if len(speeds) else _NOTHING,
        ", ".join(notes),
    ]


def _published(cell: agreement.Cell | None) -> str:
    """A published number in percent, and whether ours agrees with it."""
    if cell is None:
        return _NOTHING
    number = comparison.percent(cell.published.mean)
    if cell.published.seeds > 1:
        number += f" ± {comparison.percent(cell.published.sd)}"
    return f"{number} {'pass' if cell.passes else 'FAIL'}"


def _baseline_rows(
    found: Sequence[Group],
    keys: Sequence[str],
    columns: dict[str, tuple[str, bool]],
) -> list[list[str]]:
    """Rows of what needs no network, which members on the same images share."""
    rows: dict[str, tuple[tuple, list[str]]] = {}
    for group in found:
        data = {k: v for k, v in group.config.items() if k.startswith("data.")}
        entries = group.records[0]["evaluation"].get("baselines", {})
        for place, name in enumerate(comparison.BASELINES):
            entry = entries.get(name, {})
            size = entry.get("num_components", _NOTHING)
            settings = data | {
                METHOD: comparison.BASELINES[name],
                LATENT: size,
            }
            cells = [
                *(setting(settings.get(key, _NOTHING)) for key in keys),
                _NOTHING,
                *(
                    _NOTHING if is_published else _interval(entry, key)
                    for key, is_published in columns.values()
                ),
                *[_NOTHING] * 3,
                "",
            ]
            if entry:
                order = (place, size)
                rows.setdefault(json.dumps(settings), (order, cells))
    return [cells for _, cells in sorted(rows.values(), key=lambda r: r[0])]


def _metric(group: Group, key: str) -> str:
    """Percent: one member with its interval, several with their spread."""
    values = group.values("evaluation", key)
    evaluation = group.records[0]["evaluation"]
    if len(values) == 1 and f"{key}_interval" in evaluation:
        return _interval(evaluation, key)
    return _spread(100 * values)


def _interval(entry: dict[str, Any], key: str) -> str:
    """Percent, as 74.1 [70.3, 77.8]."""
    if key not in entry:
        return _NOTHING
    low, high = (comparison.percent(end) for end in entry[f"{key}_interval"])
    return f"{comparison.percent(entry[key])} [{low}, {high}]"


def _spread(values: np.ndarray) -> str:
    if not len(values):
        return _NOTHING
    if len(values) == 1:
        return f"{values[0]:.1f}"
    return f"{values.mean():.1f} ± {values.std(ddof=1):.1f}"


def to_markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """The table in Markdown, which also lines up as plain text."""
    return comparison.markdown(header, rows)


def to_latex(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    r"""The table in LaTeX, with the rules of `\usepackage{booktabs}`."""
    lines = [
        f"\\begin{{tabular}}{{l{'r' * (len(header) - 1)}}}",
        "\\toprule",
        _latex_row(header),
        "\\midrule",
        *(_latex_row(row) for row in rows),
        "\\bottomrule",
        "\\end{tabular}",
    ]
    return "\n".join(lines)


def _latex_row(cells: Sequence[str]) -> str:
    escaped = (c.replace("_", "\\_").replace("±", "$\\pm$") for c in cells)
    return " & ".join(escaped) + " \\\\"


def to_csv(records: Sequence[Record]) -> str:
    """All numbers of all members, a row each, in full precision."""
    settings = [*groups(records)[0].settings, SEED]
    rows = [
        {"member": record["member"]}
        | {key: record["config"].get(key) for key in settings}
        | _numbers("", record["evaluation"])
        | _numbers("", record["diagnostics"])
        | _numbers("", record["train"])
        | {"images_per_second": record["images_per_second"]}
        | {"note": record["note"]}
        for group in groups(records)
        for record in group.records
    ]
    header = list(dict.fromkeys(key for row in rows for key in row))
    stream = io.StringIO()
    writer = csv.DictWriter(stream, header, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return stream.getvalue()


def _numbers(prefix: str, tree: dict[str, Any]) -> dict[str, Any]:
    """Leaves under names such as train_normal/rho and auroc_low."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            flat |= _numbers(f"{prefix}{key}/", value)
        elif isinstance(value, list):
            name = f"{prefix}{key}".removesuffix("_interval")
            flat |= {f"{name}_low": value[0], f"{name}_high": value[1]}
        else:
            flat[f"{prefix}{key}"] = value
    return flat
