"""The entropy benchmark as a table for people."""

from collections.abc import Mapping
from typing import Any

from aeent_jax.bench import entropy_peers

_BUSY = 0.1
_HEAD = (
    f"  {'':<24}{'runs':>5}{'seconds':>10}{'times ours':>12}{'cores':>7}"
    f"{'compile':>9}{'MB':>9}  nats"
)


def format_entropy(result: Mapping[str, Any]) -> str:
    """Formats what `entropy.measure` returns."""
    environment = result["environment"]
    cores = environment["cores"]
    lines = [f"{cores} cores of {environment['processor']}."]
    lines += map(_describe_peak, result["peaks"].values())
    for case in result["cases"]:
        lines += ["", *_describe_case(case)]
    lines += [
        "",
        "seconds: median of the runs after a first one; of 1 run, that run or,"
        " where no second was in time, the first.",
        "times ours: median of the rounds' ratios of seconds. cores: kept busy,"
        " in the mean.",
        "nats: gaussian_kde's kernel has the covariance of the samples, and"
        " kde_loo(z) no noise, so theirs differ.",
    ]
    others = environment["other_work_cores"]
    if others is not None and others > _BUSY * cores:
        lines.append(
            f"Other work took {others:.1f} of {cores} cores meanwhile, so only"
            " the ratios mean something."
        )
    return "\n".join(lines)


def _describe_peak(peak: Mapping[str, Any]) -> str:
    cores = peak["cores"]
    return (
        f"Peaks of {peak['devices']} device(s): matmul"
        f" {peak['matmul'] / 1e9:.0f} GFLOP/s on {cores['matmul']:.1f} cores,"
        f" exp {peak['exp'] / 1e9:.2f} G/s on {cores['exp']:.1f} cores."
    )


def _describe_case(case: Mapping[str, Any]) -> list[str]:
    entries = case["peers"].items()
    lines = [case["title"], _HEAD, *(_row(*entry) for entry in entries)]
    for key, entry in entries:
        if "share_of_peak" in entry:
            share = entry["share_of_peak"]
            lines.append(
                f"  {entropy_peers.PEERS[key].name}: {share['matmul']:.0%} of"
                f" the matmul peak, {share['exp']:.0%} of the exp peak,"
                f" {share['both']:.0%} of both in turn, on as many devices."
            )
    return lines + [f"  {reason}" for reason in case["skipped"].values()]


def _row(key: str, entry: Mapping[str, Any]) -> str:
    memory, ratio = entry["memory_bytes"], entry["over_ours"]
    megabytes = "" if memory is None else f"{memory / 1e6:.1f}"
    times = "" if ratio is None else f"{ratio['median']:.2f}"
    error = entry["standard_error"]
    nats = f"{entry['value']:.4f}"
    if error is not None:
        nats += f" +- {error:.4f}"
    return (
        f"  {entropy_peers.PEERS[key].name:<24}{len(entry['runs']):>5}"
        f"{entry['seconds']:>10.5f}{times:>12}{entry['cores']:>7.1f}"
        f"{entry['compile_seconds']:>9.1f}{megabytes:>9}  {nats}"
    )
