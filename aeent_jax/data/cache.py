"""The user's cache folder: made, written to and tidied in one way.

Results that take long are made in a temporary folder beside their place and
renamed when they are complete. A killed process leaves nothing that could be
mistaken for a whole result; its remains are removed once they are a day old.
"""

import contextlib
import pathlib
import shutil
import tempfile
import time
from collections.abc import Iterator

from aeent_jax.runtime import storage

MARK = ".tmp-"
ABANDONED_SECONDS = 24 * 3600.0


def find_dir(cache_dir: str) -> pathlib.Path:
    """Returns the folder that is meant; empty for the user's cache folder.

    Raises:
        ValueError: it is in a bucket.
        OSError: it is empty, and the user has no home folder.
    """
    if not cache_dir:
        return storage.cache_folder()
    return storage.disk_path("cache_dir", cache_dir)


@contextlib.contextmanager
def temporary_folder(parent: pathlib.Path) -> Iterator[pathlib.Path]:
    """Makes a folder to work in, which is gone afterwards.

    Args:
        parent: a folder of the cache, made where it is missing.

    Yields:
        The folder, on the same file system as its parent.

    Raises:
        OSError: the parent cannot be written.
    """
    _make_folder(parent)
    _remove_abandoned(parent)
    temporary = pathlib.Path(tempfile.mkdtemp(dir=parent, prefix=MARK))
    try:
        yield temporary
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _make_folder(folder: pathlib.Path):
    """Makes a folder of the cache, and shows that it can be written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise OSError(
            f"the cache folder {folder} cannot be written ({error.strerror}); "
            "choose another one as cache_dir."
        ) from None


def _remove_abandoned(folder: pathlib.Path):
    """Removes what killed processes left, once no one can be at work."""
    for entry in folder.glob(f"{MARK}*"):
        try:
            age = time.time() - entry.stat().st_mtime
        except FileNotFoundError:
            continue
        if age > ABANDONED_SECONDS:
            shutil.rmtree(entry, ignore_errors=True)
