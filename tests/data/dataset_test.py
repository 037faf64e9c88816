import dataclasses

import numpy as np
import pytest

from aeent_jax import data
from aeent_jax.data import dataset


def _split(n=3, label=0, masks=False, seed=0):
    rng = np.random.default_rng(seed)
    return dataset.Split(
        images=rng.integers(0, 256, (n, 4, 4, 1), dtype=np.uint8),
        labels=np.full(n, label, np.int32),
        masks=np.zeros((n, 4, 4), bool) if masks else None,
        ids=tuple(f"id{i}" for i in range(n)),
    )


def test_package_exports_what_the_trainer_needs():
    assert set(data.__all__) >= {"Dataset", "Split", "load"}


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"images": np.zeros((3, 4, 4, 1))}, "images must be uint8"),
        ({"images": np.zeros((3, 4, 4), np.uint8)}, "images must be uint8"),
        ({"labels": np.zeros(2, np.int32)}, "3 ids need as many images"),
        ({"masks": np.zeros((3, 4, 5), bool)}, "masks must be"),
        ({"ids": ("a", "c", "b")}, "distinct and sorted"),
        ({"ids": ("a", "a", "b")}, "distinct and sorted"),
    ],
)
def test_inconsistent_split_is_refused(change, sentence):
    with pytest.raises(ValueError, match=sentence):
        dataclasses.replace(_split(), **change)


def test_training_without_test_split_is_allowed():
    made = dataset.make_dataset("folder", {"train": _split()})
    assert list(made.splits) == ["train"]


def test_splits_have_one_order():
    splits = {"test": _split(seed=1), "train": _split(), "val": _split(seed=2)}
    made = dataset.make_dataset("folder", splits)
    assert list(made.splits) == ["train", "val", "test"]


@pytest.mark.parametrize(
    ("splits", "sentence"),
    [
        ({"test": _split()}, "at least train; found test"),
        ({"train": _split(), "tset": _split()}, "found train, tset"),
        ({"train": _split(0)}, "the train split of folder has no image"),
        ({"train": _split(3, 1)}, "normal images only, found 3 abnormal"),
        (
            {"train": _split(), "val": _split(2, 1)},
            "the val split of folder must hold normal images only",
        ),
    ],
)
def test_impossible_data_set_is_refused(splits, sentence):
    with pytest.raises(ValueError, match=sentence):
        dataset.make_dataset("folder", splits)


def _fingerprint(**splits):
    return dataset.make_dataset("folder", splits).fingerprint


def test_fingerprint_depends_on_every_part():
    base = _split(label=1, masks=True)
    pixel = base.images.copy()
    pixel[2, 3, 3, 0] ^= 1
    label = base.labels.copy()
    label[0] = 0
    mask = base.masks.copy()
    mask[1, 0, 0] = True
    variants = [
        base,
        dataclasses.replace(base, images=pixel),
        dataclasses.replace(base, labels=label),
        dataclasses.replace(base, masks=mask),
        dataclasses.replace(base, masks=None),
        dataclasses.replace(base, ids=("id0", "id1", "id3")),
    ]
    prints = [_fingerprint(train=_split(), test=v) for v in variants]
    prints.append(_fingerprint(train=_split()))
    assert len(set(prints)) == len(prints)


def test_image_fingerprint_leaves_out_the_masks_and_nothing_else():
    def of(split):
        made = dataset.make_dataset(
            "folder", {"train": _split(), "test": split}
        )
        return made.image_fingerprint_of("test")

    base = _split(label=1, masks=True)
    assert of(dataclasses.replace(base, masks=None)) == of(base)
    assert of(dataclasses.replace(base, images=255 - base.images)) != of(base)
    assert of(dataclasses.replace(base, labels=0 * base.labels)) != of(base)


def test_fingerprint_does_not_depend_on_memory_order():
    split = _split()
    other = dataclasses.replace(split, images=np.asfortranarray(split.images))
    assert _fingerprint(train=split) == _fingerprint(train=other)
