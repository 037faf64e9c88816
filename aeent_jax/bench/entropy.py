"""Speed of the kernel estimators, beside peers in the same minutes."""

import math
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from aeent_jax.bench import entropy_peers, machine, peaks, rounds, timing
from aeent_jax.entropy import pairwise
from aeent_jax.runtime import workdir

# Up to this many rows all are queries.
_LARGEST_SQUARE = 65536
# Rows at which a peer's pace is measured where all sizes are larger.
_PROBE = 4096
_MOST_BYTES = 6 * 2**30

Say = Callable[[str], None]
Pace = dict[str, float]


class Case(NamedTuple):
    """What is computed: of how many samples of which size, how derived."""

    n: int
    dim: int
    with_gradient: bool

    @property
    def queries(self) -> int:
        """All rows, or of very many rows some."""
        few = self.n <= _LARGEST_SQUARE
        return self.n if few else entropy_peers.MOST_QUERIES

    @property
    def title(self) -> str:
        """For people."""
        kind = "value and gradient" if self.with_gradient else "value"
        return (
            f"{kind}, {self.queries} queries, {self.n} samples, dim {self.dim}"
        )

    def pairs(self, key: str) -> int:
        """Pairs that a peer visits."""
        few = min(self.n, entropy_peers.MOST_QUERIES)
        return self.n * (few if key == "sampled" else self.queries)

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
    say: Say,
    most_seconds: float,
) -> dict[str, Any]:
    """Measures value, and value with gradient, at every size and dimension.

    Args:
      sizes: numbers of samples. Queries are as many, and
        `entropy_peers.MOST_QUERIES` above 65536.
      dims: sizes of the latent vector.
      peers: names in `entropy_peers.PEERS`, "ours" among them.
      say: takes lines on what is going on.
      most_seconds: of the runs at one size, dimension and kind; peers that are
        not expected to end by then are skipped, the last in `PEERS` first.

    Returns:
      What `--json` prints: `environment`; `peaks` for `ours`, on one device,
      and `devices`, on all: matmul in FLOP/s, exp per second, medians over all
      rounds, each with its busy `cores`, and `devices`; and `cases`: size,
      whether with gradient, `peers` by name with the median of `seconds`, their
      `runs`, value, memory, `over_ours` and, of ours, `share_of_peak`, and
      `skipped` with a sentence each.

    Raises:
      ValueError: an unknown peer, no "ours", a size below 2 or no time.
    """
    _check(sizes, dims, peers, most_seconds)
    # In the order of the table.
    peers = [key for key in entropy_peers.PEERS if key in peers]
    other_work = machine.OtherWork()
    say("Compiling what measures the peaks ...")
    tops = _prepare_peaks(peers)
    top_runs: dict[str, list[timing.Run]] = {key: [] for key in tops}
    cases = []
    for case, pace in _list_cases(sizes, dims, peers):
        calls, skipped = _admit(case, peers, pace, most_seconds)
        runs = _take_turns(case, calls, tops, most_seconds, say)
        for key in tops:
            top_runs[key] += runs.pop(key)
        _learn_pace(pace, case, runs)
        cases.append(_describe_case(case, calls, runs, skipped))
    found = _summarise_peaks(tops, top_runs)
    for case in cases:
        _add_shares(case, found)
    environment = workdir.environment() | machine.describe()
    return {
        "benchmark": "entropy",
        "environment": environment | {"other_work_cores": other_work.cores()},
        "peaks": found,
        "cases": cases,
    }


def _check(sizes, dims, peers, most_seconds) -> None:
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
    if not most_seconds > 0:
        raise ValueError(
            f"--most_seconds is {most_seconds}, and a positive number is"
            " needed: give the seconds that one case may take."
        )


def count_work(
    m: int, n: int, dim: int, with_gradient: bool
) -> dict[str, float]:
    """What `weighted_lse` has to do: FLOP of matmul, and exp.

    For each pair, the value is one product of 2 dim FLOP, for the distance, and
    one exp. Gradients take two products more, with the samples and with the
    queries. Above `pairwise.WHOLE` samples the second is in a backward pass,
    which has distances and exp anew.
    """
    again = with_gradient and n > pairwise.WHOLE
    products, exps = 1 + 2 * with_gradient + again, 1 + again
    return {"matmul": 2.0 * products * dim * m * n, "exp": 1.0 * exps * m * n}


def _list_cases(sizes, dims, peers) -> Iterator[tuple[Case, Pace]]:
    """Cases, smaller ones first, each with what is known of the peers' pace."""
    for dim in dims:
        for with_gradient in (False, True):
            pace: Pace = {}  # Seconds for each pair.
            if min(sizes) > _PROBE:
                _probe(Case(_PROBE, dim, with_gradient), peers, pace)
            for n in sorted(sizes):
                yield Case(n, dim, with_gradient), pace


def _probe(case: Case, peers, pace: Pace) -> None:
    calls, _ = _admit(case, peers, pace, math.inf)
    for key, call in calls.items():
        call.run()  # Warms up.
        _learn_pace(pace, case, {key: [timing.run(call.run)]})


def _learn_pace(pace: Pace, case: Case, runs) -> None:
    for key, listed in runs.items():
        pace[key] = min(run.seconds for run in listed) / case.pairs(key)


def _admit(case: Case, peers, pace: Pace, most_seconds: float):
    """Calls of those that can all run once in time, and why others cannot."""
    q, z = case.draw()
    calls, skipped, total = {}, {}, 0.0
    for key in peers:
        peer = entropy_peers.PEERS[key]
        reason = peer.reason_against(
            len(q), len(z), case.with_gradient, _MOST_BYTES
        )
        seconds = pace.get(key, 0.0) * case.pairs(key)
        if reason is None and total + seconds > most_seconds:
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


def _take_turns(case: Case, calls, tops, most_seconds: float, say: Say):
    def say_case(key: str) -> None:
        if key in calls:
            say(f"{case.title}: {entropy_peers.PEERS[key].name} ...")

    both = {**tops, **calls}
    return timing.take_turns(
        {key: entry.run for key, entry in both.items()}, most_seconds, say_case
    )


def _prepare_peaks(peers) -> dict[str, peaks.Peak]:
    """By `peer.unit`, for those whose share of the peaks is told."""
    devices = {"ours": 1, "devices": jax.local_device_count()}
    return {
        f"{key}.{unit}": peak
        for key, count in devices.items()
        if key in peers
        for unit, peak in peaks.prepare(count).items()
    }


def _summarise_peaks(tops, runs) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, peak in tops.items():
        key, unit = name.split(".")
        entry = found.setdefault(key, {"devices": peak.devices, "cores": {}})
        entry[unit] = peak.work / _median_seconds(runs[name])
        entry["cores"][unit] = _median_cores(runs[name])
    return found


def _describe_case(case: Case, calls, runs, skipped) -> dict[str, Any]:
    base = runs.get("ours")
    entries = {
        key: _describe_peer(call, runs[key], base)
        for key, call in calls.items()
    }
    more = {"queries": case.queries, "title": case.title}
    return case._asdict() | more | {"peers": entries, "skipped": skipped}


def _describe_peer(call, runs, base) -> dict[str, Any]:
    value, _, error = runs[-1].result
    return {
        "seconds": _median_seconds(runs),
        "runs": [run.seconds for run in runs],
        "cores": _median_cores(runs),
        "compile_seconds": call.compile_seconds,
        "memory_bytes": call.memory,
        "value": float(value),
        "standard_error": None if error is None else float(error),
        "over_ours": None if base is None else _compare(runs, base),
    }


def _compare(runs, base) -> dict[str, float]:
    """The ratios of seconds, in the rounds that both ran."""
    count = min(len(runs), len(base))
    seconds, base_seconds = (
        [run.seconds for run in listed[:count]] for listed in (runs, base)
    )
    return rounds.ratio(seconds, base_seconds)._asdict()


def _median_seconds(runs: Sequence[timing.Run]) -> float:
    return statistics.median(run.seconds for run in runs)


def _median_cores(runs: Sequence[timing.Run]) -> float:
    return statistics.median(run.cores for run in runs)


def _add_shares(case: dict[str, Any], found: Mapping[str, Any]) -> None:
    """Adds which share of each peak, and of both in turn, ours has."""
    work = count_work(
        case["queries"], case["n"], case["dim"], case["with_gradient"]
    )
    for key in found.keys() & case["peers"].keys():
        entry = case["peers"][key]
        shares = {
            unit: work[unit] / found[key][unit] / entry["seconds"]
            for unit in work
        }
        entry["share_of_peak"] = shares | {"both": sum(shares.values())}
