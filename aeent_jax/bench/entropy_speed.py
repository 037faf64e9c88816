"""Speed of the pairwise kernel entropy, beside peers in the same minutes."""

import functools
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from aeent_jax.bench import entropy_peers, timing
from aeent_jax.entropy import pairwise
from aeent_jax.results import tables

# Up to this many samples there are as many queries, and above it MOST_QUERIES.
_LARGEST_SQUARE = 65536
_MOST_QUERIES = 4096
_MOST_BYTES = 6 * 2**30

# Sizes of the two computations that measure the peaks: a product large enough
# for all threads, and exponentials of numbers that stay in the cache.
_SIDE = 1536
_EXPONENTIALS = 2**18
_REPEATS = 128


class Case(NamedTuple):
    """One problem: the number of samples, their size, which derivatives.

    Attributes:
      n: samples.
      dim: size of the latent vector.
      with_gradient: whether the gradient is computed too.
    """

    n: int
    dim: int
    with_gradient: bool

    @property
    def queries(self) -> int:
        """All samples, or some of very many."""
        return self.n if self.n <= _LARGEST_SQUARE else _MOST_QUERIES

    @property
    def title(self) -> str:
        """Describes the case in the table."""
        kind = "value and gradient" if self.with_gradient else "value"
        return (
            f"{kind}, {self.queries} queries, {self.n} samples, dim {self.dim}"
        )

    def draw(self) -> tuple[np.ndarray, np.ndarray]:
        """Noisy queries and clean samples, `[m, dim]` and `[n, dim]`."""
        rng = np.random.default_rng(0)
        z = rng.standard_normal((self.n, self.dim), np.float32)
        noise = rng.standard_normal((self.queries, self.dim), np.float32)
        return z[rng.permutation(self.n)[: self.queries]] + noise, z


def measure(
    sizes: Sequence[int],
    dims: Sequence[int],
    peers: Sequence[str],
    *,
    log: Callable[[str], None],
    most_seconds: float,
) -> dict[str, Any]:
    """Measures value, and value with gradient, at every size and dimension.

    Args:
      sizes: numbers of samples.
      dims: sizes of the latent vector.
      peers: names in `entropy_peers.PEERS`, "ours" among them.
      log: takes lines on the progress.
      most_seconds: seconds of the runs of one case. A peer is skipped where its
        pace at a smaller size says that it would not end by then.

    Returns:
      The object that `--json` prints: `environment`, and `cases` with the size,
      `peers` by name with the median of `seconds`, `runs`, value, memory,
      `over_ours` and, for ours, `share_of_peak`; and `skipped`, a sentence for
      each.

    Raises:
      ValueError: an unknown peer, no "ours", a size below 2 or no time.
    """
    _check(sizes, dims, peers, most_seconds)
    peaks = _prepare_peaks()
    cases = []
    for dim in dims:
        for with_gradient in (False, True):
            pace: dict[str, float] = {}  # Seconds per pair.
            for n in sorted(sizes):
                case = Case(n, dim, with_gradient)
                log(f"{case.title} ...")
                cases.append(_measure(case, peers, pace, peaks, most_seconds))
    return {
        "benchmark": "entropy",
        "environment": timing.describe_machine(),
        "cases": cases,
    }


def _check(sizes, dims, peers, most_seconds) -> None:
    unknown = [name for name in peers if name not in entropy_peers.PEERS]
    if unknown or "ours" not in peers:
        raise ValueError(
            f"--peers is {','.join(peers)}, and ours with any of"
            f" {', '.join(entropy_peers.PEERS)} is needed: check the names."
        )
    if min(sizes) < 2 or min(dims) < 1:
        raise ValueError(
            f"--sizes begins at {min(sizes)} and --dims at {min(dims)}, and"
            " numbers from 2 and from 1 up are needed: give larger ones."
        )
    if not most_seconds > 0:
        raise ValueError(
            f"--most_seconds is {most_seconds}, and a positive number is"
            " needed: give the seconds that one case may take."
        )


def _measure(case: Case, peers, pace, peaks, most_seconds) -> dict[str, Any]:
    """Measures one case, and learns the pace of each peer."""
    calls, skipped = _admit(case, peers, pace, most_seconds)
    results: dict[str, tuple] = {}

    def keep_result(key: str) -> None:
        results[key] = calls[key].run()

    runs = timing.take_turns(
        {key: functools.partial(keep_result, key) for key in calls}
        | {key: run for key, (run, _) in peaks.items()},
        most_seconds,
    )
    pairs = case.n * case.queries
    pace |= {key: min(runs[key]) / pairs for key in calls}
    entries = {
        key: {
            "seconds": statistics.median(runs[key]),
            "runs": runs[key],
            "compile_seconds": call.compile_seconds,
            "memory_bytes": call.memory,
            "value": float(results[key][0]),
            "over_ours": _over(runs[key], runs["ours"])._asdict(),
        }
        for key, call in calls.items()
    }
    entries["ours"]["share_of_peak"] = _shares(case, runs, peaks)
    sizes = case._asdict() | {"queries": case.queries, "title": case.title}
    return sizes | {"peers": entries, "skipped": skipped}


def _admit(case: Case, peers, pace, most_seconds: float):
    """Prepares those that can all run once in time; says why others cannot."""
    q, z = case.draw()
    calls, skipped, total = {}, {}, 0.0
    for key, peer in entropy_peers.PEERS.items():
        if key not in peers:
            continue
        reason = peer.reason_against(
            len(q), len(z), case.with_gradient, _MOST_BYTES
        )
        seconds = pace.get(key, 0.0) * len(q) * len(z)
        if reason is None and key != "ours" and total + seconds > most_seconds:
            reason = (
                f"{peer.name} would need about {seconds:.0f} s, and of"
                f" {most_seconds:.0f} s others need {total:.0f} s."
            )
        if reason is None:
            total += seconds
            calls[key] = peer.prepare(q, z, case.with_gradient)
        else:
            skipped[key] = reason
    return calls, skipped


def _over(runs: Sequence[float], base: Sequence[float]) -> timing.Ratio:
    """Compares the rounds that both ran."""
    count = min(len(runs), len(base))
    return timing.ratio(runs[:count], base[:count])


def count_work(
    m: int, n: int, dim: int, with_gradient: bool
) -> dict[str, float]:
    """FLOP of matrix products, and exponentials, that the estimate needs.

    The value takes one product of 2 dim FLOP per pair, for the distance, and
    one exponential. Gradients take two products more, with the samples and with
    the queries. Above `pairwise.WHOLE` samples the second is in a backward
    pass, which computes distances and exponentials again.

    Args:
      m: queries.
      n: samples.
      dim: size of the latent vector.
      with_gradient: whether the gradient is computed too.

    Returns:
      `matmul`, in FLOP, and `exp`.
    """
    again = with_gradient and n > pairwise.WHOLE
    products, exps = 1 + 2 * with_gradient + again, 1 + again
    return {"matmul": 2.0 * products * dim * m * n, "exp": 1.0 * exps * m * n}


def _prepare_peaks() -> dict[str, tuple[Callable[[], Any], float]]:
    """Two computations of one kind of work each, with their work.

    On an accelerator launches bound the loop of exponentials, so that the share
    of that peak says nothing there.
    """
    square = jnp.ones((_SIDE, _SIDE))
    numbers = jnp.linspace(-5, 0, _EXPONENTIALS)
    multiply = jax.jit(
        lambda a: jnp.matmul(a, a, precision=jax.lax.Precision.HIGHEST)
    )
    exponentiate = jax.jit(
        lambda a: jax.lax.fori_loop(
            0, _REPEATS, lambda _, b: jnp.exp(-1.0001 * b), a
        )
    )
    return {
        "matmul": (
            lambda: multiply(square).block_until_ready(),
            2.0 * _SIDE**3,
        ),
        "exp": (
            lambda: exponentiate(numbers).block_until_ready(),
            1.0 * _REPEATS * _EXPONENTIALS,
        ),
    }


def _shares(case: Case, runs, peaks) -> dict[str, float]:
    """Shares of ours in the peaks of the same minutes, and in both in turn."""
    ours = statistics.median(runs["ours"])
    work = count_work(case.queries, case.n, case.dim, case.with_gradient)
    shares = {
        key: work[key] / peak * statistics.median(runs[key]) / ours
        for key, (_, peak) in peaks.items()
    }
    return shares | {"both": sum(shares.values())}


_HEADER = (
    "contender",
    "runs",
    "seconds",
    "times ours",
    "compile",
    "MB",
    "nats",
)


def format_entropy(result: Mapping[str, Any]) -> str:
    """Formats the result of `measure` for a terminal."""
    environment = result["environment"]
    lines = [
        f"{environment['devices'][0]}, {environment['cores']} cores of"
        f" {environment['processor']}"
    ]
    for case in result["cases"]:
        rows = [_row(*entry) for entry in case["peers"].items()]
        table = tables.markdown(tables.Table(_HEADER, rows))
        lines += ["", case["title"], table]
        share = case["peers"]["ours"]["share_of_peak"]
        lines.append(
            f"  ours: {share['matmul']:.0%} of the matmul peak,"
            f" {share['exp']:.0%} of the exp peak, {share['both']:.0%} of both"
            " in turn"
        )
        lines += [f"  {reason}" for reason in case["skipped"].values()]
    return "\n".join(
        [
            *lines,
            "",
            "seconds: median of the runs after a first one, or the first where"
            " there was no time for a second.",
            "times ours: median of the rounds' ratios of seconds.",
        ]
    )


def _row(key: str, entry: Mapping[str, Any]) -> list[str]:
    memory = entry["memory_bytes"]
    return [
        entropy_peers.PEERS[key].name,
        str(len(entry["runs"])),
        f"{entry['seconds']:.5f}",
        f"{entry['over_ours']['median']:.2f}",
        f"{entry['compile_seconds']:.1f}",
        tables.NOTHING if memory is None else f"{memory / 1e6:.1f}",
        f"{entry['value']:.4f}",
    ]
