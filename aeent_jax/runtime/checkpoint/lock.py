"""One writer a directory: a lock that leaves nothing behind.

The directory itself is locked, without a file of its own, and the system frees
the lock when the process ends, however it ends.
"""

import fcntl
import os
import pathlib
import weakref


def hold(directory: pathlib.Path, owner: object) -> weakref.finalize:
    """Locks a directory until the result is called, or its owner is gone.

    Where the file system has no locks, as on some network mounts, there is
    none.

    Args:
      directory: a folder that exists.
      owner: what the lock lives as long as.

    Returns:
      A function that frees the lock; calling it again does nothing.

    Raises:
      OSError: the directory is locked, by this or another process.
    """
    descriptor = os.open(directory, os.O_RDONLY)
    release = weakref.finalize(owner, os.close, descriptor)
    if not acquire(descriptor):
        release()
        raise OSError(
            f"{directory} is being written by a run that has not ended; wait"
            " for it or stop it, or give this run a workdir of its own."
        )
    return release


def acquire(descriptor: int) -> bool:
    """Locks an open file or folder until it is closed, without waiting.

    Args:
      descriptor: of the file.

    Returns:
      False where it is locked; True also where the file system has no locks.
    """
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True
