import contextlib
import errno
import fcntl
import json
import os
import pathlib
import subprocess
import sys

import fault_support
import jax
import numpy as np
import pytest
from jax.experimental import multihost_utils

from aeent_jax import config as config_lib
from aeent_jax.runtime import workdir


def make_config(**overrides):
    config = config_lib.default()
    config.update_from_flattened_dict(
        {key.replace("__", "."): value for key, value in overrides.items()}
    )
    return config


def claimed(folder, **overrides):
    return workdir.claimed(folder, make_config(**overrides))


def claim(folder, **overrides):
    with claimed(folder, **overrides):
        pass


def refusal(folder, **overrides):
    with pytest.raises((ValueError, OSError)) as caught:
        claim(folder, **overrides)
    return str(caught.value)


def test_claim_records_configuration_and_environment(tmp_path):
    claim(tmp_path / "a" / "run")
    folder = tmp_path / "a" / "run"
    assert workdir.load_config(folder).to_dict() == make_config().to_dict()
    environment = json.loads((folder / "environment.json").read_text())
    assert environment["packages"]["jax"]
    assert len(environment["devices"]) == 8
    assert sorted(p.name for p in folder.iterdir()) == [
        "config.json",
        "environment.json",
        "lock",
    ]


def test_same_configuration_is_welcome_again(tmp_path):
    claim(tmp_path)
    claim(tmp_path)


@pytest.mark.parametrize(
    "overrides",
    [
        {"data__root": "elsewhere", "data__cache_dir": "elsewhere"},
        {"parallel__num_devices": 1},
        {"checkpoint__every_steps": 3, "checkpoint__keep": 7},
        {"eval__every_epochs": 2, "log__every_epochs": 2},
        # At a constant learning rate more epochs are the same run, longer.
        {"train__epochs": 300},
    ],
)
def test_what_leaves_the_parameters_alone_may_differ(tmp_path, overrides):
    claim(tmp_path)
    claim(tmp_path, **overrides)
    found = workdir.load_config(tmp_path)
    expected = make_config(**overrides)
    if expected.data.root:
        # Stored so that a command in another folder finds it.
        expected.data.root = str(pathlib.Path(expected.data.root).absolute())
    assert found.to_dict() == expected.to_dict()


def test_another_configuration_is_refused_with_the_differing_keys(tmp_path):
    claim(tmp_path)
    before = (tmp_path / "config.json").read_bytes()
    message = refusal(
        tmp_path,
        train__seed=3,
        model__latent_dim=16,
        eval__every_epochs=1,
    )
    assert message == (
        f"--workdir={tmp_path} belongs to another configuration:"
        " model.latent_dim is 64 there and 16 here; train.seed is 0 there and"
        " 3 here. Give another workdir, or the same configuration to go on"
        " with that run."
    )
    assert (tmp_path / "config.json").read_bytes() == before


@pytest.mark.parametrize(
    ("first", "second", "difference"),
    [
        # A shorter run would leave checkpoints beyond its end.
        ({}, {"train__epochs": 10}, "train.epochs is 250 there and 10 here."),
        # A schedule that ends with the run is another one in a longer run.
        (
            {"optimizer__schedule": "cosine"},
            {"optimizer__schedule": "cosine", "train__epochs": 300},
            "train.epochs is 250 there and 300 here.",
        ),
        (
            {},
            {"optimizer__schedule": "cosine"},
            "optimizer.schedule is constant there and cosine here.",
        ),
    ],
)
def test_another_length_is_refused_where_it_is_another_run(
    tmp_path, first, second, difference
):
    claim(tmp_path, **first)
    message = refusal(tmp_path, **second)
    assert message.startswith(
        f"--workdir={tmp_path} belongs to another configuration: {difference}"
    )


def test_configuration_of_another_version_is_refused(tmp_path):
    claim(tmp_path)
    path = tmp_path / "config.json"
    config = json.loads(path.read_text())
    config["model"]["dropout"] = 0.1
    del config["model"]["depth"]
    path.write_text(json.dumps(config))
    assert refusal(tmp_path).startswith(
        f"--workdir={tmp_path} belongs to another configuration: model.depth"
        " is None there and 1 here; model.dropout is 0.1 there and None here."
    )


def test_folder_with_other_files_is_refused_and_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("precious")
    assert refusal(tmp_path) == (
        f"--workdir={tmp_path} holds files but no config.json of a run; give"
        " an empty or new folder, so that nothing is overwritten."
    )
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]


def test_file_is_refused(tmp_path):
    path = tmp_path / "file"
    path.write_text("")
    assert refusal(path) == (
        f"--workdir={path} is a file, but a folder is needed; give another"
        " path."
    )


@pytest.mark.parametrize("below", ["run", "file/run"])
def test_folder_that_cannot_be_made_is_refused(tmp_path, monkeypatch, below):
    (tmp_path / "file").write_text("")
    path = tmp_path / below
    reason = "Not a directory"
    if below == "run":
        # As root, no folder is closed to a test.
        def refuse(self, **kwargs):
            raise PermissionError(13, "Permission denied", str(self))

        monkeypatch.setattr(pathlib.Path, "mkdir", refuse)
        reason = "Permission denied"
    assert refusal(path) == (
        f"--workdir={path} cannot be written ({reason}); give a folder that"
        " can."
    )


def test_folder_without_a_run_cannot_be_loaded(tmp_path):
    with pytest.raises(FileNotFoundError) as caught:
        workdir.load_config(tmp_path / "nothing")
    assert str(caught.value) == (
        f"{tmp_path / 'nothing'} is not the workdir of a run (it has no"
        " config.json); give the --workdir of an `aeent train` command."
    )


def test_damaged_configuration_is_named(tmp_path):
    claim(tmp_path)
    (tmp_path / "config.json").write_text('{"train": ')
    for call in (claim, workdir.load_config):
        with pytest.raises(ValueError, match=r".") as caught:
            call(tmp_path)
        assert str(caught.value).startswith(
            f"{tmp_path / 'config.json'} is not readable as JSON ("
        )
        assert str(caught.value).endswith(
            "); restore it or use another workdir."
        )


def test_configuration_of_another_program_is_refused(tmp_path):
    (tmp_path / "config.json").write_text("[1]")
    for call in (claim, workdir.load_config):
        with pytest.raises(ValueError, match="not the configuration of a run"):
            call(tmp_path)
    assert (tmp_path / "config.json").read_text() == "[1]"


def test_epochs_that_are_no_number_are_another_configuration(tmp_path):
    claim(tmp_path)
    path = tmp_path / "config.json"
    config = json.loads(path.read_text())
    config["train"]["epochs"] = "many"
    path.write_text(json.dumps(config))
    assert "train.epochs is many there" in refusal(tmp_path)


@pytest.mark.parametrize(
    ("group", "change", "fault"),
    [
        (
            "model",
            {"depth": None},
            "model.depth = None, but it must be a whole",
        ),
        ("train", {"seed": True}, "train.seed = True, but it must be a whole"),
        ("log", {"tensorboard": 1}, "log.tensorboard = 1, but it must be true"),
        ("data", {"name": ["a"]}, "data.name = ['a'], but it must be a string"),
        ("model", {"dropout": 0.1}, "model.dropout, which is no key of"),
    ],
)
def test_loaded_configuration_has_the_types_of_the_default(
    tmp_path, group, change, fault
):
    claim(tmp_path)
    path = tmp_path / "config.json"
    config = json.loads(path.read_text())
    # JSON has one kind of number; 1 is as good as 1.0.
    config["channel"]["sigma"] = 1
    path.write_text(json.dumps(config))
    assert workdir.load_config(tmp_path).channel.sigma == 1
    config[group] |= change
    path.write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r".") as caught:
        workdir.load_config(tmp_path)
    assert str(caught.value).startswith(f"{path} has {fault}")


@pytest.mark.parametrize(
    ("tree", "fault"),
    [
        ({}, "no method, so it is of another version; add what it lacks"),
        (
            {"model": 3},
            "model = 3, but it must be a group of keys: latent",
        ),
        ({"model": {}}, "no model.latent_dim, so it is of another version;"),
    ],
)
def test_loaded_configuration_has_the_groups_of_the_default(
    tmp_path, tree, fault
):
    whole = make_config().to_dict() if tree else {}
    path = tmp_path / "config.json"
    path.write_text(json.dumps(whole | tree))
    with pytest.raises(ValueError, match=r".") as caught:
        workdir.load_config(tmp_path)
    assert str(caught.value).startswith(f"{path} has {fault}")


def test_loaded_configuration_is_locked(tmp_path):
    claim(tmp_path)
    config = workdir.load_config(tmp_path)
    with pytest.raises(AttributeError):
        config.train.epoch = 3


def test_json_is_replaced_whole_and_without_infinities(tmp_path):
    path = tmp_path / "a.json"
    workdir.write_json(path, {"a": 1})
    tree = {"a": float("inf"), "b": [float("nan"), (1.5, "x")], "c": None}
    workdir.write_json(path, tree)
    assert workdir.read_json(path) == {
        "a": None,
        "b": [None, [1.5, "x"]],
        "c": None,
    }
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_revision_is_that_of_the_sources_or_unknown(monkeypatch):
    assert workdir.environment()["git_revision"] is None or (
        len(workdir.environment()["git_revision"]) >= 40
    )

    def fail(*args, **kwargs):
        raise subprocess.CalledProcessError(128, "git")

    monkeypatch.setattr(subprocess, "run", fail)
    assert workdir.environment()["git_revision"] is None


def read_steps(folder):
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line)["step"] for line in lines]


def open_writer(folder, step):
    return workdir.MetricsWriter(folder, step, tensorboard=False)


def test_metrics_after_the_restored_step_are_forgotten(tmp_path):
    writer = open_writer(tmp_path, 0)
    for step in (2, 4, 6):
        writer.write({"step": step, "train/loss": 0.5})
    # The line of a process that was killed as it wrote.
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 8, "train/lo')
    writer = open_writer(tmp_path, 4)
    assert read_steps(tmp_path) == [2, 4]
    writer.write({"step": 6, "train/loss": 0.5})
    writer.close()
    assert read_steps(tmp_path) == [2, 4, 6]
    open_writer(tmp_path, 0)
    assert read_steps(tmp_path) == []


def test_lines_that_are_no_records_are_dropped(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('3\n{"a": 1}\n{"step": 2}\n')
    open_writer(tmp_path, 4)
    assert read_steps(tmp_path) == [2]


def test_metrics_are_lines_of_plain_numbers(tmp_path):
    writer = open_writer(tmp_path, 0)
    writer.write({"step": 1, "train/rate_nats": float("inf")})
    line = (tmp_path / "metrics.jsonl").read_text()
    assert line == '{"step": 1, "train/rate_nats": null}\n'


def test_metrics_that_find_no_room_are_one_sentence(tmp_path):
    writer = open_writer(tmp_path, 0)
    writer.write({"step": 1})
    with (
        fault_support.largest_write(20),
        pytest.raises(OSError, match=r".") as caught,
    ):
        writer.write({"step": 2})
    assert str(caught.value) == (
        f"{tmp_path / 'metrics.jsonl'} cannot be written (File too large);"
        " make room or give access, then start the run again to go on from its"
        " latest checkpoint."
    )
    # The line that was begun is forgotten.
    open_writer(tmp_path, 2)
    assert (tmp_path / "metrics.jsonl").read_text() == '{"step": 1}\n'


def test_tensorboard_gets_the_same_numbers(tmp_path):
    pytest.importorskip("tensorboardX", reason="tensorboardX is not installed")
    writer = workdir.MetricsWriter(tmp_path, 0, tensorboard=True)
    writer.write({"step": 1, "train/loss": 0.5, "train/rate_nats": None})
    writer.close()
    assert list((tmp_path / "tensorboard").glob("events*"))


def test_numpy_numbers_are_refused_early(tmp_path):
    # A record is of Python numbers; numpy's are not JSON.
    with pytest.raises(TypeError):
        open_writer(tmp_path, 0).write({"step": 1, "a/b": np.float32(1)})


# Another job: it locks, says so, and waits for its end.
_OTHER = """
import fcntl, sys
with open(sys.argv[1], "a") as file:
    fcntl.flock(file, fcntl.LOCK_EX)
    print("locked", file=file, flush=True)
    print(flush=True)
    sys.stdin.read()
"""


@contextlib.contextmanager
def other_job(folder):
    process = subprocess.Popen(
        [sys.executable, "-S", "-c", _OTHER, folder / "lock"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    process.stdout.readline()
    with process:
        yield process
        process.kill()


def test_workdir_is_refused_while_another_job_has_it_and_not_after_its_death(
    tmp_path,
):
    with claimed(tmp_path):
        pass
    before = {p: p.stat().st_mtime_ns for p in tmp_path.glob("*.json")}
    with other_job(tmp_path) as process:
        assert refusal(tmp_path).endswith(
            "\nlocked; wait for it or stop it, or give this run a workdir of"
            " its own."
        )
        after = {p: p.stat().st_mtime_ns for p in tmp_path.glob("*.json")}
        assert after == before
        process.kill()
        process.wait()
        # The text is still there, but the lock is free.
        assert "locked" in (tmp_path / "lock").read_text()
        with claimed(tmp_path):
            pass


def test_job_that_has_the_workdir_is_named(tmp_path):
    with claimed(tmp_path):
        assert refusal(tmp_path) == (
            f"--workdir={tmp_path} is in use by process {os.getpid()} on"
            f" {os.uname().nodename}; wait for it or stop it, or give this run"
            " a workdir of its own."
        )
    # Nor does it matter who had it.
    with claimed(tmp_path), claimed(tmp_path / "another"):
        pass


def test_only_the_first_process_of_a_job_keeps_others_out(
    tmp_path, monkeypatch
):
    with claimed(tmp_path):
        monkeypatch.setattr(jax, "process_index", lambda: 1)
        with claimed(tmp_path):
            pass


def test_other_processes_do_not_wait_for_a_first_that_is_refused(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    monkeypatch.setattr(
        multihost_utils, "broadcast_one_to_all", lambda _: np.int32(1)
    )
    assert refusal(tmp_path) == (
        f"--workdir={tmp_path} cannot be had, as the first process says; do"
        " what it asks for and start all processes again."
    )


def test_job_killed_as_it_claims_leaves_a_workdir_to_start_in(
    tmp_path, monkeypatch
):
    class Killed(BaseException):
        pass

    def die(*_):
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", die)
        with pytest.raises(Killed), claimed(tmp_path):
            pass
    assert {p.name for p in tmp_path.iterdir()} == {
        "config.json.partial",
        "lock",
    }
    with claimed(tmp_path):
        assert workdir.load_config(tmp_path)
    # All else may be precious.
    (tmp_path / "config.json").rename(tmp_path / "mine.json")
    with pytest.raises(ValueError, match="holds files but no config.json"):
        workdir.check(tmp_path, make_config())


def test_refused_configuration_leaves_no_lock(tmp_path):
    (tmp_path / "thesis.tex").write_text("precious")
    with (
        pytest.raises(ValueError, match="holds files but no config.json"),
        claimed(tmp_path),
    ):
        pass
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]


def test_without_locks_a_workdir_is_claimed_all_the_same(tmp_path, monkeypatch):
    def refuse(descriptor, operation):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with claimed(tmp_path):
        assert json.loads((tmp_path / "config.json").read_text())


def test_folder_that_cannot_be_written_is_one_sentence(tmp_path, monkeypatch):
    def refuse(self, *_, **__):
        raise OSError(errno.EROFS, "Read-only file system", str(self))

    # As root, no folder is closed to a test.
    monkeypatch.setattr(pathlib.Path, "open", refuse)
    assert refusal(tmp_path) == (
        f"--workdir={tmp_path} cannot be written (Read-only file system); give"
        " a folder that can."
    )
