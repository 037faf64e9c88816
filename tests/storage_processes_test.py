"""Processes in a bucket: killed, stopped, several at once, and refused."""

import os
import re
import signal
import socket
from urllib.parse import unquote

import bucket_support
import process_support
import pytest
import training_support

# Compiling is most of the time of a process, and speed matters to nobody here.
FLAGS = (
    "--xla_backend_optimization_level=0"
    " --xla_llvm_disable_expensive_passes=true"
    " --xla_cpu_collective_call_terminate_timeout_seconds=600"
    " --xla_force_host_platform_device_count="
)


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
    flags |= {"parallel.num_devices": 0}
    trained = [f"--config.{key}={value}" for key, value in flags.items()]
    started = []

    def call(command, *args, devices=2):
        begun = process_support.start(
            folder / f"process{len(started)}",
            cache_home,
            command,
            *args,
            *(trained if command == "train" else []),
            environment=bucket.environment
            | {"XLA_FLAGS": f"{FLAGS}{devices}"},
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
    kill_at(bucket, start, workdir, "checkpoints/4/state/manifest")
    assert bucket.names("killed/checkpoints/4")
    said = kill_at(bucket, start, workdir, "checkpoints/6/commit_success")
    assert "Going on from step 2." in said
    said = kill_at(bucket, start, workdir, "metrics.jsonl.*")
    assert "Going on from step 4." in said
    said = kill_at(bucket, start, workdir, "eval/test/score_maps.npz")
    assert "Going on from step 4." in said
    command = finish(start("train", f"--workdir={workdir}"))
    assert "Training is complete at step 12; only evaluating." in command.err
    bucket_support.assert_same_end(
        storage.to_path(workdir), on_disk, config
    )
