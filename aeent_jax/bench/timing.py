"""Runs of several calls in one process, taking turns."""

import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

_ROUNDS = 5
# Of all calls, after which none is run a third time.
_ENOUGH_SECONDS = 15.0
# Of one run: a single short call would measure caches that others have filled.
_LEAST_SECONDS = 0.1


class Run(NamedTuple):
    """One run: a call, repeated for a tenth of a second where it is shorter.

    Attributes:
      result: what the call returned.
      seconds: how long one call took, in the mean.
      cores: the mean number of cores that this process kept busy.
    """

    result: Any
    seconds: float
    cores: float


def run(call: Callable[[], Any]) -> Run:
    """Runs a call to its end."""
    begun, cpu_begun = time.perf_counter(), time.process_time()
    calls, seconds = 0, 0.0
    while seconds < _LEAST_SECONDS:
        result = call()
        calls += 1
        seconds = time.perf_counter() - begun
    cores = (time.process_time() - cpu_begun) / seconds
    return Run(result, seconds / calls, cores)


def take_turns(
    calls: Mapping[str, Callable[[], Any]],
    most_seconds: float,
    say: Callable[[str], None],
) -> dict[str, list[Run]]:
    """Runs all calls, then again those for which there is time: A B A B A.

    Args:
      calls: by name.
      most_seconds: of all runs together, but that each call is run once.
      say: takes the name of each call before its first run.

    Returns:
      The runs of each call in order, up to 5. The first one, which warms up, is
      left out wherever there is another.
    """
    runs: dict[str, list[Run]] = {key: [] for key in calls}
    begun = time.perf_counter()
    for turn in range(1 + _ROUNDS):
        limit = most_seconds
        if turn > 1:
            limit = min(limit, _ENOUGH_SECONDS)
        for key, call in calls.items():
            spent = time.perf_counter() - begun
            if turn == 0:
                say(key)
            elif spent + runs[key][-1].seconds > limit:
                continue
            runs[key].append(run(call))
    return {key: listed[1:] or listed for key, listed in runs.items()}
