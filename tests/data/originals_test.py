import collections
import json
import pathlib

import data_support
import numpy as np
import pytest

from aeent_jax.data import layouts, originals, sources, split_lists

_NAMES = ("kermany_cxr", "brain_mri")
_READY = {"kermany_cxr": "KermanyCXR", "brain_mri": "BrainMRI"}


def _split_list(name):
    folder = pathlib.Path(originals.__file__).parent / "splits"
    return json.loads((folder / f"{name}.json").read_text())


def _make_download(name, root, rename=lambda original: original):
    """Makes an empty file for every original of a split list."""
    for labels in _split_list(name)["splits"].values():
        for ids in labels.values():
            for original in ids.values():
                path = root / rename(original)
                path.parent.mkdir(parents=True, exist_ok=True)
                path.touch()
    return root


def _labels(listing):
    return {r.id: (r.split, r.label) for r in listing.records}


@pytest.mark.parametrize("name", _NAMES)
def test_split_lists_hold_safe_distinct_names(name):
    splits = _split_list(name)["splits"]
    flat = [
        (id_, original)
        for labels in splits.values()
        for ids in labels.values()
        for id_, original in ids.items()
    ]
    ids, paths = zip(*flat, strict=True)
    assert len(set(ids)) == len(ids)
    assert len(set(paths)) == len(paths)
    assert all(map(split_lists.is_safe_name, ids + paths))


@pytest.mark.parametrize("name", _NAMES)
@pytest.mark.parametrize("prefix", ["", "chest_xray", "a/b/c"])
def test_download_is_found_in_a_common_folder(tmp_path, name, prefix):
    _make_download(name, tmp_path / prefix)
    listing = originals.read_listing(name, tmp_path)
    sources.check_counts(name, listing)
    assert [r.id for r in listing.records] == sorted(_labels(listing))


@pytest.mark.parametrize("name", _NAMES)
def test_split_list_equals_the_ready_folder(name, tmp_path):
    ready = layouts.read_listing(data_support.real_folder(_READY[name]))
    made = originals.read_listing(name, _make_download(name, tmp_path))
    assert _labels(made) == _labels(ready)


def test_kermany_is_found_whatever_the_publishers_split(tmp_path):
    # The publisher has two splits, and copies of the archive have three.
    def rename(original):
        _, class_and_name = original.split("/", 1)
        return f"train/{class_and_name}"

    _make_download("kermany_cxr", tmp_path, rename)
    listing = originals.read_listing("kermany_cxr", tmp_path)
    counts = collections.Counter((r.split, r.label) for r in listing.records)
    assert counts == {("train", 0): 1000, ("test", 0): 200, ("test", 1): 200}


def test_second_copy_below_the_first_is_not_taken_for_another(tmp_path):
    # A common archive holds the same tree twice, one inside the other.
    _make_download("kermany_cxr", tmp_path / "chest_xray")
    _make_download("kermany_cxr", tmp_path / "chest_xray/chest_xray")
    listing = originals.read_listing("kermany_cxr", tmp_path)
    parents = {r.path.parents[2].name for r in listing.records}
    assert parents == {"chest_xray"}
    assert len({len(r.path.parts) for r in listing.records}) == 1


def test_two_files_for_one_original_are_refused(tmp_path):
    _make_download("kermany_cxr", tmp_path)
    original = next(
        iter(_split_list("kermany_cxr")["splits"]["test"]["1"].values())
    )
    top, class_and_name = original.split("/", 1)
    other = "val" if top == "train" else "train"
    (tmp_path / other / class_and_name).touch()
    with pytest.raises(ValueError, match="both fit the original"):
        originals.read_listing("kermany_cxr", tmp_path)


def test_brain_mri_is_not_found_by_name_alone(tmp_path):
    # Training and Testing hold different images of the same name.
    _make_download("brain_mri", tmp_path)
    (tmp_path / "Testing/no_tumor/image(50).jpg").unlink()
    (tmp_path / "Training/no_tumor/image(50).jpg").touch()
    with pytest.raises(FileNotFoundError, match="Testing/no_tumor/image.50"):
        originals.read_listing("brain_mri", tmp_path)


@pytest.mark.parametrize("name", _NAMES)
def test_missing_originals_are_counted_and_named(tmp_path, name):
    _make_download(name, tmp_path)
    gone = sorted(p for p in tmp_path.rglob("*") if p.is_file())[:7]
    for path in gone:
        path.unlink()
    with pytest.raises(FileNotFoundError) as caught:
        originals.read_listing(name, tmp_path)
    message = str(caught.value)
    assert message.startswith("7 of ")
    assert gone[0].relative_to(tmp_path).as_posix() in message
    assert "complete the download" in message


def test_empty_folder_lacks_all_originals(tmp_path):
    with pytest.raises(FileNotFoundError, match="^470 of 470 originals"):
        originals.read_listing("brain_mri", tmp_path)


def test_original_and_ready_folder_differ_only_in_pixels(tmp_path):
    ready = data_support.real_folder("BrainMRI")
    content = _split_list("brain_mri")["splits"]
    for labels in content.values():
        for ids in labels.values():
            for id_, original in ids.items():
                path = tmp_path / "archive" / original
                path.parent.mkdir(parents=True, exist_ok=True)
                path.symlink_to(ready / "images" / id_)
    spec = sources.Spec(image_size=16)
    made = sources.read_files(sources.list_files("brain_mri", tmp_path), spec)
    expected = sources.read_files(sources.list_files("brain_mri", ready), spec)
    for split in ("train", "test"):
        assert made[split].ids == expected[split].ids
        np.testing.assert_array_equal(
            made[split].images, expected[split].images
        )
