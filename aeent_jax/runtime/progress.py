"""Progress of a long command: one live line, or plain lines in a log."""

import sys
import time
from collections.abc import Callable
from typing import TextIO

_SECONDS_BETWEEN_LINES = 15.0
_SECONDS_BETWEEN_UPDATES = 0.2


def clock_time(seconds: float) -> str:
    """Formats a duration: 12s, 3m05s, 2h07m."""
    seconds = round(seconds)
    minutes, hours = seconds // 60, seconds // 3600
    if hours:
        return f"{hours}h{minutes % 60:02d}m"
    return f"{minutes}m{seconds % 60:02d}s" if minutes else f"{seconds}s"


class Progress:
    """Says how far a run is and when it will end.

    The time left is reckoned from the time that is reported as work, so that
    compilation and evaluation do not spoil it.
    """

    def __init__(
        self,
        total: int,
        *,
        stream: TextIO | None = None,
        is_silent: bool = False,
        now: Callable[[], float] = time.monotonic,
    ):
        """Starts.

        Args:
          total: units of work in all.
          stream: where to write; None is standard error.
          is_silent: write nothing.
          now: the clock, in seconds.
        """
        self._total = total
        self._stream = stream or sys.stderr
        self._is_silent = is_silent
        self._now = now
        self._is_live = self._stream.isatty()
        self._last_shown = -float("inf")
        self._width = 0
        self._seconds = 0.0
        self._units = 0

    def work(self, units: int, seconds: float) -> None:
        """Adds work to the rate that the time left is reckoned from."""
        self._units += units
        self._seconds += seconds

    def show(self, done: int, note: str) -> None:
        """Shows how far the run is, where enough time has passed.

        Args:
          done: units done in all, also before a restart.
          note: what to show beside, such as the loss.
        """
        wait = (
            _SECONDS_BETWEEN_UPDATES
            if self._is_live
            else _SECONDS_BETWEEN_LINES
        )
        if self._now() - self._last_shown >= wait or done >= self._total:
            self._last_shown = self._now()
            self._write(f"{done}/{self._total}  {note}{self._eta(done)}")

    def _eta(self, done: int) -> str:
        if not self._units or done >= self._total:
            return ""
        left = (self._total - done) * self._seconds / self._units
        return f"  {clock_time(left)} left"

    def _write(self, text: str) -> None:
        if self._is_silent:
            return
        if self._is_live:
            self._stream.write("\r" + text.ljust(self._width))
            self._width = len(text)
        else:
            self._stream.write(text + "\n")
        self._stream.flush()

    def say(self, text: str) -> None:
        """Writes a line of its own."""
        if self._is_silent:
            return
        self.finish()
        self._stream.write(text + "\n")
        self._stream.flush()

    def finish(self) -> None:
        """Ends the live line."""
        if self._is_live and self._width:
            self._stream.write("\n")
            self._stream.flush()
            self._width = 0
