"""Reports: runs side by side, as one HTML file and as a table.

The page is `report.html.j2` beside this file. It needs no network: figures are
inline SVG, styles are inside. It says in plain words what the numbers mean,
which of them are oracles, and where a comparison is not possible.
"""

import re
from collections.abc import Sequence
from typing import Any

import jinja2
import markupsafe

from aeent_jax.results import comparison, runs, sections, tables, words
from aeent_jax.results.runs import Run
from aeent_jax.runtime import storage


def make_report(workdirs: Sequence[str], out: str) -> str:
    """Writes the page and returns the table.

    Args:
      workdirs: folders of the runs; differences are to the first.
      out: the HTML file; its folder is made if needed.

    Returns:
      Markdown that also reads as plain text: the table of runs and baselines,
      the differences, and notes about missing parts.

    Raises:
      FileNotFoundError: a folder is not the workdir of a run.
      ValueError: a file in it is damaged, or the page is not to be on disk.
      OSError: the page cannot be written.
    """
    path = storage.disk_path("--out", out)
    loaded = runs.read(workdirs)
    content = _content(loaded)
    text = _template().render(content)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise OSError(
            f"The report cannot be written to {path} ({error.strerror}); give "
            "the path of an HTML file."
        ) from error
    return _text(content)


def _content(loaded: Sequence[Run]) -> dict[str, Any]:
    """All that the page and the text show, by name."""
    differences, notes = comparison.to_first(loaded)
    gathered = comparison.over_seeds(loaded)
    sets = list(dict.fromkeys(run.config["data.name"] for run in loaded))
    return {
        "title": f"Anomaly detection on {' and '.join(sets)}",
        "byline": words.byline(loaded),
        "question": words.question(loaded),
        "verdict": words.verdict(loaded),
        "sentences": [
            *words.against_baselines(loaded),
            *words.certainty(differences),
            *words.shortcuts(loaded),
        ],
        "notes": [note for run in loaded for note in run.notes] + notes,
        "main": comparison.main_table(loaded),
        "num_runs": len(loaded),
        "caption": words.caption(loaded),
        "has_masks": comparison.has_masks(loaded),
        "intervals": sections.intervals(loaded),
        "seeds": comparison.seed_table(gathered) if gathered else None,
        "over_seeds": comparison.OVER_SEEDS,
        "reference": loaded[0].name,
        "differences": comparison.difference_table(loaded, differences)
        if differences
        else None,
        "paired": words.paired(differences),
        "difference_intervals": sections.difference_intervals(differences),
        "histograms": sections.histograms(loaded),
        "panels": sections.panels(loaded),
        "curves": sections.curves(loaded),
        "latents": sections.latent_table(loaded),
        "differing": sections.differing_settings(loaded),
        "shared": sections.shared_settings(loaded),
    }


def _text(content: dict[str, Any]) -> str:
    """The tables as Markdown, with the sentences that belong to them."""
    parts = [tables.markdown(content["main"]), content["caption"]]
    if content["differences"]:
        parts += [tables.markdown(content["differences"]), content["paired"]]
    if content["seeds"]:
        parts += [tables.markdown(content["seeds"]), content["over_seeds"]]
    return "\n\n".join([*parts, *content["notes"]])


def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("aeent_jax.results", "."),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["minus"] = _minus
    return environment.get_template("report.html.j2")


def _minus(text: str) -> markupsafe.Markup:
    """Escaped text, with a minus sign before numbers."""
    signed = re.sub(r"(?<![\w.])-(?=\d)", "\N{MINUS SIGN}", text)
    return markupsafe.escape(signed)
