"""Progress of a long command: one live line, or plain lines in a log."""

import shutil
import sys
from collections.abc import Callable
from typing import TextIO

import tqdm

_SECONDS_BETWEEN_LINES = 15.0
_SECONDS_BETWEEN_UPDATES = 0.2
_ROWS = 24  # It takes one.


class Progress:
    """Says how far a run is and when it will end.

    The time left follows from the time that is reported as work, without
    compilation and evaluation.
    """

    def __init__(
        self,
        total: int,
        *,
        stream: TextIO | None = None,
        is_silent: bool = False,
    ):
        """Starts, and shows nothing yet.

        Args:
          total: units of work in all.
          stream: where to write; None is standard error.
          is_silent: write nothing.
        """
        self._total = total
        self._stream = stream or sys.stderr
        self._is_silent = is_silent
        self._bar: _Bar | None = None
        self._seconds = 0.0
        self._units = 0

    def work(self, units: int, seconds: float) -> None:
        """Adds work to the rate that the time left follows from."""
        self._units += units
        self._seconds += seconds

    def show(self, done: int, note: str) -> None:
        """Shows how far the run is, where enough time has passed.

        Args:
          done: units done in all, also before a restart.
          note: what to show beside, such as the loss.
        """
        text = note + self._time_left(done)
        if self._bar is None:
            self._bar = _Bar(
                self._stream, self._total, done, text, self._is_silent
            )
            return
        self._bar.set_description_str(text, refresh=False)
        is_shown = self._bar.update(done - self._bar.n)
        if done >= self._total and not is_shown:
            self._bar.refresh()

    def _time_left(self, done: int) -> str:
        if not self._units or done >= self._total:
            return ""
        left = (self._total - done) * self._seconds / self._units
        return f"  {tqdm.tqdm.format_interval(left)} left"

    def write(self, text: str) -> None:
        """Writes a line of its own."""
        if self._is_silent:
            return
        if self._stream.isatty():
            # Above the live line.
            tqdm.tqdm.write(text, file=self._stream)
        else:
            self._stream.write(text + "\n")
            self._stream.flush()

    def finish(self) -> None:
        """Ends the live line."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None


class _Bar(tqdm.tqdm):
    """A line without a bar; in a log, a new line each time."""

    # Its thread only watches bars that are updated without looking at a clock.
    monitor_interval = 0

    def __init__(self, stream, total, done, text, is_silent):
        self._is_live = stream.isatty()
        columns = shutil.get_terminal_size().columns - 1
        super().__init__(
            desc=text,
            total=total,
            initial=done,
            file=stream,
            disable=is_silent,
            bar_format="{n_fmt}/{total_fmt}  {desc}",
            # Longer text is cut. tqdm by itself hides all where a terminal
            # does not know its size, and cuts the lines of logs at $COLUMNS.
            ncols=columns if self._is_live else sys.maxsize,
            nrows=_ROWS,
            miniters=0,
            mininterval=_SECONDS_BETWEEN_UPDATES
            if self._is_live
            else _SECONDS_BETWEEN_LINES,
        )

    @staticmethod
    def status_printer(file: TextIO) -> Callable[[str], None]:
        """How tqdm writes a state: over the one before, or below it."""
        if file.isatty():
            return tqdm.tqdm.status_printer(file)

        def write_line(text: str) -> None:
            file.write(text.rstrip() + "\n")
            file.flush()

        return write_line

    def close(self) -> None:
        """Ends the live line; a log needs nothing."""
        if self._is_live:
            super().close()
        self.disable = True
