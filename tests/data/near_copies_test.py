import data_support
import numpy as np
import pytest

from aeent_jax import data
from aeent_jax.data import check, dataset, near_copies


def _split(images, labels=None, prefix="a"):
    images = np.asarray(images, np.uint8)
    n = len(images)
    return dataset.Split(
        images=images,
        labels=np.zeros(n, np.int32) if labels is None else np.array(labels),
        masks=None,
        ids=tuple(f"{prefix}{i:03d}" for i in range(n)),
    )


def _splits():
    """4 of 8 normal and 1 of 4 abnormal test images are near 3 of 10."""
    rng = np.random.default_rng(0)
    train = rng.integers(0, 240, (10, 8, 8, 1))
    test = rng.integers(0, 240, (12, 8, 8, 1))
    labels = np.array([0] * 8 + [1] * 4, np.int32)
    for row, of, shift in (
        (0, 2, 5),
        (1, 2, 0),
        (5, 7, 3),
        (6, 9, 5),
        (9, 9, 1),
    ):
        test[row] = train[of] + shift
    test[3] = train[4] + 6
    return {"train": _split(train), "test": _split(test, labels, "t")}


def test_near_test_images_are_left_out():
    splits, left_out = near_copies.leave_out(_splits(), "near", 0)
    assert left_out == ("near", "test", 4, 1)
    assert splits["test"].ids == (
        *("t002", "t003", "t004", "t007", "t008", "t010", "t011"),
    )
    assert splits["test"].labels.tolist() == [0, 0, 0, 0, 1, 1, 1]
    assert len(splits["train"]) == 10
    assert left_out.describe() == (
        "4 normal and 1 abnormal images of the test split are left out: they "
        "are within 5 gray levels of a training image."
    )


def test_near_training_images_are_left_out():
    splits, left_out = near_copies.leave_out(_splits(), "near_train", 0)
    assert left_out == ("near_train", "train", 3, 0)
    assert set(splits["train"].ids) == {
        f"a{i:03d}" for i in range(10) if i not in (2, 7, 9)
    }
    assert len(splits["test"]) == 12


def test_as_many_are_left_out_at_random():
    whole = _splits()
    chosen = [
        near_copies.leave_out(whole, "random_train", seed)[0]["train"].ids
        for seed in (0, 0, 1)
    ]
    assert {len(ids) for ids in chosen} == {7}
    assert chosen[0] == chosen[1] != chosen[2]


def test_nothing_is_left_out_by_default():
    whole = _splits()
    splits, left_out = near_copies.leave_out(whole, "", 0)
    assert splits is whole
    assert left_out.describe() == ""


def test_impossible_choices_are_refused():
    whole = _splits()
    with pytest.raises(ValueError, match="has no test split"):
        near_copies.leave_out({"train": whole["train"]}, "near", 0)
    with pytest.raises(ValueError, match="all 10 images of the test split"):
        near_copies.leave_out({**whole, "test": whole["train"]}, "near", 0)
    with pytest.raises(ValueError, match="by near, near_train, random_train"):
        near_copies.leave_out(whole, "all", 0)


def _make_folder(root):
    data_support.make_class_folders(root, masks=False)
    image = data_support.make_gray(3)
    image.point(lambda v: min(v + 2, 255)).save(root / "test/normal/copy.png")


def test_check_names_near_copies_and_load_leaves_them_out(tmp_path):
    root = tmp_path / "root"
    _make_folder(root)
    report = check.check("folder", str(root))
    (finding,) = [f for f in report.findings if f.kind == "near_copies"]
    assert finding.names == ("test/normal/copy.png",)
    assert finding.sentence.startswith(
        "NEAR COPIES: 1 of 3 normal and 0 of 3 abnormal images of the test "
        "split are within 5 gray levels of a training image "
        "(test/normal/copy.png ~ train/normal/t3.png)"
    )
    assert finding.sentence in report.problems
    report = check.check("folder", str(root), near_levels=0)
    assert all(f.kind != "near_copies" for f in report.findings)
    kwargs = {"root": str(root), "cache_dir": str(tmp_path / "c")}
    whole = data.load("folder", **kwargs)
    part = data.load("folder", deduplicate="near", **kwargs)
    assert len(whole.splits["test"]) == 6
    assert len(part.splits["test"]) == 5
    assert whole.left_out == ""
    assert part.left_out.startswith("1 normal and 0 abnormal images")
    assert part.fingerprint != whole.fingerprint


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "folder", "near"),
    [
        ("brain_tumor", "benchmark64/BrainTumor", (404, 0)),
        ("kermany_cxr", "KermanyCXR", (0, 0)),
        ("brain_mri", "BrainMRI", (0, 0)),
    ],
)
def test_near_copies_of_the_published_splits(tmp_path, name, folder, near):
    root = data_support.real_folder(folder)
    splits = data.load(name, root=str(root), cache_dir=str(tmp_path)).splits
    test = splits["test"]
    found = near_copies.find(test.images, splits["train"].images)
    assert tuple(np.bincount(test.labels[found], minlength=2)) == near
