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
    nearest,
    prepared,
    sources,
)

# Held out for verdicts by default: the larger of this share and of as many
# normals as a verdict at 0.05 needs, as long as enough remain to train on.
_CALIBRATION_SHARE = 0.2
_LEAST_CALIBRATION = 19
_LEAST_TRAINING = 40
# Gray levels within which two normals are relatives, and images beyond which
# pairs are too many to look for them.
_RELATED = 5.0
_MOST_COMPARED = 10_000


def load(
    name: str,
    *,
    root: str = "",
    cache_dir: str = "",
    image_size: int = 64,
    channels: int = 1,
    validation_fraction: float = 0.0,
    calibration: str = "none",
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
        calibration: normals held out of training for verdicts: "none", "auto"
            or a fraction in digits; see `hold_out_calibration`.
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
        The data set: "train" with normal images only, and "val",
        "calibration" and "test" if there are any.

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
    is_own = catalog.get_entry(name).source == catalog.FOLDER
    splits, note = hold_out_calibration(splits, calibration, seed, is_own)
    few = dataset.describe_few(len(splits["train"]))
    notes = (note, f"WARNING: {few}." if few else "")
    made = dataset.make_dataset(name, splits, tuple(filter(None, notes)))
    return dataclasses.replace(made, left_out=left_out.describe())


def hold_out(
    splits: dict[str, dataset.Split], fraction: float, seed: int
) -> dict[str, dataset.Split]:
    """Moves a fraction of the training images to the split "val".

    No relative of a training image is held out: images of one group, and near
    copies of each other, stay together.

    Args:
        splits: at least "train", and no "val".
        fraction: of the training images, rounded to at least one image.
        seed: chooses the images, with their ids or groups.

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
    moved = _move(splits, "val", _relatives(train), held, str(seed))
    if "val" not in moved:
        raise ValueError(
            f"none of the {len(train)} training images can be held out, since"
            " too many belong together; set the validation fraction higher, or"
            " to 0."
        )
    return moved


def hold_out_calibration(
    splits: dict[str, dataset.Split], wanted: str, seed: int, is_own: bool
) -> tuple[dict[str, dataset.Split], str]:
    """Moves training normals to the split "calibration", by whole groups.

    No relative of a training image calibrates: images of one group, and near
    copies of each other, stay together. Normals of "val" have chosen something
    and never calibrate; the two parts are disjoint.

    Args:
        splits: at least "train".
        wanted: "none"; a fraction in digits; or "auto", which for a user's own
            images without "val" is the larger of 20 % and 19, as long as 40
            remain to train on, and else none.
        seed: chooses the images, with their ids or groups.
        is_own: whether the images are a user's own.

    Returns:
        The splits, and a sentence on what was done, or an empty text.

    Raises:
        ValueError: the fraction is not in (0, 1) or leaves no training image.
    """
    train = splits["train"]
    if wanted == "none" or (wanted == "auto" and not is_own):
        return splits, ""
    if wanted == "auto":
        if "val" in splits:
            return splits, ""
        least = max(round(_CALIBRATION_SHARE * len(train)), _LEAST_CALIBRATION)
        if len(train) - least < _LEAST_TRAINING:
            return splits, (
                f"None of the {len(train)} normals is held out, so screening"
                " will give scores without verdicts: verdicts need"
                f" {_LEAST_CALIBRATION + _LEAST_TRAINING} normals, or other"
                " ones with --calibration."
            )
    else:
        least = _count_of(wanted, len(train))
    is_auto = wanted == "auto"
    moved = _move(
        splits,
        "calibration",
        _relatives(train),
        least,
        f"calibration:{seed}",
        keep=_LEAST_TRAINING if is_auto else 1,
    )
    found = len(moved.get("calibration", ()))
    if not found or (is_auto and found < _LEAST_CALIBRATION):
        return splits, (
            f"None of the {len(train)} normals is held out, since too many"
            " belong together, so screening will give scores without verdicts"
            " unless it is given other normals with --calibration."
        )
    held, left = len(moved["calibration"]), len(moved["train"])
    by = "files" if train.groups is None else "patients, volumes or files"
    if len(train) <= _MOST_COMPARED:
        by += f" and near copies (within {_RELATED:g} gray levels)"
    return moved, (
        f"{held} of {len(train)} normals are held out to calibrate verdicts, by"
        f" whole {by}; {left} remain to train on."
    )


def _relatives(train: dataset.Split) -> np.ndarray:
    """Groups of images that belong together or are near copies, `[N]` int32."""
    # scipy is imported when used, so that commands start soon.
    from scipy import sparse

    groups = train.groups
    if groups is None:
        groups = np.arange(len(train))
    if len(train) > _MOST_COMPARED:
        return groups.astype(np.int32)
    near = nearest.near_groups(train.images, _RELATED)
    # Two images are relatives where either kind of group links them.
    count = len(train)
    rows = np.tile(np.arange(count), 2)
    columns = np.concatenate([near, groups - groups.min() + near.max() + 1])
    graph = sparse.coo_array(
        (np.ones(2 * count, bool), (rows, count + columns)),
        shape=(count + columns.max() + 1,) * 2,
    )
    labels = sparse.csgraph.connected_components(graph, directed=False)[1]
    return labels[:count].astype(np.int32)


def _count_of(wanted: str, total: int) -> int:
    try:
        fraction = float(wanted)
    except ValueError:
        fraction = math.nan
    if not 0 < fraction < 1 or round(fraction * total) >= total:
        raise ValueError(
            f"data.calibration is {wanted!r}, but must be auto, none, or a"
            f" fraction between 0 and 1 that leaves some of {total} normals to"
            " train on."
        )
    return max(1, round(fraction * total))


def _move(
    splits: dict[str, dataset.Split],
    name: str,
    groups: np.ndarray,
    least: int,
    salt: str,
    keep: int = 1,
) -> dict[str, dataset.Split]:
    """Moves whole groups of training images, until `least` are moved.

    A group stays that is larger than that, or would leave fewer than `keep`.
    The new split has these groups.
    """
    train = splits["train"]
    members: dict[int, list[int]] = {}
    for i, label in enumerate(groups.tolist()):
        members.setdefault(label, []).append(i)

    def key(rows: list[int]) -> bytes:
        return hashlib.sha256(f"{salt}:{train.ids[rows[0]]}".encode()).digest()

    chosen = np.zeros(len(train), bool)
    for rows in sorted(members.values(), key=key):
        left = len(train) - chosen.sum() - len(rows)
        fits = len(rows) <= least and left >= keep
        if chosen.sum() < least and fits:
            chosen[rows] = True
    if not chosen.any():
        return splits
    return {
        **splits,
        "train": dataset.select(train, ~chosen),
        name: dataset.select(dataclasses.replace(train, groups=groups), chosen),
    }
