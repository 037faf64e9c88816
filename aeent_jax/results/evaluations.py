"""Evaluations as text for a terminal: one run, or several scores of runs."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from aeent_jax.results import comparison, runs, tables
from aeent_jax.runtime import storage

_METRICS = ("auroc", "ap", "pixel_ap", "pixel_auroc", "oracle_dice")
_COLUMNS = {"AUROC": "auroc", "AP": "ap", "pixel AP": "pixel_ap"}


def describe(results: Mapping[str, Any]) -> str:
    """A few lines for a person: counts, then each metric in percent.

    Args:
      results: as `Evaluator.evaluate` returns.

    Returns:
      The lines.
    """
    lines = [
        f"{results['split']}: {results['num_normal']} normal and"
        f" {results['num_abnormal']} abnormal images, step {results['step']}"
    ]
    if results.get("left_out"):
        lines.append(f"  {results['left_out']}")
    has_intervals = "auroc_interval" in results
    for name in _METRICS:
        if name in results:
            text = f"  {name:<12} {100 * results[name]:5.1f} %"
            if f"{name}_interval" in results:
                low, high = results[f"{name}_interval"]
                text += f"  ({100 * low:.1f} to {100 * high:.1f})"
            elif has_intervals:
                text += "  (no interval: all resamples agree)"
            lines.append(text)
    if "auroc" not in results:
        lines.append("  no rank metrics: they need normal and abnormal images")
    lines += _describe_verdicts(results.get("verdicts"))
    if not results.get("has_score_map", True):
        lines.append("  no pixel metrics: the score is of whole images")
    rate = results["rate_nats"]
    shown = "infinite (no channel)" if rate is None else f"{rate:.2f} nats"
    lines.append(f"  {'rate':<12} {shown}")
    for kind, error in results["reconstruction_error"].items():
        lines.append(f"  {kind:<14} reconstruction error {error:.5f}")
    warning = results.get("baselines", {}).get("shortcut", {}).get("warning")
    if warning:
        lines.append(f"  WARNING: {warning}")
    return "\n".join(lines)


def _describe_verdicts(verdicts: Mapping[str, Any] | None) -> list[str]:
    """Rates of flagged images, by ranks among the calibration normals."""
    lines = []
    for alpha, found in (verdicts or {"alpha": {}})["alpha"].items():
        parts = []
        for name, noun in (
            ("false_alarm_rate", "normals"),
            ("sensitivity", "abnormal images"),
        ):
            if name in found:
                low, high = found[name]["interval"]
                parts.append(
                    f"{100 * found[name]['rate']:.1f} % of {noun}"
                    f" ({100 * low:.1f} to {100 * high:.1f})"
                )
        lines.append(f"  flagged at {alpha:<5} {', '.join(parts)}")
    return lines


def describe_scores(
    results: Mapping[str, Sequence[Mapping[str, Any]]],
) -> str:
    """Tables of runs that were scored in several ways, as Markdown.

    Args:
      results: by workdir, what `Evaluator.evaluate` returned for each score, in
        the same order of scores.

    Returns:
      Metrics in percent; and AUROC over seeds, where two runs differ in their
      seed alone.
    """
    rows = [
        [
            str(name),
            entry["score"],
            *(
                tables.percent(entry[key]) if key in entry else tables.NOTHING
                for key in _COLUMNS.values()
            ),
        ]
        for name, entries in results.items()
        for entry in entries
    ]
    table = tables.Table(["run", "score", *_COLUMNS], rows)
    parts = [tables.markdown(table)]
    gathered = comparison.over_seeds(runs.read(list(results)))
    if gathered:
        by_path = {storage.to_path(name): r for name, r in results.items()}
        table = _over_seeds(gathered, by_path)
        parts += [tables.markdown(table), comparison.SPREAD]
    return "\n\n".join(parts)


def _over_seeds(gathered, results):
    """AUROC over seeds: scores down, groups across."""
    columns = [
        [[e.get("auroc") for e in results[run.workdir]] for run in group.runs]
        for group in gathered
    ]
    names = [e["score"] for e in results[gathered[0].runs[0].workdir]]
    rows = []
    for i, name in enumerate(names):
        values = [100 * np.array(column, float)[:, i] for column in columns]
        spreads = [tables.spread(v[~np.isnan(v)]) for v in values]
        rows.append([name, *spreads])
    header = ["AUROC of score", *(group.name for group in gathered)]
    return tables.Table(header, rows)
