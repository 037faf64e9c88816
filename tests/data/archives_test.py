import os
import shutil
import sys
import tarfile

import data_support
import pytest

from aeent_jax import data
from aeent_jax.data import archives, catalog, check, files

_COUNTS = {"rsna": (4, 1, 2), "brats2021": (4, 2, 3), "camelyon16": (4, 2, 3)}


@pytest.fixture
def packed(tmp_path, monkeypatch):
    """Packs a small set, which the catalog then takes for the published one."""

    def pack(name, *members):
        made = data_support.BENCHMARK[name](
            tmp_path / "made" / catalog.CATALOG[name].folder
        )
        (tmp_path / "down").mkdir(exist_ok=True)
        path = tmp_path / "down" / f"{made.name}.tar.gz"
        md5 = data_support.make_archive(path, made, *members)
        shutil.rmtree(made)
        data_support.change_entry(
            monkeypatch, name, md5=md5, counts=_COUNTS[name]
        )
        return path

    return pack


def _unpack(tmp_path, path, name="rsna"):
    return archives.unpack(name, str(path), tmp_path / "cache")


def _left(tmp_path):
    folder = tmp_path / "cache/unpacked"
    return list(folder.iterdir()) if folder.exists() else []


@pytest.mark.parametrize("name", list(_COUNTS))
def test_archive_loads_as_what_is_in_it(tmp_path, packed, name):
    path = packed(name)

    def load(root):
        return data.load(
            name,
            root=str(root),
            cache_dir=str(tmp_path / "cache"),
            image_size=16,
        )

    found = load(path)
    assert load(path.parent).fingerprint == found.fingerprint
    with tarfile.open(path) as tar:
        tar.extractall(tmp_path / "by_hand", filter="data")
    by_hand = load(tmp_path / "by_hand")
    assert by_hand.fingerprint == found.fingerprint
    assert (found.splits["test"].masks is not None) == (name == "brats2021")


def test_check_unpacks_too(tmp_path, packed):
    path = packed("rsna")
    cache_dir = str(tmp_path / "cache")
    assert check.check("rsna", str(path), cache_dir=cache_dir).problems == ()


def test_archive_is_unpacked_once(tmp_path, packed, monkeypatch):
    path = packed("rsna")
    place = _unpack(tmp_path, path)
    monkeypatch.setattr(tarfile, "open", pytest.fail)
    assert _unpack(tmp_path, path.parent) == place
    assert [str(p) for p in _left(tmp_path)] == [place]


def test_second_start_does_not_read_the_archive(tmp_path, packed, monkeypatch):
    monkeypatch.setattr(files, "_SETTLED_SECONDS", -3600.0)
    path = packed("rsna")
    place = _unpack(tmp_path, path)
    monkeypatch.setattr(files, "hash_file", pytest.fail)
    assert _unpack(tmp_path, path) == place


def test_what_is_unpacked_already_is_read_where_it_is(tmp_path, packed):
    root = str(packed("rsna").parent)
    data_support.make_data_json(tmp_path / "down/RSNA")
    assert _unpack(tmp_path, root) == root
    assert _left(tmp_path) == []


@pytest.mark.parametrize("name", ["folder", "isic2018", "kermany_cxr"])
def test_other_sets_have_no_archive(tmp_path, packed, name):
    path = str(packed("rsna"))
    assert _unpack(tmp_path, path, name) == path


def test_no_archive_is_looked_for_without_a_root(tmp_path, packed, monkeypatch):
    monkeypatch.chdir(packed("rsna").parent)
    assert _unpack(tmp_path, "") == ""


def test_another_md5_is_refused_in_one_sentence(tmp_path, packed):
    path = packed("rsna")
    _unpack(tmp_path, path)
    with path.open("ab") as file:
        file.write(b"\0")
    with pytest.raises(ValueError, match="has the md5") as caught:
        _unpack(tmp_path, path)
    message = str(caught.value)
    found = files.hash_file(path, algorithm="md5")
    assert message.startswith(f"{path} has the md5 {found}, where RSNA.tar.gz")
    assert catalog.get_entry("rsna").md5 != found
    assert message.endswith("point data.root at the folder.")


def test_archive_of_another_set_is_refused(tmp_path, packed):
    path = packed("camelyon16")
    with pytest.raises(ValueError, match="has the md5 .*where RSNA.tar.gz"):
        _unpack(tmp_path, path)


def _member(name, **kwargs):
    member = tarfile.TarInfo(name)
    for key, value in kwargs.items():
        setattr(member, key, value)
    return member


@pytest.mark.parametrize(
    "member",
    [
        _member("../escaped.png"),
        _member("RSNA/../../escaped.png"),
        _member("RSNA/link", type=tarfile.SYMTYPE, linkname="../../.."),
        _member("RSNA/link", type=tarfile.SYMTYPE, linkname="/etc"),
        _member("RSNA/link", type=tarfile.LNKTYPE, linkname="../escaped"),
        _member("RSNA/pipe", type=tarfile.FIFOTYPE),
        _member("RSNA/device", type=tarfile.CHRTYPE),
    ],
    ids=lambda m: f"{m.name} {m.linkname}",
)
def test_member_that_escapes_is_refused(tmp_path, packed, member):
    path = packed("rsna", member)
    with pytest.raises(ValueError, match="RSNA.tar.gz cannot be unpacked safe"):
        _unpack(tmp_path, path)
    assert _left(tmp_path) == []
    assert not list(tmp_path.rglob("escaped*"))


def test_absolute_member_stays_in_the_folder(tmp_path, packed):
    path = packed("rsna", _member(str(tmp_path / "absolute.png")))
    _unpack(tmp_path, path)
    assert not (tmp_path / "absolute.png").exists()


def test_published_md5_of_no_archive_is_refused(tmp_path, packed, monkeypatch):
    path = packed("rsna")
    path.write_text("no archive")
    md5 = files.hash_file(path, algorithm="md5")
    data_support.change_entry(monkeypatch, "rsna", md5=md5)
    with pytest.raises(ValueError, match="cannot be unpacked safely"):
        _unpack(tmp_path, path)


def test_python_without_the_filter_unpacks_nothing(
    tmp_path, packed, monkeypatch
):
    path = packed("rsna")
    with monkeypatch.context() as patch:
        patch.setattr(sys, "version_info", (3, 11, 3))
        with pytest.raises(ValueError, match="before 3.11.4 .*unpack it yours"):
            _unpack(tmp_path, path)
    assert _left(tmp_path) == []


def test_first_of_two_that_unpack_counts(tmp_path, packed, monkeypatch):
    path = packed("rsna")
    rename = os.rename

    def rename_second(source, place):
        shutil.copytree(source, place)
        (place / "first").touch()
        rename(source, place)

    monkeypatch.setattr(os, "rename", rename_second)
    place = _unpack(tmp_path, path)
    assert os.path.exists(os.path.join(place, "first"))
    assert len(_left(tmp_path)) == 1


def test_cut_off_unpacking_leaves_no_folder(tmp_path, packed, monkeypatch):
    path = packed("rsna")

    def fail(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tarfile.TarFile, "extractall", fail)
    with pytest.raises(OSError, match="No space left"):
        _unpack(tmp_path, path)
    assert _left(tmp_path) == []


def test_home_is_found(tmp_path, packed, monkeypatch):
    path = packed("rsna")
    monkeypatch.setenv("HOME", str(path.parent))
    assert _unpack(tmp_path, "~/RSNA.tar.gz") == _unpack(tmp_path, path)
    assert _unpack(tmp_path, "~") == _unpack(tmp_path, path)
