"""A trace of a few steps of a run, for XProf or Perfetto."""

import pathlib
from typing import Any

import jax

from aeent_jax.runtime import storage


def parse_steps(text: str) -> tuple[int, int] | None:
    """Reads `start:stop`, the steps whose calls are traced.

    Args:
      text: two whole numbers, the first below the second; "" for none.

    Returns:
      The numbers, or None.

    Raises:
      ValueError: the text is something else.
    """
    if not text:
        return None
    start, _, stop = text.partition(":")
    if not (start.isdecimal() and stop.isdecimal() and int(start) < int(stop)):
        raise ValueError(
            f"log.profile is {text!r}, but must be two steps, the first below"
            " the second, such as 20:30; leave it empty for none."
        )
    return int(start), int(stop)


def check_place(directory: pathlib.Path, text: str) -> None:
    """Refuses traces of a run whose workdir is in a bucket.

    Args:
      directory: the workdir.
      text: as `parse_steps` reads.

    Raises:
      ValueError: traces are asked for, and the workdir is in a bucket.
    """
    if text and storage.is_in_bucket(directory):
        raise ValueError(
            f"log.profile is {text!r}, but the profiler writes to disk alone,"
            f" and --workdir={directory} is in a bucket; leave it empty, or"
            " give a workdir on disk."
        )


def warning(text: str, step: int, total_steps: int) -> str | None:
    """Returns a warning where the run does none of the steps asked for.

    Args:
      text: as `parse_steps` reads.
      step: the step that training goes on from.
      total_steps: the step that training ends at.

    Returns:
      One sentence, or None.
    """
    steps = parse_steps(text)
    if steps is None or (steps[0] < total_steps and step < steps[1]):
        return None
    return (
        f"log.profile is {text!r}, but this run does steps {step} to"
        f" {total_steps}, so nothing is traced; give steps among them."
    )


class Trace:
    """Traces the calls that do any of the steps asked for, once."""

    def __init__(self, directory: pathlib.Path, text: str):
        """Prepares.

        Args:
          directory: the folder of the trace; made when the trace begins.
          text: as `parse_steps` reads.
        """
        self._directory = directory
        self._steps = parse_steps(text)
        self._runs = False
        self._call: jax.profiler.StepTraceAnnotation | None = None

    def before(self, step: int, size: int) -> None:
        """Call this before a call of `size` steps begins at `step`."""
        if self._steps is None:
            return
        start, stop = self._steps
        if not self._runs and step < stop and start < step + size:
            options = jax.profiler.ProfileOptions()
            # Python's own calls would drown the device's.
            options.python_tracer_level = 0
            jax.profiler.start_trace(self._directory, profiler_options=options)
            self._runs = True
        if self._runs:
            self._call = jax.profiler.StepTraceAnnotation(
                "train", step_num=step
            )
            self._call.__enter__()

    def after(self, step: int, results: Any) -> None:
        """Call this after `step` steps are dispatched, with their results."""
        if not self._runs:
            return
        self._call.__exit__(None, None, None)
        if step >= self._steps[1]:
            jax.block_until_ready(results)
            self.close()

    def close(self) -> None:
        """Writes the trace so far, if there is one, and begins no other."""
        if self._runs:
            jax.profiler.stop_trace()
            self._runs, self._steps = False, None
