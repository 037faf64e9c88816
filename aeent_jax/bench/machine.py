"""What a benchmark ran on, and what else ran there."""

import os
import pathlib
import platform
import re
import time
from typing import Any


def describe() -> dict[str, Any]:
    """Returns the `processor`'s name and the number of `cores` we may use."""
    return {"processor": _processor(), "cores": len(os.sched_getaffinity(0))}


def _processor() -> str:
    try:
        text = pathlib.Path("/proc/cpuinfo").read_text()
    except OSError:
        text = ""
    found = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    return found[1] if found else platform.machine()


def peak_memory(process: int | str = "self") -> int | None:
    """Most bytes of memory that a process had; None where that is not told."""
    try:
        text = pathlib.Path(f"/proc/{process}/status").read_text()
    except OSError:
        return None
    found = re.search(r"^VmHWM:\s*(\d+) kB$", text, re.MULTILINE)
    return 1024 * int(found[1]) if found else None


class OtherWork:
    """How many cores other processes kept busy since this was made.

    Ours are this process and those that it started and waited for.
    """

    def __init__(self):
        self._begun = time.monotonic()
        self._before = _seconds_of_others()

    def cores(self) -> float | None:
        """The mean number of cores; None where the system does not tell."""
        now = _seconds_of_others()
        if now is None or self._before is None:
            return None
        seconds = now - self._before
        return max(0.0, seconds / (time.monotonic() - self._begun))


def _seconds_of_others() -> float | None:
    """CPU seconds since the system's start, but for ours."""
    try:
        text = pathlib.Path("/proc/stat").read_text()
    except OSError:
        return None
    # proc(5): user, nice, system, idle, iowait, irq, softirq, steal.
    ticks = [int(word) for word in text.split()[1:9]]
    busy = sum(ticks) - ticks[3] - ticks[4]
    return busy / os.sysconf("SC_CLK_TCK") - sum(os.times()[:4])
