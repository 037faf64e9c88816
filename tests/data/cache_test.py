import os
import pathlib
import time

import pytest

from aeent_jax.data import cache


def test_is_the_users_by_default(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache.find_dir("") == tmp_path / "aeent_jax"
    monkeypatch.delenv("XDG_CACHE_HOME")
    home = pathlib.Path.home()
    assert cache.find_dir("") == home / ".cache" / "aeent_jax"
    assert cache.find_dir("~/mine") == home / "mine"


def test_temporary_folder_is_gone_afterwards(tmp_path):
    def fail():
        with cache.temporary_folder(tmp_path / "a") as made:
            (made / "file").touch()
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert list((tmp_path / "a").iterdir()) == []


def test_what_is_kept_is_renamed_out_of_it(tmp_path):
    with cache.temporary_folder(tmp_path) as made:
        (made / "whole").mkdir()
        (made / "whole").rename(tmp_path / "whole")
    assert [path.name for path in tmp_path.iterdir()] == ["whole"]


def test_only_old_leftovers_are_removed(tmp_path):
    old, fresh, other = (
        tmp_path / f"{cache.MARK}old",
        tmp_path / f"{cache.MARK}fresh",
        tmp_path / "other",
    )
    long_ago = time.time() - 2 * cache.ABANDONED_SECONDS
    for folder in (old, fresh, other):
        folder.mkdir()
    os.utime(old, (long_ago, long_ago))
    os.utime(other, (long_ago, long_ago))
    with cache.temporary_folder(tmp_path):
        assert not old.exists()
    assert fresh.exists()
    assert other.exists()


def test_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").touch()
    with (
        pytest.raises(OSError, match="file/a cannot be .*another one"),
        cache.temporary_folder(tmp_path / "file/a"),
    ):
        pass
