"""Measurements of latents by every estimator, as text for a terminal."""

import math
import textwrap
from collections.abc import Mapping
from typing import Any

from aeent_jax.results import tables

_WIDTH = 100
_HEADER = (
    "estimator",
    "h, nats",
    "rate, nats",
    "+-",
    "seconds",
    "compile",
    "memory",
    "direction",
)
# The promise of entropy/diagnostics.py holds below log n - 3.
_TOO_FEW = (
    "The rate is not well below log n, so the two ends may be far apart and rho"
    " reads low: measure more latents, or a larger sigma, or trust coding_rate."
)


def describe(result: Mapping[str, Any]) -> str:
    """The settings, a table of estimators, and the diagnostics.

    Args:
      result: as `evaluation.latents.measure` returns.

    Returns:
      The lines.
    """
    records = result["estimators"]
    measured = {k: r for k, r in records.items() if "skipped" not in r}
    skipped = {k: r for k, r in records.items() if "skipped" in r}
    rows = [_row(name, record) for name, record in measured.items()]
    lines = [
        *_describe_settings(result),
        "",
        tables.markdown(tables.Table(_HEADER, rows)),
        *_wrapped(f"{k} skipped: {r['skipped']}" for k, r in skipped.items()),
        *_wrapped(_notes(result["rows"], measured)),
        "",
        *_always(result),
    ]
    return "\n".join(lines)


def _describe_settings(result: Mapping[str, Any]) -> list[str]:
    first = (
        f"{result['rows']} latents of {result['dim']} dimensions, seed"
        f" {result['seed']}"
    )
    if result["bandwidth"] == "channel":
        second = (
            "h is the entropy of z + sigma*eps, the rate what passes this"
            f" channel; sigma {result['sigma']:g}"
        )
    else:
        second = (
            f"h is the entropy of z under a kernel of {result['kernel']:.4g}"
            f" ({result['bandwidth']}); rates are of sigma"
            f" {result['sigma']:g}"
        )
    return [first, second]


def _row(name: str, record: Mapping[str, Any]) -> list[str]:
    size = record["peak_bytes"]
    return [
        name,
        tables.number(record["h_nats"], ".3f"),
        tables.number(record["rate_nats"], ".3f"),
        tables.number(record["standard_error_nats"], ".3f"),
        f"{record['seconds']:.2f}",
        f"{record['compile_seconds']:.2f}",
        tables.NOTHING if size is None else f"{size / 1e6:.1f} MB",
        record["direction"],
    ]


def _notes(rows: int, measured: Mapping[str, Any]) -> list[str]:
    """Names the numbers for which a part of the latents was used."""
    notes = []
    queried = {
        record["queries"]
        for record in measured.values()
        if record["standard_error_nats"] is not None
    }
    for queries in queried:
        notes.append(
            f"Where +- is given, {queries} latents chosen at random were"
            " queries against all; it is the standard error of that choice."
        )
    fewer = {k: r["rows"] for k, r in measured.items() if r["rows"] < rows}
    if fewer:
        notes.append(
            f"{', '.join(fewer)}: of {max(fewer.values())} latents chosen at"
            " random, because the pairs of all would take too long."
        )
    return notes


def _wrapped(sentences) -> list[str]:
    return [
        line
        for sentence in sentences
        for line in textwrap.wrap(sentence, _WIDTH, subsequent_indent="  ")
    ]


def _always(result: Mapping[str, Any]) -> list[str]:
    """The diagnostics, which do not depend on the estimators."""
    found, dim = result["diagnostics"], result["dim"]
    of = f" (of {found['rows']} latents)" * (found["rows"] < result["rows"])
    correlation = result["total_correlation_nats"]
    if correlation is None:
        text = f"skipped: it needs at least {dim + 1} latents"
    else:
        text = f"{correlation:.3f} nats (of a Gaussian with their correlations)"
    entries = {
        "rate between": (
            f"{found['rate_low']:.3f} and {found['rate_up']:.3f} nats{of}; the"
            f" first is at most log n = {math.log(found['rows']):.2f}"
        ),
        "rho": (f"{found['rho']:.2f} of {dim} dimensions pass the channel{of}"),
        "effective rank": f"{found['effective_rank']:.2f}{of}",
        "total correlation": text,
    }
    lines = [f"{name:<19}{text}" for name, text in entries.items()]
    if found["rate_up"] > math.log(found["rows"]) - 3:
        lines += _wrapped([_TOO_FEW])
    return lines
