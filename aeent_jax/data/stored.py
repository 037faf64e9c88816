"""Images that stay in their ArrayRecord files until they are indexed.

In the places of a `dataset.Split` they stand for a uint8 array `[N, H, W, C]`:
an index or a slice reads those rows, and nothing more is kept. Ids and labels
are read once, because records lie in hashed order and a split is sorted by id.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from aeent_jax.data import records as records_lib

# Records that are held undecoded at a time.
_BLOCK = 1024
# The group of images that each stand alone, in records.
NO_GROUP = -1


class StoredImages:
    """Images `[N, H, W, C]` uint8 in files, read when they are indexed.

    Safe to index from several threads.
    """

    dtype = np.dtype(np.uint8)
    ndim = 4

    def __init__(
        self,
        records: records_lib.Records,
        numbers: np.ndarray,
        shape: tuple[int, int, int],
    ):
        """Describes images without reading them.

        Args:
            records: where they are, as `builders.write` wrote them.
            numbers: `[N]` int, the record of each image.
            shape: (H, W, C).
        """
        self._records = records
        self._numbers = numbers
        self._shape = shape

    def __len__(self) -> int:
        return len(self._numbers)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(N, H, W, C)."""
        return (len(self), *self._shape)

    @property
    def nbytes(self) -> int:
        """Bytes that all of them would take in memory."""
        return int(np.prod(self.shape))

    def __getitem__(self, rows: slice | np.ndarray) -> np.ndarray:
        """Reads rows.

        Args:
            rows: a slice, or an array `[n]` of integers or `[N]` of bool.

        Returns:
            The images `[n, H, W, C]`, in the order of `rows`.

        Raises:
            ValueError: a file cannot be read any more.
        """
        numbers = self._numbers[rows]
        images = np.empty((len(numbers), *self._shape), np.uint8)
        for begin in range(0, len(numbers), _BLOCK):
            block = slice(begin, begin + _BLOCK)
            found = self._records.read(numbers[block])
            for image, record in zip(images[block], found, strict=True):
                values = _values(self._records, record)
                image[...] = _pixels(
                    self._records, values, "image", self._shape
                )
        return images

    def select(self, rows: np.ndarray) -> "StoredImages":
        """Returns the images of some rows, which stay in their files."""
        return StoredImages(self._records, self._numbers[rows], self._shape)

    def __array__(self, dtype: Any = None, copy: bool | None = None):
        """Refuses to become one array without anybody asking for it."""
        raise TypeError(
            f"{len(self)} images are read from files because they exceed"
            " data.memory_budget_mb; index the rows that are needed, or raise"
            " it."
        )


class Found(NamedTuple):
    """The contents of the files of one split, sorted by id.

    Attributes:
        images: `[N, H, W, C]`.
        labels: `[N]` int32.
        masks: `[N, H, W]` bool, in memory, or None where there are none.
        ids: N names.
        groups: `[N]` int32, or None where every image stands alone.
        originals: `[N, 3]` int64, or None without files; see `dataset.Split`.
    """

    images: StoredImages
    labels: np.ndarray
    masks: np.ndarray | None
    ids: tuple[str, ...]
    groups: np.ndarray | None
    originals: np.ndarray | None


def find(
    paths: Sequence[Any], counts: Sequence[int], shape: tuple[int, int, int]
) -> Found:
    """Reads ids, labels and masks of the images in some files.

    Masks are kept, for they are few, and pixel metrics need all of them.

    Args:
        paths: the files of one split, as `builders.write` wrote them.
        counts: how many records each holds.
        shape: (H, W, C) of the images.

    Returns:
        The images and what belongs to them.

    Raises:
        ValueError: a file is missing, cut off, or of other contents.
    """
    records = records_lib.Records(paths, counts)
    ids, labels, masks, groups, originals = [], [], [], [], []
    for begin in range(0, len(records), _BLOCK):
        end = min(begin + _BLOCK, len(records))
        for record in records.read(np.arange(begin, end)):
            values = _values(records, record)
            ids.append(_one(records, values, "id").decode())
            labels.append(values["label"].int64_list.value[0])
            groups.append(values["group"].int64_list.value[0])
            originals.append(values["original"].int64_list.value)
            if values["has_mask"].int64_list.value[0]:
                mask = _pixels(records, values, "mask", shape[:2])
                masks.append(mask.astype(bool))
    order = np.array(sorted(range(len(ids)), key=ids.__getitem__))
    return Found(
        images=StoredImages(records, order, shape),
        labels=np.array(labels, np.int32)[order],
        masks=np.stack([masks[i] for i in order])
        if len(masks) == len(ids)
        else None,
        ids=tuple(ids[i] for i in order),
        groups=None
        if NO_GROUP in groups
        else np.array(groups, np.int32)[order],
        originals=np.array(originals, np.int64)[order]
        if np.any(originals)
        else None,
    )


def _values(records, record: bytes):
    """The features of a record; TFDS itself takes thrice as long for it."""
    # TFDS is imported when used, so that commands start soon.
    from tensorflow_datasets.proto import tf_example_pb2

    example = tf_example_pb2.Example.FromString(record)  # pyright: ignore
    values = example.features.feature
    if "id" not in values:
        raise records.damaged("it has no id, so a file was cut off")
    return values


def _one(records, values, name: str) -> bytes:
    found = values[name].bytes_list.value
    if len(found) != 1:
        raise records.damaged(f"it holds {len(found)} values of {name}")
    return found[0]


def _pixels(records, values, name: str, shape: tuple[int, ...]) -> np.ndarray:
    pixels = _one(records, values, name)
    if len(pixels) != np.prod(shape):
        raise records.damaged(
            f"its {name} has {len(pixels)} bytes, not the {np.prod(shape)} of"
            f" {shape}"
        )
    return np.frombuffer(pixels, np.uint8).reshape(shape)
