"""One job a workdir, whatever became of the one before."""

import contextlib
import errno
import fcntl
import json
import os
import pathlib
import subprocess
import sys

import jax
import numpy as np
import pytest
from jax.experimental import multihost_utils

from aeent_jax import config as config_lib
from aeent_jax.runtime import claims, workdir


def claimed(folder):
    return claims.claimed(folder, config_lib.default())


def refusal(folder):
    with pytest.raises(OSError, match=r".") as caught, claimed(folder):
        pass
    return str(caught.value)


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
        # What it wrote is still there, but it holds nothing any more.
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
        workdir.check(tmp_path, config_lib.default())


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
