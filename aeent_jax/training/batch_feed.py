"""Feeds the calls of a training step: with all images, or with their own.

A step gathers its rows by index. Where the training split is in memory, it is
on every device and the indices are places in it. Where it is not, each device
is given the rows of its calls alone, read ahead in threads by the process that
has it, and the indices are places in those. The rows, their order and their
arithmetic are the same.
"""

import os
from collections.abc import Callable, Iterator
from typing import NamedTuple

import jax
import numpy as np

from aeent_jax.data import prefetch, stored
from aeent_jax.runtime import parallel
from aeent_jax.training import schedule

# Prefetch budget; at least one call is prefetched.
_AHEAD_BYTES = 2**28
_MAX_THREADS = 8

# From the first step and the number of steps of a call to its indices and its
# mask, `[B, steps]`.
Batch = Callable[[int, int], tuple[np.ndarray, np.ndarray]]


class Rows(NamedTuple):
    """The arguments of one call, on the devices.

    Attributes:
      images: `[N, H, W, C]` uint8: all of them, or the rows of the call.
      indices: `[B, steps]` int32, places in the images of the same device.
      mask: `[B, steps]` bool, False in padding.
    """

    images: jax.Array
    indices: jax.Array
    mask: jax.Array


class Resident:
    """The whole training split on every device."""

    def __init__(
        self, mapping: parallel.Parallel, images: np.ndarray, batch: Batch
    ):
        """Puts the images on the devices.

        Args:
          mapping: the devices.
          images: `[N, H, W, C]` uint8, the training split.
          batch: makes the indices and the mask of a call.
        """
        self._parallel = mapping
        self._images = mapping.replicate(images)
        self._batch = batch

    def next(self, step: int, steps: int) -> Rows:
        """Returns the rows of the call of `steps` steps from `step` on."""
        batch = self._parallel.shard(self._batch(step, steps))
        return Rows(self._images, *batch)

    def close(self) -> None:
        """Does nothing: there are no threads."""


class Streamed:
    """The rows of each call, read from files while earlier calls run.

    The rows of a call depend on its first step alone, so a run goes on at
    any step without reading what came before. At most 256 MB are read ahead,
    or one call where that is larger.
    """

    def __init__(
        self,
        mapping: parallel.Parallel,
        images: stored.StoredImages,
        batch: Batch,
        calls: schedule.StepSchedule,
        step: int,
    ):
        """Begins to read.

        Args:
          mapping: the devices.
          images: `[N, H, W, C]` uint8, the training split.
          batch: makes the indices and the mask of a call.
          calls: which steps a call does.
          step: the first of the first call.
        """
        self._parallel = mapping
        self._images = images
        self._batch = batch
        own = len(mapping.local_devices)
        size = mapping.padded(calls.batch_size) // mapping.num_devices * own
        bytes_of_one = int(np.prod(images.shape[1:]))
        bytes_of_call = size * calls.steps_per_call * bytes_of_one
        threads = min(_MAX_THREADS, os.cpu_count() or 1)
        self._prefetch = prefetch.Prefetch(
            self._read,
            _calls_from(calls, step),
            ahead=max(1, min(2 * threads, _AHEAD_BYTES // bytes_of_call)),
            threads=threads,
        )

    def next(self, step: int, steps: int) -> Rows:
        """Returns the rows of the next call, in the order of the plan.

        Args:
          step: its first step.
          steps: how many it does.

        Raises:
          ValueError: another call comes next, or a file cannot be read.
        """
        call, rows = self._prefetch.next()
        if call != (step, steps):
            raise ValueError(
                f"The call of {call[1]} step(s) from step {call[0]} comes next,"
                f" but {steps} from step {step} were asked for; make another"
                " feed that begins there."
            )
        return Rows(*self._parallel.shard_own(rows))

    def close(self) -> None:
        """Ends the threads that read."""
        self._prefetch.close()

    def _read(self, call):
        """Reads this process's rows of one call, in a thread."""
        whole = self._batch(*call)
        rows = self._parallel.rows_of_process(len(whole[0]))
        indices, mask = (part[rows] for part in whole)
        images = self._images[indices.reshape(-1)]
        # In order, and so the first rows are those of the first device.
        places = np.arange(indices.size, dtype=np.int32).reshape(indices.shape)
        places %= indices.size // len(self._parallel.local_devices)
        return call, (images, places, mask)


def _calls_from(
    calls: schedule.StepSchedule, step: int
) -> Iterator[tuple[int, int]]:
    while step < calls.total_steps:
        steps = calls.steps_from(step)
        yield step, steps
        step += steps


Feed = Resident | Streamed


def make_feed(
    mapping: parallel.Parallel,
    images: np.ndarray | stored.StoredImages,
    batch: Batch,
    calls: schedule.StepSchedule,
    step: int,
) -> Feed:
    """Chooses how the calls of a run get their images.

    Args:
      mapping: the devices.
      images: `[N, H, W, C]` uint8, the training split.
      batch: makes the indices and the mask of a call.
      calls: which steps a call does.
      step: the first of the first call.

    Returns:
      The feed, to be closed after use.
    """
    if isinstance(images, stored.StoredImages):
        return Streamed(mapping, images, batch, calls, step)
    return Resident(mapping, images, batch)


def refuse_stored(images: np.ndarray | stored.StoredImages) -> None:
    """Refuses images in files, for a population.

    Its members take their rows in orders of their own, from one array that is
    on every device.

    Args:
      images: the training split.

    Raises:
      ValueError: they are in files.
    """
    if isinstance(images, stored.StoredImages):
        raise ValueError(
            f"A population needs its {len(images)} training images in memory,"
            f" but their {images.nbytes / 1e6:.1f} MB are read from files;"
            " raise data.memory_budget_mb, or train each member by itself with"
            " --population=1."
        )
