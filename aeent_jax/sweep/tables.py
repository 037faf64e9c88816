"""Tables of a sweep, made of its records: Markdown, CSV and LaTeX.

Members that differ by their seed alone are one row of Markdown and LaTeX, which
are for people: percent, and nats with one decimal. CSV is for programs: a row a
member, fractions in full precision.
"""

import csv
import dataclasses
import io
import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from aeent_jax.report import comparison
from aeent_jax.sweep.records import Record

_SEED = "train.seed"
_METRICS = {
    "AUROC": "auroc",
    "AP": "ap",
    "pixel AP": "pixel_ap",
    "oracle Dice": "oracle_dice",
}
_NOTHING = "-"


@dataclasses.dataclass(frozen=True)
class Group:
    """Members that differ by their seed alone.

    Attributes:
      settings: key -> value of what varies in the sweep, the seed left out.
      records: at least one.
    """

    settings: dict[str, Any]
    records: list[Record]

    def values(self, *path: str) -> np.ndarray:
        """A number of each member, `[members]`; without those it lacks."""
        found = [_dig(record, path) for record in self.records]
        return np.array([v for v in found if v is not None], np.float64)


def _dig(tree: Any, path: Sequence[str]) -> Any:
    for key in path:
        tree = tree.get(key) if isinstance(tree, dict) else None
    return tree


def groups(records: Sequence[Record]) -> list[Group]:
    """Groups members by configuration, the seed left out.

    Args:
      records: in any order.

    Returns:
      The groups, in the order of their settings: names by alphabet, numbers
      ascending.

    Raises:
      ValueError: two members have the same configuration and seed.
    """
    keys = _varying(records)
    found: dict[str, Group] = {}
    for record in records:
        settings = {key: record["config"].get(key) for key in keys}
        group = found.setdefault(json.dumps(settings), Group(settings, []))
        group.records.append(record)
    for group in found.values():
        _refuse_repeated_seed(group)
    return sorted(found.values(), key=lambda group: _place(group.settings))


def _refuse_repeated_seed(group: Group) -> None:
    """One training counted twice would narrow the spread over seeds."""
    owners: dict[int, str] = {}
    for record in group.records:
        owner = owners.setdefault(record["config"][_SEED], record["member"])
        if owner != record["member"]:
            raise ValueError(
                f"The records {owner} and {record['member']} have the same"
                " configuration and seed; take one out of the folder."
            )


def _varying(records: Sequence[Record]) -> list[str]:
    """Keys that differ between members; a sweep of seeds varies none."""
    keys = dict.fromkeys(key for r in records for key in r["config"])
    varying = [
        key
        for key in keys
        if key != _SEED
        and len({json.dumps(r["config"].get(key)) for r in records}) > 1
    ]
    # Names lead, so that the rows of one estimator are together.
    return sorted(varying, key=lambda key: not _is_name(records, key))


def _is_name(records: Sequence[Record], key: str) -> bool:
    return any(isinstance(r["config"].get(key), str) for r in records)


def _place(settings: dict[str, Any]) -> list[tuple[bool, Any]]:
    return [
        (isinstance(value, str), value if value is not None else 0)
        for value in settings.values()
    ]


def make_table(records: Sequence[Record]) -> tuple[list[str], list[list[str]]]:
    """The table for people.

    Args:
      records: of the members.

    Returns:
      The names of the columns, and a row of text a group.
    """
    found = groups(records)
    shown = {
        column: key
        for column, key in _METRICS.items()
        if any(len(group.values("evaluation", key)) for group in found)
    }
    header = [
        *(key.split(".")[-1] for key in found[0].settings),
        "seeds",
        *shown,
        "rate, nats",
        "bracket, nats",
        "active dims",
        "images/s",
        "note",
    ]
    return header, [_row(group, shown.values()) for group in found]


def _row(group: Group, shown) -> list[str]:
    def diagnostic(name):
        return group.values("diagnostics", "train_normal", name)

    rates = group.values("evaluation", "rate_nats")
    low, high = diagnostic("rate_low"), diagnostic("rate_up")
    bracket = f"{low.mean():.1f} to {high.mean():.1f}" if len(low) else _NOTHING
    speeds = group.values("images_per_second")
    notes = dict.fromkeys(r["note"] for r in group.records if r["note"])
    return [
        *(_setting(value) for value in group.settings.values()),
        str(len(group.records)),
        *(_metric(group, key) for key in shown),
        _spread(rates) if len(rates) else "infinite",
        bracket,
        _spread(diagnostic("rho")),
        f"{np.median(speeds):.0f}" if len(speeds) else _NOTHING,
        ", ".join(notes),
    ]


def _setting(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _metric(group: Group, key: str) -> str:
    """Percent: one member with its interval, several with their spread."""
    values = group.values("evaluation", key)
    interval = _dig(group.records[0], ("evaluation", f"{key}_interval"))
    if len(values) != 1 or interval is None:
        return _spread(100 * values)
    low, high = (comparison.percent(end) for end in interval)
    return f"{comparison.percent(values[0])} [{low}, {high}]"


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
    settings = [*groups(records)[0].settings, _SEED]
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
