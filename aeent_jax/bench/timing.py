"""Calls of one process that take turns, their ratios, and the machine."""

import pathlib
import re
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from aeent_jax.runtime import parallel, workdir

_ROUNDS = 5
# After so many seconds of all calls together, none runs a third time.
_ENOUGH_SECONDS = 15.0
# A single shorter call would measure caches that other calls have filled.
_LEAST_SECONDS = 0.1


class Ratio(NamedTuple):
    """How many times one thing is another, over rounds measured in turns.

    Attributes:
      median: median of the ratios of the rounds.
      low: the least of them.
      high: the largest of them.
    """

    median: float
    low: float
    high: float


def ratio(numbers: Sequence[float], base: Sequence[float]) -> Ratio:
    """Compares numbers that were measured in the same rounds.

    Args:
      numbers: `[rounds]`.
      base: `[rounds]`, the numbers to divide by.

    Returns:
      The ratio in a round; a machine that slows down in between changes none.
    """
    ratios = [a / b for a, b in zip(numbers, base, strict=True)]
    return Ratio(statistics.median(ratios), min(ratios), max(ratios))


def time_call(call: Callable[[], Any]) -> float:
    """Mean seconds of a call, which is repeated for a tenth of a second."""
    calls, seconds, begun = 0, 0.0, time.perf_counter()
    while seconds < _LEAST_SECONDS:
        call()
        calls += 1
        seconds = time.perf_counter() - begun
    return seconds / calls


def take_turns(
    calls: Mapping[str, Callable[[], Any]], most_seconds: float
) -> dict[str, list[float]]:
    """Times all calls, then again those for which there is time: A B A B A.

    Args:
      calls: by name.
      most_seconds: of all runs together; each call runs once in any case.

    Returns:
      Seconds of the runs of each call in order, at most 5. The first run, which
      warms up, is left out wherever there is another.
    """
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    begun = time.perf_counter()
    for turn in range(1 + _ROUNDS):
        limit = most_seconds if turn < 2 else min(most_seconds, _ENOUGH_SECONDS)
        for name, call in calls.items():
            spent = time.perf_counter() - begun
            if turn == 0 or spent + seconds[name][-1] <= limit:
                seconds[name].append(time_call(call))
    return {name: runs[1:] or runs for name, runs in seconds.items()}


def describe_machine() -> dict[str, Any]:
    """Versions and devices, with the `processor` and the usable `cores`."""
    return workdir.environment() | {
        "processor": _processor(),
        "cores": parallel.count_cores(),
    }


def _processor() -> str:
    try:
        text = pathlib.Path("/proc/cpuinfo").read_text()
    except OSError:
        text = ""
    line = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    return line[1] if line else "an unnamed processor"
