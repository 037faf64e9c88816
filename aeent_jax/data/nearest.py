"""The nearest images of another split, by mean absolute difference of gray.

The distance of two images is the mean of |a - b| over pixels and channels, in
gray levels from 0 to 255. A distance of a few levels marks a near copy, such as
a neighbouring slice of the same scan.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from aeent_jax.data import stored

Images = np.ndarray | stored.StoredImages

# Images of each side that are compared at a time. The sums of a tile stay in a
# core's cache while the scan passes over the pixels: on a CPU 128 was the
# fastest of 64, 128 and 256.
_TILE = 128
# Blocks per side whose sums bound the distance of two images.
_BLOCKS = 8


class Nearest(NamedTuple):
    """The nearest one of the other images, for each image.

    Attributes:
      distance: `[N]` float64, gray levels from 0 to 255.
      index: `[N]` int64, its place among the others; the first of equals.
    """

    distance: np.ndarray
    index: np.ndarray


def find_nearest(images: Images, others: Images) -> Nearest:
    """Compares each image with all others, exactly.

    Time is that of N M image differences. Memory is linear: both sides are read
    a tile at a time, and only the nearest one of each image is kept.

    Args:
      images: `[N, H, W, C]` uint8, in memory or in files.
      others: `[M, H, W, C]` uint8 of the same size, at least one.

    Returns:
      The nearest ones.
    """
    distance = np.full(len(images), np.iinfo(np.int32).max, np.int32)
    index = np.zeros(len(images), np.int64)
    for rows in _tiles(len(images)):
        block = _flat(images[rows])
        for columns in _tiles(len(others)):
            sums = np.asarray(_sum_differences(block, _flat(others[columns])))
            place = sums.argmin(axis=1)
            least = sums[np.arange(len(sums)), place]
            closer = least < distance[rows]
            distance[rows][closer] = least[closer]
            index[rows][closer] = columns.start + place[closer]
    pixels = np.prod(images.shape[1:])
    return Nearest(distance / pixels, index)


def _tiles(count: int) -> list[slice]:
    """Slices of equal length; the last one overlaps the one before it.

    So all tiles of a side compile to one program.
    """
    size = min(count, _TILE)
    starts = [*range(0, count - size, size), count - size]
    return [slice(start, start + size) for start in starts]


def _flat(images: np.ndarray) -> np.ndarray:
    return images.reshape(len(images), -1)


@jax.jit
def _sum_differences(a: jax.Array, b: jax.Array) -> jax.Array:
    """Sums of absolute differences `[N, M]` int32 of `[N, P]` and `[M, P]`.

    A scan over the pixels adds one `[N, M]` array per pixel. XLA vectorises
    that along M; as a reduction over the last axis of `[N, M, P]` it took 4 to
    20 times as long on a CPU.
    """

    def add(sums, pixel):
        a, b = (values.astype(jnp.int32) for values in pixel)
        return sums + jnp.abs(a[:, None] - b), None

    sums = jnp.zeros((len(a), len(b)), jnp.int32)
    return jax.lax.scan(add, sums, (a.T, b.T))[0]


def near_groups(images: Images, within: float) -> np.ndarray:
    """Numbers the groups of images that are linked by near copies.

    Two images are linked where their distance is at most `within`. Sums over
    8 x 8 blocks bound the distance from below, and only pairs that pass the
    bound are compared in full.

    Args:
      images: `[N, S, S, C]` uint8, S a multiple of 8.
      within: gray levels.

    Returns:
      `[N]` int32, equal in one group.
    """
    count, pixels = len(images), int(np.prod(images.shape[1:]))
    limit = int(np.floor(within * pixels))
    blocks = np.concatenate([_block_sums(images[r]) for r in _tiles(count)])
    blocks = blocks[_without_overlap(count)]
    # Images that are linked already are not compared again: where all are
    # alike, the pairs would number the square of the images.
    groups = np.arange(count)
    for rows in _tiles(count):
        for columns in _tiles(count):
            if columns.start < rows.start:
                continue
            bound = _sum_differences(blocks[rows], blocks[columns])
            near = np.asarray(bound) <= limit
            near &= groups[rows][:, None] != groups[columns]
            for pair in np.argwhere(near) + (rows.start, columns.start):
                one, other = groups[pair]
                if one != other and _distance(images[pair]) <= limit:
                    groups[groups == other] = one
    return np.unique(groups, return_inverse=True)[1].astype(np.int32)


def _distance(pair: np.ndarray) -> int:
    """The sum of absolute differences of two images `[2, H, W, C]`."""
    return int(np.abs(np.subtract(*pair.astype(np.int32))).sum())


def _without_overlap(count: int) -> np.ndarray:
    """Places of each image once in the concatenated tiles."""
    places = np.concatenate([np.r_[tile] for tile in _tiles(count)])
    return np.unique(places, return_index=True)[1]


def _block_sums(images: np.ndarray) -> np.ndarray:
    n, size = images.shape[:2]
    side = size // _BLOCKS
    blocks = images.reshape(n, _BLOCKS, side, _BLOCKS, -1)
    return blocks.sum(axis=(2, 4), dtype=np.int32).reshape(n, -1)
