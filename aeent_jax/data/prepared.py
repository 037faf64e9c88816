"""The prepared copy of a data set: made once, found again by its contents.

A copy lives in `<cache_dir>/prepared/<name>-<key>`. The key is a hash of
everything that decides its contents: the name, ids, splits, labels and file
contents (or the phantoms' seed and code), image size, channels, window, and
the code and library that decode. So two folders never share a copy, and a
changed folder gets a new one.

A copy is made in a temporary folder and renamed when it is complete: a killed
preparation leaves nothing that could be mistaken for a copy, and of two
concurrent ones the first to finish counts. A manifest holds the hash of every
file of the copy; a copy that no longer fits it is made again.

    <cache_dir>/prepared/
        .tmp-<random>/           one preparation at work; gone when it ends
            <name>-<key>/        its copy, renamed in one step once it is whole
            damaged/             a copy that no longer fitted its manifest
        <name>-<key>/            a whole copy
            manifest.json        sha256 of each file below, written last
            <name>/<version>/    records, see `builders`

Images beyond a budget stay in the files of the copy and are read as they are
needed. Nothing else of a start depends on that.
"""

import hashlib
import importlib.metadata
import json
import math
import os
import pathlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import PIL
from absl import logging

from aeent_jax.data import (
    archives,
    cache,
    catalog,
    dataset,
    files,
    sources,
)

_MANIFEST = "manifest.json"
_READING = (
    *("builders.py", "dicom*.py", "frame.py", "gray.py", "images.py"),
    *("masks.py", "medical.py", "nifti.py", "sources.py"),
)
_DRAWING = ("builders.py", "phantoms/*.py", "sources.py")


class DamagedError(Exception):
    """A prepared copy does not fit its manifest."""


class Prepared(NamedTuple):
    """A data set and its prepared copy.

    Attributes:
        path: the folder of the copy.
        splits: its contents.
        reused: whether the copy was there already.
    """

    path: pathlib.Path
    splits: dict[str, dataset.Split]
    reused: bool


def prepare(
    name: str,
    spec: sources.Spec,
    *,
    root: str = "",
    cache_dir: str = "",
    memory_budget: float = math.inf,
) -> Prepared:
    """Reads the prepared copy of a data set, and makes it if needed.

    Args:
        name: a name of the catalog.
        spec: how the images are made.
        root: the user's folder, or the benchmark's archive or the folder that
            holds it, see `archives.unpack`; must be empty for generated data
            sets.
        cache_dir: where copies are kept; empty for the user's cache folder.
        memory_budget: bytes that the images may take; if they take more, they
            stay in the files of the copy, see `stored`.

    Returns:
        The copy.

    Raises:
        ValueError: the folder, its images or the archive cannot be used.
        FileNotFoundError: the folder, or some of its files, are missing.
        OSError: the cache folder cannot be written.
    """
    base = cache.find_dir(cache_dir)
    root = archives.unpack(name, root, base)
    path = base / "prepared" / f"{name}-{_key(name, spec, root, base)}"
    if path.exists():
        try:
            splits = _read(path, name, spec, memory_budget)
            return Prepared(path, splits, reused=True)
        except DamagedError as error:
            logging.warning("%s; making it again.", error)
    logging.info("Preparing %s in %s.", name, path)
    _make(path, name, spec, root, base)
    splits = _read(path, name, spec, memory_budget)
    return Prepared(path, splits, reused=False)


def _key(
    name: str, spec: sources.Spec, root: str, cache_dir: pathlib.Path
) -> str:
    """Hashes what decides the contents of a copy."""
    parts: list[object] = [name, spec.image_size, spec.channels]
    if catalog.get_entry(name).source == catalog.GENERATED:
        if root:
            raise ValueError(
                f"{name} is generated and reads no folder, but data.root is "
                f"{root}; leave it empty, or choose the name folder."
            )
        parts += [spec.phantom_seed, np.__version__, _hash_code(_DRAWING)]
    else:
        parts += [spec.window, spec.resize]
        parts += [PIL.__version__, _hash_code(_READING)]
        parts += _hash_contents(name, root, cache_dir)
    parts.append(importlib.metadata.version("tensorflow-datasets"))
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:24]


def _hash_code(patterns: Sequence[str]) -> list[str]:
    """Hashes the modules that make the pixels, so that no version is kept."""
    folder = pathlib.Path(__file__).parent
    paths = sorted(p for pattern in patterns for p in folder.glob(pattern))
    return [files.hash_file(path) for path in paths]


def _hash_contents(
    name: str, root: str, cache_dir: pathlib.Path
) -> list[tuple[str, ...]]:
    """Returns (id, split, label, image hash, mask hash) of each image."""
    listing = sources.list_files(name, root)
    sources.check_counts(name, listing)
    owner = hashlib.sha256(os.fsencode(listing.root)).hexdigest()[:24]
    paths = [r.path for r in listing.records]
    masks = [r.mask for r in listing.records if r.mask is not None]
    index = cache_dir / "index" / f"{owner}.json"
    hashes = files.hash_files(paths + masks, index)
    mask_hashes = iter(hashes[len(paths) :])
    return [
        (
            record.id,
            record.split,
            str(record.label),
            image_hash,
            "" if record.mask is None else next(mask_hashes),
        )
        for record, image_hash in zip(listing.records, hashes, strict=False)
    ]


def _make(
    path: pathlib.Path,
    name: str,
    spec: sources.Spec,
    root: str,
    cache_dir: pathlib.Path,
):
    """Makes a copy in a temporary folder, and gives it its name when whole."""
    # TFDS is imported when used, so that commands start soon.
    from aeent_jax.data import builders

    with cache.temporary_folder(path.parent) as temporary:
        copy = temporary / path.name
        copy.mkdir()
        builders.write(name, spec, root=root, data_dir=copy)
        if path.name != f"{name}-{_key(name, spec, root, cache_dir)}":
            raise ValueError(
                f"files in {root} changed while {name} was made from them; "
                "start again when they are complete."
            )
        _write_manifest(copy)
        _publish(copy, path, temporary / "damaged")


def _publish(copy: pathlib.Path, path: pathlib.Path, aside: pathlib.Path):
    """Renames a whole copy to `path`, unless a whole one is there already."""
    try:
        os.rename(copy, path)
    except OSError:
        if not path.exists():
            raise
        try:
            _verify(path)
        except DamagedError:
            os.rename(path, aside)
            os.rename(copy, path)


def _write_manifest(copy: pathlib.Path):
    paths = sorted(p for p in copy.rglob("*") if p.is_file())
    names = [path.relative_to(copy).as_posix() for path in paths]
    hashes = files.hash_files(paths)
    files.write_json(copy / _MANIFEST, dict(zip(names, hashes, strict=True)))


def _verify(path: pathlib.Path):
    """Raises DamagedError where a copy does not fit its manifest."""
    manifest = path / _MANIFEST
    try:
        expected = json.loads(manifest.read_text(encoding="utf-8"))
        found = files.hash_files([path / name for name in expected])
    except (OSError, ValueError) as error:
        raise DamagedError(f"the prepared copy {path}: {error}") from None
    if found != list(expected.values()):
        raise DamagedError(f"the prepared copy {path} has changed contents")


def _read(
    path: pathlib.Path, name: str, spec: sources.Spec, memory_budget: float
) -> dict[str, dataset.Split]:
    from aeent_jax.data import builders

    _verify(path)
    return builders.read(name, spec, data_dir=path, memory_budget=memory_budget)
