"""Worker processes: each trains one member at a time on its share of the cores.

A worker runs the ordinary `aeent train`, so it resumes, refuses and saves as
any run does. It holds a lock on the log of its member until it ends. If a sweep
was killed and its workers still run, the next sweep therefore waits for them
instead of training in the same folders.
"""

import contextlib
import os
import pathlib
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Iterator, Sequence

from aeent_jax.runtime import workdir

_SECONDS_BETWEEN_LOOKS = 0.1
_PROGRAM = ("-m", "aeent_jax.cli.train")
_FIND_PLATFORM = (
    "from aeent_jax.runtime import parallel; print(parallel.find_platform())"
)

# Takes the name of a member; returns the flags of its training, None if it
# needs none.
Start = Callable[[str], Sequence[str] | None]
# Takes a name, and the last sentence of a training that failed, or "".
End = Callable[[str, str], None]


def find_platform() -> str:
    """Returns the platform that a worker will see: "cpu", "gpu" or "tpu".

    Another process looks, because a process that sees an accelerator holds it.

    Raises:
      ValueError: the platform that the environment asks for is not here.
    """
    result = subprocess.run(
        [sys.executable, "-c", _FIND_PLATFORM],
        capture_output=True,
        text=True,
    )
    if result.returncode:
        raise ValueError(result.stderr.strip().rpartition("ValueError: ")[2])
    return result.stdout.strip()


def share_cores(count: int) -> list[set[int]]:
    """Deals the cores of this process out to workers.

    Args:
      count: of workers, at least 1.

    Returns:
      One set of cores per worker, empty if the system cannot pin processes.
      If there are more workers than cores, they share them.
    """
    if not hasattr(os, "sched_getaffinity"):
        return [set() for _ in range(count)]
    cores = sorted(os.sched_getaffinity(0))
    return [set(cores[i % len(cores) :: count]) for i in range(count)]


def run(
    names: Sequence[str],
    logs: pathlib.Path,
    shares: Sequence[Collection[int]],
    *,
    start: Start,
    end: End,
    look: Callable[[Sequence[str]], bool],
) -> None:
    """Runs members until all have ended, or until `look` says stop.

    Args:
      names: the members, in order.
      logs: the folder of their logs, `<name>.log`.
      shares: the cores of each worker.
      start: is called with the name of the next member.
      end: is called with a name after its process has ended.
      look: is called repeatedly with the names in training, and returns whether
        to stop. The workers then save and end before this returns.
    """
    logs.mkdir(parents=True, exist_ok=True)
    waiting = list(names)
    working: dict[int, tuple[str, subprocess.Popen]] = {}
    try:
        while waiting or working:
            if look([name for name, _ in working.values()]):
                return
            for place, share in enumerate(shares):
                if place not in working:
                    started = _start_next(waiting, logs, share, start)
                    if started is not None:
                        working[place] = started
                elif working[place][1].poll() is not None:
                    name, process = working.pop(place)
                    failed = process.returncode != 0
                    end(name, _last_sentence(logs, name) if failed else "")
            time.sleep(_SECONDS_BETWEEN_LOOKS)
    finally:
        for _, process in working.values():
            process.terminate()
        for _, process in working.values():
            process.wait()


@contextlib.contextmanager
def hold(names: Sequence[str], logs: pathlib.Path) -> Iterator[list[str]]:
    """Keeps other sweeps from members while this process trains them.

    Args:
      names: the members.
      logs: the folder of their logs.

    Yields:
      The members that no process of another sweep trains.
    """
    logs.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        free = []
        for name in names:
            log = stack.enter_context((logs / f"{name}.log").open("a"))
            if workdir.lock(log):
                free.append(name)
        yield free


def _start_next(
    waiting: list[str],
    logs: pathlib.Path,
    share: Collection[int],
    start: Start,
) -> tuple[str, subprocess.Popen] | None:
    """Starts the first member that no process of another sweep trains."""
    for name in list(waiting):
        with (logs / f"{name}.log").open("a") as log:
            if not workdir.lock(log):
                continue
            waiting.remove(name)
            flags = start(name)
            if flags is None:
                continue
            log.write(f"aeent train {' '.join(flags)}\n")
            log.flush()
            # The process keeps the file, and with it the lock.
            return name, _spawn(flags, log, share)
    return None


def _spawn(flags, log, share) -> subprocess.Popen:
    with _pinned(share):
        return subprocess.Popen(
            [sys.executable, *_PROGRAM, *flags],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            # Ctrl-C in a terminal is for the sweep, which passes it on once:
            # a second one would end a worker that is saving.
            start_new_session=True,
        )


@contextlib.contextmanager
def _pinned(share: Collection[int]) -> Iterator[None]:
    """Pins the processes that the block starts; they inherit it."""
    if not share:
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, share)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def _last_sentence(logs: pathlib.Path, name: str) -> str:
    """Returns the last line of a worker's log, without "error: "."""
    text = (logs / f"{name}.log").read_text(errors="replace")
    return text.rstrip().splitlines()[-1].strip().removeprefix("error: ")
