"""Processes in a bucket: killed, stopped, several at once, and refused."""

import os
import pathlib
import re
import signal
import socket
from urllib.parse import unquote

import bucket_support
import process_support
import pytest
import training_support

from aeent_jax.runtime import storage


@pytest.fixture(scope="module", autouse=True)
def bucket():
    yield from bucket_support.use_bucket()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("processes")
    training_support.make_class_folders(made / "images")
    return made


@pytest.fixture(scope="module")
def config(folder):
    return training_support.make_config(folder / "images", folder / "prepared")


@pytest.fixture(scope="module")
def start(folder, bucket, tmp_path_factory):
    """Starts `aeent`, and kills what is left in the end."""
    cache_home = training_support.cache_home(tmp_path_factory)
    flags = training_support.tiny(folder / "images", folder / "prepared")
    # A checkpoint at the end of each of the three epochs.
    flags |= {"parallel.num_devices": 0, "checkpoint.every_steps": 4}
    trained = [f"--config.{key}={value}" for key, value in flags.items()]
    started = []

    def call(command, *args, devices=2):
        begun = process_support.start(
            folder / f"process{len(started)}",
            cache_home,
            command,
            *args,
            *(trained if command == "train" else []),
            environment=bucket.environment | process_support.devices(devices),
        )
        started.append(begun)
        return begun

    yield call
    for command in started:
        command.process.kill()


@pytest.fixture(scope="module")
def on_disk(start, folder):
    """The workdir of a run on disk."""
    workdir = folder / "on_disk"
    finish(start("train", f"--workdir={workdir}"))
    return workdir


def finish(*commands):
    for command in commands:
        assert command.wait() == 0, command.err
    return commands[0]


def kill_at(bucket, start, workdir, pattern):
    """Kills a run as it asks to write what the pattern fits."""
    begun = []

    def strikes(method, path):
        if method not in bucket_support.WRITES:
            return False
        if not re.search(pattern, unquote(path)):
            return False
        os.kill(begun[0].process.pid, signal.SIGKILL)
        return True

    with bucket.refusing(strikes):
        begun.append(start("train", f"--workdir={workdir}"))
        assert begun[0].wait() == -signal.SIGKILL, begun[0].err
    return begun[0].err


@pytest.mark.slow
def test_killed_and_stopped_run_ends_as_if_it_never_was(
    start, bucket, on_disk, config
):
    workdir = "gs://bucket/killed"
    # Its own claim, the midst of a save, its last write, and the evaluation.
    kill_at(bucket, start, workdir, "environment.json")
    kill_at(bucket, start, workdir, "checkpoints/8/state/manifest")
    assert bucket.names("killed/checkpoints/8")
    said = kill_at(bucket, start, workdir, "checkpoints/12/commit_success")
    assert "Going on from step 4." in said
    kill_at(bucket, start, workdir, "metrics.jsonl")
    said = kill_at(bucket, start, workdir, "eval/test/score_maps.npz")
    assert "Going on from step 8." in said
    command = finish(start("train", f"--workdir={workdir}"))
    # The last save may have been under way yet when the evaluation was killed.
    complete = "Training is complete at step 12; only evaluating."
    assert complete in command.err or "Going on from step 8." in command.err
    bucket_support.assert_same_end(storage.to_path(workdir), on_disk, config)


@pytest.mark.slow
def test_stopped_run_goes_on(start, bucket, on_disk, config):
    workdir, begun = "gs://bucket/stopped", []

    def stop(method, path):
        if "checkpoints/8/_CHECKPOINT" in unquote(path) and begun:
            os.kill(begun.pop().process.pid, signal.SIGTERM)
        return False

    with bucket.refusing(stop):
        command = start("train", f"--workdir={workdir}")
        begun.append(command)
        finish(command)
    last = command.err.splitlines()[-1]
    assert last.startswith("Stopped by SIGTERM after step 8 of 12;")
    command = finish(start("train", f"--workdir={workdir}"))
    assert "Going on from step 8." in command.err
    bucket_support.assert_same_end(storage.to_path(workdir), on_disk, config)


@pytest.mark.slow
def test_two_processes_are_as_one_also_after_one_was_killed(
    start, bucket, on_disk, config
):
    workdir, begun = "gs://bucket/pair", []

    def start_both():
        with socket.socket() as found:
            found.bind(("127.0.0.1", 0))
            port = found.getsockname()[1]
        place = [f"--coordinator=127.0.0.1:{port}", "--num_processes=2"]
        return [
            start(
                "train",
                f"--workdir={workdir}",
                *place,
                f"--process_id={i}",
                devices=1,
            )
            for i in range(2)
        ]

    def kill_first(method, path):
        if "checkpoints/8/state/manifest" not in unquote(path):
            return False
        begun[0].kill(signal.SIGKILL)
        return True

    with bucket.refusing(kill_first):
        begun += start_both()
        assert all(command.wait() != 0 for command in begun)
    finish(*(begun := start_both()))
    assert "Going on from step 4." in begun[0].err
    bucket_support.assert_same_end(storage.to_path(workdir), on_disk, config)


@pytest.mark.slow
def test_commands_find_a_run_in_a_bucket(
    start, bucket, on_disk, folder, config
):
    workdir = "gs://bucket/commands"
    finish(start("train", f"--workdir={workdir}"))
    # A second time only evaluates, and so does `evaluate`.
    command = finish(start("train", f"--workdir={workdir}"))
    assert "Training is complete at step 12; only evaluating." in command.err
    (storage.to_path(workdir) / "eval").rmtree()
    finish(start("evaluate", f"--workdir={workdir}/", "--best=false"))
    bucket_support.assert_same_end(storage.to_path(workdir), on_disk, config)
    out = folder / "report.html"
    command = finish(
        start("report", f"--runs={workdir},{on_disk}", f"--out={out}")
    )
    assert "commands" in command.out
    command = finish(
        start("evaluate", f"--workdir={workdir}", "--score=absolute")
    )
    assert "absolute" in command.out
    assert "eval/test/absolute/metrics.json" in bucket.names("commands")
    finish(start("entropy", f"--workdir={workdir}"))
    finish(start("theory", f"--runs={workdir}", f"--out={folder / 'theory'}"))


REFUSED = {
    "train --workdir=gs://another/x": (
        "There is no bucket gs://another; make it, or correct its name."
    ),
    "evaluate --workdir=gs://bucket/none": (
        "gs://bucket/none is not the workdir of a run (it has no config.json);"
        " give the --workdir of an `aeent train` command."
    ),
    "report --runs=gs://bucket/none": (
        "Found no folder gs://bucket/none; pass the workdir of a run, as it was"
        " given to aeent train."
    ),
    "theory --runs=runs/a --out=gs://bucket/x": (
        "--out is gs://bucket/x, but must be a path on disk; give one, since"
        " only the workdirs of runs can be in a bucket."
    ),
    "sweep --config=configs/estimators.py --out=gs://bucket/x": (
        "--out is gs://bucket/x, but must be a path on disk; give one, since"
        " only the workdirs of runs can be in a bucket."
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("command", REFUSED)
def test_refusal_is_one_sentence(start, command):
    refused = start(*command.split())
    assert refused.wait() == 1
    assert refused.err.splitlines()[-1] == f"error: {REFUSED[command]}"
    assert "Traceback" not in refused.err


def test_no_folder_was_taken_for_a_bucket():
    """Last: what a gs:// that is taken for a path on disk would leave."""
    assert not list(pathlib.Path().glob("gs:*"))
