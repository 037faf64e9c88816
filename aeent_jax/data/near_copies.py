"""Near copies across splits: found, counted and left out.

An image is a near copy where some image of another split lies within some gray
levels of it, by `nearest`: a neighbouring slice of the same scan, or the same
picture saved twice. A network that has seen one of the two may know the other.
"""

import hashlib
from typing import NamedTuple

import numpy as np
from absl import logging

from aeent_jax.data import dataset, nearest

LEVELS = 5.0
TEST = "near"
TRAIN = "near_train"
RANDOM_TRAIN = "random_train"
CHOICES = ("", TEST, TRAIN, RANDOM_TRAIN)


class LeftOut(NamedTuple):
    """How many images were left out, and why.

    Attributes:
        choice: one of `CHOICES`; empty where nothing was looked for.
        split: "test" or "train", of which they were.
        normal: number of normal images.
        abnormal: number of abnormal images.
    """

    choice: str = ""
    split: str = ""
    normal: int = 0
    abnormal: int = 0

    def describe(self) -> str:
        """One sentence, or an empty text where nothing was looked for."""
        if not self.choice:
            return ""
        reason = {
            TEST: f"are within {LEVELS:g} gray levels of a training image",
            TRAIN: f"are within {LEVELS:g} gray levels of a test image",
            RANDOM_TRAIN: "are as many as there are near copies, at random",
        }[self.choice]
        return (
            f"{self.normal} normal and {self.abnormal} abnormal images of the "
            f"{self.split} split are left out: they {reason}."
        )


def find(
    images: nearest.Images, others: nearest.Images, levels: float = LEVELS
) -> np.ndarray:
    """Tells which images have a near copy among others.

    Args:
        images: `[N, H, W, C]` uint8.
        others: `[M, H, W, C]` uint8.
        levels: the largest mean absolute difference of near copies.

    Returns:
        `[N]` bool.
    """
    return nearest.find_nearest(images, others).distance <= levels


def leave_out(
    splits: dict[str, dataset.Split], choice: str, seed: int
) -> tuple[dict[str, dataset.Split], LeftOut]:
    """Leaves near copies out of a split.

    Args:
        splits: at least "train".
        choice: "" leaves all as it is; "near" leaves out test images that have
            a near copy in the training split; "near_train" leaves out training
            images that have one in the test split; "random_train" leaves out
            as many training images at random, for comparison.
        seed: of "random_train"; the choice depends on it and the ids alone.

    Returns:
        The splits, and what was left out.

    Raises:
        ValueError: the choice is unknown, there is no test split, or no image
            of the split would be left.
    """
    if choice not in CHOICES:
        raise ValueError(
            f"near copies are left out by {', '.join(CHOICES[1:])} or not at "
            f"all, found {choice!r}."
        )
    if not choice:
        return splits, LeftOut()
    if "test" not in splits:
        raise ValueError(
            "the data set has no test split, so it has no near copies in one; "
            "leave data.deduplicate empty."
        )
    name, other = ("test", "train") if choice == TEST else ("train", "test")
    split = splits[name]
    left_out = find(split.images, splits[other].images)
    if choice == RANDOM_TRAIN:
        left_out = _choose(split.ids, int(left_out.sum()), seed)
    if left_out.all():
        raise ValueError(
            f"all {len(split)} images of the {name} split have near copies in "
            f"the {other} split; leave data.deduplicate empty."
        )
    abnormal = int(split.labels[left_out].sum())
    counted = LeftOut(choice, name, int(left_out.sum()) - abnormal, abnormal)
    logging.info("%s", counted.describe())
    return {**splits, name: dataset.select(split, ~left_out)}, counted


def _choose(ids: tuple[str, ...], count: int, seed: int) -> np.ndarray:
    """Chooses some ids by their hashes; returns `[N]` bool."""
    keys = [
        hashlib.sha256(f"left out:{seed}:{i}".encode()).digest() for i in ids
    ]
    chosen = np.zeros(len(ids), bool)
    chosen[sorted(range(len(ids)), key=keys.__getitem__)[:count]] = True
    return chosen
