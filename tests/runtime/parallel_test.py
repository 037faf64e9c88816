import os
import pathlib
import re
import subprocess
import sys
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import aeent_jax
from aeent_jax.runtime import parallel


@pytest.fixture(params=[1, 8])
def mapping(request):
    return parallel.make_parallel(request.param)


def rows(count=8):
    return np.arange(count * 3, dtype=np.float32).reshape(count, 3)


def test_host_arrays_come_back_as_they_were(mapping):
    tree = {"a": rows(16), "b": (np.arange(16) < 5,)}
    for there, back in (
        (mapping.shard, mapping.fetch_sharded),
        (mapping.replicate, mapping.fetch_replicated),
    ):
        found = back(there(tree))
        assert jax.tree.structure(found) == jax.tree.structure(tree)
        for one, other in zip(
            *map(jax.tree.leaves, (found, tree)), strict=True
        ):
            assert isinstance(one, np.ndarray)
            assert one.dtype == other.dtype
            np.testing.assert_array_equal(one, other)


def test_each_device_sees_its_rows_in_order_and_the_sum_is_of_all(mapping):
    def step(scale, x):
        place = lax.axis_index(parallel.AXIS) * len(x) + jnp.arange(len(x))
        total = lax.psum(jnp.sum(x, 0), parallel.AXIS)
        return scale * total, x + place[:, None]

    mapped = mapping.map(step)
    x = rows(16)
    total, moved = mapped(mapping.replicate(np.float32(2)), mapping.shard(x))
    # Exact: small whole numbers.
    np.testing.assert_array_equal(mapping.fetch_replicated(total), 2 * x.sum(0))
    np.testing.assert_array_equal(
        mapping.fetch_sharded(moved), x + np.arange(16)[:, None]
    )


def test_one_result_needs_no_tuple(mapping):
    mapped = mapping.map(lambda x: x + 1)
    found = mapping.fetch_sharded(mapped(mapping.shard(rows())))
    np.testing.assert_array_equal(found, rows() + 1)


def test_only_donated_arguments_are_given_away(mapping):
    mapped = mapping.map(lambda x, y: x + y, donate=(0,))
    # Arrays on the devices; `shard` may leave them on the host.
    identity = mapping.map(lambda x: x * 1)
    x, y = (identity(mapping.shard(rows())) for _ in range(2))
    mapped(x, y)
    assert x.is_deleted()
    assert not y.is_deleted()


def test_a_step_that_gets_its_own_result_back_compiles_once(mapping):
    compiled = []

    def count(event, duration, **_):
        if event == "/jax/core/compile/backend_compile_duration":
            compiled.append(duration)

    mapped = mapping.map(
        lambda state, x: state + lax.psum(jnp.sum(x), parallel.AXIS),
        donate=(0,),
    )
    state = mapping.replicate(np.float32(0))
    jax.monitoring.register_event_duration_secs_listener(count)
    try:
        for _ in range(3):
            state = mapped(state, mapping.shard(rows()))
    finally:
        jax.monitoring.unregister_event_duration_listener(count)
    assert len(compiled) == 1
    assert mapping.fetch_replicated(state) == 3 * rows().sum()


def test_padded_is_the_next_multiple():
    mapping = parallel.make_parallel(8)
    assert [mapping.padded(n) for n in (1, 8, 9, 64)] == [8, 8, 16, 64]
    assert parallel.make_parallel(1).padded(7) == 7


def test_zero_means_all_devices_and_others_the_first():
    assert parallel.make_parallel().devices == tuple(jax.devices())
    two = parallel.make_parallel(2)
    assert two.devices == tuple(jax.devices()[:2])
    assert two.num_devices == 2


class Device(NamedTuple):
    """A device of another process, which this one cannot have."""

    process_index: int
    id: int


def devices_of(*counts):
    # As some machines list them, not process by process.
    found = [Device(p, i) for p, n in enumerate(counts) for i in range(n)]
    return sorted(found, key=lambda device: (device.id, device.process_index))


def test_processes_take_equal_parts_and_neighbouring_rows(monkeypatch):
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    chosen = parallel._of_each_process(devices_of(3, 3), 4)
    assert chosen == ((0, 0), (0, 1), (1, 0), (1, 1))
    assert len(parallel._of_each_process(devices_of(3, 3), 0)) == 6
    made = parallel.Parallel(chosen)
    assert made.rows_of_process(8) == slice(0, 4)
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    made = parallel.Parallel(chosen)
    assert made.rows_of_process(8) == slice(4, 8)


@pytest.mark.parametrize(
    ("counts", "count", "sentence"),
    [
        (
            (2, 2),
            3,
            "parallel.num_devices is 3, but 2 processes take equal parts; give"
            " a multiple of that number, or 0 for all.",
        ),
        (
            (1, 2),
            0,
            "the 2 processes show from 1 to 2 devices; start them on machines"
            " that have equally many.",
        ),
    ],
)
def test_unequal_parts_are_refused(monkeypatch, counts, count, sentence):
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    with pytest.raises(ValueError, match=r".") as caught:
        parallel._of_each_process(devices_of(*counts), count)
    assert str(caught.value) == sentence


def test_steps_on_cpu_do_not_overlap(mapping):
    # Collectives of two steps in flight can wait for each other for ever.
    assert mapping.waits_for_each_step


@pytest.mark.parametrize(
    ("num_devices", "sentence"),
    [
        (
            9,
            "parallel.num_devices is 9, but this machine shows 8 cpu"
            " device(s); give 0 for all of them, or at most that number.",
        ),
        (
            -1,
            "parallel.num_devices is -1, but this machine shows 8 cpu"
            " device(s); give 0 for all of them, or at most that number.",
        ),
    ],
)
def test_refusals_say_what_is_needed(num_devices, sentence):
    with pytest.raises(ValueError, match=r".") as caught:
        parallel.make_parallel(num_devices)
    assert str(caught.value) == sentence


def test_a_system_that_cannot_pin_processes_has_the_cores_of_the_machine(
    monkeypatch,
):
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 5)
    assert parallel.count_cores() == 5


_ALLOCATE_IN_THREADS = """
import resource, threading
import numpy as np
from aeent_jax.runtime import parallel
parallel.keep_freed_memory()
def allocate():
    for _ in range(4):
        blocks = [np.ones(5_000_000) for _ in range(3)]
def count_faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    threads = [threading.Thread(target=allocate) for _ in range(2)]
    for thread in threads: thread.start()
    for thread in threads: thread.join()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
count_faults()
print(count_faults())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="needs glibc's malloc")
def test_threads_keep_the_memory_that_they_free():
    command = [sys.executable, "-c", _ALLOCATE_IN_THREADS]
    faults = int(subprocess.check_output(command, text=True))
    assert faults < 1_000  # The 24 blocks have 234,000 pages.


def test_no_other_module_knows_how_steps_are_mapped():
    package = pathlib.Path(aeent_jax.__file__).parent
    names = re.compile(r"jax\.pmap|shard_map\(|jax_utils|jax\.sharding")
    found = {
        path.relative_to(package).as_posix()
        for path in package.rglob("*.py")
        if names.search(path.read_text())
    }
    assert found == {"runtime/parallel.py"}
