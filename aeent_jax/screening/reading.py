"""New images to the input of a network, and what is odd about them."""

import dataclasses
import hashlib
import itertools
import os
import pathlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import ml_collections
import numpy as np
import PIL.Image

from aeent_jax.data import catalog, files, images, layouts, medical, sources

# A list of paths is told from an image by its suffix.
_LISTS = (".txt", ".lst", ".list")
# An image with a side below this share of the network's says little.
_SMALL = 0.5


@dataclasses.dataclass(frozen=True)
class Prepared:
    """One frame of a file.

    Attributes:
      pixels: `[S, S, C]` uint8, the network's input.
      name: tells the frame from the others of its file; empty for the only one.
      volume: equal for the slices of one volume, which a series of DICOM files
        is too; empty for an image that is no slice.
      group: equal for frames of one patient, study, series or file.
      notes: what a reader of the score should know, as phrases.
      problem: why the frame is not scored, or empty.
    """

    pixels: np.ndarray
    name: str
    volume: str
    group: str
    notes: tuple[str, ...]
    problem: str


def find(paths: Sequence[str]) -> Iterator[pathlib.Path]:
    """Yields the files that a user named, each once, in order.

    Args:
      paths: files, folders (with their subfolders), and text files with one
        path per line, which starts at the text file's folder.

    Raises:
      FileNotFoundError: a path is not there.
    """
    seen = set()
    for path in _expand(paths):
        real = os.path.realpath(path)
        if real not in seen:
            seen.add(real)
            yield path


def _expand(paths: Sequence[str]) -> Iterator[pathlib.Path]:
    for text in paths:
        path = pathlib.Path(text).expanduser()
        if path.is_dir():
            yield from _below(path)
        elif not path.exists():
            raise FileNotFoundError(
                f"{path} does not exist; give files, folders, or text files"
                " with one path per line."
            )
        elif path.suffix.lower() in _LISTS:
            # A missing file of a long list is a row with its reason.
            yield from (path.parent / name for name in _read_list(path))
        else:
            yield path


def _below(folder: pathlib.Path) -> Iterator[pathlib.Path]:
    """Yields the images of a folder, and folders that cannot be listed."""
    try:
        yield from layouts.image_files(
            folder, recursive=True, on_unreadable=lambda path: [path]
        )
    except OSError:
        yield folder


def _read_list(path: pathlib.Path) -> list[str]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        text = "\0"
    if "\0" in text:
        raise ValueError(
            f"{path} is no list in UTF-8; save it as such, with one path per"
            " line."
        )
    return [line.strip() for line in text.splitlines() if line.strip()]


def read(
    path: pathlib.Path,
    config: ml_collections.ConfigDict,
    trained_on: Mapping[str, Any] | None = None,
) -> list[Prepared]:
    """Reads all frames of a file.

    Args:
      path: an image, DICOM or NIfTI file.
      config: of the network.
      trained_on: facts about the training images, `modalities` and
        `body_parts` among them.

    Returns:
      Its frames, at least one.

    Raises:
      files.UnreadableFileError: the file cannot be read.
    """
    group = config.data
    found = []
    if path.is_dir():
        raise files.UnreadableFileError(f"{path}: is a folder without access")
    for frame in _frames(path, config):
        pixels = images.to_network(
            frame, group.image_size, group.channels, group.resize
        )
        notes = (*frame.notes, *_odd(frame, config, trained_on or {}))
        found.append(
            Prepared(
                pixels,
                frame.name,
                frame.volume,
                frame.group,
                notes,
                frame.problem,
            )
        )
    if not found:
        raise files.UnreadableFileError(f"{path}: holds no image")
    return found


def frame_at(
    path: pathlib.Path, config: ml_collections.ConfigDict, number: int
) -> images.Frame:
    """Reads one frame of a file again, at its own resolution.

    Args:
      path: as of `read`.
      config: of the network.
      number: place of the frame in what `read` returns.

    Raises:
      files.UnreadableFileError: the file cannot be read any more.
    """
    return next(itertools.islice(_frames(path, config), number, None))


def _frames(path, config) -> Iterator[images.Frame]:
    window = config.data.window
    limits = sources.parse_window(window.split(",") if window else [])
    return images.frames(path, window=limits)


def _odd(frame: images.Frame, config, trained_on) -> Iterator[str]:
    """Yields what sets a frame apart from the training images."""
    for key, value, noun in (
        ("modalities", frame.modality, "modality"),
        ("body_parts", frame.body_part, "body part"),
    ):
        known = trained_on.get(key, ())
        if known and value and mark(value) not in known:
            yield f"is of another {noun} than the training images"
    if config.data.channels == 1 and frame.has_color:
        yield "has colour, and the network was trained on gray images"
    size = config.data.image_size
    if min(frame.size) < _SMALL * size:
        yield f"is much smaller than the {size} pixels that the network sees"


def mark(value: str) -> str:
    """A digest in place of a header's value, which no model file holds."""
    return hashlib.sha256(value.encode()).hexdigest()[:16]


def marks(values: Iterable[str]) -> list[str]:
    """Marks each value once, sorted; empty values have none."""
    return sorted({mark(v) for v in values if v})


def dicom_facts(
    config: ml_collections.ConfigDict,
) -> dict[str, images.Facts]:
    """Reads the headers of the normal DICOM files of a run.

    Args:
      config: of the network.

    Returns:
      Facts by the file's id in the data set; files of other formats, and those
      of the test split, have none.
    """
    name = config.data.name
    if catalog.get_entry(name).source == catalog.GENERATED:
        return {}
    return {
        record.id: describe(record.path)
        for record in sources.list_files(name, config.data.root).records
        if record.split != "test"
        and medical.sniff(record.path) == medical.DICOM
    }


def describe(path: pathlib.Path) -> images.Facts:
    """Reads the header of a DICOM file.

    Raises:
      files.UnreadableFileError: the file cannot be read.
      medical.MissingExtraError: the extra that reads DICOM is not installed.
    """
    medical.require(medical.DICOM, path)
    from aeent_jax.data import dicom

    return dicom.describe(path)


def to_image(values: np.ndarray) -> PIL.Image.Image:
    """Makes an image of `[H, W]` or `[H, W, 1 or 3]` uint8.

    Raises:
      ValueError: the array has another type or shape.
    """
    if values.ndim == 3 and values.shape[2] == 1:
        values = values[:, :, 0]
    fits = values.ndim == 2 or (values.ndim == 3 and values.shape[2] == 3)
    if values.dtype != np.uint8 or not fits:
        raise ValueError(
            f"an image is {values.dtype} {values.shape}, but must be uint8"
            " [H, W] or [H, W, 3]; scale it to 0..255 first."
        )
    return PIL.Image.fromarray(values)


def from_array(
    values: np.ndarray, config: ml_collections.ConfigDict
) -> np.ndarray:
    """Returns the network's input `[S, S, C]` of one array.

    Args:
      values: as `to_image` takes it.
      config: of the network.

    Raises:
      ValueError: the array has another type or shape.
    """
    group = config.data
    image = to_image(values)
    frame = images.Frame(image=image, size=image.size)
    return images.to_network(
        frame, group.image_size, group.channels, group.resize
    )
