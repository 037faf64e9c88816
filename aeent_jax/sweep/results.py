"""Writes what a sweep found, from its records alone."""

import pathlib

from aeent_jax.sweep import records as records_lib
from aeent_jax.sweep import tables


def write_results(folder: pathlib.Path, out: pathlib.Path) -> str:
    """Writes `table.md`, `table.csv`, `table.tex` and the figure.

    Args:
      folder: of the records.
      out: where to write; made where there is none.

    Returns:
      The table in Markdown.

    Raises:
      FileNotFoundError: there are no records.
      ValueError: one is damaged.
    """
    records = records_lib.read_records(folder)
    header, rows = tables.make_table(records)
    markdown = tables.to_markdown(header, rows)
    out.mkdir(parents=True, exist_ok=True)
    for name, text in (
        ("table.md", markdown),
        ("table.tex", tables.to_latex(header, rows)),
    ):
        (out / name).write_text(text + "\n")
    (out / "table.csv").write_text(tables.to_csv(records))
    return markdown
