"""The files of a run: configuration, environment and metrics.

A workdir belongs to one configuration. Another one is refused, so that a
restart never mixes two experiments. It belongs to one job at a time, too, where
there are locks: in buckets, mounted or behind gs://, there are none. The first
of several processes writes.
"""

import contextlib
import importlib.metadata
import importlib.util
import json
import math
import os
import pathlib
import platform
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from typing import IO, Any

import jax
import ml_collections
import numpy as np
from jax.experimental import multihost_utils

from aeent_jax import config as config_lib
from aeent_jax.runtime import storage

try:
    import fcntl
except ImportError:  # On Windows.
    fcntl = None

# The job that has the workdir locks this file.
_LOCK = "lock"
# A job that was killed as it began may leave these.
_BEGINNINGS = {_LOCK, "config.json.partial"}
_PACKAGES = (
    "aeent-jax",
    "flax",
    "jax",
    "jaxlib",
    "numpy",
    "optax",
    "orbax-checkpoint",
    "scikit-learn",
    "tensorflow-datasets",
)


@contextlib.contextmanager
def claimed(
    workdir: pathlib.Path, config: ml_collections.ConfigDict
) -> Iterator[None]:
    """Makes a workdir the run's, and keeps other jobs out while the block runs.

    The first of several processes of a job keeps it for all.

    Args:
      workdir: the run's folder; made where there is none.
      config: the resolved configuration.

    Raises:
      ValueError: the folder belongs to another configuration, or holds files
        but no run; nothing was changed.
      OSError: another job has it, and nothing was changed; or it cannot be
        written.
    """
    check(workdir, config)
    with contextlib.ExitStack() as stack:
        refusal = None
        # A bucket has no locks, and no folder that would have to be made.
        if jax.process_index() == 0 and not storage.is_in_bucket(workdir):
            try:
                stack.enter_context(_alone(workdir))
            except OSError as error:
                refusal = error
        # Told to the others, which would wait for the first in vain.
        if multihost_utils.broadcast_one_to_all(np.int32(refusal is not None)):
            raise refusal or OSError(
                f"--workdir={workdir} cannot be had, as the first process"
                " says; do what it asks for and start all processes again."
            )
        _write_claim(workdir, config)
        yield


@contextlib.contextmanager
def _alone(workdir) -> Iterator[None]:
    """Locks a workdir against other jobs, or raises OSError."""
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        # The file stays: one that is removed can be locked by two.
        file = (workdir / _LOCK).open("a+")
    except OSError as error:
        raise _not_writable(workdir, error) from error
    with file:
        if not lock(file):
            file.seek(0)
            raise OSError(
                f"--workdir={workdir} is in use by"
                f" {file.read().strip() or 'another job'}; wait for it or stop"
                " it, or give this run a workdir of its own."
            )
        # The name is for the sentence above alone, so that a full disk or a
        # name that has changed since harms nothing.
        with contextlib.suppress(OSError):
            file.truncate(0)
            file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
            file.flush()
        yield


def lock(file: IO[str]) -> bool:
    """Locks an open file until it is closed, without waiting.

    The lock ends with the processes that have the file, however they end.
    Network file systems that have locks (NFS since Linux 2.6.12, Lustre mounted
    with `flock`, CephFS) pass them on to other hosts for a file that is open
    for writing, and not for a folder.

    Args:
      file: open for writing.

    Returns:
      False where it is locked; True also where the system has no locks.
    """
    if fcntl is None:
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True


def _write_claim(workdir, config):
    """Writes the configuration, once all processes have looked."""
    # Another job may have written it before this one had the lock.
    check(workdir, config)
    # None writes before all have looked, nor goes on before it is written.
    multihost_utils.sync_global_devices("aeent_workdir_checked")
    if jax.process_index() == 0:
        try:
            workdir.mkdir(parents=True, exist_ok=True)
            tree = json.loads(config.to_json())
            if tree["data"]["root"]:
                # Another command may run in another folder.
                root = storage.absolute(tree["data"]["root"])
                tree["data"]["root"] = os.fspath(root)
            write_json(workdir / "config.json", tree)
            write_json(workdir / "environment.json", environment())
        except OSError as error:
            raise _not_writable(workdir, error) from error
    multihost_utils.sync_global_devices("aeent_workdir_claimed")
    if not (workdir / "config.json").exists():
        raise ValueError(
            f"--workdir={workdir} is not where process 0 sees it; give a folder"
            " in a file system that all processes share."
        )


def _not_writable(workdir, error: OSError) -> OSError:
    return OSError(
        f"--workdir={workdir} cannot be written ({error.strerror}); give a"
        " folder that can."
    )


def check(workdir: pathlib.Path, config: ml_collections.ConfigDict) -> None:
    """Checks, and changes nothing, that a configuration can have a workdir.

    Args:
      workdir: the run's folder, which need not exist.
      config: the resolved configuration.

    Raises:
      ValueError: the folder belongs to another configuration, or holds files
        but no run.
    """
    path = workdir / "config.json"
    if path.exists():
        wanted = json.loads(config.to_json())
        _refuse_other(workdir, _read_config(path), wanted)
    elif workdir.exists() and not workdir.is_dir():
        raise ValueError(
            f"--workdir={workdir} is a file, but a folder is needed; give"
            " another path."
        )
    elif workdir.is_dir() and storage.names_in(workdir) - _BEGINNINGS:
        raise ValueError(
            f"--workdir={workdir} holds files but no config.json of a run; give"
            " an empty or new folder, so that nothing is overwritten."
        )


def _refuse_other(workdir, found, wanted):
    found, wanted = config_lib.flatten(found), config_lib.flatten(wanted)
    differing = [
        f"{key} is {found.get(key)} there and {wanted.get(key)} here"
        for key in sorted(found | wanted)
        if found.get(key) != wanted.get(key) and config_lib.decides(key)
    ]
    before, now = found.get("train.epochs"), wanted.get("train.epochs")
    longer = (
        isinstance(before, int)
        and isinstance(now, int)
        and before < now
        and wanted.get("optimizer.schedule") == "constant"
    )
    if longer:
        # More epochs at a constant learning rate go on from where it ended.
        differing = [d for d in differing if not d.startswith("train.epochs ")]
    if differing:
        raise ValueError(
            f"--workdir={workdir} belongs to another configuration:"
            f" {'; '.join(differing)}. Give another workdir, or the same"
            " configuration to go on with that run."
        )


def load_config(workdir: pathlib.Path) -> ml_collections.ConfigDict:
    """Reads the configuration of a run.

    Args:
      workdir: the run's folder.

    Returns:
      The locked configuration.

    Raises:
      FileNotFoundError: there is no run.
      ValueError: the file is damaged, or of another program, or its keys and
        types are not those of this version.
    """
    path = workdir / "config.json"
    if not path.exists():
        raise FileNotFoundError(
            f"{workdir} is not the workdir of a run (it has no config.json);"
            " give the --workdir of an `aeent train` command."
        )
    found = _read_config(path)
    config_lib.check(found, str(path))
    return ml_collections.ConfigDict(found).lock()


def _read_config(path: pathlib.Path) -> dict[str, Any]:
    found = read_json(path)
    if not isinstance(found, dict):
        raise ValueError(
            f"{path} is not the configuration of a run; restore it or use"
            " another workdir."
        )
    return config_lib.complete(found)


def environment() -> dict[str, Any]:
    """Versions, devices and revision, for the record of a run."""
    versions = {}
    for package in _PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = None
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": versions,
        "devices": [device.device_kind for device in jax.devices()],
        "processes": jax.process_count(),
        "git_revision": _git_revision(),
        "command": sys.argv,
    }


def _git_revision() -> str | None:
    try:
        result = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=40"],
            cwd=pathlib.Path(__file__).parent,
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return result.stdout.strip()


def read_json(path: pathlib.Path) -> Any:
    """Reads a JSON file; a damaged one is a ValueError that names it."""
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(
            f"{path} is not readable as JSON ({error}); restore it or use"
            " another workdir."
        ) from error


def write_json(path: pathlib.Path, tree: Any) -> None:
    """Writes JSON atomically; numbers that are not finite become null."""
    storage.write_text(path, json.dumps(_finite(tree), indent=2) + "\n")


def to_json(tree: Any) -> str:
    """JSON on one line; numbers that are not finite become null."""
    return json.dumps(_finite(tree))


def _finite(tree: Any) -> Any:
    if isinstance(tree, Mapping):
        return {key: _finite(value) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return [_finite(value) for value in tree]
    if isinstance(tree, float) and not math.isfinite(tree):
        return None
    return tree


def read_metrics(
    workdir: pathlib.Path, *, skip_damaged: bool = False
) -> list[dict[str, Any]]:
    """Reads the records of metrics.jsonl, in the order of writing.

    Args:
      workdir: the run's folder.
      skip_damaged: leave damaged lines out instead of refusing them.

    Returns:
      The records, each with a `step`; none where there is no file. Half a last
      line is left out: a run that was killed leaves it.

    Raises:
      ValueError: a line is damaged, or no record of a step.
    """
    path = workdir / "metrics.jsonl"
    if not path.is_file():
        return []
    lines = path.read_text().splitlines()
    records = []
    for number, line in enumerate(lines, start=1):
        try:
            record, reason = json.loads(line), "no record of a step"
        except json.JSONDecodeError as error:
            if number == len(lines):
                break
            record, reason = None, error.msg
        if isinstance(record, dict) and "step" in record:
            records.append(record)
        elif not skip_damaged:
            raise ValueError(
                f"Found damage in {path}, line {number}: {reason}; delete "
                "that line."
            )
    return records


class MetricsWriter:
    """Appends to metrics.jsonl, and to TensorBoard events where possible."""

    def __init__(
        self, workdir: pathlib.Path, restored_step: int, *, tensorboard: bool
    ):
        """Opens the file and drops what is about to be written again.

        It drops all after `restored_step`, and the closing evaluation at it.
        Where there are several processes, only that of the first writes.

        Args:
          workdir: the run's folder.
          restored_step: the step that training goes on from.
          tensorboard: write events too, where tensorboardX is installed.
        """
        self._path = workdir / "metrics.jsonl"
        self._events = None
        self._is_first = jax.process_index() == 0
        if not self._is_first:
            return
        self._forget_after(restored_step)
        if tensorboard and importlib.util.find_spec("tensorboardX"):
            import tensorboardX

            self._events = tensorboardX.SummaryWriter(
                str(workdir / "tensorboard"), purge_step=restored_step + 1
            )

    def _forget_after(self, step: int) -> None:
        if not self._path.exists():
            return
        kept = [
            json.dumps(record) + "\n"
            for record in read_metrics(self._path.parent, skip_damaged=True)
            if record["step"] < step
            or (
                record["step"] == step
                and any(key.startswith("train/") for key in record)
            )
        ]
        storage.write_text(self._path, "".join(kept))

    def write(self, record: Mapping[str, Any]) -> None:
        """Appends one record, a flat mapping with a key `step`."""
        if not self._is_first:
            return
        line = to_json(record) + "\n"
        try:
            storage.append_text(self._path, line)
        except OSError as error:
            raise OSError(
                f"{self._path} cannot be written ({error.strerror}); make room"
                " or give access, then start the run again to go on from its"
                " latest checkpoint."
            ) from error
        if self._events is not None:
            for key, value in record.items():
                if "/" in key and isinstance(value, int | float):
                    self._events.add_scalar(key, value, record["step"])

    def close(self) -> None:
        """Flushes the events."""
        if self._events is not None:
            self._events.close()
