"""Speed of the kernel estimators, beside peers in the same minutes."""

import functools
import math
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from aeent_jax import workdir
from aeent_jax.bench import entropy_peers, machine, rounds

# More pairs than of this many rows with themselves are sampled.
_LARGEST_SQUARE = 65536
_ROUNDS = 5
_SECONDS_OF_ROUNDS = 10.0
_MOST_BYTES = 6 * 2**30
# Of one run, predicted from the last size.
MOST_SECONDS = 60.0


def measure(
    sizes: Sequence[int],
    dims: Sequence[int],
    peers: Sequence[str],
    *,
    say: Callable[[str], None],
    most_seconds: float = MOST_SECONDS,
) -> dict[str, Any]:
    """Measures value, and value with gradient, at every size and dimension.

    Args:
      sizes: numbers of samples. Queries are as many, and above 65536 so few
        that there are not more pairs.
      dims: sizes of the latent vector.
      peers: names in `entropy_peers.PEERS`, "ours" among them.
      say: takes lines on what is going on.
      most_seconds: of one run; what would take longer is skipped.

    Returns:
      What `--json` prints: `environment`, `peaks` of this hardware (matmul in
      FLOP/s, exp per second), and `cases`: size, whether with gradient,
      `peers` by name with seconds, memory, `over_ours` and share of the peaks,
      and `skipped` with a sentence each.

    Raises:
      ValueError: an unknown peer, no "ours", or a size below 2.
    """
    _check(sizes, dims, peers)
    other_work = machine.OtherWork()
    say("Measuring the peaks ...")
    peaks, cases = measure_peaks(), []
    for dim in dims:
        for with_gradient in (False, True):
            pace: dict[str, float] = {}  # Seconds for each pair.
            for n in sorted(sizes):
                kind = "value and gradient" if with_gradient else "value"
                say(f"{kind}, n {n}, dim {dim} ...")
                case = _measure_case(
                    n, dim, with_gradient, peers, pace, most_seconds
                )
                _add_shares(case, peaks)
                cases.append(case)
    environment = workdir.environment() | machine.describe()
    return {
        "benchmark": "entropy",
        "environment": environment | {"other_work_cores": other_work.cores()},
        "peaks": peaks,
        "cases": cases,
    }


def _check(sizes, dims, peers) -> None:
    unknown = [name for name in peers if name not in entropy_peers.PEERS]
    if unknown or "ours" not in peers:
        raise ValueError(
            f"--peers is {','.join(peers)}, and ours with any of"
            f" {', '.join(entropy_peers.PEERS)} is needed: check the names."
        )
    if not sizes or not dims or min(sizes) < 2 or min(dims) < 1:
        raise ValueError(
            f"--sizes is {list(sizes)} and --dims {list(dims)}, and numbers"
            " from 2 and from 1 up are needed: give at least one of each."
        )


def count_work(
    m: int, n: int, dim: int, with_gradient: bool
) -> dict[str, float]:
    """What `pairwise_lse` has to do: FLOP of matmul, and exp.

    Distances are one product and the exponentials of them one exp for each
    pair, in the forward pass and again in the backward one; the gradients in
    queries and in samples are one product each.
    """
    products, exps = (4, 2) if with_gradient else (1, 1)
    return {"matmul": 2.0 * products * dim * m * n, "exp": 1.0 * exps * m * n}


def measure_peaks() -> dict[str, float]:
    """FLOP/s of a large float32 matmul and exp per second in the cache."""
    square = jnp.ones((2048, 2048))
    small, repeats = jnp.linspace(-5.0, 0.0, 2**17), 512

    def multiply(a):
        return jnp.matmul(a, a, precision=jax.lax.Precision.HIGHEST)

    def exponentials(a):
        body = lambda _, a: jnp.exp(-1.0001 * a)  # noqa: E731
        return jax.lax.fori_loop(0, repeats, body, a)

    seconds = [
        min(_time(functools.partial(_wait, jax.jit(f), a)) for _ in range(4))
        for f, a in ((multiply, square), (exponentials, small))
    ]
    return {
        "matmul": 2.0 * len(square) ** 3 / seconds[0],
        "exp": repeats * small.size / seconds[1],
    }


def _wait(function, argument) -> None:
    jax.block_until_ready(function(argument))


def _time(run: Callable[[], Any]) -> float:
    begun = time.perf_counter()
    run()
    return time.perf_counter() - begun


def _draw(n: int, dim: int) -> tuple[np.ndarray, np.ndarray]:
    """Noisy queries and clean samples, `[m, dim]` and `[n, dim]`."""
    m = min(n, max(_LARGEST_SQUARE**2 // n, 1))
    rng = np.random.default_rng(0)
    z = rng.standard_normal((n, dim), np.float32)
    rows = rng.permutation(n)[:m]
    return z[rows] + rng.standard_normal((m, dim), np.float32), z


def _measure_case(n, dim, with_gradient, peers, pace, most_seconds):
    q, z = _draw(n, dim)
    m = len(q)
    calls, skipped = {}, {}
    for key in peers:
        peer = entropy_peers.PEERS[key]
        reason = peer.reason_against(m, n, with_gradient, _MOST_BYTES)
        # The estimate leaves each query's own sample out, of all samples.
        pairs = n * n if key == "loo" else m * n
        seconds = pace.get(key, 0.0) * pairs
        if reason is None and seconds > most_seconds:
            reason = f"{peer.name} would need about {seconds:.0f} s."
        if key == "devices" and m % jax.local_device_count():
            reason = "The queries do not divide among the devices."
        if reason is None:
            calls[key] = peer.prepare(q, z, with_gradient)
        else:
            skipped[key] = reason
    seconds = _take_turns(calls)
    for key, listed in seconds.items():
        pace[key] = statistics.median(listed) / (
            n * n if key == "loo" else m * n
        )
    return {
        "n": n,
        "queries": m,
        "dim": dim,
        "with_gradient": with_gradient,
        "peers": _summarise(calls, seconds),
        "skipped": skipped,
    }


def _take_turns(calls) -> dict[str, list[float]]:
    """Seconds of each call in every round; the first round warms up."""
    seconds = {key: [_time(call.run)] for key, call in calls.items()}
    for _ in range(_count_rounds(sum(map(sum, seconds.values())))):
        for key, call in calls.items():
            seconds[key].append(_time(call.run))
    return {key: s[1:] or s for key, s in seconds.items()}


def _count_rounds(seconds: float) -> int:
    """As many as fit the time, at most _ROUNDS; 0 says the first must do."""
    return min(_ROUNDS, math.floor(_SECONDS_OF_ROUNDS / seconds))


def _summarise(calls, seconds) -> dict[str, Any]:
    summary = {}
    for key, call in calls.items():
        # Rates are inverse seconds: how many times faster ours is.
        ratio = (
            rounds.ratio(seconds[key], seconds["ours"])
            if ("ours" in seconds)
            else None
        )
        summary[key] = {
            "seconds": statistics.median(seconds[key]),
            "rounds": seconds[key],
            "compile_seconds": call.compile_seconds,
            "memory_bytes": call.memory,
            "over_ours": ratio._asdict() if ratio else None,
        }
    return summary


def _add_shares(case: dict[str, Any], peaks: dict[str, float]) -> None:
    """Adds to ours which share of each peak, and of both in turn, it has."""
    work = count_work(
        case["queries"], case["n"], case["dim"], case["with_gradient"]
    )
    least = {unit: work[unit] / peaks[unit] for unit in work}
    if "ours" in case["peers"]:
        entry = case["peers"]["ours"]
        shares = {u: s / entry["seconds"] for u, s in least.items()}
        entry["share_of_peak"] = shares | {"both": sum(shares.values())}
