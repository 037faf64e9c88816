"""Drills: what can befall a run that nobody watches, from start to end.

After each the same command goes on, and ends as if nothing had happened.
"""

import contextlib
import functools
import random
import shutil
import signal
import time

import fault_support
import jax
import jax.numpy as jnp
import numpy as np
import optax
import process_support
import pytest
import training_support
from training_support import Recorder

from aeent_jax.runtime import checkpoint
from aeent_jax.training import loop, optimizer

pytestmark = pytest.mark.slow

KILLS = 20
# Enough steps that 20 lives do not reach the end.
EPOCHS = 35


@pytest.fixture(scope="module", autouse=True)
def compilation_cache(tmp_path_factory):
    yield from training_support.use_compilation_cache(
        training_support.cache_home(tmp_path_factory)
    )


@pytest.fixture(scope="module")
def folder():
    with fault_support.open_folder() as path:
        training_support.make_class_folders(path / "images")
        yield path


@pytest.fixture(scope="module")
def make_config(folder):
    """The tiny configuration: 12 steps, a checkpoint every two."""
    return functools.partial(
        training_support.make_config, folder / "images", folder / "prepared"
    )


@pytest.fixture(scope="module")
def undisturbed(make_config, folder):
    """The checkpoints of a run that nothing befell, by their steps."""
    config = make_config(checkpoint__keep=9)
    loop.train(config, folder / "undisturbed", log=Recorder())
    return functools.partial(state_of, folder / "undisturbed", config)


def state_of(workdir, config, step):
    like = training_support.final_state(workdir, config).state
    folder = workdir / "checkpoints"
    return checkpoint._restore_step(folder, step, like, partial=False).state


def set_modes(folder, of_folders, of_files):
    for path in (folder, *folder.rglob("*")):
        path.chmod(of_folders if path.is_dir() else of_files)


def wait_for_checkpoint(workdir, step):
    """So that a fault does not fall in the middle of its save."""
    while step not in steps_on_disk(workdir):
        time.sleep(0.001)


def steps_on_disk(workdir):
    names = [path.name for path in (workdir / "checkpoints").iterdir()]
    return sorted(int(name) for name in names if name.isdigit())


def assert_checkpoints_are_sound(workdir, config, steps, undisturbed):
    assert steps_on_disk(workdir) == steps
    for step in steps:
        training_support.assert_bitwise(
            state_of(workdir, config, step), undisturbed(step)
        )


def assert_goes_on_to_the_same_end(workdir, config, step, undisturbed):
    log = Recorder()
    loop.train(config, workdir, log=log)
    assert f"Going on from step {step}." in log.said
    assert log.warnings == []
    assert_ended_alike(workdir, config, undisturbed)


def assert_ended_alike(workdir, config, undisturbed):
    assert_checkpoints_are_sound(workdir, config, [10, 12], undisturbed)
    assert_epochs_are_written_once(workdir, 3)


def assert_epochs_are_written_once(workdir, epochs):
    records = training_support.read_history(workdir)
    trained = [r["step"] for r in records if "train/loss" in r]
    assert trained == [4 * epoch for epoch in range(1, epochs + 1)]
    evaluated = [r["step"] for r in records if "eval/test/auroc" in r]
    assert evaluated == [4 * epochs]


@pytest.fixture(scope="module")
def start(folder, tmp_path_factory):
    """Starts `aeent train` in a workdir, in a process of its own."""
    flags = training_support.tiny(folder / "images", folder / "prepared")
    flags |= {"train.epochs": EPOCHS, "checkpoint.every_steps": 1}
    return lambda workdir: process_support.start(
        folder / "process",
        training_support.cache_home(tmp_path_factory),
        "train",
        f"--workdir={workdir}",
        *[f"--config.{key}={value}" for key, value in flags.items()],
    )


def wait_for_the_moment(life, kill, rng, longest):
    """Returns where a kill falls; whether in a save that had begun."""
    match kill % 3:
        case 0:
            life.wait_for(life.saved(rng.randrange(2)))
            # The writing goes on in the background, beside training.
            found = life.wait_for(life.saves_in_flight)
            time.sleep(rng.uniform(0, 0.02))
            return found
        case 1:
            time.sleep(rng.uniform(0, longest))
        case 2:
            life.wait_for(life.saved(rng.randrange(3)))
            time.sleep(rng.uniform(0, 0.05))
    return False


def test_twenty_kills_leave_no_trace(start, folder, make_config):
    command = start(folder / "spared")
    assert command.wait() == 0, command.err

    workdir, rng = folder / "killed", random.Random(20)
    longest = in_saves = torn = 0
    for kill in range(KILLS):
        begun = time.monotonic()
        life = fault_support.Life(start, workdir)
        in_saves += wait_for_the_moment(life, kill, rng, longest)
        status = life.command.kill(signal.SIGKILL)
        assert status == -signal.SIGKILL, (kill, life.command.err)
        assert "WARNING" not in life.command.err
        torn += bool(life.saves_in_flight())
        # The first one sees how long it takes to start and save.
        longest = longest or time.monotonic() - begun
    assert in_saves == len(range(0, KILLS, 3))
    assert torn >= 1
    command = start(workdir)
    assert command.wait() == 0, command.err
    assert "Going on from step " in command.err

    config = make_config(train__epochs=EPOCHS)
    found, wanted = (
        training_support.final_state(path, config)
        for path in (workdir, folder / "spared")
    )
    assert (found.step, found.damaged) == (4 * EPOCHS, ())
    training_support.assert_bitwise(found.state, wanted.state)
    assert_epochs_are_written_once(workdir, EPOCHS)


def test_disk_that_fills_up_costs_no_checkpoint(
    make_config, folder, undisturbed
):
    config, workdir = make_config(), folder / "full"
    with contextlib.ExitStack() as stack:

        def fill_up(done):
            if done == 5:
                wait_for_checkpoint(workdir, 4)
                # Less than a checkpoint, more than the metrics so far.
                stack.enter_context(fault_support.largest_write(4096))

        with pytest.raises(OSError, match=r".") as caught:
            loop.train(config, workdir, log=Recorder(fill_up))
    assert str(caught.value) == (
        "The checkpoint of step 6 could not be written to"
        f" {workdir / 'checkpoints'}: File too large. The latest that is"
        " complete: step 4 is; make room or give access, then start the run"
        " again to go on from it."
    )
    assert_checkpoints_are_sound(workdir, config, [2, 4], undisturbed)
    assert_goes_on_to_the_same_end(workdir, config, 4, undisturbed)


def test_workdir_that_turns_read_only_loses_nothing(
    make_config, folder, undisturbed
):
    config, workdir = make_config(), folder / "closed"

    # Whoever is not root cannot read this otherwise.
    set_modes(folder / "prepared", 0o755, 0o644)
    with contextlib.ExitStack() as stack:

        def close(done):
            if done == 5:
                wait_for_checkpoint(workdir, 4)
                set_modes(workdir, 0o555, 0o444)
                stack.enter_context(fault_support.unprivileged())

        with pytest.raises(OSError, match=r".") as caught:
            loop.train(config, workdir, log=Recorder(close))
    assert str(caught.value) == (
        "The checkpoint of step 6 could not be written to"
        f" {workdir / 'checkpoints'}: Permission denied. The latest that is"
        " complete: step 4 is; make room or give access, then start the run"
        " again to go on from it."
    )
    with (
        fault_support.unprivileged(),
        pytest.raises(OSError, match=r".") as caught,
    ):
        loop.train(config, workdir, log=Recorder())
    assert str(caught.value) == (
        f"--workdir={workdir} cannot be written (Permission denied); give a"
        " folder that can."
    )
    set_modes(workdir, 0o755, 0o644)
    assert_checkpoints_are_sound(workdir, config, [2, 4], undisturbed)
    assert_goes_on_to_the_same_end(workdir, config, 4, undisturbed)


def test_checkpoint_without_its_largest_file_is_passed_over(
    make_config, folder, undisturbed
):
    # Flipped bits and truncation are in train_test.py.
    config, workdir = make_config(), folder / "incomplete"
    shutil.copytree(folder / "undisturbed", workdir)
    files = [p for p in (workdir / "checkpoints/12").rglob("*") if p.is_file()]
    max(files, key=lambda path: path.stat().st_size).unlink()
    log = Recorder()
    loop.train(config, workdir, log=log)
    (warning,) = log.warnings
    assert warning.startswith(
        f"WARNING: {workdir / 'checkpoints/12'} is damaged: "
    )
    assert "Going on from step 10." in log.said
    assert_ended_alike(workdir, config, undisturbed)


def test_clock_that_goes_backwards_changes_nothing(
    make_config, folder, undisturbed, monkeypatch
):
    config, workdir = make_config(), folder / "clock"
    now = [time.time()]

    def earlier_each_time():
        now[0] -= 3600
        return now[0]

    monkeypatch.setattr(time, "time", earlier_each_time)
    begun = time.monotonic()
    loop.train(config, workdir, log=Recorder())
    elapsed = time.monotonic() - begun
    assert_ended_alike(workdir, config, undisturbed)
    records = training_support.read_history(workdir)
    seconds = [record["wall_seconds"] for record in records]
    assert seconds == sorted(seconds)
    assert 0 < seconds[0] <= seconds[-1] <= elapsed
    assert records[2]["train/images_per_second"] > 0


def test_second_job_is_refused_and_the_first_is_undisturbed(
    make_config, folder, undisturbed
):
    config, workdir = make_config(), folder / "shared"
    refusals = []

    def read_files():
        return {p: p.read_bytes() for p in workdir.iterdir() if p.is_file()}

    def intrude(done):
        if done != 5:
            return
        before = read_files()
        # A restart could have another value of this key.
        with pytest.raises(OSError, match=r".") as caught:
            loop.train(
                make_config(log__every_epochs=2), workdir, log=Recorder()
            )
        assert read_files() == before
        refusals.append(str(caught.value))

    loop.train(config, workdir, log=Recorder(intrude))
    (refusal,) = refusals
    assert refusal.startswith(f"--workdir={workdir} is in use by process ")
    assert_ended_alike(workdir, config, undisturbed)


def test_loss_that_turns_nan_is_named_by_its_step_and_spoils_no_checkpoint(
    make_config, folder, monkeypatch
):
    config, workdir = make_config(), folder / "nan"
    make_optimizer = optimizer.make_optimizer

    def make_spoiled(**options):
        """Adam whose seventh step makes the parameters NaN."""
        adam = make_optimizer(**options)

        def update(gradient, state, params=None):
            updates, state = adam.update(gradient, state, params)
            factor = jnp.where(state[0].count == 7, jnp.nan, 1.0)
            return jax.tree.map(lambda u: factor * u, updates), state

        return optax.GradientTransformation(adam.init, update)

    with monkeypatch.context() as patch:
        patch.setattr(optimizer, "make_optimizer", make_spoiled)
        with pytest.raises(FloatingPointError) as caught:
            loop.train(config, workdir, log=Recorder())
    assert str(caught.value).startswith(
        "loss is nan at step 8, so training stopped; any checkpoint in"
        f" {workdir / 'checkpoints'} is of an earlier step."
    )
    assert steps_on_disk(workdir) == [4, 6]
    for step in (4, 6):
        for array in jax.tree.leaves(state_of(workdir, config, step)):
            assert np.isfinite(array).all()
    log = Recorder()
    loop.train(config, workdir, log=log)
    assert "Going on from step 6." in log.said
    # Not to the same end: the cause of the NaN is another program, whose
    # rounding differs.
    assert steps_on_disk(workdir) == [10, 12]
    assert_epochs_are_written_once(workdir, 3)
