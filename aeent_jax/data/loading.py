"""From a name to arrays: `load`, and the split that is held out."""

import hashlib

import numpy as np

from aeent_jax.data import catalog, dataset, images, layouts


def load(
    name: str,
    *,
    root: str = "",
    cache_dir: str = "",
    image_size: int = 64,
    channels: int = 1,
    validation_fraction: float = 0.0,
    seed: int = 0,
) -> dataset.Dataset:
    """Loads a data set into memory."""
    del cache_dir
    if catalog.get_entry(name).source == catalog.GENERATED:
        splits = _generate(name, image_size, channels)
    else:
        splits = _read(root, image_size, channels)
    if validation_fraction:
        splits = hold_out(splits, validation_fraction, seed)
    return dataset.make_dataset(name, splits)


def _generate(name, image_size, channels):
    from aeent_jax.data import phantoms

    splits = {}
    for split in ("train", "test"):
        made = phantoms.generate(name, split, image_size=image_size)
        pixels = np.repeat(made.images, channels, axis=-1)
        masks = made.masks if split == "test" else None
        splits[split] = dataset.Split(pixels, made.labels, masks, made.ids)
    return splits


def _read(root, image_size, channels):
    def read(path):
        return images.read_image(path, image_size=image_size, channels=channels)

    listing = layouts.read_listing(root)
    splits = {}
    for split in dataset.SPLITS:
        records = [r for r in listing.records if r.split == split]
        if records:
            decoded = images.read_many(read, [r.path for r in records])
            splits[split] = dataset.Split(
                np.stack([d.pixels for d in decoded]),
                np.array([r.label for r in records], np.int32),
                None,
                tuple(r.id for r in records),
            )
    return splits


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
    held = max(1, round(fraction * len(train)))
    if not 0 < fraction < 1 or held >= len(train):
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
        "train": _select(train, ~chosen),
        "val": _select(train, chosen),
    }


def _select(split: dataset.Split, chosen: np.ndarray) -> dataset.Split:
    """Returns the images for which `chosen` [N] is True, in their order."""
    masks = None if split.masks is None else split.masks[chosen]
    ids = tuple(i for i, keep in zip(split.ids, chosen, strict=True) if keep)
    return dataset.Split(split.images[chosen], split.labels[chosen], masks, ids)
