"""Reading many files: in threads, with every bad one named, and hashing them.

Hashes are kept in an index by path, size, modification and change time and
inode, so that a second start only asks the file system for these. The change
time cannot be set by a program, so a copy that keeps the modification time
is noticed too. An entry is trusted only if the file was already some seconds
old when it was hashed: a later write within the clock's resolution would
leave its times as they are.
"""

import concurrent.futures
import contextlib
import functools
import hashlib
import json
import os
import pathlib
import tempfile
import time
from collections.abc import Callable, Sequence
from typing import TypeVar

from absl import logging

K = TypeVar("K")
T = TypeVar("T")

MAX_LISTED = 5
_MAX_THREADS = 8
_SETTLED_SECONDS = 3.0
_PROGRESS_SECONDS = 10.0


class UnreadableFileError(ValueError):
    """One file that cannot be read; the message is `path: reason`."""


def read_many(read: Callable[[K], T], paths: Sequence[K]) -> list[T]:
    """Reads files in threads, in the order given, and names all bad ones.

    Args:
        read: reads one file; raises `UnreadableFileError` for a bad one.
        paths: the files, or what `read` knows them by.

    Returns:
        The results of `read`, in the order of `paths`.

    Raises:
        ValueError: some files cannot be read; the first few are named.
    """
    results, failures = read_each(read, paths)
    if failures:
        raise ValueError(describe_failures(failures, len(paths)))
    return [result for result in results if result is not None]


def read_each(
    read: Callable[[K], T], paths: Sequence[K]
) -> tuple[list[T | None], list[str]]:
    """As `read_many`, but returns None for a bad file, and the reasons."""

    def attempt(path: K) -> tuple[T | None, str]:
        try:
            return read(path), ""
        except UnreadableFileError as error:
            return None, str(error)

    outcomes = []
    last_report = time.monotonic()
    threads = min(_MAX_THREADS, os.cpu_count() or 1)
    with concurrent.futures.ThreadPoolExecutor(threads) as pool:
        for outcome in pool.map(attempt, paths):
            outcomes.append(outcome)
            if time.monotonic() - last_report > _PROGRESS_SECONDS:
                logging.info("Read %d of %d files.", len(outcomes), len(paths))
                last_report = time.monotonic()
    failures = [reason for _, reason in outcomes if reason]
    return [result for result, _ in outcomes], failures


def describe_failures(failures: Sequence[str], total: int) -> str:
    """One sentence that names the first few unreadable files."""
    named = "; ".join(failures[:MAX_LISTED])
    more = len(failures) - MAX_LISTED
    rest = f"; and {more} more" if more > 0 else ""
    return (
        f"{len(failures)} of {total} files cannot be read ({named}{rest}): "
        "remove or replace them."
    )


def first_names(names: Sequence[str]) -> str:
    """The first few names, for a message."""
    more = ", ..." if len(names) > MAX_LISTED else ""
    return ", ".join(names[:MAX_LISTED]) + more


def hash_file(path: pathlib.Path, *, algorithm: str = "sha256") -> str:
    """Returns a hash of a file's contents.

    Args:
        path: the file.
        algorithm: a name of `hashlib`.

    Raises:
        UnreadableFileError: the file is missing, not regular or not readable.
    """
    if not path.is_file():
        reason = "is no regular file" if path.exists() else "does not exist"
        raise UnreadableFileError(f"{path}: {reason}")
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, algorithm).hexdigest()
    except OSError as error:
        raise UnreadableFileError(f"{path}: {error.strerror}") from None


def hash_files(
    paths: Sequence[pathlib.Path],
    index_path: pathlib.Path | None = None,
    *,
    algorithm: str = "sha256",
) -> list[str]:
    """Returns a hash of each file, from the index where it is current.

    Args:
        paths: the files.
        index_path: a JSON file of earlier results, updated here; None to hash
            every file. An unreadable index counts as empty, and one that
            cannot be written is not kept. An index holds hashes of one
            algorithm.
        algorithm: as in `hash_file`.

    Returns:
        One digest a path, in order.

    Raises:
        ValueError: some files cannot be read; the first few are named.
    """
    index = {} if index_path is None else _read_index(index_path)
    states = [_state(path) for path in paths]
    known = {
        str(path): index[str(path)][1]
        for path, state in zip(paths, states, strict=True)
        if state is not None and index.get(str(path), [None])[0] == state
    }
    stale = [path for path in paths if str(path) not in known]
    now = time.time_ns()
    hash_one = functools.partial(hash_file, algorithm=algorithm)
    fresh = dict(zip(map(str, stale), read_many(hash_one, stale), strict=True))
    digests = {**known, **fresh}
    if index_path is not None and fresh:
        settled = now - int(_SETTLED_SECONDS * 1e9)
        entries = {
            str(path): [state, digests[str(path)]]
            for path, state in zip(paths, states, strict=True)
            if state is not None
            and (str(path) in known or max(state[1:3]) < settled)
        }
        # A cache that is only to be read keeps no index; that costs time only.
        with contextlib.suppress(OSError):
            write_json(index_path, {**index, **entries})
    return [digests[str(path)] for path in paths]


def _state(path: pathlib.Path) -> list[int] | None:
    """Size, modification and change time in ns, and inode of a file."""
    try:
        status = path.stat()
    except OSError:
        return None
    times = [status.st_mtime_ns, status.st_ctime_ns]
    return [status.st_size, *times, status.st_ino]


def _read_index(path: pathlib.Path) -> dict[str, list]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    if not isinstance(content, dict):
        return {}
    # Another version of this program may have written something else.
    return {
        path: entry
        for path, entry in content.items()
        if isinstance(entry, list) and len(entry) == 2
    }


def write_json(path: pathlib.Path, content: object):
    """Writes a JSON file so that readers see the old or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=".tmp-")
    try:
        with open(descriptor, "w", encoding="utf-8") as file:
            json.dump(content, file)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
