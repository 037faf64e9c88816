import subprocess
import sys

import data_support
import numpy as np
import pytest
import tensorflow_datasets as tfds
from absl import logging

from aeent_jax.data import builders, sources

_SPEC = sources.Spec(image_size=16)


def _assert_equal(found, expected):
    assert set(found) == set(expected)
    for split, content in expected.items():
        assert found[split].ids == content.ids
        np.testing.assert_array_equal(found[split].images, content.images)
        np.testing.assert_array_equal(found[split].labels, content.labels)
        assert found[split].images.dtype == np.uint8
        assert found[split].labels.dtype == np.int32
        if content.masks is None:
            assert found[split].masks is None
        else:
            assert found[split].masks.dtype == bool
            np.testing.assert_array_equal(found[split].masks, content.masks)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    "make",
    [
        data_support.make_flat,
        data_support.make_class_folders,
        data_support.make_data_json,
    ],
)
def test_folder_comes_back_as_it_was_read(tmp_path, make, channels):
    root = make(tmp_path / "root")
    spec = sources.Spec(image_size=16, channels=channels)
    data_dir = tmp_path / "out"
    builders.write("folder", spec, root=root, data_dir=data_dir)
    listing = sources.list_files("folder", root)
    _assert_equal(
        builders.read("folder", spec, data_dir=data_dir),
        sources.read_files(listing, spec),
    )


@pytest.mark.parametrize("name", ["phantom_cxr", "phantom_mri"])
def test_phantoms_come_back_as_they_were_drawn(tmp_path, monkeypatch, name):
    data_support.draw_few_phantoms(monkeypatch)
    builders.write(name, _SPEC, root="", data_dir=tmp_path)
    found = builders.read(name, _SPEC, data_dir=tmp_path)
    _assert_equal(found, sources.draw_phantoms(name, _SPEC))
    assert found["test"].masks[found["test"].labels == 1].any()


@pytest.mark.parametrize("name", ["rsna", "kermany_cxr"])
def test_published_sets_are_counted_by_their_builder(tmp_path, name):
    root = data_support.make_data_json(tmp_path / "root")
    with pytest.raises(ValueError, match=f"{name} has .* found 4, 1 and 2"):
        builders.write(name, _SPEC, root=root, data_dir=tmp_path / "out")


def test_files_are_array_record(tmp_path):
    root = data_support.make_class_folders(tmp_path / "root")
    data_dir = tmp_path / "out"
    builders.write("folder", _SPEC, root=root, data_dir=data_dir)
    names = [p.name for p in data_dir.rglob("*record*")]
    assert sorted(names) == [
        "folder-test.array_record-00000",
        "folder-train.array_record-00000",
    ]


def test_other_programs_read_it_with_tfds_alone(tmp_path):
    root = data_support.make_flat(tmp_path / "root")
    builders.write("folder", _SPEC, root=root, data_dir=tmp_path / "out")
    builder = tfds.builder_from_directory(tmp_path / "out/folder/1.2.0")
    source = builder.as_data_source(split="train")
    assert len(source) == 4
    assert source[0]["image"].shape == (16, 16, 1)
    assert source[0]["label"] == 0


def test_says_nothing_of_temporary_folders(tmp_path, capfd, caplog):
    root = data_support.make_flat(tmp_path / "root")
    verbosity = logging.get_verbosity()
    logging.set_verbosity(logging.INFO)
    try:
        builders.write("folder", _SPEC, root=root, data_dir=tmp_path / "out")
        builders.read("folder", _SPEC, data_dir=tmp_path / "out")
    finally:
        logging.set_verbosity(verbosity)
    out, err = capfd.readouterr()
    assert str(tmp_path) not in out + err + caplog.text


def test_tensorflow_is_not_imported(tmp_path):
    root = data_support.make_flat(tmp_path / "root")
    program = (
        "import sys\n"
        "from aeent_jax import data\n"
        f"data.load('folder', root={str(root)!r}, "
        f"cache_dir={str(tmp_path / 'cache')!r}, image_size=16)\n"
        "assert 'tensorflow' not in sys.modules\n"
        "assert 'torch' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_groups_come_back(tmp_path):
    root = tmp_path / "root"
    patients = ["7", "8", "7", None, "9", "8"]
    for i, patient in enumerate(patients):
        values = np.arange(256, dtype=np.uint8).reshape(16, 16) ^ np.uint8(i)
        data_support.write_dicom(root / f"{i}.dcm", values, PatientID=patient)
    films = np.stack([values] * 3)
    data_support.write_dicom(root / "film.dcm", films)
    builders.write("folder", _SPEC, root=root, data_dir=tmp_path / "out")
    train = builders.read("folder", _SPEC, data_dir=tmp_path / "out")["train"]
    groups = dict(zip(train.ids, train.groups.tolist(), strict=True))
    same = {
        (a, b)
        for a in groups
        for b in groups
        if groups[a] == groups[b] and a < b
    }
    assert same == {
        ("0.dcm", "2.dcm"),
        ("1.dcm", "5.dcm"),
        ("film.dcm#0000", "film.dcm#0001"),
        ("film.dcm#0000", "film.dcm#0002"),
        ("film.dcm#0001", "film.dcm#0002"),
    }


def test_images_of_their_own_have_no_groups(tmp_path):
    root = data_support.make_flat(tmp_path / "root")
    builders.write("folder", _SPEC, root=root, data_dir=tmp_path / "out")
    found = builders.read("folder", _SPEC, data_dir=tmp_path / "out")
    assert found["train"].groups is None
