"""Reports: what runs achieved, side by side, as one HTML file and as a table.

The page needs no network: figures are inline SVG, styles are inside. It says
in plain words what the numbers mean, which of them are oracles, and where a
comparison is not possible.
"""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from aeent_jax.results import comparison, page, sections, seeds, words
from aeent_jax.results import runs as runs_lib
from aeent_jax.runtime import storage


def make_report(runs: Sequence[str], out: str) -> str:
    """Writes the page and returns the table.

    Args:
      runs: Workdirs; differences are to the first.
      out: The HTML file; its folder is made if needed.

    Returns:
      Markdown that also reads as plain text: the table of runs and baselines,
      the differences, and notes on what is missing.

    Raises:
      FileNotFoundError: If a folder is not the workdir of a run.
      ValueError: If a file in it is damaged, or the page is not to be on disk.
      OSError: If the page cannot be written.
    """
    storage.refuse_bucket("--out", out)
    loaded = runs_lib.read(runs)
    differences, notes = comparison.differences(loaded)
    notes = [note for run in loaded for note in run.notes] + notes
    path = pathlib.Path(out)
    text = _page(loaded, differences, notes)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise OSError(
            f"The report cannot be written to {path} ({error.strerror}); give "
            "the path of an HTML file."
        ) from error
    return _text(loaded, differences, notes)


def describe_scores(
    results: Mapping[str, Sequence[Mapping[str, Any]]],
) -> str:
    """A table of AUROC over seeds, of runs that were scored in several ways.

    Args:
      results: by workdir, what an evaluation by each score returned, in the
        same order of scores.

    Returns:
      Markdown; empty where no two runs differ in their seed alone.
    """
    loaded = runs_lib.read(list(results))
    grouped = seeds.groups(loaded)
    if not grouped:
        return ""
    by_path = {storage.to_path(name): found for name, found in results.items()}
    table = comparison.markdown(*seeds.score_table(grouped, by_path))
    return f"{table}\n\n{seeds.SPREAD}"


def _text(runs, differences, notes):
    """The table as Markdown, and what belongs to it."""
    parts = [comparison.markdown(*comparison.main_table(runs))]
    parts.append(words.caption(runs))
    if differences:
        table = comparison.difference_table(runs, differences)
        parts += [comparison.markdown(*table), words.PAIRED]
    grouped = seeds.groups(runs)
    if grouped:
        parts += [comparison.markdown(*seeds.table(grouped)), seeds.CAPTION]
    return "\n\n".join([*parts, *notes])


def _page(runs, differences, notes):
    """The whole document."""
    header, rows = comparison.main_table(runs)
    parts = [
        *(page.paragraph(text, "verdict") for text in words.verdict(runs)),
        *(page.paragraph(text) for text in words.certainty(differences)),
        *(page.paragraph(text) for text in words.against_baselines(runs)),
        *(page.paragraph(note, "note") for note in notes),
        page.table(header, rows, num_quiet=len(rows) - len(runs)),
        page.paragraph(words.caption(runs), "caption"),
        *sections.interval_section(runs),
        *sections.seed_section(runs),
        *sections.difference_section(runs, differences),
        *sections.histogram_section(runs),
        *sections.panel_section(runs),
        *sections.curve_section(runs),
        *sections.latent_section(runs),
        page.heading("What the numbers mean"),
        page.definitions(words.meanings(runs)),
        *sections.settings_section(runs),
    ]
    sets = list(dict.fromkeys(run.config["data"]["name"] for run in runs))
    return page.page(
        f"Anomaly detection on {' and '.join(sets)}", _byline(runs), parts
    )


def _byline(runs):
    names = ", ".join(run.name for run in runs)
    if len(runs) > words.MAX_NAMED:
        names = f"{len(runs)} runs"
    evaluated = [run for run in runs if run.evaluation]
    sizes = {
        (run.evaluation["num_normal"], run.evaluation["num_abnormal"])
        for run in evaluated
    }
    if len(sizes) != 1:
        return names
    normal, abnormal = sizes.pop()
    return (
        f"{names} · {normal} normal and {abnormal or 'no'} abnormal test images"
    )
