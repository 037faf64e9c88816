import os
import pathlib
import threading

import data_support
import numpy as np
import pytest

from aeent_jax.data import builders, dataset, loading, sources, stored

_SPEC = sources.Spec(image_size=16)


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    """A prepared copy: 5 to train, and 5 with masks to test."""
    folder = tmp_path_factory.mktemp("stored")
    root = data_support.make_class_folders(folder / "root")
    (folder / "copy").mkdir()
    builders.write("folder", _SPEC, root=root, data_dir=folder / "copy")
    return folder / "copy"


def _read(copy, memory_budget):
    return builders.read(
        "folder", _SPEC, data_dir=copy, memory_budget=memory_budget
    )


def _files(copy):
    return sorted(copy.rglob("*train.array_record*"))


def _copied(copy, tmp_path):
    """A file of records that a test may damage."""
    path = tmp_path / "train.array_record"
    path.write_bytes(_files(copy)[0].read_bytes())
    return path


def _find(path, count=5):
    return stored.find([path], [count], (16, 16, 1))


def test_stored_splits_are_those_in_memory(copy):
    resident, streamed = _read(copy, np.inf), _read(copy, 0)
    for name, split in resident.items():
        found = streamed[name]
        assert (split.is_stored, found.is_stored) == (False, True)
        assert found.images.shape == split.images.shape
        np.testing.assert_array_equal(found.images[:], split.images)
        np.testing.assert_array_equal(found.labels, split.labels)
        assert found.ids == split.ids
        if split.masks is None:
            assert found.masks is None
        else:
            np.testing.assert_array_equal(found.masks, split.masks)
    one, other = (
        dataset.make_dataset("folder", splits)
        for splits in (resident, streamed)
    )
    assert one.fingerprint == other.fingerprint
    assert one.fingerprint_of("test") == other.fingerprint_of("test")
    assert one.image_fingerprint_of("test") == other.image_fingerprint_of(
        "test"
    )


@pytest.mark.parametrize("images_that_fit", [9, 10])
def test_budget_counts_the_images_of_all_splits(copy, images_that_fit):
    splits = _read(copy, images_that_fit * 16 * 16)
    stored_ones = {split.is_stored for split in splits.values()}
    assert stored_ones == {images_that_fit < 10}


@pytest.mark.parametrize(
    "rows",
    [
        slice(1, 4),
        slice(3, 99),
        slice(2, 2),
        np.array([4, 0, 4, 2], np.int32),
        np.array([True, False, True, False, False]),
    ],
    ids=repr,
)
def test_rows_are_those_of_an_array(copy, rows):
    images = _read(copy, np.inf)["train"].images
    found = _read(copy, 0)["train"].images
    np.testing.assert_array_equal(found[rows], images[rows])
    if isinstance(rows, np.ndarray):
        np.testing.assert_array_equal(found.select(rows)[:], images[rows])


def test_several_files_are_numbered_as_one(copy, tmp_path):
    path = _copied(copy, tmp_path)
    images = _find(path).images[:]
    twice = stored.Records([path, path], [5, 5])
    assert len(twice) == 10
    doubled = stored.StoredImages(twice, np.arange(10), (16, 16, 1))
    in_file_order = doubled[:5]
    np.testing.assert_array_equal(doubled[5:], in_file_order)
    np.testing.assert_array_equal(doubled[[9, 2, 4]], in_file_order[[4, 2, 4]])
    assert sorted(map(bytes, in_file_order)) == sorted(map(bytes, images))


def test_threads_read_the_same_rows(copy):
    found = _read(copy, 0)["train"].images
    expected, wrong = found[:], []

    def read(seed):
        rng = np.random.default_rng(seed)
        for _ in range(50):
            rows = rng.integers(0, 5, 8)
            if not np.array_equal(found[rows], expected[rows]):
                wrong.append(seed)

    threads = [threading.Thread(target=read, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_stored_images_do_not_become_an_array_by_chance(copy):
    found = _read(copy, 0)["train"].images
    with pytest.raises(TypeError, match=r"^5 images are read from files"):
        np.asarray(found)


def test_validation_images_stay_in_files(tmp_path):
    data_support.make_flat(tmp_path / "root", count=6)
    one, other = (
        loading.load(
            "folder",
            root=str(tmp_path / "root"),
            cache_dir=str(tmp_path / "cache"),
            image_size=16,
            validation_fraction=0.4,
            memory_budget_mb=budget,
        )
        for budget in (1, 0)
    )
    assert {s.is_stored for s in other.splits.values()} == {True}
    assert {n: len(s) for n, s in other.splits.items()} == {
        "train": 4,
        "val": 2,
    }
    assert one.fingerprint == other.fingerprint


def _remove(path: pathlib.Path):
    path.unlink()


def _cut(path: pathlib.Path):
    os.truncate(path, path.stat().st_size // 2)


def _empty(path: pathlib.Path):
    os.truncate(path, 0)


@pytest.mark.parametrize(
    ("damage", "count", "found"),
    [
        (_remove, 5, "there is no such file"),
        (_cut, 5, "it is cut off or no such file"),
        (_empty, 5, "it is cut off or no such file"),
        (lambda path: None, 6, "5 can be read"),
        (lambda path: None, 4, "5 can be read"),
    ],
)
def test_bad_file_is_named_when_it_is_opened(
    copy, tmp_path, damage, count, found
):
    path = _copied(copy, tmp_path)
    damage(path)
    with pytest.raises(
        ValueError,
        match=rf"^the prepared copy must hold {count} records in {path}, but"
        rf" {found}; remove the folder, and the copy is made again\.$",
    ):
        _find(path, count)


def test_file_that_shrinks_later_is_no_image(copy, tmp_path):
    path = _copied(copy, tmp_path)
    images = _find(path).images
    _empty(path)
    with pytest.raises(
        ValueError,
        match=rf"^a record of the prepared copy {tmp_path} cannot be read"
        r" \(it has no id, so a file was cut off\); start again, and the copy"
        r" is checked and, where it is damaged, made again\.$",
    ):
        images[:]


def test_changed_bytes_are_no_image(copy, tmp_path):
    path = _copied(copy, tmp_path)
    content = bytearray(path.read_bytes())
    images = _find(path).images
    content[100:3000] = bytes(2900)
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"cannot be read \(.*hash mismatch"):
        images[:]


def test_images_of_another_size_are_refused(copy, tmp_path):
    path = _copied(copy, tmp_path)
    images = stored.find([path], [5], (8, 8, 1)).images
    with pytest.raises(
        ValueError,
        match=r"\(its image has 256 bytes, not the 64 of \(8, 8, 1\)\)",
    ):
        images[:1]
