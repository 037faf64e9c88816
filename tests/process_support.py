"""Runs `aeent` in processes of its own, forked from one that has imported it.

Importing takes seconds, and dozens of tests start processes. The process that
is forked has initialised no backend of JAX, so a fork is as good as a start.
"""

import contextlib
import dataclasses
import multiprocessing
import os
import pathlib
import sys
from collections.abc import Mapping

from aeent_jax.cli import main

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["aeent_jax.training.loop", "process_support"])


# Compiling is most of the time of a process, and speed matters to nobody here.
_FLAGS = (
    "--xla_cpu_use_fusion_emitters=false",
    "--xla_backend_optimization_level=0",
    "--xla_llvm_disable_expensive_passes=true",
    "--xla_cpu_collective_call_terminate_timeout_seconds=600",
)


def devices(count: int) -> dict[str, str]:
    """The environment of a process that has so many devices."""
    flags = (*_FLAGS, f"--xla_force_host_platform_device_count={count}")
    return {"XLA_FLAGS": " ".join(flags)}


@dataclasses.dataclass
class Command:
    """A command that was started; its output is in files."""

    process: multiprocessing.Process
    folder: pathlib.Path

    @property
    def out(self) -> str:
        return (self.folder / "out").read_text()

    @property
    def err(self) -> str:
        return (self.folder / "err").read_text()

    def wait(self) -> int:
        """The exit status; negative for the signal that ended it."""
        self.process.join(timeout=600)
        assert self.process.exitcode is not None, "the command hangs"
        return self.process.exitcode

    def kill(self, number) -> int:
        """Sends a signal; what has ended already keeps its own status."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.process.pid, number)
        return self.wait()


def start(
    folder: pathlib.Path,
    cache_home: pathlib.Path,
    *args: str,
    environment: Mapping[str, str] | None = None,
) -> Command:
    """Starts `aeent ARGS`.

    Args:
      folder: where its output goes.
      cache_home: stands for ~/.cache.
      *args: the command line.
      environment: variables of its own.
    """
    folder.mkdir(exist_ok=True)
    for name in ("out", "err"):
        (folder / name).write_text("")
    process = _CONTEXT.Process(
        target=_run,
        args=(args, folder, cache_home, environment or {}),
        daemon=True,
    )
    process.start()
    return Command(process, folder)


def run(
    folder: pathlib.Path, cache_home: pathlib.Path, *args: str
) -> tuple[int, str, str]:
    """Runs what `start` starts; returns exit status, stdout and stderr."""
    command = start(folder, cache_home, *args)
    return command.wait(), command.out, command.err


def _run(args, folder, cache_home, environment):
    os.environ.update(environment)
    for number, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(folder / name, os.O_WRONLY | os.O_TRUNC), number)
    sys.stdout, sys.stderr = (os.fdopen(n, "w", buffering=1) for n in (1, 2))
    os.environ["XDG_CACHE_HOME"] = str(cache_home)
    sys.argv = ["aeent", *args]
    main.main()
