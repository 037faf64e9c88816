"""Worker processes: each trains one member at a time on its share of the cores.

The program is the ordinary `aeent train`, so that a worker resumes, refuses and
saves as any run does. A worker holds a lock on its member's log as long as it
lives: where a sweep was killed and its workers were not, the next one waits for
them instead of training in the same folder.
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

# From the name of a member to the flags of its training, or to None where it
# needs none.
Start = Callable[[str], Sequence[str] | None]
# Takes a name, and the sentence that training ended with where it failed.
End = Callable[[str, str], None]


def find_platform() -> str:
    """The kind of device that a worker will see: "cpu", "gpu" or "tpu".

    Another process looks: one that has seen an accelerator holds it.

    Raises:
      ValueError: the platform that the environment asks for is not here.
    """
    found = subprocess.run(
        [sys.executable, "-c", _FIND_PLATFORM],
        capture_output=True,
        text=True,
    )
    if found.returncode:
        raise ValueError(found.stderr.strip().rpartition("ValueError: ")[2])
    return found.stdout.strip()


def share_cores(count: int) -> list[set[int]]:
    """Deals the cores of this process out to workers.

    Args:
      count: of workers, at least 1.

    Returns:
      A set of cores each; empty ones where the system cannot pin processes.
      More workers than cores share them.
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
    """Runs members until all have ended, or until it is told to stop.

    Args:
      names: the members, in order.
      logs: the folder of their logs, `<name>.log`.
      shares: the cores of each worker.
      start: called with a name when its turn has come.
      end: called with it when its process has ended.
      look: called again and again with the names at work; whether to stop.
        Workers are then asked to save, and waited for.
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
      Those that no process of another sweep is at.
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
    """Starts the first member that no process of another sweep is at."""
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
    """Pins what is started meanwhile, which inherits it."""
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
    """What a worker said last."""
    lines = (logs / f"{name}.log").read_text(errors="replace").splitlines()
    said = [line.strip() for line in lines if line.strip()]
    return said[-1].removeprefix("error: ")
