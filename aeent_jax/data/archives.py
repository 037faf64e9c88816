"""The benchmark's archives: verified, and unpacked once into the cache.

An archive is used only if its md5 is the published one. It is unpacked by
Python's filter for data, which refuses what would be written or would point
outside the folder, and devices. Its folder is named after the md5, so that
another edition never takes its place.
"""

import os
import pathlib
import sys
import tarfile

from absl import logging

from aeent_jax.data import benchmark, cache, catalog, files
from aeent_jax.runtime import storage

_FILTER_SINCE = (3, 11, 4)


def unpack(name: str, root: str, cache_dir: pathlib.Path) -> str:
    """Returns the folder to read, and unpacks an archive where it must.

    Args:
        name: a name of the catalog.
        root: the user's folder, the archive, or the folder that holds it.
        cache_dir: the cache folder, to whose `unpacked` it is unpacked.

    Returns:
        `root` as it is, where the data set is there unpacked or where there
        is no archive; else the folder that the archive was unpacked to.

    Raises:
        ValueError: the archive is not the published one, or is not safe, or
            the root is in a bucket.
        OSError: the cache folder cannot be written.
    """
    storage.refuse_bucket("data.root", root)
    entry = catalog.get_entry(name)
    if not entry.md5 or not root:
        return root
    given = pathlib.Path(root).expanduser().absolute()
    archive = given if given.is_file() else given / f"{entry.folder}.tar.gz"
    if not archive.is_file() or benchmark.find_folder(name, given):
        return root
    _verify(entry, archive, cache_dir / "index" / "archives.json")
    place = cache_dir / "unpacked" / f"{entry.folder}-{entry.md5}"
    if not place.exists():
        _extract(archive, place)
    return str(place)


def _verify(entry: catalog.Entry, archive: pathlib.Path, index: pathlib.Path):
    """Refuses an archive of another md5; the index saves a second reading."""
    (found,) = files.hash_files([archive], index, algorithm="md5")
    if found != entry.md5:
        raise ValueError(
            f"{archive} has the md5 {found}, where {entry.obtain} is needed; "
            "download it again, or unpack it yourself and point data.root at "
            "the folder."
        )


def _extract(archive: pathlib.Path, place: pathlib.Path):
    """Unpacks into a temporary folder, and gives it its name when whole."""
    if sys.version_info < _FILTER_SINCE:
        raise ValueError(
            f"Python before {'.'.join(map(str, _FILTER_SINCE))} cannot unpack "
            f"{archive} safely; unpack it yourself, and point data.root at the "
            "folder."
        )
    logging.info("Unpacking %s in %s.", archive, place)
    with cache.temporary_folder(place.parent) as temporary:
        content = temporary / place.name
        try:
            with tarfile.open(archive) as tar:
                tar.extractall(content, filter="data")
        except tarfile.TarError as error:
            raise ValueError(
                f"{archive} cannot be unpacked safely ({error}); get it from "
                "its publisher."
            ) from None
        try:
            os.rename(content, place)
        except OSError:
            # If two processes unpack at once, the first to finish counts.
            if not place.exists():
                raise
