"""Contenders that take turns, so that what else runs here slows all alike.

On the CPU each contender has a process of its own, with the threads, devices
and allocator that a user of it would have; it sleeps while others work. An
accelerator belongs to one process, so there contenders are threads of one.
"""

import contextlib
import multiprocessing
import threading
import time
from collections.abc import Callable, Mapping
from multiprocessing import connection as connection_lib
from typing import Any, Protocol

EPOCH = "epoch"
_SECONDS_TO_END = 20.0

Gate = Callable[[int], None]


class Trainer(Protocol):
    """What a contender runs.

    Attributes:
      startup: seconds of the phases of its construction, in order.
    """

    startup: dict[str, float]

    def run_steps(self, steps: int) -> int:
        """Runs steps to their end; returns how many images they took."""
        ...

    def run_epochs(self, gate: Gate) -> None:
        """Runs epochs without end, and calls `gate(images)` after each."""
        ...


class _OverError(Exception):
    """The benchmark is over, or was interrupted; nobody listens any more."""


class Contender:
    """A trainer that does some steps or an epoch when asked, and else nothing.

    Attributes:
      startup: seconds of its start: `imports` (of a process, from its very
        beginning) and the trainer's own phases, in order.
    """

    def __init__(
        self,
        make_trainer: Callable[[], Trainer],
        *,
        own_process: bool,
    ):
        """Starts it and waits until it is ready.

        Args:
          make_trainer: makes the trainer; can be pickled.
          own_process: whether it runs in a process of its own.

        Raises:
          RuntimeError: it ended early.
        """
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        start = context.Process if own_process else threading.Thread
        self._task = start(
            target=_serve, args=(theirs, time.time(), make_trainer), daemon=True
        )
        self._task.start()
        if own_process:
            theirs.close()  # So that the end of the process ends the wait.
        self.startup: dict[str, float] = self._receive()

    def images_per_second(self, order: int | str) -> float:
        """Runs a number of steps, or one EPOCH; after that only epochs.

        Args:
          order: how many steps, or EPOCH.

        Returns:
          Images per second.

        Raises:
          RuntimeError: it ended early.
        """
        self._connection.send(order)
        return self._receive()

    def close(self) -> None:
        """Ends it."""
        self._connection.close()
        self._task.join(_SECONDS_TO_END)
        if not isinstance(self._task, threading.Thread):
            self._task.kill()

    def _receive(self) -> Any:
        try:
            answer = self._connection.recv()
        except EOFError:
            answer = "its process ended without a word (out of memory?)"
        if isinstance(answer, str):
            raise RuntimeError(f"A contender of the benchmark failed: {answer}")
        return answer


def _serve(
    connection: connection_lib.Connection,
    begun: float,
    make_trainer: Callable[[], Trainer],
) -> None:
    """Obeys the orders that come, until the connection is closed."""
    try:
        imports = {"imports": time.time() - begun}
        trainer = make_trainer()
        _tell(connection, imports | trainer.startup)
        while (order := _hear(connection)) != EPOCH:
            begun = time.perf_counter()
            images = trainer.run_steps(order)
            _tell(connection, images / (time.perf_counter() - begun))
        trainer.run_epochs(_make_gate(connection))
    except _OverError:
        pass
    except Exception as error:
        with contextlib.suppress(OSError):
            connection.send(f"{type(error).__name__}: {error}")
    finally:
        connection.close()


def _make_gate(connection: connection_lib.Connection) -> Gate:
    """Reports each epoch and waits for the order to run the next."""
    mark = time.perf_counter()

    def gate(images: int) -> None:
        nonlocal mark
        _tell(connection, images / (time.perf_counter() - mark))
        _hear(connection)
        mark = time.perf_counter()

    return gate


def _tell(connection: connection_lib.Connection, answer: Any) -> None:
    try:
        connection.send(answer)
    except OSError as error:
        raise _OverError from error


def _hear(connection: connection_lib.Connection) -> Any:
    try:
        return connection.recv()
    except (EOFError, OSError) as error:
        raise _OverError from error


def take_turns(
    contenders: Mapping[str, Contender],
    order: int | str,
    rounds: int,
    *,
    uncounted: int = 0,
) -> dict[str, list[float]]:
    """Gives every contender the order in each of the rounds: A B A B A B.

    Args:
      contenders: by name.
      order: how many steps, or EPOCH.
      rounds: how often.
      uncounted: how many rounds before them do not count.

    Returns:
      Images per second in each round, by name.
    """
    rates = {name: [] for name in contenders}
    for _ in range(uncounted + rounds):
        for name, contender in contenders.items():
            rates[name].append(contender.images_per_second(order))
    return {name: listed[uncounted:] for name, listed in rates.items()}
