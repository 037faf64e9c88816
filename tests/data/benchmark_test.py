import collections
import itertools

import data_support
import numpy as np
import PIL.Image
import pytest

from aeent_jax import data
from aeent_jax.data import benchmark, catalog, check, layouts, sources

_NAMES = tuple(data_support.BENCHMARK)
# make_data_json has 4 to train and 1 + 2 to test, the other makers 4 and 2 + 3.
_COUNTS = {
    name: (4, 1, 2) if make is data_support.make_data_json else (4, 2, 3)
    for name, make in data_support.BENCHMARK.items()
}


def _make(tmp_path, name):
    folder = tmp_path / catalog.CATALOG[name].folder
    return data_support.BENCHMARK[name](folder)


def _of(listing, split, label):
    return [r for r in listing.records if (r.split, r.label) == (split, label)]


def _load(tmp_path, name, root, **kwargs):
    return data.load(
        name,
        root=str(root),
        cache_dir=str(tmp_path / "cache"),
        **{"image_size": 16, **kwargs},
    )


def test_all_of_the_benchmark_are_in_the_catalog():
    with_folder = {n for n, e in catalog.CATALOG.items() if e.folder}
    assert with_folder == set(_NAMES)


@pytest.mark.parametrize("name", _NAMES)
def test_small_copy_loads_from_its_folder_and_from_the_one_above(
    tmp_path, monkeypatch, name
):
    data_support.change_entry(monkeypatch, name, counts=_COUNTS[name])
    folder = _make(tmp_path / "all", name)
    found = _load(tmp_path, name, folder)
    train, normal, abnormal = _COUNTS[name]
    assert found.splits["train"].images.shape == (train, 16, 16, 1)
    labels = found.splits["test"].labels
    np.testing.assert_array_equal(np.bincount(labels), [normal, abnormal])
    above = _load(tmp_path, name, tmp_path / "all")
    assert above.fingerprint == found.fingerprint
    assert check.check(name, str(tmp_path / "all")).problems == ()


def test_sets_of_one_folder_are_told_apart(tmp_path):
    for name in _NAMES:
        _make(tmp_path, name)
    roots = {sources.list_files(name, tmp_path).root.name for name in _NAMES}
    assert len(roots) == len(_NAMES)


@pytest.mark.parametrize("name", _NAMES)
def test_other_counts_than_published_are_refused(tmp_path, name):
    counts = ", ".join(map(str, catalog.get_entry(name).counts[:1]))
    train, normal, abnormal = _COUNTS[name]
    with pytest.raises(
        ValueError,
        match=f"{name} has {counts} .* found {train}, {normal} and {abnormal}",
    ):
        _load(tmp_path, name, _make(tmp_path, name))
    (problem,) = check.check(name, str(tmp_path)).problems
    assert problem.startswith(f"{name} has {counts} training images")


def test_brats_pairs_tumors_with_their_masks(tmp_path):
    root = data_support.make_brats(tmp_path)
    listing = sources.list_files("brats2021", root)
    assert listing.layout == "brats2021"
    assert {r.id: r.mask.name for r in listing.records if r.mask} == {
        f"test/tumor/t{i}_flair_9.png": f"t{i}_seg_9.png" for i in range(3)
    }
    assert [r.id for r in _of(listing, "train", 0)] == [
        f"train/b{i}_flair_9.png" for i in range(4)
    ]
    assert len(_of(listing, "test", 0)) == 2


def test_brats_masks_reach_the_arrays(tmp_path, monkeypatch):
    data_support.change_entry(monkeypatch, "brats2021", counts=(4, 2, 3))
    root = data_support.make_brats(tmp_path / "root")
    # One mask differs, so that masks cannot be of other images unnoticed.
    marked = np.zeros((20, 24), np.uint8)
    marked[15:, :] = 255
    path = root / "test/annotation/t1_seg_9.png"
    PIL.Image.fromarray(marked).save(path)
    split = _load(tmp_path, "brats2021", root).splits["test"]
    np.testing.assert_array_equal(split.masks.any((1, 2)), split.labels == 1)
    expected = PIL.Image.fromarray(marked).resize(
        (16, 16), PIL.Image.Resampling.NEAREST
    )
    row = split.ids.index("test/tumor/t1_flair_9.png")
    np.testing.assert_array_equal(split.masks[row], np.array(expected) > 0)
    assert not np.array_equal(split.masks[row], split.masks[row - 1])


def test_brats_takes_no_mask_for_a_normal_image(tmp_path):
    root = data_support.make_brats(tmp_path)
    data_support.write_mask(root / "test/annotation/n0_seg_9.png")
    listing = sources.list_files("brats2021", root)
    assert not any(r.mask for r in _of(listing, "test", 0))
    assert listing.orphan_masks == ()


def test_brats_mask_without_an_image_is_a_problem(tmp_path, monkeypatch):
    data_support.change_entry(monkeypatch, "brats2021", counts=(4, 2, 3))
    root = data_support.make_brats(tmp_path)
    data_support.write_mask(root / "test/annotation/nobody_seg_9.png")
    (problem,) = check.check("brats2021", str(root)).problems
    assert problem.startswith("1 masks have no image")
    assert "nobody_seg_9.png" in problem


def test_brats_tumor_without_a_mask_is_refused(tmp_path):
    root = data_support.make_brats(tmp_path)
    (root / "test/annotation/t2_seg_9.png").unlink()
    with pytest.raises(
        FileNotFoundError, match=r"1 tumor .*\(test/tumor/t2_flair_9.png\)"
    ):
        sources.list_files("brats2021", root)


def test_camelyon_is_read_in_color(tmp_path, monkeypatch):
    data_support.change_entry(monkeypatch, "camelyon16", counts=(4, 2, 3))
    root = data_support.make_camelyon(tmp_path / "root")
    assert catalog.get_entry("camelyon16").channels == 3
    split = _load(tmp_path, "camelyon16", root, channels=3).splits["test"]
    assert split.ids[0] == "test/Ungood/0.png"
    np.testing.assert_array_equal(split.labels, [1, 1, 1, 0, 0])
    with PIL.Image.open(root / split.ids[0]) as image:
        expected = image.resize((16, 16), PIL.Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(split.images[0], np.array(expected))


def test_isic_trains_on_nevi_and_tests_on_all(tmp_path):
    listing = sources.list_files("isic2018", data_support.make_isic(tmp_path))
    train, test = "ISIC2018_Task3_Training", "ISIC2018_Task3_Test"
    assert [r.id for r in _of(listing, "train", 0)] == [
        f"{train}_Input/ISIC_Training{i}.jpg" for i in (0, 1, 3, 4)
    ]
    assert [r.id for r in _of(listing, "test", 0)] == [
        f"{test}_Input/ISIC_Test{i}.jpg" for i in (1, 4)
    ]
    assert len(_of(listing, "test", 1)) == 3
    assert len(listing.records) == 9


def test_isic_counts_of_the_archive_are_those_of_the_protocol():
    # Task 3: 10015 training and 1512 test images; of its classes, nevi.
    train, normal, abnormal = catalog.get_entry("isic2018").counts
    assert (train, normal + abnormal) == (6705, 1512)


@pytest.mark.parametrize(
    ("name", "folder"),
    [
        ("brats2021", "test/normal"),
        ("brats2021", "test/tumor"),
        ("brats2021", "test/annotation"),
        ("camelyon16", "train/good"),
        ("camelyon16", "test/Ungood"),
        ("isic2018", "ISIC2018_Task3_Test_Input"),
        ("isic2018", "ISIC2018_Task3_Training_GroundTruth"),
    ],
)
def test_missing_folder_is_named(tmp_path, name, folder):
    root = _make(tmp_path, name)
    (root / folder).rename(root / "other")
    with pytest.raises(FileNotFoundError, match=f"has no folder {folder}: com"):
        sources.list_files(name, root)


@pytest.mark.parametrize("name", _NAMES)
def test_folder_without_the_set_says_what_is_needed(tmp_path, name):
    with pytest.raises(FileNotFoundError) as caught:
        sources.list_files(name, tmp_path)
    entry = catalog.get_entry(name)
    for part in (catalog.SOURCES[entry.source], entry.folder, entry.obtain):
        assert part in str(caught.value)


def test_isic_images_that_are_missing_are_named(tmp_path):
    root = data_support.make_isic(tmp_path)
    (root / "ISIC2018_Task3_Test_Input/ISIC_Test3.jpg").unlink()
    with pytest.raises(
        FileNotFoundError, match=r"1 of 5 images .*csv names .*\(ISIC_Test3.jpg"
    ):
        sources.list_files("isic2018", root)


def test_names_that_are_no_text_are_refused(tmp_path, monkeypatch):
    # As on disk; not all file systems take such a name.
    record = layouts.Record("train/\udcff.png", "train", 0, tmp_path)
    listing = layouts.Listing("camelyon16", tmp_path, (record,))
    readers = {catalog.CAMELYON: lambda root: listing}
    monkeypatch.setattr(benchmark, "_READERS", readers)
    with pytest.raises(ValueError, match="not UTF-8"):
        benchmark.read_listing("camelyon16", tmp_path)


def test_ids_are_those_of_no_other_image(tmp_path):
    for name in _NAMES:
        listing = sources.list_files(name, _make(tmp_path, name))
        ids = collections.Counter(record.id for record in listing.records)
        assert max(ids.values()) == 1
        pairs = itertools.pairwise(r.id for r in listing.records)
        assert all(a < b for a, b in pairs)
