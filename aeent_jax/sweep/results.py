"""Writes the tables and figures of a sweep, from its records."""

import pathlib
from collections.abc import Collection, Sequence

from matplotlib import figure

from aeent_jax import figures
from aeent_jax.results import comparison, published, runs, tables
from aeent_jax.results import groups as groups_lib
from aeent_jax.results.groups import Group
from aeent_jax.sweep import latent_sizes, selection
from aeent_jax.sweep import tables as sweep_tables


def write_results(
    folders: Sequence[pathlib.Path],
    out: pathlib.Path,
    *,
    names: Collection[str] | None = None,
    select: Sequence[str] = (),
    evaluation: str = "",
) -> str:
    """Writes the tables and figures for which the records have numbers.

    Always `table.md`, `table.csv` and `table.tex`. Where a number has been
    published, `published.csv`; with rates, `auroc_against_nats.png`; with three
    latent sizes, `auroc_against_size.png`, `error_against_size.png` and
    `error_against_size.csv`; and where workdirs stand beside the records,
    `differences.md`; with rules, `selection.md`.

    Args:
      folders: folders of records; several are read as one.
      out: the folder to write into; made where there is none.
      names: names of the members to show; None for all that have a record.
      select: rules by which a network is taken, keys of `selection.RULES`.
      evaluation: as in `runs.read_records`.

    Returns:
      The content of `table.md`, the table and sentences about it, and of
      `selection.md`.

    Raises:
      FileNotFoundError: there are no records.
      ValueError: one is damaged, or two are of the same training.
    """
    members = [
        run
        for folder in folders
        for run in runs.read_records(folder, evaluation)
        if names is None or run.name in names
    ]
    if not members:
        raise FileNotFoundError(
            f"{folders[0]} holds no record of a member of this sweep; train one"
            " first."
        )
    groups_lib.refuse_repeated_seeds(members)
    groups = groups_lib.in_order(groups_lib.by_experiment(members))
    table = sweep_tables.make_table(groups)
    markdown = "\n\n".join(
        [
            tables.markdown(table),
            *_explain_missing_intervals(groups),
            *latent_sizes.best_sizes(groups),
            *published.summary(groups),
        ]
    )
    chosen = selection.describe(groups, select) if select else ""
    texts = {
        "table.md": markdown + "\n",
        "selection.md": chosen and chosen + "\n",
        "table.tex": tables.latex(table) + "\n",
        "table.csv": sweep_tables.to_csv(groups),
        "published.csv": published.to_csv(groups),
        "error_against_size.csv": latent_sizes.errors_csv(groups),
        "differences.md": sweep_tables.differences(groups),
    }
    drawn = {
        "auroc_against_nats.png": auroc_against_nats(groups),
        "auroc_against_size.png": latent_sizes.auroc_against_size(groups),
        "error_against_size.png": latent_sizes.error_against_size(groups),
    }
    out.mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        if text:
            (out / name).write_text(text)
    for name, fig in drawn.items():
        if fig is not None:
            figures.save(fig, out / name)
    return "\n\n".join(filter(None, [markdown, chosen]))


def _explain_missing_intervals(groups: Sequence[Group]) -> list[str]:
    """A sentence where a number stands without its interval."""
    entries = []
    for group in groups:
        # Several seeds have their spread instead.
        entries += [group.evaluation] if len(group.runs) == 1 else []
        entries += group.evaluation.get("baselines", {}).values()
    lacks = comparison.lack_interval(entries)
    return [comparison.NO_INTERVAL] if lacks else []


def auroc_against_nats(groups: Sequence[Group]) -> figure.Figure | None:
    """AUROC against the one meter of rates, one curve per estimator.

    Args:
      groups: groups of the members.

    Returns:
      The figure; None where no member with a penalty has an AUROC, or where
      the latent size or the data vary too. Members without one are drawn in
      all plots: as a point, or, where there is no channel either and the rate
      is infinite, as a line.
    """
    curves: dict[str, list] = {}
    points, lines = {}, {}
    for key in (groups_lib.DATA, groups_lib.LATENT):
        if len({group.config.get(key) for group in groups}) > 1:
            return None
    for group in groups:
        config = group.config
        aurocs = group.values("auroc")
        rates = group.values("rate_nats")
        if not len(aurocs):
            continue
        weight = config["entropy.weight"]
        if not len(rates):
            lines["no channel"] = float(aurocs.mean())
        elif not group.is_controlled:
            points["no penalty"] = float(rates.mean()), float(aurocs.mean())
        else:
            curves.setdefault(config["entropy.estimator"], []).append(
                (
                    float(rates.mean()),
                    float(aurocs.mean()),
                    groups_lib.deviation(aurocs),
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
