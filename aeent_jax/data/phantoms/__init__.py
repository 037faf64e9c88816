"""Image sets drawn from a seed: `phantom_cxr` and `phantom_mri`.

They let the whole project run without a download. An abnormal image is a
normal one with a lesion: anatomy, exposure and noise come from the same
streams, so that nothing outside the mask tells the two apart. Each image has
its own generators, derived from (seed, set, split, index); image i does not
depend on how many are drawn.
"""

import hashlib
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from aeent_jax.data.phantoms import cxr, cxr_lesions, fields, mri, mri_lesions


class PhantomSplit(NamedTuple):
    """The images of one split, ordered by id.

    Attributes:
      images: uint8 [N, S, S, 1].
      labels: int32 [N]; 0 normal, 1 abnormal.
      masks: bool [N, S, S]; the lesion, empty in normal images.
      ids: N strings, unrelated to the label.
      families: N strings; "normal" or the kind of lesion.
    """

    images: np.ndarray
    labels: np.ndarray
    masks: np.ndarray
    ids: tuple[str, ...]
    families: tuple[str, ...]


class PhantomSet(NamedTuple):
    """How one set is drawn.

    Attributes:
      stream: number that separates the random streams of the sets.
      counts: split name to (normal, abnormal) numbers of images.
      anatomy: table of (mean, standard deviation) for `fields.draw`.
      draw_texture: (rng, image_size) to the fields of one person.
      render: (parameters, texture) to a noise-free `picture`.
      lesions: family to (parameters, texture, rendered, rng) to (picture,
        footprint).
      expose: (picture, noisiness, rng) to uint8 [S, S].
    """

    stream: int
    counts: dict[str, tuple[int, int]]
    anatomy: dict[str, tuple[float, float]]
    draw_texture: Callable
    render: Callable
    lesions: dict[str, Callable]
    expose: Callable


class Phantom(NamedTuple):
    """One image, and the same person without the lesion.

    Attributes:
      image: uint8 [S, S].
      healthy: uint8 [S, S]; equal to `image` where that is normal.
      mask: bool [S, S].
      family: "normal" or the kind of lesion.
    """

    image: np.ndarray
    healthy: np.ndarray
    mask: np.ndarray
    family: str


# A pixel belongs to the mask where the lesion has this share of its strength.
_MASK_SHARE = 0.35
_SPLITS = {"train": 0, "test": 1}
_GOLDEN_RATIO = 0.6180339887498949


def generate(
    name: str, split: str, *, image_size: int = 64, seed: int = 0
) -> PhantomSplit:
    """Draws all images of a split.

    Args:
      name: a key of `PHANTOMS`.
      split: "train" (normal images only) or "test".
      image_size: S, at least 16.
      seed: another seed gives other people.

    Returns:
      The split, with images of shape [N, S, S, 1].

    Raises:
      ValueError: for an unknown set or split, or an image size below 16.
    """
    if name not in PHANTOMS:
        raise ValueError(
            f"There is no phantom set {name!r};"
            f" choose one of {', '.join(PHANTOMS)}."
        )
    counts = PHANTOMS[name].counts
    if split not in counts:
        raise ValueError(
            f"{name} has no split {split!r}; choose one of {', '.join(counts)}."
        )
    if image_size < 16:
        raise ValueError(
            "Phantoms need an image size of at least 16,"
            f" and it is {image_size}; set a larger one."
        )
    normal, abnormal = counts[split]
    families = list(PHANTOMS[name].lesions)
    records = []
    for index in range(normal + abnormal):
        family = "normal"
        if index >= normal:
            family = families[(index - normal) % len(families)]
        phantom = draw(
            name, split, index, family, image_size=image_size, seed=seed
        )
        records.append((_make_id(name, split, index, seed), phantom))
    records.sort(key=lambda record: record[0])
    phantoms = [phantom for _, phantom in records]
    return PhantomSplit(
        images=np.stack([p.image for p in phantoms])[..., None],
        labels=np.array([p.family != "normal" for p in phantoms], np.int32),
        masks=np.stack([p.mask for p in phantoms]),
        ids=tuple(identifier for identifier, _ in records),
        families=tuple(p.family for p in phantoms),
    )


def draw(
    name: str,
    split: str,
    index: int,
    family: str,
    *,
    image_size: int,
    seed: int,
) -> Phantom:
    """Draws one image.

    Args:
      name: a key of `PHANTOMS`.
      split: "train" or "test".
      index: number of the person within the split.
      family: "normal" or a kind of lesion of the set.
      image_size: S.
      seed: of the set.

    Returns:
      The image, the same image without the lesion, and the mask.
    """
    phantom_set = PHANTOMS[name]
    key = [seed, phantom_set.stream, _SPLITS[split], index]
    body_rng = np.random.default_rng([*key, 0])
    parameters = fields.draw(body_rng, phantom_set.anatomy)
    texture = phantom_set.draw_texture(body_rng, image_size)
    body = phantom_set.render(parameters, texture)
    # Evenly spread over any run of indices, so that normal and abnormal images
    # are equally noisy not only on average.
    noisiness = index * _GOLDEN_RATIO % 1.0
    healthy = phantom_set.expose(
        body.picture, noisiness, np.random.default_rng([*key, 2])
    )
    mask = np.zeros((image_size, image_size), bool)
    if family == "normal":
        return Phantom(healthy, healthy, mask, family)
    picture, footprint = phantom_set.lesions[family](
        parameters, texture, body, np.random.default_rng([*key, 1])
    )
    image = phantom_set.expose(
        picture, noisiness, np.random.default_rng([*key, 2])
    )
    return Phantom(image, healthy, footprint > _MASK_SHARE, family)


def _make_id(name: str, split: str, index: int, seed: int) -> str:
    """Makes an id whose order says nothing of the label."""
    text = f"{name}/{split}/{seed}/{index}"
    return hashlib.sha256(text.encode()).hexdigest()[:12]


PHANTOMS = {
    "phantom_cxr": PhantomSet(
        stream=0,
        counts={"train": (1000, 0), "test": (200, 200)},
        anatomy=cxr.ANATOMY,
        draw_texture=cxr.draw_texture,
        render=cxr.render,
        lesions=cxr_lesions.LESIONS,
        expose=cxr.expose,
    ),
    "phantom_mri": PhantomSet(
        stream=1,
        counts={"train": (600, 0), "test": (150, 150)},
        anatomy=mri.ANATOMY,
        draw_texture=mri.draw_texture,
        render=mri.render,
        lesions=mri_lesions.LESIONS,
        expose=mri.acquire,
    ),
}
