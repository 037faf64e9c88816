"""Records of ArrayRecord files, read by number and from any thread.

The library does not report bad files reliably: it opens a missing or cut file
as one of no records, and returns an empty record from a file that shrank later.
So files are counted when they are opened, and whoever decodes a record checks
that it is whole.
"""

import concurrent.futures
import os
import pathlib
from collections.abc import Sequence

import numpy as np
from array_record.python import array_record_module  # pyright: ignore

# Records are read one by one in random order, so nothing is read ahead.
_OPTIONS = "readahead_buffer_size:0"
_BUFFER_BYTES = 32768
_MAX_THREADS = 8


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
