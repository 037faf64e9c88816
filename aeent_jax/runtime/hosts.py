"""Several processes that train one network, on one machine or on many.

Every process runs the same program on the same configuration and workdir, in a
file system that all of them see. Process 0 alone writes and prints. This module
is about how processes meet and part; `stopping.py` lets them stop together, and
`parallel.py` maps the computation over their devices.
"""

import contextlib
import os
import re
import socket
import sys
import threading
import time
import traceback
from collections.abc import Iterator

import jax

from aeent_jax.runtime import parallel, storage

# JAX takes a process that sends no sign of life for so long for dead, and ends
# the others.
_SECONDS_UNTIL_DEAD = 30
# Others may wait for the last writes and the bootstrap of process 0.
_SECONDS_FOR_THE_END = 3600
# All meet at the first process. When it leaves, JAX aborts the others with a
# stack trace; this gives them the time to leave with a sentence.
_SECONDS_OF_GRACE = 3

# Collectives raise errors with these words when another process is gone.
_LOST = re.compile("Gloo|NCCL|UNAVAILABLE|coordination service|heartbeat")

_LARGEST_PORT = 2**16 - 1


def join(
    coordinator: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
    *,
    detect: bool = False,
    timeout: int = 300,
) -> None:
    """Joins the processes of a run; call it before anything else uses JAX.

    Without any argument there is one process, and nothing happens.

    Args:
      coordinator: HOST:PORT of process 0; the port must be free there.
      num_processes: the number of processes.
      process_id: the number of this process, from 0.
      detect: ask TPU pods, Slurm, Open MPI or Kubernetes for all three.
      timeout: seconds to wait for all processes; then this one ends.

    Raises:
      ValueError: arguments that do not fit each other, or nothing to detect.
      OSError: the port of process 0 is not free.
      RuntimeError: JAX was used before.
    """
    given = (coordinator, num_processes, process_id)
    if given == (None, None, None) and not detect:
        return
    _check(*given, detect, timeout)
    if num_processes == 1:
        return
    if process_id == 0:
        _check_port(coordinator)
    with _deadline(timeout, coordinator, num_processes):
        try:
            jax.distributed.initialize(
                *given,
                cluster_detection_method=None if detect else "deactivate",
                # JAX would abort with a stack trace.
                initialization_timeout=timeout + 60,
                heartbeat_timeout_seconds=_SECONDS_UNTIL_DEAD,
                shutdown_timeout_seconds=_SECONDS_FOR_THE_END,
            )
        except ValueError as error:
            raise ValueError(
                f"--distributed finds no cluster here ({error}); give"
                " --coordinator, --num_processes and --process_id instead."
            ) from error
        try:
            # At once, and not after the data is read: JAX ends all processes
            # when one comes two minutes later than the first.
            parallel.find_platform()
        except ValueError as error:
            # The others may never come to JAX's common end.
            _end(str(error))


def _check(coordinator, num_processes, process_id, detect, timeout):
    """Raises where the arguments of `join` do not fit each other."""
    given = {
        "--coordinator": coordinator,
        "--num_processes": num_processes,
        "--process_id": process_id,
    }
    present = [name for name, value in given.items() if value is not None]
    missing = [name for name in given if name not in present]
    if timeout < 1:
        raise ValueError(
            f"--join_seconds is {timeout}, but must be at least 1."
        )
    if detect and present:
        raise ValueError(
            f"--distributed finds out by itself what {present[0]} says; give"
            " one or the other."
        )
    if detect:
        return
    if missing:
        raise ValueError(
            f"{present[0]} is given without {' and '.join(missing)}; several"
            " processes need all three, or --distributed."
        )
    address = re.fullmatch(r"(\[[0-9a-fA-F:.]+\]|[^:\s/]+):(\d+)", coordinator)
    if not address or not 0 < int(address[2]) <= _LARGEST_PORT:
        raise ValueError(
            f"--coordinator={coordinator} is no HOST:PORT; give the address of"
            f" process 0 and a port, 1 to {_LARGEST_PORT}, that is free there."
        )
    if num_processes < 1:
        raise ValueError(
            f"--num_processes is {num_processes}, but must be at least 1."
        )
    if not 0 <= process_id < num_processes:
        raise ValueError(
            f"--process_id is {process_id}, but must be from 0 to"
            f" {num_processes - 1}, the --num_processes less one."
        )


def _check_port(coordinator):
    """Raises where process 0 cannot open its port; JAX would crash."""
    port, dual = (
        int(coordinator.rpartition(":")[2]),
        socket.has_dualstack_ipv6(),
    )
    family = socket.AF_INET6 if dual else socket.AF_INET
    try:
        socket.create_server(
            ("", port), family=family, dualstack_ipv6=dual
        ).close()
    except OSError as error:
        raise OSError(
            f"--coordinator={coordinator} has a port that process 0 cannot open"
            f" ({os.strerror(error.errno)}); stop the job that has it, or give"
            " another port to all processes."
        ) from error


@contextlib.contextmanager
def _deadline(seconds, coordinator, num_processes) -> Iterator[None]:
    """Ends the process, with a sentence, unless the block ends in time."""
    who = f"all {num_processes} processes" if num_processes else "all processes"
    where = f" at {coordinator}" if coordinator else ""
    timer = threading.Timer(
        seconds,
        _end,
        [
            f"not {who} have met{where} within {seconds} s; see that each one"
            " runs, with a --process_id of its own, and reaches that address."
        ],
    )
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def is_first() -> bool:
    """Whether this process is the one that writes and speaks."""
    return jax.process_index() == 0


def are_several() -> bool:
    """Whether other processes take part; a process alone needs no device."""
    return jax.distributed.is_initialized() and jax.process_count() > 1


def describe() -> str:
    """Words to follow a number of devices: " of 2 processes", or none."""
    return f" of {jax.process_count()} processes" if are_several() else ""


@contextlib.contextmanager
def taking_part(errors: tuple[type[Exception], ...]) -> Iterator[None]:
    """Leaves the processes together at the end, and alone on failure.

    A process that fails ends at once: others would wait for it in a collective,
    and it would wait for them in JAX's shutdown. A single process is left
    alone.

    Args:
      errors: the errors whose message is all that a user needs; others keep
        their traceback.
    """
    try:
        yield
    except Exception as error:
        if not are_several():
            raise
        sentence = f"process {jax.process_index()} failed as shown above."
        if _LOST.search(str(error)):
            sentence = (
                "another process of this run has ended, so this one does too;"
                " start all of them again to go on from the last checkpoint."
            )
        elif isinstance(error, errors):
            sentence = " ".join(str(error).split())
        elif storage.network_failure(error):
            sentence = storage.network_failure(error)
        else:
            traceback.print_exc()
        _end(sentence, _SECONDS_OF_GRACE if is_first() else 0)
    if are_several():
        jax.distributed.shutdown()


def _end(sentence: str, grace: float = 0) -> None:
    """Prints why and ends the process, without JAX's wait for the others."""
    sys.stdout.flush()
    sys.stderr.write(f"error: {sentence}\n")
    sys.stderr.flush()
    time.sleep(grace)
    os._exit(1)
