"""Figures and tables of a report; each is None where runs have none to show."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from aeent_jax import config as config_lib
from aeent_jax import figures
from aeent_jax.results import comparison, tables
from aeent_jax.results.comparison import Comparison
from aeent_jax.results.runs import Run

_MAX_PANEL_RUNS = 4
_MAX_PANEL_ROWS = 10
# Label of the axis, key in metrics.jsonl, caption.
_CURVES = (
    (
        "reconstruction loss",
        "train/reconstruction_loss",
        "The reconstruction loss says how far reconstructions of training "
        "images are from the images.",
    ),
    (
        "rate, nats",
        "train/rate_nats",
        "The rate is what the run's own estimator reads in training, not the "
        "meter of the table; a run without noise on its latent has none.",
    ),
)
_DIAGNOSTICS = {
    "coding_rate": "coding rate",
    "rate_low": "information, at least",
    "rate_up": "information, at most",
    "rho": "active dimensions",
    "effective_rank": "effective rank",
    "saturation": "saturation",
}


class Figure(NamedTuple):
    """A drawn figure.

    Attributes:
      svg: the element.
      description: read aloud in its place.
      caption: shown below it.
    """

    svg: str
    description: str
    caption: str


def intervals(runs: Sequence[Run]) -> str | None:
    """AUROC of runs and baselines as dots with whiskers, as SVG."""
    entries = {
        run.name: (run.evaluation, figures.RUNS[i % len(figures.RUNS)])
        for i, run in enumerate(runs)
    }
    for name, entry in comparison.baselines(runs).items():
        entries[name] = (entry, figures.NORMAL)
    rows = [
        (name, entry["auroc"], *entry["auroc_interval"], color)
        for name, (entry, color) in entries.items()
        if entry.get("auroc") is not None
    ]
    if not rows:
        return None
    return figures.to_svg(figures.intervals(rows, "AUROC, percent", 0.5))


def difference_intervals(differences: Sequence[Comparison]) -> str | None:
    """Differences of AUROC as dots with whiskers, as SVG."""
    if not differences:
        return None
    rows = []
    for one in differences:
        value, interval = one.values["auroc"]
        # Without an interval there is no whisker.
        rows.append((one.name, value, *(interval or [value] * 2), figures.INK))
    label = f"AUROC minus that of {differences[0].reference}, points"
    return figures.to_svg(figures.intervals(rows, label, 0.0))


def histograms(runs: Sequence[Run]) -> str | None:
    """Histograms of the scores of every run that was evaluated, as SVG."""
    scores = {
        run.name: (run.scores.values, run.scores.labels)
        for run in runs
        if run.scores
    }
    if not scores:
        return None
    return figures.to_svg(figures.score_histograms(scores))


def panels(runs: Sequence[Run]) -> list[Figure]:
    """Panels: runs on the same images side by side, others apart."""
    groups: dict[tuple, dict[str, dict[str, Any]]] = {}
    evaluated = {run.name: run for run in runs if run.evaluation}
    # An evaluation that did not end may have left the panel of another.
    for name, run in evaluated.items():
        arrays = run.arrays("panel")
        if arrays:
            images = (tuple(arrays["ids"]), arrays["images"].shape)
            groups.setdefault(images, {})[name] = arrays
    return [_panel(group, evaluated) for group in groups.values()]


def _panel(group, evaluated):
    """Runs on the same images, at most four of them, as one figure."""
    shown = {
        name: {key: value[:_MAX_PANEL_ROWS] for key, value in arrays.items()}
        for name, arrays in list(group.items())[:_MAX_PANEL_RUNS]
    }
    scores = {name: evaluated[name].evaluation["score"] for name in shown}
    one_scale = len(set(scores.values())) == 1
    caption = [
        "A random few of each class; the number below a map is the image's "
        "anomaly score."
    ]
    if any("masks" in arrays for arrays in shown.values()):
        caption.append("The outline is the lesion's mask.")
    caption += [
        f"{name} shows the squared error: its score ({score}) is one "
        "number for a whole image and has no map."
        for name, score in scores.items()
        if not evaluated[name].evaluation.get("has_score_map", True)
    ]
    if len(shown) > 1:
        caption.append(
            "All maps are on one scale."
            if one_scale
            else "The runs use different scores, so each has its own scale."
        )
    if len(group) > len(shown):
        caption.append(f"The first {len(shown)} of {len(group)} runs.")
    return Figure(
        figures.to_svg(figures.panels(shown, common_scale=one_scale)),
        f"Images, reconstructions and score maps of {', '.join(shown)}",
        " ".join(caption),
    )


def curves(runs: Sequence[Run]) -> Figure | None:
    """Curves of loss and rate over training."""
    plots, captions = [], []
    for label, key, caption in _CURVES:
        lines = {run.name: run.curve(key) for run in runs}
        if any(len(x) for x, _ in lines.values()):
            plots.append((label, lines))
            captions.append(caption)
    if not plots:
        return None
    svg = figures.to_svg(figures.curves(plots, "epoch"))
    return Figure(svg, "Curves over training", " ".join(captions))


def latent_table(runs: Sequence[Run]) -> tables.Table | None:
    """Reconstruction errors and diagnostics by group of images."""
    entries = [
        (
            f"{run.name}, {group.replace('_', ' ')}",
            error,
            _reliable(run.evaluation["diagnostics"].get(group, {})),
        )
        for run in runs
        if run.evaluation
        for group, error in run.evaluation["reconstruction_error"].items()
    ]
    if not entries:
        return None
    keys = [k for k in _DIAGNOSTICS if any(k in d for _, _, d in entries)]
    rows = [
        [
            name,
            tables.number(error, ".4g"),
            *(tables.number(diagnostics.get(key), ".3g") for key in keys),
        ]
        for name, error, diagnostics in entries
    ]
    header = [
        "images",
        "reconstruction error",
        *(_DIAGNOSTICS[key] for key in keys),
    ]
    return tables.Table(header, rows)


def _reliable(diagnostics: Mapping[str, Any]) -> dict[str, Any]:
    """Diagnostics without the active dimensions where these read low.

    As `entropy.diagnostics` says, that is where the rate is not well below
    log n: each latent is then its own neighbour alone.
    """
    kept = dict(diagnostics)
    up, n = kept.get("rate_up"), kept.get("num_latents", 0)
    if up is None or up > math.log(max(n, 1)) - 3:
        kept.pop("rho", None)
    return kept


def differing_settings(runs: Sequence[Run]) -> tables.Table:
    """The settings in which runs differ, and where the runs are."""
    rows = [["workdir", *(str(run.workdir) for run in runs)]]
    rows += [row for row in _settings(runs) if len(set(row[1:])) > 1]
    return tables.Table(["key", *(run.name for run in runs)], rows)


def shared_settings(runs: Sequence[Run]) -> tables.Table:
    """The settings that are the same in all runs."""
    rows = [row[:2] for row in _settings(runs) if len(set(row[1:])) == 1]
    return tables.Table(["key", "value"], rows)


def _settings(runs):
    """A row per key: its name, and its value in each run."""
    flat = [
        run.config | config_lib.flatten({"environment": run.environment})
        for run in runs
    ]
    keys = dict.fromkeys(key for settings in flat for key in settings)
    return [
        [key, *(str(s.get(key, tables.NOTHING)) for s in flat)] for key in keys
    ]
