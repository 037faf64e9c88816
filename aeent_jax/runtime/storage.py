"""Folders on disk and in buckets: where text becomes a path.

A path on disk is a `pathlib.Path`. A path that begins with gs:// is an
`etils.epath.Path`, which has the same methods over `gcsfs`. (On disk that class
would take /gs/x for gs://x, and opens no file to read and append.) This module
hides three differences of a bucket:

  An object is written whole or not at all, and nothing can be appended to it.
  So a file that is renamed into place on disk is written directly in a bucket,
  and adding a line to a small object writes the object anew.
  There are no folders, only names with slashes, so none has to be made.
  There are no locks, so two jobs in one workdir are not told apart.
"""

import contextlib
import errno
import functools
import importlib.util
import logging
import os
import pathlib
import re
from collections.abc import Iterator
from typing import cast

from etils import epath

# A shell or pathlib can make gs:/bucket of gs://bucket.
_ADDRESS = re.compile(r"gs:|[A-Za-z][A-Za-z0-9+.-]*://")
_IN_BUCKET = re.compile(r"gs://([^/]+)(/.*)?")
_PATTERN = re.compile(r"[*?\[\]#]")
# Packages whose errors are those of the network and of access.
_NETWORK = ("aiohttp", "gcsfs", "google", "requests", "urllib3")


def to_path(place: str | os.PathLike[str]) -> pathlib.Path:
    """Makes text a path, on disk or in a bucket.

    Args:
      place: a path, or `gs://BUCKET/FOLDER`.

    Returns:
      The path, with the home folder for ~. In a bucket it is an `epath.Path`,
      which is no `pathlib.Path` but has the methods that are used here.

    Raises:
      ValueError: the text is an address of another kind, gcsfs is not
        installed, or there is no home folder for ~.
      OSError: the bucket cannot be opened.
    """
    text = os.fspath(place)
    if not _ADDRESS.match(text):
        return _expand(pathlib.Path(place))
    found = _IN_BUCKET.fullmatch(text)
    if not found:
        raise ValueError(
            f"{text} is neither a path on disk nor in a bucket of Google Cloud"
            " Storage; give DIR or gs://BUCKET/DIR."
        )
    if _PATTERN.search(text):
        # To remove such a folder would remove all that fits the pattern.
        raise ValueError(
            f"{text} has one of *?[]# in it, which gcsfs reads as a pattern;"
            " give another name."
        )
    _open_bucket(found[1])
    return cast(pathlib.Path, epath.Path(text))


def _expand(path: pathlib.Path) -> pathlib.Path:
    """Shells leave the ~ of --workdir=~/run as it is."""
    try:
        return path.expanduser()
    except RuntimeError as error:
        raise ValueError(
            f"{path} begins with ~, but its user has no home folder here; give"
            " a path without ~."
        ) from error


def disk_path(name: str, place: str | os.PathLike[str]) -> pathlib.Path:
    """As `to_path`, of what must be on disk.

    Args:
      name: what the user calls it, such as `--out`.
      place: a path.

    Raises:
      ValueError: it is in a bucket, or there is no home folder for ~.
    """
    refuse_bucket(name, place)
    return _expand(pathlib.Path(place))


def cache_folder() -> pathlib.Path:
    """The user's cache folder of this project (XDG), which need not exist.

    Raises:
      OSError: the user has no home folder, as in a container that runs under a
        number without a name.
    """
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    try:
        return pathlib.Path(base).expanduser() / "aeent_jax"
    except RuntimeError as error:
        raise OSError(
            "This user has no home folder to keep prepared copies in; set"
            " --config.data.cache_dir (or --cache_dir of `aeent data`) or the"
            " environment variable XDG_CACHE_HOME to a folder that can be"
            " written."
        ) from error


def absolute(place: str | os.PathLike[str]) -> pathlib.Path:
    """As `to_path`; a path on disk is made absolute."""
    path = to_path(place)
    return path if is_in_bucket(path) else path.absolute()


def is_in_bucket(place: str | os.PathLike[str]) -> bool:
    """Whether a path, or the text of one, is in a bucket."""
    return bool(_ADDRESS.match(os.fspath(place)))


def refuse_bucket(name: str, place: str | os.PathLike[str]) -> None:
    """Refuses a place in a bucket where only the disk will do.

    Args:
      name: what the user calls it, such as `--out`.
      place: a path.

    Raises:
      ValueError: the place is in a bucket.
    """
    if is_in_bucket(place):
        raise ValueError(
            f"{name} is {os.fspath(place)}, but must be a path on disk; give"
            " one, since only the workdirs of runs can be in a bucket."
        )


def names_in(folder: pathlib.Path) -> set[str]:
    """The names of the files and folders in a folder.

    Google's console marks a new folder of a bucket by an empty object, which
    gcsfs lists as if it were inside; it is left out.
    """
    names = {path.name for path in folder.iterdir()}
    own = folder.name
    if is_in_bucket(folder) and own in names and not (folder / own).exists():
        names.remove(own)
    return names


def check_reachable(path: pathlib.Path) -> None:
    """Tells a bucket that does not answer from a damaged file in it.

    Args:
      path: a small file; a file on disk is not looked at.

    Raises:
      OSError: the file exists in a bucket, and cannot be read.
    """
    if not is_in_bucket(path):
        return
    try:
        path.read_bytes()
    except FileNotFoundError:
        return
    except Exception as error:
        raise OSError(
            f"{path} cannot be read ({_reason(error)}); see to the network and"
            " to access, then start again."
        ) from error


def network_failure(error: Exception) -> str | None:
    """A sentence for an error of a bucket that is none of the system's.

    Args:
      error: whatever was raised.

    Returns:
      The failure and what to do; None for an error of another kind.
    """
    if type(error).__module__.split(".")[0] not in _NETWORK:
        return None
    return (
        f"a bucket cannot be read or written ({_reason(error)}); see to the"
        " network and to access, then start again."
    )


def write_text(path: pathlib.Path, text: str) -> None:
    """Writes a file so that a killed process leaves the old or the new one.

    Raises:
      OSError: the file cannot be written; `strerror` says why.
    """
    if is_in_bucket(path):
        with _telling_why():
            path.write_text(text)
        return
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text)
    os.replace(partial, path)


def append_text(path: pathlib.Path, text: str) -> None:
    """Appends to a small file, made where there is none.

    Raises:
      OSError: the file cannot be written; `strerror` says why.
    """
    if is_in_bucket(path):
        with _telling_why():
            before = path.read_text() if path.exists() else ""
            path.write_text(before + text)
        return
    with path.open("a") as file:
        file.write(text)


@contextlib.contextmanager
def _telling_why() -> Iterator[None]:
    """Turns any error of gcsfs or the network into an OSError with a reason."""
    try:
        yield
    except Exception as error:
        raise OSError(errno.EIO, _reason(error)) from error


def _reason(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text[:200] or type(error).__name__


@functools.cache
def _open_bucket(bucket: str) -> None:
    """Checks that a bucket exists, before gcsfs and Orbax use it."""
    if importlib.util.find_spec("gcsfs") is None:
        raise ValueError(
            f"gs://{bucket} needs gcsfs, which is not installed; pip install"
            " 'aeent-jax[gcs]' brings it."
        )
    import fsspec
    from google import auth
    from google.api_core import exceptions
    from google.cloud import storage

    # They log the errors that they raise, some at every request.
    for name in ("fsspec", "gcsfs", "google.auth"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    # Where TensorFlow is installed, epath would use it in place of gcsfs.
    os.environ.setdefault("EPATH_USE_TF", "false")
    # Cached listings would miss the files that TensorStore, other processes and
    # other jobs write.
    fsspec.config.conf.setdefault("gcs", {})["use_listings_cache"] = False
    try:
        # Orbax asks for the same, to know the kind of the bucket.
        storage.Client().get_bucket(bucket)
    except exceptions.NotFound:
        raise OSError(
            f"There is no bucket gs://{bucket}; make it, or correct its name."
        ) from None
    except (exceptions.Forbidden, exceptions.Unauthorized) as error:
        raise OSError(
            f"The bucket gs://{bucket} is closed to this account"
            f" ({_reason(error)}); give it the roles Storage Object Admin and"
            " Storage Legacy Bucket Reader."
        ) from error
    except auth.exceptions.DefaultCredentialsError as error:
        raise OSError(
            f"gs://{bucket} needs credentials of Google Cloud, and none are"
            " found; run gcloud auth application-default login, or give this"
            " machine a service account."
        ) from error
    except Exception as error:
        raise OSError(
            f"The bucket gs://{bucket} cannot be reached ({_reason(error)});"
            " see to the network, then start again."
        ) from error
