"""Loops over tiles of rows, for what is too large to be held at once."""

from collections.abc import Callable

import jax
import jax.numpy as jnp


def scan(body: Callable, tiles, start: float = 0.0):
    """`lax.scan` of `body(carry, tile)`, where a carry of None is an empty one.

    A single tile needs no loop. For several, the empty carry must have the type
    of the data, also under a device mapping that tells varying values from
    constant ones: it is copied from a first result, of which the compiler keeps
    nothing else.

    Args:
      body: function of a carry, or None, and a tile.
      tiles: pytree of `[tiles, tile, ...]`.
      start: value of the empty carry's first leaf; the others are 0.
    """
    carry, out = body(None, jax.tree.map(lambda t: t[0], tiles))
    if jax.tree.leaves(tiles)[0].shape[0] == 1:
        return carry, jax.tree.map(lambda o: o[None], out)
    leaves, structure = jax.tree.flatten(carry)
    fills = [start] + [0.0] * len(leaves)
    empty = [jnp.full_like(*pair) for pair in zip(leaves, fills, strict=False)]
    return jax.lax.scan(body, jax.tree.unflatten(structure, empty), tiles)


def add(so_far, new):
    """Adds a result to what there is; None is nothing."""
    return new if so_far is None else jax.tree.map(jnp.add, so_far, new)


def split(tile: int, arrays):
    """`[rows, ...]` to `[tiles, size, ...]`, with zeros (False) at the end.

    No size is above `tile`, and sizes are such that few zeros are needed.
    """

    def cut(array: jax.Array) -> jax.Array:
        rows = array.shape[0]
        count = max(-(-rows // tile), 1)
        size = max(-(-rows // count), 1)
        padding = [(0, count * size - rows)] + [(0, 0)] * (array.ndim - 1)
        return jnp.pad(array, padding).reshape(count, size, *array.shape[1:])

    return jax.tree.map(cut, arrays)


def join(rows: int, tiles):
    """Undoes `split`."""
    return jax.tree.map(
        lambda array: array.reshape(-1, *array.shape[2:])[:rows], tiles
    )
