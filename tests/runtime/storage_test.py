"""Text becomes a path, or one sentence; no bucket is needed for this."""

import os
import pathlib

import pytest

from aeent_jax.data import archives, cache
from aeent_jax.results import report
from aeent_jax.runtime import profiling, storage

pytestmark = pytest.mark.usefixtures("nothing_is_made_here")


def test_path_on_disk_stays_what_it_is(tmp_path):
    for place in (tmp_path, "runs/x", "c:x", "a b", ""):
        path = storage.to_path(place)
        assert type(path) is type(tmp_path)
        assert path == pathlib.Path(place)
        assert storage.absolute(place) == pathlib.Path(place).absolute()
        assert not storage.is_in_bucket(path)


@pytest.mark.parametrize(
    "place", ["gs:/bucket/x", "gs:x", "gs://", "gs:///x", "s3://bucket/x"]
)
def test_other_addresses_are_refused(place):
    with pytest.raises(ValueError, match=r".") as caught:
        storage.to_path(place)
    assert str(caught.value) == (
        f"{place} is neither a path on disk nor in a bucket of Google Cloud"
        " Storage; give DIR or gs://BUCKET/DIR."
    )


@pytest.mark.parametrize("name", ["run*", "a?", "seed[1]/x", "x#1"])
def test_names_that_are_patterns_are_refused(name):
    with pytest.raises(ValueError, match="which gcsfs reads as a pattern"):
        storage.to_path(f"gs://bucket/{name}")


def test_missing_gcsfs_is_one_sentence(monkeypatch):
    monkeypatch.setattr(storage.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(ValueError, match=r".") as caught:
        storage.to_path("gs://bucket/x")
    assert str(caught.value) == (
        "gs://bucket needs gcsfs, which is not installed; pip install"
        " 'aeent-jax[gcs]' brings it."
    )


def test_failure_of_the_network_is_one_sentence():
    # As gcsfs and aiohttp raise it, which is no OSError.
    error = type("HttpError", (Exception,), {"__module__": "gcsfs.retry"})
    assert storage.network_failure(error("Backend\n Error")) == (
        "a bucket cannot be read or written (Backend Error); see to the network"
        " and to access, then start again."
    )
    assert storage.network_failure(RuntimeError("mine")) is None


def test_killed_write_on_disk_leaves_the_old_file(tmp_path, monkeypatch):
    storage.write_text(tmp_path / "file", "old")

    def die(*_):
        raise InterruptedError

    monkeypatch.setattr(os, "replace", die)
    with pytest.raises(InterruptedError):
        storage.write_text(tmp_path / "file", "new")
    assert (tmp_path / "file").read_text() == "old"


def _profile():
    # As a path in a bucket shows itself.
    profiling.check_place("gs://bucket/x", "1:3")


REFUSED = {
    "cache_dir": lambda: cache.find_dir("gs://bucket/x"),
    "data.root": lambda: archives.unpack(
        "folder", "gs://bucket/x", pathlib.Path()
    ),
    "--out": lambda: report.make_report(["runs/a"], "gs://bucket/x"),
    "log.profile": _profile,
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_must_be_on_disk_is_refused(name):
    with pytest.raises(ValueError, match=rf"^{name} is .*gs://bucket/x"):
        REFUSED[name]()


@pytest.fixture
def no_home(monkeypatch):
    """As of a user who is a number without a name."""

    def fail(self):
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(pathlib.Path, "expanduser", fail)


def test_home_folder_stands_for_its_sign(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert storage.to_path("~/run") == tmp_path / "run"
    assert storage.absolute("~") == tmp_path
    assert storage.disk_path("--out", "~/out") == tmp_path / "out"
    assert storage.to_path("a~b") == pathlib.Path("a~b")


def test_cache_of_a_user_without_a_home_folder_must_be_given(no_home):
    with pytest.raises(OSError, match=r"no home folder to keep prepared .*XDG"):
        cache.find_dir("")
    with pytest.raises(ValueError, match="~/run begins with ~, but its user"):
        storage.to_path("~/run")
