"""Loaded data sets: uint8 images, labels, ids."""

import dataclasses
import functools
import hashlib
from collections.abc import Iterator

import numpy as np

from aeent_jax.data import stored

NORMAL = 0
ABNORMAL = 1
SPLITS = ("train", "val", "calibration", "test")

# Fewer training images teach a network nothing but themselves.
_FEW = 20

# Pixels that are hashed at a time.
_BLOCK_BYTES = 2**24


@dataclasses.dataclass(frozen=True)
class Split:
    """Images of one split, sorted by id.

    Attributes:
        images: [N, H, W, C] uint8, in memory or in files.
        labels: [N] int32, 0 normal and 1 abnormal.
        masks: [N, H, W] bool, True where a pixel is abnormal; None where the
            source has no masks. Normal images have an empty mask.
        ids: N distinct names, the same at every image size.
        groups: [N] int32, equal for images that belong together, such as those
            of one patient or volume; None where every image stands alone.
        originals: [N, 3] int64, width and height in pixels of each image before
            it was made square, and bytes of its file; None without files.
    """

    images: np.ndarray | stored.StoredImages
    labels: np.ndarray
    masks: np.ndarray | None
    ids: tuple[str, ...]
    groups: np.ndarray | None = None
    originals: np.ndarray | None = None

    def __post_init__(self):
        n = len(self.ids)
        if self.images.ndim != 4 or self.images.dtype != np.uint8:
            raise ValueError(
                f"images must be uint8 [N, H, W, C], found {self.images.dtype} "
                f"{self.images.shape}."
            )
        if self.images.shape[0] != n or self.labels.shape != (n,):
            raise ValueError(
                f"{n} ids need as many images and labels, found "
                f"{self.images.shape[0]} images and labels {self.labels.shape}."
            )
        if self.masks is not None and self.masks.shape != self.images.shape[:3]:
            raise ValueError(
                f"masks must be [N, H, W] = {self.images.shape[:3]}, found "
                f"{self.masks.shape}."
            )
        if list(self.ids) != sorted(set(self.ids)):
            raise ValueError("ids must be distinct and sorted.")

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def is_stored(self) -> bool:
        """Whether the images are in files, because memory is too small."""
        return isinstance(self.images, stored.StoredImages)


def select(split: Split, chosen: np.ndarray) -> Split:
    """Returns the images of a split that are chosen, in their order.

    Args:
        split: N images.
        chosen: [N] bool.
    """
    images, masks, originals = split.images, split.masks, split.originals
    return Split(
        images=images.select(chosen)
        if isinstance(images, stored.StoredImages)
        else images[chosen],
        labels=split.labels[chosen],
        masks=None if masks is None else masks[chosen],
        ids=tuple(i for i, k in zip(split.ids, chosen, strict=True) if k),
        groups=None if split.groups is None else split.groups[chosen],
        originals=None if originals is None else originals[chosen],
    )


def describe_few(count: int) -> str:
    """A sentence on training images that are hardly any, or an empty text.

    Args:
        count: how many there are.
    """
    if count >= _FEW:
        return ""
    return (
        f"training normals number {count}, and a network learns fewer than"
        f" {_FEW} by heart: its scores say little about other images; add some"
    )


@dataclasses.dataclass(frozen=True)
class Dataset:
    """A named data set.

    Attributes:
        name: a name of the catalog.
        splits: "train" (normal images only), and where there are any "val"
            and "calibration" (normal images held out of training, to choose
            by and to calibrate verdicts with) and "test".
        left_out: a sentence on near copies that were left out, or empty.
        notes: sentences on how the splits were made.
    """

    name: str
    splits: dict[str, Split]
    left_out: str = ""
    notes: tuple[str, ...] = ()

    @functools.cached_property
    def fingerprint(self) -> str:
        """Returns the sha256 of everything in the splits.

        Two runs with the same fingerprint saw the same pixels, ids, labels and
        masks. Like those below it reads every image, but keeps none.
        """
        return _fingerprint(self.splits)

    def fingerprint_of(self, split: str) -> str:
        """Returns the sha256 of one split."""
        return _fingerprint({split: self.splits[split]})

    def image_fingerprint_of(self, split: str) -> str:
        """Returns the sha256 of one split without its masks.

        Scores can be compared image by image where it is equal.
        """
        content = dataclasses.replace(self.splits[split], masks=None)
        return _fingerprint({split: content})


def make_dataset(
    name: str, splits: dict[str, Split], notes: tuple[str, ...] = ()
) -> Dataset:
    """Checks the splits.

    Args:
        name: a name of the catalog.
        splits: at least "train"; every label is 0 but those of "test".
        notes: sentences on how the splits were made.

    Returns:
        The data set.

    Raises:
        ValueError: a split is unknown, empty, or abnormal where it must not be.
    """
    unknown = sorted(set(splits) - set(SPLITS))
    if unknown or "train" not in splits:
        raise ValueError(
            f"a data set has the splits {', '.join(SPLITS)}, at least train; "
            f"found {', '.join(splits) or 'none'}."
        )
    for split, content in splits.items():
        if not len(content):
            raise ValueError(f"the {split} split of {name} has no image.")
        if split != "test" and content.labels.any():
            raise ValueError(
                f"the {split} split of {name} must hold normal images only, "
                f"found {np.count_nonzero(content.labels)} abnormal ones."
            )
    ordered = {s: splits[s] for s in SPLITS if s in splits}
    return Dataset(name, ordered, notes=notes)


def _fingerprint(splits: dict[str, Split]) -> str:
    """sha256 over ids, labels, pixels and masks; independent of the machine."""
    digest = hashlib.sha256()
    for name, split in splits.items():
        digest.update(repr((name, split.ids, split.images.shape)).encode())
        digest.update(np.ascontiguousarray(split.labels, "<i4").data)
        for block in _blocks(split.images):
            digest.update(np.ascontiguousarray(block).data)
        if split.masks is not None:
            digest.update(np.packbits(split.masks).data)
    return digest.hexdigest()


def _blocks(images: np.ndarray | stored.StoredImages) -> Iterator[np.ndarray]:
    """All images, as many at a time as take little memory."""
    step = max(1, _BLOCK_BYTES // int(np.prod(images.shape[1:])))
    return (images[i : i + step] for i in range(0, len(images), step))
