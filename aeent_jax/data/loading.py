"""From a name to arrays: `load`, and the images that are held out."""

import dataclasses
import hashlib
import math

import numpy as np

from aeent_jax.data import (
    catalog,
    dataset,
    images,
    near_copies,
    prepared,
    sources,
)


def load(
    name: str,
    *,
    root: str = "",
    cache_dir: str = "",
    image_size: int = 64,
    channels: int = 1,
    validation_fraction: float = 0.0,
    seed: int = 0,
    window: images.Window | None = None,
    resize: str = images.STRETCH,
    phantom_seed: int = 0,
    memory_budget_mb: float = math.inf,
    deduplicate: str = "",
) -> dataset.Dataset:
    """Loads a data set, from its prepared copy where there is one.

    Args:
        name: a name of the catalog.
        root: the user's folder, or the benchmark's archive or the folder that
            holds it; empty for generated data sets.
        cache_dir: where prepared copies and unpacked archives are kept; empty
            for the user's cache folder, ~/.cache/aeent_jax.
        image_size: side S of the images in pixels.
        channels: 1 gray, 3 RGB.
        validation_fraction: of the training images, held out as "val"; 0 for
            none.
        seed: chooses the images that are held out, and nothing else.
        window: values (low, high) of images of more than 8 bits that become 0
            and 255; None for the window of the file, or the full 16-bit range.
        resize: "stretch" or "pad": how images that are not square are made so.
        phantom_seed: which draw of a generated data set; results are reported
            on 0.
        memory_budget_mb: millions of bytes that the images of all splits may
            take; if they take more, they stay in the files of the prepared
            copy and are read when they are indexed, see `stored`.
        deduplicate: which near copies across splits are left out, see
            `near_copies.leave_out`.

    Returns:
        The data set: "train" with normal images only, and "val" and "test" if
        there are any.

    Raises:
        ValueError: an argument, the folder or its images cannot be used.
        FileNotFoundError: the folder, or some of its files, are missing.
        OSError: the cache folder cannot be written.
    """
    catalog.get_entry(name)
    spec = sources.Spec(image_size, channels, window, phantom_seed, resize)
    found = prepared.prepare(
        name,
        spec,
        root=root,
        cache_dir=cache_dir,
        memory_budget=memory_budget_mb * 1e6,
    )
    splits, left_out = near_copies.leave_out(found.splits, deduplicate, seed)
    if validation_fraction:
        splits = hold_out(splits, validation_fraction, seed)
    made = dataset.make_dataset(name, splits)
    return dataclasses.replace(made, left_out=left_out.describe())


def hold_out(
    splits: dict[str, dataset.Split], fraction: float, seed: int
) -> dict[str, dataset.Split]:
    """Moves a fraction of the training images to the split "val".

    Args:
        splits: at least "train", and no "val".
        fraction: of the training images, rounded to at least one image.
        seed: chooses the images; the choice depends on seed and ids alone.

    Returns:
        The splits with a smaller "train" and a "val".

    Raises:
        ValueError: the fraction is not in [0, 1), leaves no training image,
            or the data set has a validation split of its own.
    """
    train = splits["train"]
    in_range = 0 < fraction < 1
    held = max(1, round(fraction * len(train))) if in_range else 0
    if not in_range or held >= len(train):
        raise ValueError(
            "the validation fraction must be at least 0 and leave a training "
            f"image, found {fraction} of {len(train)} images."
        )
    if "val" in splits:
        raise ValueError(
            "the data set has a validation split of its own; set the "
            "validation fraction to 0."
        )
    keys = [hashlib.sha256(f"{seed}:{i}".encode()).digest() for i in train.ids]
    chosen = np.zeros(len(train), bool)
    chosen[sorted(range(len(train)), key=keys.__getitem__)[:held]] = True
    return {
        **splits,
        "train": dataset.select(train, ~chosen),
        "val": dataset.select(train, chosen),
    }
