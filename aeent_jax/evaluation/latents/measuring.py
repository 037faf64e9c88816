"""Every estimator on one set of latents, with what it cost.

With the bandwidth `"channel"` the channel `z + sigma*eps` is measured, as in
training: an entropy is that of its output, and the rate is what passes it. With
a rule or a number the clean latents are measured, and an entropy is that of the
latents under that kernel; it is no rate.
"""

import time
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from aeent_jax import entropy
from aeent_jax.evaluation.latents import calling


def measure(
    z: np.ndarray,
    sigma: float,
    *,
    bandwidth: str = "channel",
    max_queries: int | None = None,
    estimators: Sequence[str] = (),
    seed: int = 0,
) -> dict[str, Any]:
    """Measures latents with every estimator, and what is always reported.

    Args:
      z: `[n, dim]` finite float32 latents, n at least 2.
      sigma: positive standard deviation of the channel's noise, in the unit of
        the latents.
      bandwidth: "channel" for sigma, a rule's name, or a number in digits.
      max_queries: of the per-query estimators; by default all rows, and 4096
        of more than 16384.
      estimators: names to measure; default all.
      seed: of the noise, of the choice of rows, and of fits.

    Returns:
      A dictionary of plain numbers: the settings; `estimators`, by name
      `h_nats`, `rate_nats` (None where not defined), `standard_error_nats`
      (None where all rows were queries), `direction`, `queries`, `rows`,
      `seconds`, `compile_seconds` and `peak_bytes`, or else `skipped`, a
      sentence; `diagnostics` of the channel with their `rows`; and
      `total_correlation_nats`.

    Raises:
      ValueError: an unknown name, or a setting out of its range.
    """
    names = _check_names(estimators)
    latents, noise_rng = calling.make_latents(
        z, sigma, bandwidth, max_queries, seed
    )
    settings = {
        "rows": len(z),
        "dim": z.shape[1],
        "sigma": sigma,
        "bandwidth": bandwidth,
        "kernel": latents.kernel,
        "seed": seed,
    }
    return settings | {
        "estimators": {name: _measure_one(name, latents) for name in names},
        "diagnostics": _diagnostics(latents, noise_rng),
        "total_correlation_nats": _total_correlation(latents.clean),
    }


def _check_names(names: Sequence[str]) -> list[str]:
    known = list(entropy.ESTIMATORS)
    for name in names:
        if name not in known:
            raise ValueError(
                f"estimators holds {name!r}, and each must be one of"
                f" {', '.join(known)}: check the spelling."
            )
    return list(dict.fromkeys(names)) or known


def _measure_one(name: str, latents: calling.Latents) -> dict[str, Any]:
    """Compiles and runs one estimator; says why where it cannot."""
    latents, call, queries = calling.prepare(name, latents)
    record = {"direction": entropy.ESTIMATORS[name].direction}
    arguments = (latents.clean, latents.output, latents.rng)
    begun = time.monotonic()
    try:
        # The estimators refuse what they cannot measure while being traced.
        compiled = jax.jit(call).lower(*arguments).compile()
    except ValueError as error:
        return record | {"skipped": str(error)}
    compile_seconds = time.monotonic() - begun
    begun = time.monotonic()
    h, rate, error = jax.device_get(compiled(*arguments))
    n = len(latents.clean)
    sampled = queries is not None and queries < n
    return record | {
        "h_nats": None if h is None else float(h),
        "rate_nats": None if rate is None else float(rate),
        "standard_error_nats": float(error) if sampled else None,
        "queries": queries,
        "rows": n,
        "seconds": time.monotonic() - begun,
        "compile_seconds": compile_seconds,
        "peak_bytes": _peak_bytes(compiled),
    }


def _peak_bytes(compiled: jax.stages.Compiled) -> int | None:
    """Temporary memory of a compiled function; None where nothing tells."""
    analysis = compiled.memory_analysis()
    return None if analysis is None else analysis.temp_size_in_bytes


def _diagnostics(latents: calling.Latents, rng: jax.Array) -> dict[str, Any]:
    """Diagnostics of the channel, the same for all estimators."""
    z = latents.fewer().clean
    found = entropy.channel_diagnostics(z, rng, latents.sigma)
    numbers = {
        key: float(found[key])
        for key in ("rate_low", "rate_up", "rho", "effective_rank")
    }
    return {"rows": len(z)} | numbers


def _total_correlation(z: jax.Array) -> float | None:
    """By the Gaussian closed form; None of too few rows."""
    n, dim = z.shape
    return float(entropy.total_correlation(z)) if n > dim else None
