"""Several processes that train together: as one, and when they die."""

import contextlib
import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import process_support
import pytest
import training_support

from aeent_jax.runtime import hosts, stopping

STEPS = 4  # an epoch
LONG = {"train.epochs": 60}  # 240 steps
LOST = (
    "error: another process of this run has ended, so this one does too; start"
    " all of them again to go on from the last checkpoint."
)
# JAX's own words, where it notices before the collectives do.
LOST_TO_JAX = "Terminating process because the JAX distributed service"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("hosts")
    training_support.make_class_folders(made / "images")
    return made


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


@pytest.fixture(scope="module")
def start_command(folder, tmp_path_factory):
    """Starts processes of `aeent` that meet; kills what is left."""
    cache_home = training_support.cache_home(tmp_path_factory)
    started = []

    def call(processes, devices, *arguments, slurm=None):
        place = [f"--num_processes={processes}"]
        place += [f"--coordinator=127.0.0.1:{free_port()}"]
        begun = []
        for i in range(processes):
            own = [*place, f"--process_id={i}"] if processes > 1 else []
            environment = process_support.devices(devices)
            if slurm:
                own = ["--distributed"]
                environment |= slurm | {"SLURM_PROCID": str(i)}
            begun.append(
                process_support.start(
                    folder / f"process{len(started) + i}",
                    cache_home,
                    *arguments,
                    *own,
                    environment=environment,
                )
            )
        started.extend(begun)
        return begun

    yield call
    for command in started:
        command.process.kill()


@pytest.fixture(scope="module")
def start(folder, start_command):
    """Starts processes of `aeent train`."""
    flags = training_support.tiny(folder / "images", folder / "prepared")
    flags |= {"train.epochs": 1, "parallel.num_devices": 0}

    def call(workdir, processes, devices, overrides=None, **place):
        keys = flags | (overrides or {})
        return start_command(
            processes,
            devices,
            "train",
            f"--workdir={workdir}",
            *(f"--config.{key}={value}" for key, value in keys.items()),
            **place,
        )

    return call


@pytest.fixture(scope="module")
def alone(start, folder):
    """The workdir of one process with two devices."""
    finish(start(folder / "alone", 1, 2))
    return folder / "alone"


@pytest.fixture(scope="module")
def alone_for_long(start, folder):
    finish(start(folder / "alone_for_long", 1, 2, LONG))
    return folder / "alone_for_long"


def finish(commands):
    for command in commands:
        assert command.wait() == 0, command.err
    return commands


def last_line(command):
    return command.err.splitlines()[-1]


def lines_without_times(workdir):
    """metrics.jsonl without what differs from run to run."""
    return [
        {k: v for k, v in record.items() if "second" not in k}
        for record in training_support.read_history(workdir)
    ]


def final_state(workdir, folder):
    config = training_support.make_config(
        folder / "images", folder / "prepared"
    )
    return training_support.final_state(workdir, config)


def evaluation(workdir):
    """The files of the evaluation, without what differs from run to run."""
    path = workdir / "eval" / "test"
    found = json.loads((path / "metrics.json").read_text())
    del found["images_per_second"]
    return found, *(
        (path / name).read_bytes() for name in ("scores.csv", "panel.png")
    )


def assert_same_end(workdir, other, folder):
    one, two = (final_state(d, folder) for d in (workdir, other))
    assert (one.step, one.damaged) == (two.step, ())
    training_support.assert_bitwise(one.state, two.state)
    assert evaluation(workdir) == evaluation(other)


def wait_for_checkpoint(workdir, commands):
    """Waits for the first; the processes must live until then."""
    path = workdir / "checkpoints"
    while not any(p.name.isdigit() for p in path.glob("*")):
        assert all(c.process.is_alive() for c in commands), commands[0].err
        time.sleep(0.01)


def test_two_processes_are_as_one(start, folder, alone):
    workdir = folder / "pair"
    first, second = finish(start(workdir, 2, 1))
    # Bitwise: a sum of two is the same in either order.
    assert_same_end(workdir, alone, folder)
    assert lines_without_times(workdir) == lines_without_times(alone)
    assert "over 2 cpu device(s) of 2 processes (2 each)" in first.err
    assert "Everything is in" in first.out
    # The first alone speaks, but for the library of collectives.
    said = [x for x in second.out.splitlines() if not x.startswith("[Gloo]")]
    assert (said, f"{STEPS}/{STEPS}" in second.err) == ([], False)


BAD = [
    (
        {"num_processes": 2},
        "--num_processes is given without --coordinator and --process_id;"
        " several processes need all three, or --distributed.",
    ),
    (
        {"coordinator": "10.0.0.1:80", "num_processes": 2},
        "--coordinator is given without --process_id; several processes need"
        " all three, or --distributed.",
    ),
    (
        {"coordinator": "10.0.0.1", "num_processes": 2, "process_id": 0},
        "--coordinator=10.0.0.1 is no HOST:PORT; give the address of process 0"
        " and a port, 1 to 65535, that is free there.",
    ),
    (
        {"coordinator": "a:65536", "num_processes": 2, "process_id": 1},
        "--coordinator=a:65536 is no HOST:PORT; give the address of process 0"
        " and a port, 1 to 65535, that is free there.",
    ),
    (
        {"coordinator": "a:1", "num_processes": 0, "process_id": 0},
        "--num_processes is 0, but must be at least 1.",
    ),
    (
        {"coordinator": "a:1", "num_processes": 2, "process_id": 2},
        "--process_id is 2, but must be from 0 to 1, the --num_processes less"
        " one.",
    ),
    (
        {"coordinator": "a:1", "num_processes": 2, "process_id": -1},
        "--process_id is -1, but must be from 0 to 1, the --num_processes less"
        " one.",
    ),
    (
        {"process_id": 0, "detect": True},
        "--distributed finds out by itself what --process_id says; give one or"
        " the other.",
    ),
    (
        {"detect": True, "timeout": 0},
        "--join_seconds is 0, but must be at least 1.",
    ),
]


@pytest.mark.parametrize(("arguments", "sentence"), BAD)
def test_refusals_say_what_is_needed(arguments, sentence):
    with pytest.raises(ValueError, match=r".") as caught:
        hosts.join(**arguments)
    assert str(caught.value) == sentence


@pytest.mark.parametrize("host", ["127.0.0.1", ""])
def test_port_that_is_in_use_is_refused(host):
    with socket.create_server((host, 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(OSError, match=r".") as caught:
            hosts.join(f"127.0.0.1:{port}", 2, 0)
    assert str(caught.value) == (
        f"--coordinator=127.0.0.1:{port} has a port that process 0 cannot open"
        " (Address already in use); stop the job that has it, or give another"
        " port to all processes."
    )


def test_one_process_joins_nobody():
    hosts.join()
    hosts.join("127.0.0.1:1", 1, 0)
    assert hosts.is_first()
    assert not hosts.are_several()
    stop = stopping.Stop()
    stop.agree()
    assert stop.number is None
    assert hosts.describe() == ""


def test_a_process_alone_takes_no_device():
    # The sweep asks, and leaves the accelerators to its workers.
    program = (
        "from aeent_jax.runtime import hosts; hosts.are_several();"
        "from jax._src import xla_bridge; print(xla_bridge._backends)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=pathlib.Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "{}\n"


def test_failing_alone_raises_as_before():
    with (
        pytest.raises(ValueError, match="mine"),
        hosts.taking_part((ValueError,)),
    ):
        raise ValueError("mine")


def test_waiting_for_others_has_an_end(folder, tmp_path, tmp_path_factory):
    port = free_port()
    status, out, err = process_support.run(
        tmp_path / "process",
        training_support.cache_home(tmp_path_factory),
        "train",
        f"--workdir={tmp_path / 'run'}",
        f"--coordinator=127.0.0.1:{port}",
        "--num_processes=2",
        "--process_id=1",
        "--join_seconds=1",
    )
    assert (status, out) == (1, "")
    assert err.splitlines()[-1] == (
        f"error: not all 2 processes have met at 127.0.0.1:{port} within 1 s;"
        " see that each one runs, with a --process_id of its own, and reaches"
        " that address."
    )
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_processes_find_each_other_under_slurm(start, folder, alone):
    # JAX takes the port from the job's number: one of the last 4096.
    first = 65536 - 4096
    for number in range(1000, 4096):
        with socket.socket() as found, contextlib.suppress(OSError):
            found.bind(("127.0.0.1", first + number))
            break
    slurm = {
        "SLURM_JOB_ID": str(4096 + number),
        "SLURM_STEP_NODELIST": "127.0.0.1",
        "SLURM_NTASKS": "2",
        "SLURM_LOCALID": "0",
    }
    workdir = folder / "slurm"
    finish(start(workdir, 2, 1, slurm=slurm))
    assert_same_end(workdir, alone, folder)


@pytest.mark.slow
def test_two_processes_evaluate_as_one(start_command, folder, alone):
    workdir = folder / "evaluated"
    shutil.copytree(alone, workdir)
    shutil.rmtree(workdir / "eval")
    first, second = finish(
        start_command(2, 1, "evaluate", f"--workdir={workdir}")
    )
    assert evaluation(workdir) == evaluation(alone)
    said = "test_abnormal  reconstruction error"
    assert said in first.out
    assert said not in second.out
    finish(
        start_command(
            2, 1, "evaluate", f"--workdir={workdir}", "--score=smoothed_box3"
        )
    )
    assert evaluation(workdir) == evaluation(alone)
    path = workdir / "eval" / "test" / "smoothed_box3" / "metrics.json"
    assert json.loads(path.read_text())["score"] == "smoothed_box3"


@pytest.mark.slow
def test_second_job_is_refused_by_all_its_processes(start, folder):
    workdir = folder / "taken"
    commands = start(workdir, 1, 2, LONG | {"train.epochs": 100_000})
    wait_for_checkpoint(workdir, commands)
    first, second = start(workdir, 2, 1, LONG | {"train.epochs": 100_000})
    assert (first.wait(), second.wait()) == (1, 1)
    assert f"--workdir={workdir} is in use by process" in last_line(first)
    assert "cannot be had, as the first process says" in last_line(second)
    # The job that has it is none the worse.
    assert commands[0].process.is_alive()
    commands[0].kill(signal.SIGTERM)
    finish(commands)
    assert "the state is saved" in last_line(commands[0])


def scores(workdir):
    rows = evaluation(workdir)[1].decode().splitlines()[1:]
    return np.array([float(row.split(",")[-1]) for row in rows])


@pytest.mark.slow
def test_four_processes_are_as_one_with_four_devices(start, folder):
    four, one = folder / "four", folder / "one"
    finish(start(four, 4, 1) + start(one, 1, 4))
    trained = [training_support.read_history(d)[0] for d in (four, one)]
    # Sums of four are taken in another order: seen were 8e-8 in the loss, 4e-6
    # in the gradient and 2e-7 in the scores after four steps.
    for key, tolerance in (("train/loss", 1e-6), ("train/grad_norm", 1e-4)):
        found, expected = (record[key] for record in trained)
        np.testing.assert_allclose(found, expected, rtol=tolerance)
    np.testing.assert_allclose(scores(four), scores(one), rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
def test_sigterm_to_one_stops_all_and_one_process_goes_on(
    start, folder, alone_for_long, victim
):
    workdir = folder / f"stopped{victim}"
    # A checkpoint a step: slow enough to be stopped before the end.
    commands = start(workdir, 2, 1, LONG | {"checkpoint.every_steps": 1})
    wait_for_checkpoint(workdir, commands)
    commands[victim].kill(signal.SIGTERM)
    finish(commands)
    step = final_state(workdir, folder).step
    for command in commands:
        assert last_line(command) == (
            f"Stopped by SIGTERM after step {step} of 240; the state is saved,"
            " and the same command goes on from it."
        )
    (command,) = finish(start(workdir, 1, 2, LONG))
    assert f"Going on from step {step}." in command.err
    assert_same_end(workdir, alone_for_long, folder)


def assert_others_end(commands, victim):
    """Kills one, and sees the others end within a minute with a reason."""
    begun = time.monotonic()
    commands[victim].kill(signal.SIGKILL)
    for command in commands[:victim] + commands[victim + 1 :]:
        assert command.wait() != 0
        assert LOST in command.err or LOST_TO_JAX in command.err
    assert time.monotonic() - begun < 60


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
def test_killed_process_ends_the_other_and_both_go_on(
    start, folder, alone_for_long, victim
):
    workdir = folder / f"killed{victim}"
    saving = LONG | {"checkpoint.every_steps": 1}
    commands = start(workdir, 2, 1, saving)
    wait_for_checkpoint(workdir, commands)
    assert_others_end(commands, victim)
    first, _ = finish(start(workdir, 2, 1, LONG))
    assert "Going on from step" in first.err
    assert_same_end(workdir, alone_for_long, folder)


@pytest.mark.slow
def test_killed_one_of_four_ends_three_and_two_go_on(start, folder):
    workdir = folder / "killed_of_four"
    saving = LONG | {"checkpoint.every_steps": 1}
    commands = start(workdir, 4, 1, saving)
    wait_for_checkpoint(workdir, commands)
    assert_others_end(commands, 2)
    first, _ = finish(start(workdir, 2, 2, LONG))
    assert "over 4 cpu device(s) of 2 processes (1 each)" in first.err
    assert final_state(workdir, folder).step == 240


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
def test_process_that_hangs_ends_the_other(start, folder, victim):
    workdir = folder / f"hung{victim}"
    commands = start(workdir, 2, 1, LONG | {"checkpoint.every_steps": 1})
    wait_for_checkpoint(workdir, commands)
    begun = time.monotonic()
    # Its sockets stay open: only its silence tells.
    os.kill(commands[victim].process.pid, signal.SIGSTOP)
    other = commands[1 - victim]
    assert other.wait() != 0
    assert time.monotonic() - begun < 60
    assert LOST in other.err or LOST_TO_JAX in other.err
    commands[victim].kill(signal.SIGKILL)


@pytest.mark.slow
def test_failure_of_one_is_told_and_ends_the_other(start, folder):
    workdir = folder / "failed"
    workdir.write_text("A file, not a folder.")
    commands = start(workdir, 2, 1)
    for command in commands:
        assert command.wait() == 1
        assert last_line(command) == (
            f"error: --workdir={workdir} is a file, but a folder is needed;"
            " give another path."
        )
