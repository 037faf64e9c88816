import data_support
import numpy as np
import pytest

from aeent_jax import data
from aeent_jax.data import dataset, loading


def _load(tmp_path, name="folder", root="root", **kwargs):
    return data.load(
        name,
        root=str(tmp_path / root) if root else "",
        cache_dir=str(tmp_path / "cache"),
        **{"image_size": 16, **kwargs},
    )


def test_training_with_normal_images_only(tmp_path):
    data_support.make_flat(tmp_path / "root")
    found = _load(tmp_path)
    assert found.name == "folder"
    assert list(found.splits) == ["train"]
    assert found.splits["train"].images.shape == (4, 16, 16, 1)


def test_second_start_gives_the_same_data(tmp_path):
    data_support.make_class_folders(tmp_path / "root")
    assert _load(tmp_path).fingerprint == _load(tmp_path).fingerprint


def test_defaults_are_gray_64_pixels(tmp_path):
    data_support.make_flat(tmp_path / "root")
    found = data.load(
        "folder",
        root=str(tmp_path / "root"),
        cache_dir=str(tmp_path / "cache"),
    )
    assert found.splits["train"].images.shape == (4, 64, 64, 1)


def test_phantoms_need_no_folder(tmp_path, monkeypatch):
    data_support.draw_few_phantoms(monkeypatch)
    found = _load(tmp_path, "phantom_cxr", "")
    assert list(found.splits) == ["train", "test"]
    assert found.splits["test"].masks is not None


def test_seed_does_not_change_phantoms(tmp_path, monkeypatch):
    data_support.draw_few_phantoms(monkeypatch)
    prints = [
        _load(tmp_path, "phantom_cxr", "", **change).fingerprint
        for change in ({}, {"seed": 1}, {"phantom_seed": 1})
    ]
    assert prints[0] == prints[1] != prints[2]


def test_unknown_name_lists_the_names(tmp_path):
    with pytest.raises(ValueError, match="'rsnna'; choose one of phantom_cxr"):
        _load(tmp_path, "rsnna")


def test_unknown_channels_are_refused(tmp_path):
    with pytest.raises(ValueError, match="1 channel"):
        _load(tmp_path, channels=4)


def test_validation_images_leave_training(tmp_path):
    data_support.make_flat(tmp_path / "root", count=20)
    whole = _load(tmp_path).splits["train"]
    found = _load(tmp_path, validation_fraction=0.25)
    train, val = found.splits["train"], found.splits["val"]
    assert (len(train), len(val)) == (15, 5)
    assert sorted(train.ids + val.ids) == list(whole.ids)
    images = dict(zip(whole.ids, whole.images, strict=True))
    for split in (train, val):
        for id_, image in zip(split.ids, split.images, strict=True):
            np.testing.assert_array_equal(image, images[id_])


def test_validation_images_depend_on_seed_and_ids_alone(tmp_path):
    data_support.make_flat(tmp_path / "root", count=20)

    def held_out(**kwargs):
        found = _load(tmp_path, validation_fraction=0.25, **kwargs)
        return found.splits["val"].ids

    assert held_out() == held_out() == held_out(image_size=8)
    assert held_out() != held_out(seed=1)
    # Frozen, the first five by sha256 of "0:" and the id: another choice
    # would train a continued run on what it was validated on.
    assert held_out() == ("n0.png", "n13.png", "n5.png", "n7.png", "n8.png")
    # One more image displaces at most one of those held out.
    before = set(held_out())
    data_support.write_gray(tmp_path / "root/new.png", seed=99)
    assert len(before - set(held_out())) <= 1


def test_small_fraction_holds_out_one_image(tmp_path):
    data_support.make_flat(tmp_path / "root")
    found = _load(tmp_path, validation_fraction=0.01)
    assert len(found.splits["val"]) == 1


@pytest.mark.parametrize("fraction", [-0.1, 1.0, 2.0, 0.9, float("nan")])
def test_impossible_fraction_is_refused(tmp_path, fraction):
    data_support.make_flat(tmp_path / "root", count=4)
    with pytest.raises(ValueError, match="leave a training image, found .* 4 "):
        _load(tmp_path, validation_fraction=fraction)


def test_second_validation_split_is_refused(tmp_path):
    root = data_support.make_class_folders(tmp_path / "root")
    data_support.write_gray(root / "val/normal/v.png", seed=50)
    assert list(_load(tmp_path).splits) == ["train", "val", "test"]
    with pytest.raises(ValueError, match="validation split of its own"):
        _load(tmp_path, validation_fraction=0.5)


@pytest.mark.parametrize(
    ("count", "held"), [(58, 0), (59, 19), (60, 19), (120, 24)]
)
def test_enough_own_normals_are_held_out_for_verdicts(tmp_path, count, held):
    data_support.make_flat(tmp_path / "root", count=count)
    found = _load(tmp_path, calibration="auto")
    assert len(found.splits.get("calibration", ())) == held
    assert len(found.splits["train"]) == count - held
    assert ("are held out" in found.notes[0]) == bool(held)


def test_the_paper_s_protocol_holds_nothing_out(tmp_path, monkeypatch):
    data_support.draw_few_phantoms(monkeypatch)
    found = _load(tmp_path, "phantom_cxr", "", calibration="auto")
    assert "calibration" not in found.splits
    assert not any("held out" in note for note in found.notes)
    part = _load(tmp_path, "phantom_cxr", "", calibration="0.5")
    assert len(part.splits["calibration"]) == len(found.splits["train"]) // 2


def test_normals_that_choose_never_calibrate(tmp_path):
    data_support.make_flat(tmp_path / "root", count=40)
    found = _load(tmp_path, calibration="0.25", validation_fraction=0.25)
    parts = [set(found.splits[s].ids) for s in ("train", "val", "calibration")]
    assert sum(map(len, parts)) == len(set.union(*parts)) == 40
    assert list(map(len, parts)) == [22, 10, 8]


def test_relatives_stay_together():
    count = 30
    ids = tuple(f"{i:02d}" for i in range(count))
    groups = np.arange(count, dtype=np.int32) // 3
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (count, 16, 16, 1)).astype(np.uint8)
    train = data.Split(images, np.zeros(count, np.int32), None, ids, groups)
    splits, note = loading.hold_out_calibration(
        {"train": train}, "0.2", 0, True
    )
    kept, held = splits["train"].groups, splits["calibration"].groups
    assert not set(kept) & set(held)
    assert len(held) == 6
    assert "by whole patients, volumes or files" in note


@pytest.mark.parametrize("name", ["val", "calibration"])
def test_near_copies_stay_together(name):
    rng = np.random.default_rng(0)
    whole = rng.integers(0, 250, (20, 16, 16, 1)).astype(np.uint8)
    images = np.concatenate([whole, whole + 4])
    ids = tuple(f"{i:02d}" for i in range(40))
    train = data.Split(images, np.zeros(40, np.int32), None, ids)
    splits = {"train": train}
    if name == "val":
        splits = loading.hold_out(splits, 0.25, 0)
    else:
        splits, _ = loading.hold_out_calibration(splits, "0.25", 0, True)
    kept, held = ({int(i) % 20 for i in splits[s].ids} for s in ("train", name))
    assert not kept & held
    assert len(splits[name]) == 10


def test_one_group_of_relatives_gives_no_calibration():
    groups = np.zeros(80, np.int32)
    images = np.zeros((80, 16, 16, 1), np.uint8)
    ids = tuple(f"{i:02d}" for i in range(80))
    train = data.Split(images, np.zeros(80, np.int32), None, ids, groups)
    splits, note = loading.hold_out_calibration(
        {"train": train}, "auto", 0, True
    )
    assert list(splits) == ["train"]
    assert "too many belong together" in note
    with pytest.raises(ValueError, match="too many belong together"):
        loading.hold_out({"train": train}, 0.25, 0)


def test_whole_groups_leave_40_to_train_on():
    """Two groups of 15 would leave 30 of 60."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (60, 16, 16, 1)).astype(np.uint8)
    ids = tuple(f"{i:02d}" for i in range(60))
    groups = np.arange(60, dtype=np.int32) // 15
    train = data.Split(images, np.zeros(60, np.int32), None, ids, groups)
    splits, note = loading.hold_out_calibration(
        {"train": train}, "auto", 0, True
    )
    assert list(splits) == ["train"]
    assert "too many belong together" in note
    splits, _ = loading.hold_out_calibration({"train": train}, "0.3", 0, True)
    assert len(splits["calibration"]) == 30


@pytest.mark.parametrize("wanted", ["some", "0", "1", "-1", "nan", "0.99"])
def test_an_impossible_calibration_is_refused(tmp_path, wanted):
    data_support.make_flat(tmp_path / "root", count=4)
    with pytest.raises(ValueError, match="data.calibration is"):
        _load(tmp_path, calibration=wanted)


def test_masks_follow_their_images(tmp_path):
    data_support.make_class_folders(tmp_path / "root")
    split = _load(tmp_path).splits["test"]
    chosen = np.array([True, False, False, True, False])
    part = dataset.select(split, chosen)
    assert part.ids == (split.ids[0], split.ids[3])
    np.testing.assert_array_equal(part.masks, split.masks[[0, 3]])


@pytest.mark.parametrize(
    ("name", "folder"),
    [("kermany_cxr", "KermanyCXR"), ("brain_mri", "BrainMRI")],
)
def test_real_images_load_by_name_and_as_a_folder(tmp_path, name, folder):
    root = str(data_support.real_folder(folder))
    prints = {
        data.load(
            n, root=root, cache_dir=str(tmp_path), image_size=8
        ).fingerprint
        for n in (name, "folder")
    }
    assert len(prints) == 1


@pytest.mark.parametrize(("count", "warned"), [(4, True), (20, False)])
def test_hardly_any_images_are_warned_of(tmp_path, count, warned):
    data_support.make_flat(tmp_path / "root", count=count)
    notes = _load(tmp_path).notes
    assert any("learns fewer than 20 by heart" in n for n in notes) == warned
