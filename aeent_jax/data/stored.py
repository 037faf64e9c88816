"""Images that stay in their ArrayRecord files until they are indexed.

In a `dataset.Split` they stand for a uint8 array `[N, H, W, C]`: an index or a
slice reads those rows, and nothing more is kept.

    ids, labels, masks   read once, by `find`; in the order of the ids
    rows i, j, ...   ->  StoredImages: number of the record of each image
                     ->  Records: file and place of each number -> bytes
                     ->  pixels `[n, H, W, C]`

Records lie in hashed order, and a split is sorted by id. The library does not
report bad files reliably: it opens a missing or cut file as one of no records,
and returns an empty record from a file that shrank later. So files are counted
when they are opened, and whoever decodes a record checks that it is whole.
"""

import concurrent.futures
import os
import pathlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from array_record.python import array_record_module  # pyright: ignore

# Records are read one by one in random order, so nothing is read ahead.
_OPTIONS = "readahead_buffer_size:0"
_BUFFER_BYTES = 32768
_MAX_THREADS = 8
# Records that are held undecoded at a time.
_BLOCK = 1024
# The group of images that each stand alone, in records.
NO_GROUP = -1


class Records:
    """The records of some files, numbered from the first file to the last.

    Attributes:
        folder: where the files are, for messages.
    """

    def __init__(self, paths: Sequence[pathlib.Path], counts: Sequence[int]):
        """Opens the files and counts their records.

        Args:
            paths: the files, all in one folder.
            counts: how many records each must hold.

        Raises:
            ValueError: a file is missing, cut off, or of another length.
        """
        self.folder = pathlib.Path(paths[0]).parent
        threads = min(_MAX_THREADS, len(paths))
        with concurrent.futures.ThreadPoolExecutor(threads) as pool:
            self._readers = list(pool.map(_open, paths, counts))
        self._ends = np.cumsum(counts)

    def __len__(self) -> int:
        return int(self._ends[-1])

    def read(self, numbers: np.ndarray) -> list[bytes]:
        """Reads records in the order that is asked for.

        Args:
            numbers: `[n]` int, from 0; repeated ones are read again.

        Returns:
            The n records.

        Raises:
            ValueError: a file cannot be read any more.
        """
        files = np.searchsorted(self._ends, numbers, side="right")
        found: list[bytes] = [b""] * len(numbers)
        for file in np.unique(files):
            places = np.flatnonzero(files == file)
            begin = self._ends[file - 1] if file else 0
            wanted = (numbers[places] - begin).tolist()
            try:
                records = self._readers[file].read(wanted)
            except (RuntimeError, OSError) as error:
                raise self.damaged(str(error)) from None
            for place, record in zip(places, records, strict=True):
                found[place] = record
        return found

    def damaged(self, reason: str) -> ValueError:
        """The error of a copy that was whole when it was opened."""
        return ValueError(
            f"a record of the prepared copy {self.folder} cannot be read"
            f" ({reason}); start again, and the copy is checked and, where it"
            " is damaged, made again."
        )


class StoredImages:
    """Images `[N, H, W, C]` uint8 in files, read when they are indexed.

    Safe to index from several threads.
    """

    dtype = np.dtype(np.uint8)
    ndim = 4

    def __init__(
        self,
        records: Records,
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
    records = Records(paths, counts)
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


def _values(records: Records, record: bytes):
    """The features of a record; TFDS itself takes thrice as long for it."""
    # TFDS is imported when used, so that commands start soon.
    from tensorflow_datasets.proto import tf_example_pb2

    example = tf_example_pb2.Example.FromString(record)  # pyright: ignore
    values = example.features.feature
    if "id" not in values:
        raise records.damaged("it has no id, so a file was cut off")
    return values


def _one(records: Records, values, name: str) -> bytes:
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


def _open(
    path: pathlib.Path, count: int
) -> array_record_module.ArrayRecordReader:
    reader = array_record_module.ArrayRecordReader(
        os.fspath(path),
        options=_OPTIONS,
        file_reader_buffer_size=_BUFFER_BYTES,
    )
    found = reader.num_records() if reader.ok() else 0
    if found != count:
        raise ValueError(
            f"the prepared copy must hold {count} records in {path}, but"
            f" {_describe(pathlib.Path(path), found)}; remove the folder, and"
            " the copy is made again."
        )
    return reader


def _describe(path: pathlib.Path, found: int) -> str:
    if not path.exists():
        return "there is no such file"
    return f"{found} can be read" if found else "it is cut off or no such file"
