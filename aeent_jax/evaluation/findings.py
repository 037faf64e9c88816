"""What evaluations found, as flat keys and as text."""

from collections.abc import Mapping, Sequence
from typing import Any


def flat_metrics(results: Mapping[str, Any]) -> dict[str, float | None]:
    """Numbers of an evaluation under flat keys, for metrics.jsonl.

    Args:
      results: as `Evaluator.evaluate` returns.

    Returns:
      `eval/<split>/auroc` and so on, `eval/rate_nats`, and for each kind of
      image its reconstruction error and diagnostics.
    """
    split = results["split"]
    flat: dict[str, float | None] = {"eval/rate_nats": results["rate_nats"]}
    for name in (
        "auroc",
        "ap",
        "pixel_ap",
        "pixel_auroc",
        "oracle_dice",
        "images_per_second",
    ):
        if name in results:
            flat[f"eval/{split}/{name}"] = results[name]
    for kind, error in results["reconstruction_error"].items():
        flat[f"eval/{kind}/reconstruction_error"] = error
    for kind, diagnostics in results["diagnostics"].items():
        for name, value in diagnostics.items():
            if not isinstance(value, list):
                flat[f"eval/{kind}/{name}"] = value
    return flat


def describe(results: Mapping[str, Any]) -> str:
    """A few lines for a person: counts, then each metric in percent."""
    lines = [
        f"{results['split']}: {results['num_normal']} normal and"
        f" {results['num_abnormal']} abnormal images, step {results['step']}"
    ]
    for name in ("auroc", "ap", "pixel_ap", "pixel_auroc", "oracle_dice"):
        if name in results:
            text = f"  {name:<12} {100 * results[name]:5.1f} %"
            if f"{name}_interval" in results:
                low, high = results[f"{name}_interval"]
                text += f"  ({100 * low:.1f} to {100 * high:.1f})"
            lines.append(text)
    if "auroc" not in results:
        lines.append("  no rank metrics: they need normal and abnormal images")
    if not results.get("has_score_map", True):
        lines.append("  no pixel metrics: the score is of whole images")
    rate = results["rate_nats"]
    shown = "infinite (no channel)" if rate is None else f"{rate:.2f} nats"
    lines.append(f"  {'rate':<12} {shown}")
    for kind, error in results["reconstruction_error"].items():
        lines.append(f"  {kind:<14} reconstruction error {error:.5f}")
    return "\n".join(lines)


def format_scores(
    found: Mapping[str, Sequence[Mapping[str, Any]]],
) -> str:
    """A Markdown table of several scores, metrics in percent.

    Args:
      found: by folder of the run, what `Evaluator.evaluate` returned of each
        score.

    Returns:
      The lines.
    """
    names = ("auroc", "ap", "pixel_ap")
    lines = [
        "| run | score | AUROC | AP | pixel AP |",
        "|---|---|---|---|---|",
    ]
    rows = [(run, results) for run, each in found.items() for results in each]
    for run, results in rows:
        cells = [
            f"{100 * results[n]:.1f}" if n in results else "-" for n in names
        ]
        # A bar would end the cell.
        lines.append(f"| {run} | {results['score']} | {' | '.join(cells)} |")
    return "\n".join(lines)
