"""Maps a step that is written for one device over all of them, with `pmap`.

A step is a function of arrays that is written per device, with collectives over
`AXIS`. No other module knows how it is mapped. An argument or a result is
replicated (the same on every device) or sharded (rows of the global batch, in
order); on the devices both have a leading axis of devices.

The devices may belong to several processes (`hosts.join`). Each process has the
whole host arrays, puts the rows of its own devices, and fetches all rows.
"""

import ctypes
import dataclasses
import functools
import os
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

AXIS = "batch"

PyTree = Any

# From glibc's malloc.h.
_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3
_M_ARENA_MAX = -8
_LARGE = 2**31 - 1


def count_cores() -> int:
    """The number of cores this process may use; on macOS, of the machine."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def keep_freed_memory() -> None:
    """Lets the allocator keep large freed blocks instead of returning them.

    XLA on CPU allocates its buffers anew at every step. glibc maps and unmaps
    blocks of this size, and gives back what is free in the arenas of all
    threads but the first; whether a thread has an arena of its own is chance.
    The page faults took a tenth to a third of a training step.

    It acts on threads that are started later, so call it before JAX is used. No
    effect with another C library.
    """
    libc = ctypes.CDLL(None) if os.name == "posix" else None
    if hasattr(libc, "mallopt"):
        libc.mallopt(_M_MMAP_THRESHOLD, _LARGE)
        libc.mallopt(_M_TRIM_THRESHOLD, _LARGE)
        libc.mallopt(_M_ARENA_MAX, 1)


def find_platform() -> str:
    """The platform of the devices: "cpu", "gpu" or "tpu".

    Raises:
      ValueError: the platform that the environment asks for is not here.
    """
    try:
        return jax.default_backend()
    except (AssertionError, RuntimeError) as error:
        asked = jax.config.jax_platforms
        if not asked:
            raise
        # JAX fails an assertion, without a message, where a plugin is missing.
        reason = str(error).partition(" (set JAX_PLATFORMS")[0]
        raise ValueError(
            f"JAX_PLATFORMS={asked} asks for devices that JAX does not find"
            f" here ({reason or 'it has no plugin for them'}); unset it to take"
            " those that there are, or install the JAX of that platform."
        ) from error


def alone(step: Callable[..., Any]) -> Callable[..., Any]:
    """Lets a per-device step run on one device, as if there were no other.

    Args:
      step: a function of trees of arrays, with collectives over `AXIS`.

    Returns:
      The same function, whose collectives see this device alone.
    """

    def run(*args):
        one = jax.tree.map(lambda a: a[None], args)
        results = jax.vmap(step, axis_name=AXIS)(*one)
        return jax.tree.map(lambda a: a[0], results)

    return run


@dataclasses.dataclass(frozen=True)
class Parallel:
    """The devices of a run.

    Attributes:
      devices: the devices of all processes, in order; those of a process are
        neighbours.
    """

    devices: tuple[jax.Device, ...]

    @property
    def num_devices(self) -> int:
        """The number of devices."""
        return len(self.devices)

    @functools.cached_property
    def local_devices(self) -> tuple[jax.Device, ...]:
        """The devices of this process."""
        here = jax.process_index()
        return tuple(d for d in self.devices if d.process_index == here)

    @property
    def waits_for_each_step(self) -> bool:
        """Whether a step must end before the next is dispatched.

        Collectives of several CPU devices share one pool of threads, and two
        steps in flight can each hold what the other waits for.
        """
        return self.devices[0].platform == "cpu"

    def padded(self, batch_size: int) -> int:
        """The least multiple of the number of devices that holds the batch."""
        return -(-batch_size // self.num_devices) * self.num_devices

    def map(
        self, step: Callable[..., Any], *, donate: Sequence[int] = ()
    ) -> Callable[..., Any]:
        """Maps a per-device step over the devices and compiles it.

        Args:
          step: a function of positional arrays, with collectives over `AXIS`.
          donate: positions of the arguments whose memory the result may take.

        Returns:
          The mapped function; give it what `replicate` and `shard` return.
        """
        return jax.pmap(
            step, AXIS, devices=self.devices, donate_argnums=tuple(donate)
        )

    def rows_of_process(self, count: int) -> slice:
        """The rows of a global batch that the devices of this process take.

        Args:
          count: the rows of the batch, a multiple of the number of devices.
        """
        size = count // self.num_devices
        first = self.devices.index(self.local_devices[0])
        return slice(first * size, (first + len(self.local_devices)) * size)

    def replicate(self, tree: PyTree) -> PyTree:
        """Puts a copy of host arrays on every device."""
        return self._put(jax.tree.map(self._stack, tree))

    def _stack(self, array: np.ndarray) -> np.ndarray:
        """A view of `array` with a leading axis of this process's devices."""
        array = np.asarray(array)
        return np.broadcast_to(array, (len(self.local_devices), *array.shape))

    def shard(self, tree: PyTree) -> PyTree:
        """Puts the rows of host arrays `[B, ...]` on the devices, in order."""
        return self.shard_own(
            jax.tree.map(lambda a: a[self.rows_of_process(len(a))], tree)
        )

    def shard_own(self, tree: PyTree) -> PyTree:
        """As `shard`, for arrays that hold the rows of this process alone."""
        return jax.tree.map(self._shard, tree)

    def _shard(self, rows: np.ndarray) -> jax.Array:
        count = len(self.local_devices)
        split = (count, len(rows) // count)
        return self._put(rows.reshape(split + rows.shape[1:]))

    def fetch_replicated(self, tree: PyTree) -> PyTree:
        """Returns host copies of replicated arrays."""
        return jax.tree.map(self._first, tree)

    def fetch_sharded(self, tree: PyTree) -> PyTree:
        """Returns host arrays `[B, ...]` of sharded ones.

        Every process gets all rows; so all of them must call it.
        """

        def fetch(array):
            array = np.asarray(array)
            array = array.reshape((-1,) + array.shape[2:])
            return multihost_utils.process_allgather(array, tiled=True)

        return jax.tree.map(fetch, tree)

    def _first(self, array: jax.Array) -> np.ndarray:
        # Indexing a mapped array on the device is slow; its first shard is not.
        return np.asarray(array.addressable_data(0))[0]

    def _put(self, tree: PyTree) -> PyTree:
        """Puts arrays with a leading axis of this process's devices."""
        return jax.device_put(tree, self._sharding)

    @functools.cached_property
    def _sharding(self) -> NamedSharding:
        # The placing of `pmap`'s results: arrays on another mesh of the same
        # devices would make the step compile a second time.
        mesh = Mesh(np.array(self.devices), (AXIS,)).local_mesh
        return NamedSharding(mesh, PartitionSpec(AXIS))


def make_parallel(num_devices: int = 0) -> Parallel:
    """Chooses the devices.

    Args:
      num_devices: the number of devices to use, the same share from each
        process; 0 means all.

    Returns:
      The mapping.

    Raises:
      ValueError: more devices than there are, or processes that cannot take
        equal parts.
    """
    devices = jax.devices()
    if not 0 <= num_devices <= len(devices):
        raise ValueError(
            f"parallel.num_devices is {num_devices}, but this machine shows"
            f" {len(devices)} {devices[0].platform} device(s); give 0 for all"
            " of them, or at most that number."
        )
    return Parallel(_of_each_process(devices, num_devices))


def _of_each_process(
    devices: Sequence[jax.Device], count: int
) -> tuple[jax.Device, ...]:
    """The first devices of each process: `count` in all, or all if it is 0."""
    processes = jax.process_count()
    of_each = [
        [d for d in devices if d.process_index == i] for i in range(processes)
    ]
    sizes = sorted({len(own) for own in of_each})
    if len(sizes) > 1:
        raise ValueError(
            f"the {processes} processes show from {sizes[0]} to {sizes[-1]}"
            " devices; start them on machines that have equally many."
        )
    if count % processes:
        raise ValueError(
            f"parallel.num_devices is {count}, but {processes} processes take"
            " equal parts; give a multiple of that number, or 0 for all."
        )
    size = count // processes or sizes[0]
    return tuple(device for own in of_each for device in own[:size])
