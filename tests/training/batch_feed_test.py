import contextlib

import numpy as np
import pytest
import training_support

from aeent_jax.data import batches, builders, sources
from aeent_jax.runtime import parallel
from aeent_jax.training import batch_feed, schedule

SEED = 3


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """The same 14 training images in memory and in files."""
    folder = tmp_path_factory.mktemp("feed")
    root = training_support.make_class_folders(folder / "images")
    spec = sources.Spec(image_size=16)
    (folder / "copy").mkdir()
    builders.write("folder", spec, root=root, data_dir=folder / "copy")
    return [
        builders.read(
            "folder", spec, data_dir=folder / "copy", memory_budget=budget
        )["train"].images
        for budget in (np.inf, 0)
    ]


def make_plan(steps_per_call):
    # 4 steps an epoch, the last of 2 images.
    return schedule.StepSchedule(
        num_examples=14,
        batch_size=4,
        epochs=3,
        steps_per_call=steps_per_call,
        checkpoint_every=0,
    )


def make_batch(padded_size):
    def batch(step, steps):
        columns = [
            batches.train_batch(SEED, step + i, 14, 4, padded_size)
            for i in range(steps)
        ]
        indices, mask = (np.stack(c, 1) for c in zip(*columns, strict=True))
        return indices, mask

    return batch


def gather(mapping, rows):
    """The images of a call's steps, `[B, steps, H, W, C]`, and the mask."""
    gather_rows = mapping.map(lambda images, indices: images[indices])
    gathered = gather_rows(rows.images, rows.indices)
    return mapping.fetch_sharded((gathered, rows.mask))


@pytest.mark.parametrize(
    ("num_devices", "steps_per_call"), [(1, 1), (3, 2), (2, 4)]
)
def test_streamed_rows_are_the_resident_ones(
    images, num_devices, steps_per_call
):
    mapping = parallel.make_parallel(num_devices)
    batch = make_batch(mapping.padded(4))
    calls = make_plan(steps_per_call)
    resident, streamed = (
        batch_feed.make_feed(mapping, of, batch, calls, 0) for of in images
    )
    with contextlib.closing(resident), contextlib.closing(streamed):
        step = 0
        while step < calls.total_steps:
            steps = calls.steps_from(step)
            one = gather(mapping, resident.next(step, steps))
            other = gather(mapping, streamed.next(step, steps))
            training_support.assert_bitwise(one, other)
            step += steps


def test_a_run_goes_on_without_reading_what_came_before(images):
    mapping = parallel.make_parallel(1)
    asked = []

    def batch(step, steps):
        asked.append(step)
        return make_batch(4)(step, steps)

    with contextlib.closing(
        batch_feed.make_feed(mapping, images[1], batch, make_plan(1), 9)
    ) as streamed:
        found, _ = gather(mapping, streamed.next(9, 1))
    assert min(asked) == 9
    expected, _ = batches.train_batch(SEED, 9, 14, 4, 4)
    np.testing.assert_array_equal(found[:, 0], images[0][expected])


@pytest.mark.parametrize("place", [0, 1])
def test_a_process_reads_its_own_rows_alone(images, place, monkeypatch):
    mapping = parallel.make_parallel(2)
    # As if the other device were another process's.
    mapping.__dict__["local_devices"] = mapping.devices[place : place + 1]
    monkeypatch.setattr(parallel.Parallel, "shard_own", lambda _, tree: tree)
    with contextlib.closing(
        batch_feed.make_feed(mapping, images[1], make_batch(4), make_plan(2), 0)
    ) as streamed:
        given = streamed.next(0, 2)
    assert len(given.images) == 4  # Two rows of two steps.
    indices, mask = make_batch(4)(0, 2)
    rows = slice(2 * place, 2 * place + 2)
    found = given.images[given.indices]
    np.testing.assert_array_equal(found, images[0][indices[rows]])
    np.testing.assert_array_equal(given.mask, mask[rows])


def test_another_call_than_the_next_is_refused(images):
    mapping = parallel.make_parallel(1)
    with (
        contextlib.closing(
            batch_feed.make_feed(
                mapping, images[1], make_batch(4), make_plan(1), 0
            )
        ) as streamed,
        pytest.raises(
            ValueError,
            match=r"^The call of 1 step\(s\) from step 0 comes next, but 1 from"
            r" step 2 were asked for; make another feed that begins there\.$",
        ),
    ):
        streamed.next(2, 1)
