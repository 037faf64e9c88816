"""The one printer of tables: Markdown, LaTeX, CSV, and cells of numbers.

Markdown columns line up as plain text, so terminals show the same. Tables for
people have metrics in percent and nats with one decimal; CSV is for programs
and has fractions in full precision.
"""

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

# A cell that has nothing to show.
NOTHING = "-"


class Table(NamedTuple):
    """Text in cells.

    Attributes:
      header: names of the columns.
      rows: as many cells each.
    """

    header: Sequence[str]
    rows: Sequence[Sequence[str]]


def markdown(table: Table) -> str:
    """A Markdown table; the first column to the left, others to the right."""
    widths = [
        max(len(cell) for cell in column)
        for column in zip(table.header, *table.rows, strict=True)
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
    lines = [line(table.header), line(rules), *map(line, table.rows)]
    return "\n".join(lines)


def latex(table: Table) -> str:
    r"""A LaTeX table, with the rules of `\usepackage{booktabs}`."""
    return "\n".join(
        [
            f"\\begin{{tabular}}{{l{'r' * (len(table.header) - 1)}}}",
            "\\toprule",
            _latex_row(table.header),
            "\\midrule",
            *map(_latex_row, table.rows),
            "\\bottomrule",
            "\\end{tabular}",
        ]
    )


def _latex_row(cells: Sequence[str]) -> str:
    escaped = (c.replace("_", "\\_").replace("±", "$\\pm$") for c in cells)
    return " & ".join(escaped) + " \\\\"


def to_csv(rows: Sequence[Mapping[str, Any]]) -> str:
    """CSV of rows by name of the column; "" without rows."""
    if not rows:
        return ""
    header = list(dict.fromkeys(key for row in rows for key in row))
    stream = io.StringIO()
    writer = csv.DictWriter(stream, header, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return stream.getvalue()


def without_empty_columns(table: Table) -> Table:
    """The table without columns that show nothing in any row."""
    kept = [
        i
        for i in range(len(table.header))
        if any(row[i] not in (NOTHING, "") for row in table.rows)
    ]
    return Table(
        [table.header[i] for i in kept],
        [[row[i] for i in kept] for row in table.rows],
    )


def percent(fraction: float) -> str:
    """A fraction as percent, without the sign: 74.1."""
    return f"{100 * fraction:.1f}"


def metric(entry: Mapping[str, Any], key: str) -> str:
    """A metric in percent with its interval: 74.1 [70.3, 77.8].

    Args:
      entry: holds the metric and its interval, as an evaluation does.
      key: of the metric.

    Returns:
      The cell; without brackets where there is no interval, "-" where there is
      no metric.
    """
    if entry.get(key) is None:
        return NOTHING
    ends = entry.get(f"{key}_interval")
    if ends is None:
        return percent(entry[key])
    low, high = map(percent, ends)
    return f"{percent(entry[key])} [{low}, {high}]"


def points(value: float, interval: tuple[float, float] | None) -> str:
    """A difference in points of percent: +1.2 [-0.3, +2.7]."""
    text = f"{100 * value:+.1f}"
    if interval is None:
        return text
    low, high = interval
    return f"{text} [{100 * low:+.1f}, {100 * high:+.1f}]"


def spread(values: np.ndarray) -> str:
    """Mean and standard deviation over seeds: 74.1 ± 1.2."""
    if not len(values):
        return NOTHING
    if len(values) == 1:
        return f"{values[0]:.1f}"
    return f"{values.mean():.1f} ± {values.std(ddof=1):.1f}"


def number(value: float | None, form: str) -> str:
    """A number in a form such as ".3g"; "-" for None."""
    return NOTHING if value is None else format(value, form)


def setting(value: Any) -> str:
    """A value of a configuration."""
    return f"{value:g}" if isinstance(value, float) else str(value)
