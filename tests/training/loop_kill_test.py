"""Real processes that are killed, stopped and started again until done."""

import random
import signal
import time

import fault_support
import process_support
import pytest
import training_support

STEPS = 24  # 6 epochs of 4


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("kill")
    training_support.make_class_folders(made / "images")
    return made


@pytest.fixture(scope="module")
def train_args(folder):
    flags = training_support.tiny(folder / "images", folder / "prepared")
    flags |= {"train.epochs": 6, "checkpoint.every_steps": 1}
    return [f"--config.{key}={value}" for key, value in flags.items()]


@pytest.fixture(scope="module")
def start(folder, train_args, tmp_path_factory):
    """Starts `aeent train` in a workdir."""
    cache_home = training_support.cache_home(tmp_path_factory)

    def call(workdir, *args):
        return process_support.start(
            folder / "process",
            cache_home,
            "train",
            f"--workdir={workdir}",
            *train_args,
            *args,
        )

    return call


def final_state(workdir, folder):
    config = training_support.make_config(
        folder / "images", folder / "prepared"
    )
    return training_support.final_state(workdir, config)


@pytest.fixture(scope="module")
def uninterrupted(start, folder):
    command = start(folder / "uninterrupted")
    assert command.wait() == 0, command.err
    restored = final_state(folder / "uninterrupted", folder)
    assert restored.step == STEPS
    return restored.state


def kill_in_a_save(start, workdir):
    """Kills runs until one died in a save; how many kills it took."""
    for kills in range(1, 6):
        life = fault_support.Life(start, workdir)
        # Not in the first: there must be one to go back to.
        assert life.wait_for(life.saved(1))
        assert life.wait_for(life.saves_in_flight)
        assert life.command.kill(signal.SIGKILL) == -signal.SIGKILL
        if life.saves_in_flight() and life.latest():
            return kills
    pytest.fail("no kill fell in a save")
    return 0


def kill_at_random(start, workdir, rng):
    """Kills a run after a few checkpoints; whether it was still running."""
    life = fault_support.Life(start, workdir)
    if life.wait_for(life.saved(rng.randrange(4))):
        time.sleep(rng.uniform(0, 0.1))
    return life.command.kill(signal.SIGKILL) == -signal.SIGKILL


def finish(start, workdir):
    command = start(workdir)
    assert command.wait() == 0, command.err
    return command


def assert_as_if_never_killed(workdir, folder, uninterrupted):
    restored = final_state(workdir, folder)
    assert (restored.step, restored.damaged) == (STEPS, ())
    training_support.assert_bitwise(restored.state, uninterrupted)
    records = training_support.read_history(workdir)
    trained = [r["step"] for r in records if "train/loss" in r]
    assert trained == [4, 8, 12, 16, 20, 24]
    assert [r["step"] for r in records if "eval/test/auroc" in r] == [STEPS]


def test_killed_and_stopped_run_ends_as_if_it_never_was(
    start, folder, uninterrupted
):
    workdir = folder / "killed"
    kill_in_a_save(start, workdir)

    life = fault_support.Life(start, workdir)
    assert life.wait_for(life.saved(2))
    assert life.command.kill(signal.SIGTERM) == 0
    last = life.command.err.splitlines()[-1]
    step = life.latest()
    assert last == (
        f"Stopped by SIGTERM after step {step} of {STEPS}; the state is saved,"
        " and the same command goes on from it."
    )
    assert "Traceback" not in life.command.err

    # A scheduler that starts anew what failed can ask for another status.
    ask = "--interrupted_status=75"
    life = fault_support.Life(lambda folder: start(folder, ask), workdir)
    assert life.wait_for(life.saved(1))
    assert life.command.kill(signal.SIGTERM) == 75

    rng = random.Random(0)
    assert kill_at_random(start, workdir, rng)
    command = finish(start, workdir)
    assert "Going on from step " in command.err
    assert_as_if_never_killed(workdir, folder, uninterrupted)


@pytest.mark.slow
def test_kill_before_the_first_checkpoint_leaves_a_fresh_start(
    start, folder, uninterrupted
):
    workdir = folder / "early"
    life = fault_support.Life(start, workdir)
    assert life.wait_for((workdir / "config.json").exists)
    life.command.kill(signal.SIGKILL)
    assert life.latest() == 0
    finish(start, workdir)
    assert_as_if_never_killed(workdir, folder, uninterrupted)
