"""One job a workdir: a lock that ends with its process, however that ends.

What is locked is a file opened for writing, as network file systems that have
locks (NFS since Linux 2.6.12, Lustre mounted with `flock`, CephFS) pass on to
other hosts for files alone; a lock of a folder stays on its host. Where there
are no locks, as in buckets, mounted or behind gs://, two jobs are not told
apart.
"""

import contextlib
import os
import pathlib
import socket
from collections.abc import Iterator

import jax
import ml_collections
import numpy as np
from jax.experimental import multihost_utils

from aeent_jax.runtime import storage, workdir
from aeent_jax.runtime.checkpoint import lock


@contextlib.contextmanager
def claimed(
    directory: pathlib.Path, config: ml_collections.ConfigDict
) -> Iterator[None]:
    """Claims a workdir, and keeps other jobs out until the block ends.

    Of several processes of a job, the first keeps it for all.

    Args:
      directory: the run's folder; made where there is none.
      config: the resolved configuration.

    Raises:
      ValueError: the folder belongs to another configuration, or holds files
        but no run; nothing was changed.
      OSError: another job has it, and nothing was changed; or it cannot be
        written.
    """
    workdir.check(directory, config)
    with contextlib.ExitStack() as stack:
        refusal = None
        # A bucket has no locks, and no folder that would have to be made.
        if jax.process_index() == 0 and not storage.is_in_bucket(directory):
            try:
                stack.enter_context(_alone(directory))
            except OSError as error:
                refusal = error
        # Told to the others, which would wait for the first in vain.
        if multihost_utils.broadcast_one_to_all(np.int32(refusal is not None)):
            raise refusal or OSError(
                f"--workdir={directory} cannot be had, as the first process"
                " says; do what it asks for and start all processes again."
            )
        workdir.claim(directory, config)
        yield


@contextlib.contextmanager
def _alone(directory: pathlib.Path) -> Iterator[None]:
    try:
        directory.mkdir(parents=True, exist_ok=True)
        # The file stays: one that is removed can be locked by two.
        file = (directory / workdir.LOCK).open("a+")
    except OSError as error:
        raise OSError(
            f"--workdir={directory} cannot be written ({error.strerror}); give"
            " a folder that can."
        ) from error
    with file:
        if not lock.acquire(file.fileno()):
            file.seek(0)
            raise OSError(
                f"--workdir={directory} is in use by"
                f" {file.read().strip() or 'another job'}; wait for it or stop"
                " it, or give this run a workdir of its own."
            )
        # Who has it is for the sentence above alone, so that a full disk or a
        # name that has changed since harms nothing.
        with contextlib.suppress(OSError):
            file.truncate(0)
            file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
            file.flush()
        yield
