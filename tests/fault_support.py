"""Faults that tests bring about: kills, full disks, read-only folders."""

import contextlib
import os
import pathlib
import resource
import shutil
import tempfile
import time


class Life:
    """A run in a workdir, from a start to a death."""

    def __init__(self, start, workdir):
        self._folder = workdir / "checkpoints"
        self.first = self.latest()
        self.command = start(workdir)

    def latest(self) -> int:
        """The step of the newest complete checkpoint, 0 without any."""
        names = [path.name for path in self._listed()]
        return max([int(name) for name in names if name.isdigit()], default=0)

    def saves_in_flight(self) -> list[pathlib.Path]:
        """What Orbax has begun to write, under a temporary name."""
        return [p for p in self._listed() if "orbax-checkpoint-tmp" in p.name]

    def _listed(self):
        return list(self._folder.iterdir()) if self._folder.is_dir() else []

    def wait_for(self, condition) -> bool:
        """Whether it came true before the process ended."""
        while self.command.process.is_alive():
            if condition():
                return True
            time.sleep(0.001)
        return False

    def saved(self, count):
        """A condition: `count` checkpoints were saved in this life."""
        return lambda: self.latest() >= self.first + count


@contextlib.contextmanager
def largest_write(n_bytes):
    """Lets no file of this process grow beyond n bytes, like a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@contextlib.contextmanager
def unprivileged():
    """Gives up root, for whom no directory is read-only."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@contextlib.contextmanager
def open_folder():
    """A folder that other users may enter, unlike pytest's tmp_path."""
    path = pathlib.Path(tempfile.mkdtemp())
    path.chmod(0o777)
    try:
        yield path
    finally:
        shutil.rmtree(path)
