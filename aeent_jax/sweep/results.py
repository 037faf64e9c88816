"""Writes what a sweep found, from its records alone."""

import pathlib
from collections.abc import Sequence

from matplotlib import figure

from aeent_jax import figures
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
    drawn = auroc_against_nats(records)
    if drawn is not None:
        figures.save(drawn, out / "auroc_against_nats.png")
    return markdown


def auroc_against_nats(
    records: Sequence[records_lib.Record],
) -> figure.Figure | None:
    """AUROC against the one meter of rates, one curve an estimator.

    Args:
      records: of the members.

    Returns:
      The figure; None where no member with a penalty has an AUROC. Members
      without one are drawn in all plots: as a point, or, where there is no
      channel either and the rate is infinite, as a line.
    """
    curves: dict[str, list] = {}
    points, lines = {}, {}
    for group in tables.groups(records):
        config = group.records[0]["config"]
        aurocs = group.values("evaluation", "auroc")
        rates = group.values("evaluation", "rate_nats")
        if not len(aurocs):
            continue
        weight = config["entropy.weight"]
        spread = float(aurocs.std(ddof=1)) if len(aurocs) > 1 else 0.0
        if not len(rates):
            lines["no channel"] = float(aurocs.mean())
        elif not weight or config["entropy.estimator"] == "none":
            points["no penalty"] = float(rates.mean()), float(aurocs.mean())
        else:
            curves.setdefault(config["entropy.estimator"], []).append(
                (
                    float(rates.mean()),
                    float(aurocs.mean()),
                    spread,
                    _short(weight),
                )
            )
    if not curves:
        return None
    return figures.rate_curves(
        curves, points=points, lines=lines, y_label="AUROC, percent"
    )


def _short(weight: float) -> str:
    """A weight as it is written in configurations: 3e-4."""
    digits, exponent = f"{weight:.3g}", f"{weight:e}".split("e")[1]
    if weight >= 0.01:
        return digits
    return f"{weight / 10.0 ** int(exponent):.3g}e{int(exponent)}"
