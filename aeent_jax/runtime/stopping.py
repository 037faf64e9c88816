"""A process that is asked to stop finishes what it is at.

    with stopping.stop_signals() as stop:
        while stop.number is None:
            ...

The first SIGTERM or SIGINT is written down, for the program to look at; a
second one of the same kind ends the process at once.
"""

import contextlib
import dataclasses
import itertools
import os
import signal
from collections.abc import Iterator

from jax.experimental import multihost_utils

from aeent_jax.runtime import hosts

_NUMBERS = (signal.SIGTERM, signal.SIGINT)

# Numbers the calls of `agree`; all processes make equally many.
_votes = itertools.count(1)


@dataclasses.dataclass
class Stop:
    """Whether this process was asked to stop.

    Attributes:
      number: of the signal that asked; None for none so far.
    """

    number: int | None = None

    @property
    def name(self) -> str:
        """The name of that signal, such as SIGTERM."""
        return signal.Signals(self.number).name

    def agree(self) -> None:
        """Stops all processes of a run where one was asked to.

        All of them must call it equally often; then all stop at the same call.
        It asks no other process: JAX passes the wish on in the background and
        sets the call to stop at. Does nothing where there is one process.
        """
        if hosts.are_several() and (
            multihost_utils.reached_preemption_sync_point(next(_votes))
        ):
            self.number = signal.SIGTERM


@contextlib.contextmanager
def stop_signals() -> Iterator[Stop]:
    """Turns the first SIGTERM or SIGINT into a wish to stop."""
    stop, are_several = Stop(), hosts.are_several()
    # In a run of several processes JAX listens to SIGTERM and tells the others.
    numbers = (signal.SIGINT,) if are_several else _NUMBERS

    def ask(number, frame):
        del frame
        signal.signal(number, signal.SIG_DFL)
        if are_several:
            os.kill(os.getpid(), signal.SIGTERM)
        else:
            stop.number = number

    try:
        before = {number: signal.signal(number, ask) for number in numbers}
    except ValueError:  # Not in the main thread, as in a notebook's worker.
        yield stop
        return
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
