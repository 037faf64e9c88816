"""Keeps Orbax's chatter out of the output of a run.

Orbax narrates each save, and warns of its own waiting. One failed write it logs
four times, each time with a traceback, before it raises; and as it closes its
event loop while TensorStore is still reporting to it, one more traceback is
printed for each array. What matters of this is raised as an exception as well,
which here becomes one sentence.
"""

import logging
import sys
from typing import Any


def quiet_orbax() -> None:
    """Silences Orbax from here on; asking again changes nothing."""
    for name in ("absl", "asyncio"):
        logging.getLogger(name).addFilter(_is_not_chatter)
    if not isinstance(sys.unraisablehook, _UnraisableHook):
        sys.unraisablehook = _UnraisableHook(sys.unraisablehook)


def _is_not_chatter(record: logging.LogRecord) -> bool:
    # asyncio reports futures of TensorStore that nobody waited for.
    return not (
        "/orbax/" in record.pathname or "OCDBT database" in record.getMessage()
    )


class _UnraisableHook:
    """Drops what TensorStore reports to a loop that Orbax has closed."""

    def __init__(self, before: Any):
        self._before = before

    def __call__(self, unraisable: Any) -> None:
        error = unraisable.exc_value
        if isinstance(error, RuntimeError) and "loop is closed" in str(error):
            return
        self._before(unraisable)
