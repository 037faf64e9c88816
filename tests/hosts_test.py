"""Several processes that train together: as one, and when they die."""

import json
import pathlib
import signal
import socket
import time

import process_support
import pytest
import training_support

from aeent_jax import hosts, train

ROOT = pathlib.Path(__file__).parents[1]
STEPS = 12  # 3 epochs of 4
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


@pytest.fixture(scope="module")
def config(folder):
    return training_support.make_config(folder / "images", folder / "prepared")


@pytest.fixture(scope="module")
def alone(folder, config, tmp_path_factory):
    """The workdir of the same run in one process, with two devices."""
    home = training_support.cache_home(tmp_path_factory)
    for _ in training_support.use_compilation_cache(home):
        train.train(config, folder / "alone", say=training_support.Recorder())
    return folder / "alone"


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


@pytest.fixture
def start(folder, tmp_path, tmp_path_factory):
    """Starts processes of `aeent train` that meet; kills what is left."""
    cache_home = training_support.cache_home(tmp_path_factory)
    flags = training_support.tiny(folder / "images", folder / "prepared")
    started = []

    def call(workdir, count, of_each=(), **overrides):
        chosen = {k.replace("__", "."): v for k, v in overrides.items()}
        port, begun = free_port(), []
        for i in range(count):
            place = [
                f"--coordinator=127.0.0.1:{port}",
                f"--num_processes={count}",
                f"--process_id={i}",
            ]
            own = dict(of_each[i]) if of_each else {}
            keys = flags | chosen | own
            begun.append(
                process_support.start(
                    tmp_path / f"process{len(started) + i}",
                    cache_home,
                    "train",
                    f"--workdir={workdir}",
                    *(place if count > 1 else []),
                    *(f"--config.{k}={v}" for k, v in keys.items()),
                )
            )
        started.extend(begun)
        return begun

    yield call
    for command in started:
        command.process.kill()


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


def assert_same_run(workdir, other, config):
    one, two = (
        training_support.final_state(d, config) for d in (workdir, other)
    )
    assert (one.step, one.damaged) == (STEPS, ())
    training_support.assert_bitwise(one.state, two.state)
    assert lines_without_times(workdir) == lines_without_times(other)
    for name in ("scores.csv", "metrics.json", "panel.png"):
        path = pathlib.Path("eval") / "test" / name
        found = [(d / path).read_bytes() for d in (workdir, other)]
        if name == "metrics.json":
            found = [json.loads(text) for text in found]
            for tree in found:
                del tree["images_per_second"]
        assert found[0] == found[1]


def wait_for_checkpoint(workdir, commands):
    """Waits for the first; the processes must live until then."""
    path = workdir / "checkpoints"
    while not any(p.name.isdigit() for p in path.glob("*")):
        assert all(c.process.is_alive() for c in commands), commands[0].err
        time.sleep(0.01)


def test_two_processes_are_as_one(start, folder, alone, config):
    first, second = finish(start(folder / "pair", 2))
    # Bitwise: a sum of two is the same in either order.
    assert_same_run(folder / "pair", alone, config)
    assert "over 2 cpu device(s) of 2 processes (2 each)" in first.err
    assert "Everything is in" in first.out
    # The first alone speaks.
    assert (second.out, "12/12" in second.err) == ("", False)


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
        " and a port that is free there.",
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


def test_one_process_joins_nobody():
    hosts.join()
    hosts.join("127.0.0.1:1", 1, 0)
    assert hosts.is_first()
    assert not hosts.are_several()
    assert not hosts.agree_to_stop()
    assert hosts.describe() == ""


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
def test_shard_map_is_the_same(start, folder, alone, config):
    finish(start(folder / "mapped", 2, parallel__mode="shard_map"))
    assert_same_run(folder / "mapped", alone, config)


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
def test_sigterm_to_one_stops_all_and_one_process_goes_on(
    start, folder, alone, config, victim
):
    workdir = folder / f"stopped{victim}"
    # Steps so slow that the stop, which takes a second, comes before the end.
    commands = start(workdir, 2, log__every_epochs=1, train__epochs=3)
    wait_for_checkpoint(workdir, commands)
    commands[victim].kill(signal.SIGTERM)
    finish(commands)
    stopped = [c for c in commands if "Stopped by SIGTERM" in c.err]
    if stopped:
        step = training_support.final_state(workdir, config).step
        for command in commands:
            assert last_line(command) == (
                f"Stopped by SIGTERM after step {step} of {STEPS}; the state is"
                " saved, and the same command goes on from it."
            )
        (command,) = finish(start(workdir, 1))
        assert f"Going on from step {step}." in command.err
    assert_same_run(workdir, alone, config)


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 3])
def test_killed_process_ends_the_others_and_two_go_on(
    start, folder, config, victim
):
    workdir = folder / f"killed{victim}"
    commands = start(workdir, 4, parallel__num_devices=4, train__epochs=1000)
    wait_for_checkpoint(workdir, commands)
    begun = time.monotonic()
    commands[victim].kill(signal.SIGKILL)
    for i, command in enumerate(commands):
        status = command.wait()
        if i != victim:
            assert status != 0
            assert LOST in command.err or LOST_TO_JAX in command.err
    assert time.monotonic() - begun < 60
    finish(start(workdir, 2, parallel__num_devices=4, train__epochs=1000))
    assert "eval/test/auroc" in training_support.read_history(workdir)[-1]
