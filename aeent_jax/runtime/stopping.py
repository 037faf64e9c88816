"""A process that is asked to stop finishes what it is at.

    with stopping.stop_signals() as stop:
        while stop.number is None:
            ...

The first SIGTERM or SIGINT is written down, for the program to look at; a
second one of the same kind ends the process at once.
"""

import contextlib
import dataclasses
import signal
from collections.abc import Iterator

from aeent_jax.runtime import hosts


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

        All of them must call it equally often. Does nothing where there is one.
        """
        if hosts.agree_to_stop():
            self.number = signal.SIGTERM


@contextlib.contextmanager
def stop_signals() -> Iterator[Stop]:
    """Turns the first SIGTERM or SIGINT into a wish to stop."""
    stop = Stop()
    if hosts.are_several():
        # JAX listens to SIGTERM, and tells the others.
        with hosts.interrupts_ask_to_stop():
            yield stop
        return

    def ask(number, frame):
        del frame
        stop.number = number
        signal.signal(number, signal.SIG_DFL)

    try:
        numbers = (signal.SIGTERM, signal.SIGINT)
        before = {number: signal.signal(number, ask) for number in numbers}
    except ValueError:  # Not in the main thread, as in a notebook's worker.
        yield stop
        return
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
