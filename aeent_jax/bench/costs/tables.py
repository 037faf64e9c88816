"""What a configuration costs, as text."""

from collections.abc import Mapping
from typing import Any

_PREFIXES = ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


def format_cost(result: Mapping[str, Any]) -> str:
    """The result of `analysis.analyse` for people.

    Args:
      result: what it returned.

    Returns:
      Lines of text.
    """
    return "\n".join(
        [
            *_format_run(result),
            *_format_collectives(result["step"]),
            *_format_measured(result["measured"]),
            *_format_estimates(result["estimates"]),
        ]
    )


def _format_run(result) -> list[str]:
    step, memory = result["step"], result["memory"]
    counts = dict(result["parameters"])
    total = counts.pop("total")
    parts = ", ".join(f"{name} {count:,}" for name, count in counts.items())
    training = result["training"]
    return [
        f"Parameters   {total:,} ({parts})",
        f"Training     {training['steps']:,} steps: {training['epochs']} epochs"
        f" of {training['images']:,} images in batches of"
        f" {step['batch_size']}",
        f"A step       {_unit(step['flops'])}FLOP, reads and writes"
        f" {_unit(step['bytes'])}B, on one device",
        f"Memory       {_unit(memory['total'])}B: state"
        f" {_unit(memory['state'])}B, images {_unit(memory['images'])}B,"
        f" temporaries {_unit(memory['temporaries'])}B",
    ]


def _format_collectives(step) -> list[str]:
    if step["devices"] == 1:
        return []
    lines = [
        "",
        f"Spread over {step['devices']} devices, each does"
        f" {_unit(step['flops_per_device'])}FLOP a step and sends"
        f" {_unit(step['sent_bytes_per_device'])}B, in:",
    ]
    by_kind: dict[str, list[Mapping[str, Any]]] = {}
    for collective in step["collectives"]:
        by_kind.setdefault(collective["kind"], []).append(collective)
    for kind, listed in by_kind.items():
        sizes = [collective["num_bytes"] for collective in listed]
        lines.append(
            f"  {len(listed):3d} {kind:<18} of {_unit(sum(sizes))}B, the"
            f" largest {_unit(max(sizes))}B"
        )
    return lines


def _format_measured(measured) -> list[str]:
    if measured is None:
        return []
    share = measured["share_of_peak"]
    lines = [
        "",
        f"Measured here, on {measured['devices']} device(s):"
        f" {measured['seconds_per_step']:.3g} s a step,"
        f" {measured['images_per_second']:.0f} images/s,"
        f" {measured['hours']:.2g} h for all steps,"
        f" {_unit(measured['flops_per_second'])}FLOP/s.",
    ]
    if share is not None:
        lines.append(
            f"That is {100 * share:.0f} % of what matrix products reach here."
        )
    others = measured["cores_of_others"]
    if others is not None and others > 0.1:
        lines.append(f"Other work kept {others:.1f} cores busy meanwhile.")
    return lines


def _format_estimates(estimates) -> list[str]:
    if not estimates:
        return []
    lines = [
        "",
        "ESTIMATE, not measured: the least that published peaks allow, without",
        "launches, evaluation and checkpoints.",
        "",
        "| hardware | members | a device | fit | ms a step | bound by"
        " | minutes | at the share measured here |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in estimates:
        at_share = row["hours_at_share"]
        lines.append(
            f"| {row['hardware']} | {row['members']}"
            f" | {row['members_per_device']} | {row['most_per_device']}"
            f" | {1e3 * row['seconds_per_step']:.3g} | {row['bound']}"
            f" | {60 * row['hours']:.2g}"
            f" | {'' if at_share is None else format(60 * at_share, '.2g')} |"
        )
    return lines


def _unit(number: float) -> str:
    """A number with three digits and the prefix of its unit: 2.31 G."""
    for size, prefix in _PREFIXES:
        if number >= size:
            return f"{number / size:.3g} {prefix}"
    return f"{number:.3g} "
