"""Values that are read ahead of their use, in threads."""

import collections
import concurrent.futures
from collections.abc import Callable, Iterable
from typing import Generic, TypeVar

K = TypeVar("K")
T = TypeVar("T")


class Prefetch(Generic[K, T]):
    """Reads one value for each key, a bounded number of them ahead.

    Values come in the order of their keys, whatever thread is first. `next`
    raises the error of a read in its turn.
    """

    def __init__(
        self,
        read: Callable[[K], T],
        keys: Iterable[K],
        *,
        ahead: int,
        threads: int,
    ):
        """Begins to read.

        Args:
          read: returns the value of a key; called in several threads.
          keys: what is read, in order; can be endless.
          ahead: most values that are held or being read, at least 1.
          threads: most threads.
        """
        self._read = read
        self._keys = iter(keys)
        self._ahead = ahead
        self._values: collections.deque[concurrent.futures.Future[T]]
        self._values = collections.deque()
        self._pool = concurrent.futures.ThreadPoolExecutor(
            threads, thread_name_prefix="prefetch"
        )
        self._submit()

    def next(self) -> T:
        """Returns the next value, and waits for it where it must.

        Raises:
          StopIteration: there are no more keys.
          Exception: what the read of this value raised.
        """
        if not self._values:
            raise StopIteration
        value = self._values.popleft().result()
        self._submit()
        return value

    def close(self) -> None:
        """Ends the threads, each after the value that it is reading."""
        self._pool.shutdown(wait=True, cancel_futures=True)
        self._values.clear()

    def _submit(self) -> None:
        while len(self._values) < self._ahead:
            try:
                key = next(self._keys)
            except StopIteration:
                return
            self._values.append(self._pool.submit(self._read, key))
