import json
import os
import pathlib
import threading

import pytest

from aeent_jax.data import files


def _read_text(path: pathlib.Path) -> str:
    text = path.read_text()
    if text.startswith("bad"):
        raise files.UnreadableFileError(f"{path.name}: is bad")
    return text


def _write(folder, *contents):
    paths = []
    for i, content in enumerate(contents):
        paths.append(folder / f"{i}.txt")
        paths[-1].write_text(content)
    return paths


def test_order_does_not_depend_on_threads(tmp_path):
    paths = _write(tmp_path, *"abcdefgh")
    # The first file is finished last.
    others = threading.Semaphore(0)

    def read(path):
        if path == paths[0]:
            assert others.acquire(timeout=30)
        else:
            others.release()
        return path.read_text()

    assert files.read_many(read, paths) == list("abcdefgh")


def test_all_bad_files_are_in_one_sentence(tmp_path):
    paths = _write(tmp_path, "a", *["bad"] * 7, "b")
    with pytest.raises(ValueError, match="^7 of 9 files cannot") as caught:
        files.read_many(_read_text, paths)
    assert str(caught.value) == (
        "7 of 9 files cannot be read (1.txt: is bad; 2.txt: is bad; 3.txt: is "
        "bad; 4.txt: is bad; 5.txt: is bad; and 2 more): remove or replace "
        "them."
    )


def test_read_each_leaves_gaps(tmp_path):
    paths = _write(tmp_path, "a", "bad", "b")
    results, failures = files.read_each(_read_text, paths)
    assert results == ["a", None, "b"]
    assert failures == ["1.txt: is bad"]


def test_hash_is_sha256_of_the_contents(tmp_path):
    (path,) = _write(tmp_path, "abc")
    expected = (
        "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    )
    assert files.hash_files([path]) == [expected]


def test_missing_file_is_named(tmp_path):
    with pytest.raises(ValueError, match="gone.txt: does not exist"):
        files.hash_files([tmp_path / "gone.txt"])


@pytest.fixture
def settled(monkeypatch):
    """Makes files old enough for the index at once."""
    monkeypatch.setattr(files, "_SETTLED_SECONDS", -3600.0)


def _count_hashing(monkeypatch):
    hashed = []
    hash_file = files.hash_file

    def counting(path, **kwargs):
        hashed.append(path.name)
        return hash_file(path, **kwargs)

    monkeypatch.setattr(files, "hash_file", counting)
    return hashed


@pytest.mark.usefixtures("settled")
def test_second_start_reads_nothing(tmp_path, monkeypatch):
    paths = _write(tmp_path, "a", "b")
    index = tmp_path / "index" / "i.json"
    hashed = _count_hashing(monkeypatch)
    first = files.hash_files(paths, index)
    assert sorted(hashed) == ["0.txt", "1.txt"]
    assert files.hash_files(paths, index) == first
    assert len(hashed) == 2


@pytest.mark.usefixtures("settled")
def test_change_with_the_same_size_and_time_is_seen(tmp_path):
    paths = _write(tmp_path, "a", "b")
    index = tmp_path / "i.json"
    first = files.hash_files(paths, index)
    before = paths[1].stat()
    paths[1].write_text("c")
    os.utime(paths[1], ns=(before.st_atime_ns, before.st_mtime_ns))
    assert paths[1].stat().st_mtime_ns == before.st_mtime_ns
    second = files.hash_files(paths, index)
    assert second[0] == first[0]
    assert second[1] != first[1]


def test_fresh_files_are_not_trusted(tmp_path, monkeypatch):
    paths = _write(tmp_path, "a")
    hashed = _count_hashing(monkeypatch)
    for _ in range(2):
        files.hash_files(paths, tmp_path / "i.json")
    assert len(hashed) == 2


@pytest.mark.usefixtures("settled")
@pytest.mark.parametrize(
    "damage", ["", "{", "[1]", '{"/x": 3}', '{"/x": []}', "\xff"]
)
def test_damaged_index_counts_as_empty(tmp_path, damage):
    paths = _write(tmp_path, "a")
    index = tmp_path / "i.json"
    first = files.hash_files(paths, index)
    damage = damage.replace("/x", str(paths[0]))
    index.write_bytes(damage.encode("latin-1"))
    assert files.hash_files(paths, index) == first
    assert str(paths[0]) in json.loads(index.read_text())


def test_json_is_replaced_as_a_whole(tmp_path):
    path = tmp_path / "a.json"
    files.write_json(path, [1])
    with pytest.raises(TypeError):
        files.write_json(path, [object()])
    assert json.loads(path.read_text()) == [1]
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]
