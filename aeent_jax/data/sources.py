"""Where the images of a data set come from, by its name in the catalog."""

import dataclasses
import math
import os
import pathlib
import tempfile
from collections.abc import Sequence

import numpy as np

from aeent_jax.data import (
    benchmark,
    catalog,
    dataset,
    files,
    images,
    layouts,
    originals,
    phantoms,
)

_MAX_IMAGE_SIZE = 4096


@dataclasses.dataclass(frozen=True)
class Spec:
    """How the images of a data set are made.

    Attributes:
        image_size: side S of the square images in pixels.
        channels: 1 gray, 3 RGB.
        window: values (low, high) of images of more than 8 bits that become 0
            and 255; None for the full 16-bit range. See `images.read_image`.
        phantom_seed: which draw of a generated data set; results are reported
            on 0.
    """

    image_size: int = 64
    channels: int = 1
    window: images.Window | None = None
    phantom_seed: int = 0

    def __post_init__(self):
        if not 1 <= self.image_size <= _MAX_IMAGE_SIZE:
            raise ValueError(
                f"the image size must be 1 to {_MAX_IMAGE_SIZE} pixels, found "
                f"{self.image_size}."
            )
        if self.channels not in (1, 3):
            raise ValueError(
                "images have 1 channel (gray) or 3 (RGB), found "
                f"{self.channels}."
            )
        if self.window is not None and not (
            -math.inf < self.window[0] < self.window[1] < math.inf
        ):
            raise ValueError(
                "the window must be two finite values, the lower one first, "
                f"found {self.window}."
            )


def parse_window(values: Sequence[str]) -> images.Window | None:
    """Reads a window from the command line.

    Args:
        values: none, or a low and a high value.

    Returns:
        The window, or None for the full 16-bit range.

    Raises:
        ValueError: there are not two values, or they are no numbers.
    """
    if not values:
        return None
    try:
        low, high = map(float, values)
    except ValueError:
        raise ValueError(
            "the window must be two numbers, as in 0,4095, found "
            f"{','.join(values)}."
        ) from None
    return low, high


def list_files(name: str, root: str | os.PathLike) -> layouts.Listing:
    """Lists the files of a data set that is read from a folder.

    Args:
        name: a name of the catalog whose source is not generated.
        root: the user's folder.

    Returns:
        The listing; see `check_counts`.

    Raises:
        FileNotFoundError: the folder, or some of its files, are missing.
        ValueError: the folder does not hold this data set.
    """
    entry = catalog.get_entry(name)
    if entry.source == catalog.GENERATED:
        raise ValueError(f"{name} is generated, and there are no files of it.")
    if not str(root):
        raise ValueError(
            f"{name} is read from a folder, and none is given; set data.root, "
            f"or --root of aeent data ({entry.obtain})."
        )
    folder = pathlib.Path(root).expanduser().absolute()
    if entry.source == catalog.FOLDER:
        return layouts.read_listing(folder)
    if not folder.is_dir():
        raise FileNotFoundError(
            f"{name} is read from a folder, and {folder} is none; get it from "
            f"{entry.obtain}."
        )
    if entry.source == catalog.ORIGINAL:
        if (folder / "data.json").exists():
            return layouts.read_listing(folder)
        return originals.read_listing(name, folder)
    found = benchmark.find_folder(name, folder)
    if found is None:
        raise FileNotFoundError(
            f"{name} needs {catalog.SOURCES[entry.source]}, in {folder} or in "
            f"{entry.folder} there; get and unpack {entry.obtain}."
        )
    return benchmark.read_listing(name, found)


def count(listing: layouts.Listing) -> dict[tuple[str, int], int]:
    """Returns the number of images of each (split, label) that occurs."""
    counts: dict[tuple[str, int], int] = {}
    for record in listing.records:
        key = (record.split, record.label)
        counts[key] = counts.get(key, 0) + 1
    return counts


def check_counts(name: str, listing: layouts.Listing):
    """Refuses a set that is not the published one: its results would not be.

    Args:
        name: a name of the catalog.
        listing: what the user's folder holds.

    Raises:
        ValueError: the catalog states other counts.
    """
    expected = catalog.get_entry(name).counts
    keys = (("train", 0), ("test", 0), ("test", 1))
    found = tuple(count(listing).get(key, 0) for key in keys)
    if expected is not None and found != expected:
        raise ValueError(
            f"{name} has {expected[0]} training images and {expected[1]} "
            f"normal and {expected[2]} abnormal test images, found "
            f"{found[0]}, {found[1]} and {found[2]} in {listing.root}; "
            "complete the download, or use the name folder for a set of your "
            "own."
        )


def read_files(
    listing: layouts.Listing,
    spec: Spec,
    *,
    scratch: pathlib.Path | None = None,
) -> dict[str, dataset.Split]:
    """Decodes the files of a listing.

    Args:
        listing: what to read.
        spec: how the images are made.
        scratch: a folder in which a file without a name holds the pixels as
            long as they are used, so that they need no memory; None keeps them
            in memory.

    Returns:
        The splits that have images; masks only in "test", if at all.

    Raises:
        ValueError: files cannot be read, or masks are of another shape than
            their images; the first few of all are named.
    """
    records = listing.records
    shape = (len(records), spec.image_size, spec.image_size, spec.channels)
    # Those of one split are neighbours.
    order = sorted(
        range(len(records)),
        key=lambda i: dataset.SPLITS.index(records[i].split),
    )
    row_of = {i: row for row, i in enumerate(order)}
    pixels = _make_pixels(shape, scratch)

    def read(i: int) -> tuple[float | None, tuple[int, int]]:
        found = images.read_image(
            records[i].path,
            image_size=spec.image_size,
            channels=spec.channels,
            window=spec.window,
        )
        pixels[row_of[i]] = found.pixels
        return found.wide_max, found.size

    found = files.read_many(read, range(len(records)))
    images.check_window([wide_max for wide_max, _ in found], spec.window)
    splits = {}
    for split in dataset.SPLITS:
        rows = [i for i in order if records[i].split == split]
        if not rows:
            continue
        chosen = [records[i] for i in rows]
        begin = row_of[rows[0]]
        splits[split] = dataset.Split(
            images=pixels[begin : begin + len(rows)],
            labels=np.array([r.label for r in chosen], np.int32),
            masks=_read_masks(
                listing,
                chosen,
                [found[i][1] for i in rows],
                spec.image_size,
            ),
            ids=tuple(r.id for r in chosen),
        )
    return splits


def _make_pixels(
    shape: tuple[int, ...], scratch: pathlib.Path | None
) -> np.ndarray:
    """An array of uint8, in memory or in a file that is gone with it."""
    if scratch is None:
        return np.empty(shape, np.uint8)
    with tempfile.TemporaryFile(dir=scratch) as file:
        return np.memmap(file, np.uint8, "w+", shape=shape)


def _read_masks(
    listing: layouts.Listing,
    records: list[layouts.Record],
    sizes: list[tuple[int, int]],
    image_size: int,
) -> np.ndarray | None:
    """Reads the masks [N, S, S] of test images; without a file it is empty."""
    if not listing.has_masks or records[0].split != "test":
        return None

    size_of = {r.mask: size for r, size in zip(records, sizes, strict=True)}

    def read(path: pathlib.Path) -> np.ndarray:
        return images.read_mask(path, image_size=image_size, like=size_of[path])

    rows = [i for i, record in enumerate(records) if record.mask is not None]
    paths = [record.mask for record in records if record.mask is not None]
    masks = np.zeros((len(records), image_size, image_size), bool)
    for row, mask in zip(rows, files.read_many(read, paths), strict=True):
        masks[row] = mask
    marked = [
        record.id
        for record, mask in zip(records, masks, strict=True)
        if record.label == dataset.NORMAL and mask.any()
    ]
    if marked:
        raise ValueError(
            f"{len(marked)} normal images have a mask that is not empty "
            f"({files.first_names(marked)}): move them to test/abnormal, or "
            "remove their masks."
        )
    return masks


def draw_phantoms(name: str, spec: Spec) -> dict[str, dataset.Split]:
    """Draws a generated data set.

    Args:
        name: a name of the catalog whose source is generated.
        spec: how the images are made; RGB has three equal channels.

    Returns:
        The splits "train" and "test", the latter with masks.
    """
    splits = {}
    for split in ("train", "test"):
        drawn = phantoms.generate(
            name, split, image_size=spec.image_size, seed=spec.phantom_seed
        )
        splits[split] = dataset.Split(
            images=np.repeat(drawn.images, spec.channels, axis=-1),
            labels=drawn.labels,
            masks=drawn.masks if split == "test" else None,
            ids=tuple(drawn.ids),
        )
    return splits
