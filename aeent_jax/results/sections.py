"""Sections of a report: figures and tables with their captions, as HTML.

Each function returns the HTML of its parts, and nothing where the runs have
nothing to show.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from aeent_jax import figures
from aeent_jax.results import comparison, page, seeds
from aeent_jax.results.comparison import Difference
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
_LATENTS = (
    "A detector works where abnormal images have a larger reconstruction error "
    "than normal ones that it has not seen. What the latents tell is in nats, "
    "between two bounds that depend on the number of latents, the same in all "
    "rows of a run. Active dimensions are those whose signal stands out from "
    "the noise, told only where the rate is below log n - 3 of n latents, and "
    "effective rank those in which the latents spread. Saturation "
    "concerns only a run trained with an estimator that counts each latent as "
    "its own neighbour: near 1, such an estimator no longer controls anything."
)
_DIAGNOSTICS = {
    "coding_rate": "coding rate",
    "rate_low": "information, at least",
    "rate_up": "information, at most",
    "rho": "active dimensions",
    "effective_rank": "effective rank",
    "saturation": "saturation",
}


def interval_section(runs: Sequence[Run]) -> list[str]:
    """AUROC of runs and baselines as dots with whiskers."""
    rows = [
        (
            run.name,
            run.evaluation["auroc"],
            *run.evaluation["auroc_interval"],
            figures.RUNS[runs.index(run) % len(figures.RUNS)],
        )
        for run in comparison.ranked(runs)
    ]
    rows += [
        (name, entry["auroc"], *entry["auroc_interval"], figures.NORMAL)
        for name, entry in comparison.baselines(runs).items()
        if "auroc" in entry
    ]
    if not rows:
        return []
    svg = figures.to_svg(figures.intervals(rows, "AUROC, percent", 0.5))
    return [
        page.figure(
            svg,
            "AUROC of runs and baselines with intervals",
            "AUROC with its 95 % interval; runs in colour, baselines in grey, "
            "chance dotted.",
        )
    ]


def seed_section(runs: Sequence[Run]) -> list[str]:
    """Runs that differ only in their seed, summed up."""
    grouped = seeds.groups(runs)
    if not grouped:
        return []
    return [
        page.heading("Over seeds"),
        page.table(*seeds.table(grouped)),
        page.paragraph(seeds.CAPTION, "caption"),
    ]


def difference_section(
    runs: Sequence[Run], differences: Sequence[Difference]
) -> list[str]:
    """Paired differences to the first run, as a table and a figure."""
    if not differences:
        return []
    reference = differences[0].reference
    rows = [
        (difference.name, *difference.values["auroc"], figures.INK)
        for difference in differences
    ]
    label = f"AUROC minus that of {reference}, points"
    svg = figures.to_svg(figures.intervals(rows, label, 0.0))
    return [
        page.heading(f"Differences to {reference}"),
        page.table(*comparison.difference_table(runs, differences)),
        page.figure(
            svg,
            f"Differences of AUROC to {reference}, with intervals",
            "In points of percent, from the same resampled images for both "
            "runs. Where a whisker crosses the dotted line, the test images "
            "do not tell the two apart.",
        ),
    ]


def histogram_section(runs: Sequence[Run]) -> list[str]:
    """Histograms of the scores of every run that was evaluated."""
    scores = {run.name: (run.scores, run.labels) for run in runs if run.ids}
    if not scores:
        return []
    return [
        page.heading("How well the scores separate"),
        page.figure(
            figures.to_svg(figures.score_histograms(scores)),
            "Histograms of anomaly scores of normal and abnormal images",
            "Anomaly scores of the test images. The less the two overlap, the "
            "higher the AUROC. Each run has its own scale; the last bin holds "
            "all that lies beyond it.",
        ),
    ]


def panel_section(runs: Sequence[Run]) -> list[str]:
    """Panels: runs on the same images side by side, others below."""
    groups = {}
    for run in runs:
        # An evaluation that did not end may have left the panel of another.
        arrays = run.arrays("panel") if run.evaluation else {}
        if arrays:
            images = (tuple(arrays["ids"]), arrays["images"].shape)
            groups.setdefault(images, {})[run.name] = arrays
    scores = {r.name: r.evaluation["score"] for r in runs if r.evaluation}
    mapless = {
        r.name for r in runs if not r.evaluation.get("has_score_map", True)
    }
    parts = [_panel(group, scores, mapless) for group in groups.values()]
    return [page.heading("What the runs see"), *parts] if parts else []


def _panel(group, scores, mapless):
    """Runs on the same images, at most four of them, as one figure."""
    shown = {
        name: {key: value[:_MAX_PANEL_ROWS] for key, value in arrays.items()}
        for name, arrays in list(group.items())[:_MAX_PANEL_RUNS]
    }
    one_scale = len({scores[name] for name in shown}) == 1
    caption = [
        "A random few of each class; the number below a map is the image's "
        "anomaly score."
    ]
    if any("masks" in arrays for arrays in shown.values()):
        caption.append("The outline is the lesion's mask.")
    caption += [
        f"{name} shows the squared error: its score ({scores[name]}) is one "
        "number for a whole image and has no map."
        for name in shown
        if name in mapless
    ]
    if len(shown) > 1:
        caption.append(
            "All maps are on one scale."
            if one_scale
            else "The runs use different scores, so each has its own scale."
        )
    if len(group) > len(shown):
        caption.append(f"The first {len(shown)} of {len(group)} runs.")
    return page.figure(
        figures.to_svg(figures.panels(shown, common_scale=one_scale)),
        f"Images, reconstructions and score maps of {', '.join(shown)}",
        " ".join(caption),
    )


def curve_section(runs: Sequence[Run]) -> list[str]:
    """Curves of loss and rate over training."""
    plots, captions = [], []
    for label, key, caption in _CURVES:
        found = {run.name: run.curve(key) for run in runs}
        if any(len(x) for x, _ in found.values()):
            plots.append((label, found))
            captions.append(caption)
    if not plots:
        return []
    return [
        page.heading("Training"),
        page.figure(
            figures.to_svg(figures.curves(plots, "epoch")),
            "Curves over training",
            " ".join(captions),
        ),
    ]


def latent_section(runs: Sequence[Run]) -> list[str]:
    """Reconstruction errors and diagnostics by group of images."""
    rows, seen = [], set()
    for run in runs:
        if not run.evaluation:
            continue
        for group, error in run.evaluation["reconstruction_error"].items():
            found = _reliable(run.evaluation["diagnostics"].get(group, {}))
            name = f"{run.name}, {group.replace('_', ' ')}"
            rows.append((name, error, found))
            seen |= found.keys()
    if not rows:
        return []
    keys = [key for key in _DIAGNOSTICS if key in seen]
    cells = [
        [
            name,
            _number(error, 4),
            *(_number(found.get(key)) for key in keys),
        ]
        for name, error, found in rows
    ]
    columns = [
        "images",
        "reconstruction error",
        *(_DIAGNOSTICS[key] for key in keys),
    ]
    return [
        page.heading("Errors and latents, by group of images"),
        page.paragraph(_LATENTS),
        page.table(columns, cells),
    ]


def _reliable(found: Mapping[str, Any]) -> dict[str, Any]:
    """Diagnostics without the active dimensions where these read low.

    As `entropy.diagnostics` says, that is where the rate is not well below
    log n: each latent is then its own neighbour alone.
    """
    kept = dict(found)
    up, n = found.get("rate_up"), found.get("num_latents", 0)
    if up is None or up > math.log(max(n, 1)) - 3:
        kept.pop("rho", None)
    return kept


def _number(value, digits=3):
    return "-" if value is None else f"{value:.{digits}g}"


def settings_section(runs: Sequence[Run]) -> list[str]:
    """What differs between the runs, and the rest behind a click."""
    flat = [
        _flatten(run.config) | _flatten({"environment": run.environment})
        for run in runs
    ]
    keys = list(dict.fromkeys(key for settings in flat for key in settings))
    rows = [[key, *(str(s.get(key, "-")) for s in flat)] for key in keys]
    differing = [row for row in rows if len(set(row[1:])) > 1]
    shared = [row[:2] for row in rows if len(set(row[1:])) == 1]
    names = [run.name for run in runs]
    places = [["workdir", *(str(run.workdir) for run in runs)]]
    return [
        page.heading("Settings"),
        page.paragraph("What differs between the runs:")
        if len(runs) > 1
        else "",
        page.table(["key", *names], places + differing, text=True),
        page.folded(
            f"{len(shared)} settings that the runs share"
            if len(runs) > 1
            else f"All {len(shared)} settings",
            page.table(["key", "value"], shared, text=True),
        ),
    ]


def _flatten(tree, prefix=""):
    """Nested settings as `group.key` -> value."""
    flat = {}
    for key, value in tree.items():
        name = f"{prefix}{key}"
        if isinstance(value, dict):
            flat |= _flatten(value, f"{name}.")
        else:
            flat[name] = value
    return flat
