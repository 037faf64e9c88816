"""The entropy benchmark as a table for people."""

from collections.abc import Mapping
from typing import Any

from aeent_jax.bench import entropy_peers

_BUSY = 0.1


def format_entropy(result: Mapping[str, Any]) -> str:
    """Formats what `entropy.measure` returns."""
    environment, peaks = result["environment"], result["peaks"]
    cores = environment["cores"]
    lines = [
        f"{cores} cores of {environment['processor']}; matmul"
        f" {peaks['matmul'] / 1e9:.0f} GFLOP/s, exp"
        f" {peaks['exp'] / 1e9:.2f} G/s."
    ]
    for case in result["cases"]:
        lines += ["", *_describe_case(case)]
    lines += ["", "Times ours: the median of the rounds' ratios of seconds."]
    others = environment["other_work_cores"]
    if others is not None and others > _BUSY * cores:
        lines.append(
            f"Other work took {others:.1f} of {cores} cores meanwhile, so only"
            " the ratios mean something."
        )
    return "\n".join(lines)


def _describe_case(case: Mapping[str, Any]) -> list[str]:
    kind = "value and gradient" if case["with_gradient"] else "value"
    lines = [
        f"{kind}, {case['queries']} queries, {case['n']} samples, dim"
        f" {case['dim']}",
        f"  {'':<24}{'seconds':>10}{'times ours':>12}{'compile':>10}{'MB':>9}",
    ]
    lines += [_row(key, entry) for key, entry in case["peers"].items()]
    if "ours" in case["peers"]:
        share = case["peers"]["ours"]["share_of_peak"]
        lines.append(
            f"  ours: {share['matmul']:.0%} of the matmul peak,"
            f" {share['exp']:.0%} of the exp peak, {share['both']:.0%} of both"
            " in turn."
        )
    return lines + [f"  {reason}" for reason in case["skipped"].values()]


def _row(key: str, entry: Mapping[str, Any]) -> str:
    memory, ratio = entry["memory_bytes"], entry["over_ours"]
    megabytes = "" if memory is None else f"{memory / 1e6:.1f}"
    times = "" if ratio is None else f"{ratio['median']:.2f}"
    return (
        f"  {entropy_peers.PEERS[key].name:<24}{entry['seconds']:>10.4f}"
        f"{times:>12}{entry['compile_seconds']:>10.1f}{megabytes:>9}"
    )
