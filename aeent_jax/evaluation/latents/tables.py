"""What was measured of latents, as a table for people and as JSON."""

import json
import math
import textwrap
from collections.abc import Mapping
from typing import Any

_WIDTH = 100
# What entropy/diagnostics.py promises holds below log n - 3.
_TOO_FEW = (
    "The rate is not well below log n, so the two ends may be far apart and rho"
    " reads low: measure more latents, or a larger sigma, or trust coding_rate."
)


def format_json(result: Mapping[str, Any]) -> str:
    """Returns one JSON object; what is infinite or NaN is null."""
    return json.dumps(_finite(result), allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def format_table(result: Mapping[str, Any]) -> str:
    """Formats what `measuring.measure` returns."""
    records = result["estimators"]
    width = max([len("estimator"), *map(len, records)])
    measured = {k: r for k, r in records.items() if "skipped" not in r}
    skipped = {k: r for k, r in records.items() if "skipped" in r}
    header = (
        f"{'estimator':<{width}}{'h, nats':>11}{'rate, nats':>12}"
        f"{'+-':>8}{'seconds':>9}{'compile':>9}{'memory':>10}  direction"
    )
    lines = [
        *_describe(result),
        "",
        header,
        *(f"{name:<{width}}{_row(r)}" for name, r in measured.items()),
        *_wrapped(f"{k} skipped: {r['skipped']}" for k, r in skipped.items()),
        *_wrapped(_notes(result["rows"], measured)),
        "",
        *_always(result),
    ]
    return "\n".join(line.rstrip() for line in lines)


def _describe(result: Mapping[str, Any]) -> list[str]:
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


def _row(record: Mapping[str, Any]) -> str:
    return (
        f"{_number(record['h_nats']):>11}{_number(record['rate_nats']):>12}"
        f"{_number(record['standard_error_nats']):>8}"
        f"{record['seconds']:>9.2f}{record['compile_seconds']:>9.2f}"
        f"{_bytes(record['peak_bytes']):>10}  {record['direction']}"
    )


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def _bytes(value: int | None) -> str:
    return "" if value is None else f"{value / 1e6:.1f} MB"


def _notes(rows: int, measured: Mapping[str, Any]) -> list[str]:
    """Says which numbers are of a part of the latents, and which."""
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
    """What is reported whatever the estimators."""
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
