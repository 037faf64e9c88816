"""Where the images of a data set come from, by its name in the catalog."""

import dataclasses
import math
import os
import pathlib
import tempfile
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from aeent_jax.data import (
    benchmark,
    catalog,
    dataset,
    files,
    frame,
    gray,
    images,
    layouts,
    originals,
    phantoms,
)
from aeent_jax.data import masks as masks_lib

_MAX_IMAGE_SIZE = 4096


@dataclasses.dataclass(frozen=True)
class Spec:
    """How the images of a data set are made.

    Attributes:
        image_size: side S of the square images in pixels.
        channels: 1 gray, 3 RGB.
        window: values (low, high) of images of more than 8 bits that become 0
            and 255; None for the window of the file, or the full 16-bit range.
            See `images.frames`.
        phantom_seed: which draw of a generated data set; results are reported
            on 0.
        resize: a name of `images.RESIZES`: how images that are not square are
            made so.
    """

    image_size: int = 64
    channels: int = 1
    window: images.Window | None = None
    phantom_seed: int = 0
    resize: str = images.STRETCH

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
        if self.resize not in images.RESIZES:
            raise ValueError(
                f"images are made square by {' or '.join(images.RESIZES)}, "
                f"found {self.resize!r}."
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
        ValueError: files cannot be read, need a window, or masks do not fit
            their images; the first few of all are named.
    """
    row_of = _find_places(listing.records)
    side = spec.image_size
    pixels = _make_pixels((len(row_of), side, side, spec.channels), scratch)
    items: list[Item | None] = [None] * len(row_of)

    def read(record: layouts.Record):
        for shown in images.frames(record.path, window=spec.window):
            row = row_of[record.id, shown.name]
            pixels[row] = images.to_network(
                shown, side, spec.channels, spec.resize
            )
            items[row] = Item(record, shown.facts)

    files.read_many(read, listing.records)
    # Empty slices of volumes have left rows without an image.
    kept = [(row, item) for row, item in enumerate(items) if item is not None]
    for new, (old, _) in enumerate(kept):
        if new != old:
            pixels[new] = pixels[old]
    found = [item for _, item in kept]
    refuse_problems(found)
    return _make_splits(listing, spec, found, pixels)


class Item(NamedTuple):
    """One image of a file of a listing.

    Attributes:
        record: the file.
        facts: what is known of the image.
    """

    record: layouts.Record
    facts: images.Facts

    @property
    def id(self) -> str:
        """The image's name in the data set."""
        return _image_id(self.record, self.facts.name)


def _image_id(record: layouts.Record, name: str) -> str:
    return f"{record.id}#{name}" if name else record.id


def _find_places(
    records: Sequence[layouts.Record],
) -> dict[tuple[str, str], int]:
    """Gives a row to each (record.id, name), by split and then by id."""
    names = files.read_many(images.names, [r.path for r in records])
    places = [
        (dataset.SPLITS.index(record.split), _image_id(record, name), key)
        for record, own in zip(records, names, strict=True)
        for name, key in ((name, (record.id, name)) for name in own)
    ]
    return {key: row for row, (_, _, key) in enumerate(sorted(places))}


def refuse_problems(items: Sequence[Item]):
    """Refuses images that should not be used as they are.

    Raises:
        ValueError: some have a problem; the first few are named, and where a
            window would solve it, one is proposed.
    """
    sentence = describe_problems(items)
    if sentence:
        raise ValueError(sentence)


def describe_problems(items: Sequence[Item]) -> str:
    """One sentence on the images with a problem, or an empty text."""
    affected = [item for item in items if item.facts.problem]
    if not affected:
        return ""
    advice = frame.STATE_WINDOW  # It follows once for all.
    named = [
        f"{item.id} {item.facts.problem.removesuffix(advice)}"
        for item in affected
    ]
    text = (
        f"{len(affected)} of {len(items)} images should not be used as they "
        f"are ({files.first_names(named)})"
    )
    ranges = [i.facts.bulk for i in affected if i.facts.needs_window]
    if not ranges:
        return f"{text}: remove or replace them."
    return (
        f"{text}: state the window of all as data.window, or --window of "
        f"aeent data, for example {gray.advise(ranges)}."
    )


def _make_splits(
    listing: layouts.Listing,
    spec: Spec,
    items: list[Item],
    pixels: np.ndarray,
) -> dict[str, dataset.Split]:
    """Cuts the rows of all images, which are sorted, into splits."""
    splits = {}
    # Tokens of groups change from process to process; their order does not.
    number_of: dict[str, int] = {}
    for item in items:
        number_of.setdefault(item.facts.group, len(number_of))
    is_grouped = len(number_of) < len(items)
    for split in dataset.SPLITS:
        rows = [i for i, item in enumerate(items) if item.record.split == split]
        if not rows:
            continue
        chosen = [items[i] for i in rows]
        labels = np.array([i.record.label for i in chosen], np.int32)
        masks, marked = _read_masks(listing, chosen, spec)
        splits[split] = dataset.Split(
            images=pixels[rows[0] : rows[-1] + 1],
            labels=np.where(_is_normal_slice(chosen, marked), 0, labels),
            masks=masks,
            ids=tuple(item.id for item in chosen),
            groups=np.array(
                [number_of[i.facts.group] for i in chosen], np.int32
            )
            if is_grouped
            else None,
            originals=np.array(
                [(*i.facts.size, i.record.path.stat().st_size) for i in chosen],
                np.int64,
            ),
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


def needs_strict_masks(listing: layouts.Listing) -> bool:
    """Whether masks must have two values; the benchmark's own may have more."""
    return listing.layout == layouts.CLASS_FOLDERS


def is_volume_mask(item: Item) -> bool:
    """Whether an image is a slice of a volume that has a mask per slice.

    Slices of abnormal volumes whose mask is empty are normal.
    """
    return bool(item.facts.name) and item.record.mask is not None


def _is_normal_slice(items: Sequence[Item], marked: np.ndarray) -> np.ndarray:
    """Which images [N] are unmarked slices of volumes with masks."""
    return np.array([is_volume_mask(item) for item in items]) & ~marked


def _read_masks(
    listing: layouts.Listing, items: list[Item], spec: Spec
) -> tuple[np.ndarray | None, np.ndarray]:
    """Reads the masks of test images; without a file it is empty.

    Returns:
        The masks [N, S, S] or None where there are none, and which of them
        [N] mark anything at their own size.
    """
    marked = np.zeros(len(items), bool)
    if not listing.has_masks or items[0].record.split != "test":
        return None, marked
    strict = needs_strict_masks(listing)

    def read(item: Item) -> tuple[np.ndarray, bool]:
        mask = masks_lib.read(
            item.record.mask,
            item.facts.name,
            like=item.facts.size,
            strict=strict,
        )
        shown = masks_lib.to_network(mask, spec.image_size, spec.resize)
        return shown, bool(mask.any())

    rows = [i for i, item in enumerate(items) if item.record.mask is not None]
    masks = np.zeros((len(items), spec.image_size, spec.image_size), bool)
    chosen = [items[row] for row in rows]
    for row, found in zip(rows, files.read_many(read, chosen), strict=True):
        masks[row], marked[row] = found
    wrong = [
        item.id
        for item, is_marked in zip(items, marked, strict=True)
        if item.record.label == dataset.NORMAL and is_marked
    ]
    if wrong:
        raise ValueError(
            f"{len(wrong)} normal images have a mask that is not empty "
            f"({files.first_names(wrong)}): move them to test/abnormal, or "
            "remove their masks."
        )
    return masks, marked


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
