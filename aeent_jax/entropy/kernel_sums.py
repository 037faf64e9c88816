"""Sums of Gaussian kernels over all pairs of queries and samples, in tiles.

Two passes over the pairs, for `pairwise`, whose notation this is. `forward`
sums over the samples of each query and, if it can, has the sum over queries
that the samples' gradient needs; `push` is that sum once L is known.

                  samples j
             +-----+-----+-----+
    queries  |  1  |  2  |  3  |  A row of tiles is visited from left to right,
       i     +-----+-----+-----+  with running sums per query; then the next
             |  4  |  5  |  6  |  row. `push` is summed from top to bottom.
             +-----+-----+-----+

The exponent of a pair can be anything from 0 to -1e30, so sums of kernels are
held relative to the largest exponent met so far (`top`), and scaled down when a
larger one comes: the online softmax.

Each query's own sample, its self, is left out of the tiles and joins the sums
at the end, with its distance from the difference of the two rows. A query far
from all others then has exactly L = 0 and no gradient, not the rounding errors
of large norms.

Products are `w @ y` and `x.T @ w`: on a CPU `w.T @ x` takes two to five times
as long.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple, TypeVar

import jax
import jax.numpy as jnp

from aeent_jax.entropy.inputs import Points

# Trees of arrays: running sums, the tiles that are visited, and what is kept of
# each of them.
Carry = TypeVar("Carry")
Tile = TypeVar("Tile")
Result = TypeVar("Result")

# The logarithm of a masked kernel. Not -inf: inf - inf is NaN, in the running
# maximum of a row that has met no valid sample yet and in its gradient.
MASKED = -1e30

# Said explicitly: the default is a short format on recent accelerators.
_matmul = functools.partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)


class Sums(NamedTuple):
    """Sums over the samples j of each query i, and one over both."""

    lse: jax.Array  # [m], L
    mean: jax.Array  # [m], T
    pull: jax.Array  # [m, dim], sum_j w_ij (x_i - y_j)
    self_weight: jax.Array  # [m], w of the self; 0 where it is left out.
    push: jax.Array | None  # [n, dim], sum_i weight_i w_ij (y_j - x_i)


class _Side(NamedTuple):
    """Queries or samples, centred; or a tile of them."""

    at: jax.Array  # [k, dim]
    square: jax.Array  # [k], |at|^2
    index: jax.Array  # [k], which sample a point is, or is the query of.
    mask: jax.Array  # [k]


def forward(
    points: Points,
    inv_two_var: jax.Array,
    exclude_self: bool,
    tile: tuple[int, int],
    weight: jax.Array | None = None,
) -> Sums:
    """Visits the samples of each query.

    Args:
      points: queries and samples.
      inv_two_var: scalar, b.
      exclude_self: whether the sums leave the selves out.
      tile: how many queries and samples to visit at once, at most.
      weight: `[m]`, of the queries in `push`.

    Returns:
      The sums. `push` is None without `weight`, and where a tile does not hold
      all samples: w is known only once a query has met them all.
    """
    rows, columns, difference = _sides(points)
    (num_rows, dim), (num_columns, _) = rows.at.shape, columns.at.shape
    self_distance = jnp.sum(difference**2, 1)
    has_self = (rows.index >= 0) & (not exclude_self)
    self_exponent = jnp.where(has_self, -inv_two_var * self_distance, MASKED)
    pushes = weight is not None and num_columns <= tile[1]
    column_tiles = jax.tree.map(lambda a: _split(a, tile[1]), columns)

    def visit_row(pushed, row_tile):
        row, self_exponent, weight = row_tile

        def visit_tile(sums, column):
            top, total, moment, weighted = sums
            distance, counts = _distances(row, column)
            exponent = jnp.where(counts, -inv_two_var * distance, MASKED)
            new_top = jnp.maximum(top, jnp.max(exponent, 1))
            kernel = jnp.exp(exponent - new_top[:, None])
            old = jnp.exp(top - new_top)  # Scales what was summed so far.
            sums = (
                new_top,
                old * total + jnp.sum(kernel, 1),
                old * moment + jnp.sum(kernel * distance, 1),
                old[:, None] * weighted + _matmul(kernel, column.at),
            )
            return sums, kernel if pushes else None

        # Zeros made of the data, which vary over the same device axes.
        zero = jnp.zeros_like(row.square)
        start = (zero + MASKED, zero, zero, jnp.zeros_like(row.at))
        (top, *sums), kernels = _scan(visit_tile, start, column_tiles)
        lse = top + jnp.log(sums[0])
        if pushes:
            # w = kernel * exp(top - L), and here L contains the self.
            share = weight * jnp.exp(top - jnp.logaddexp(lse, self_exponent))
            share = jnp.where(lse < MASKED / 2, 0, share)
            pushed = pushed + _matmul(_homogeneous(row.at, share), kernels[0])
        return pushed, (lse, *sums)

    pushed = None
    if pushes:
        pushed = jnp.zeros_like(columns.at, shape=(dim + 1, num_columns))
    row_tiles = jax.tree.map(
        lambda a: _split(a, tile[0]), (rows, self_exponent, weight)
    )
    pushed, sums = _scan(visit_row, pushed, row_tiles)
    lse, total, moment, weighted = (
        s.reshape(-1, *s.shape[2:])[:num_rows] for s in sums
    )
    # 0 where no sample counts; not where L is NaN, which has to stay.
    some = jnp.where(lse < MASKED / 2, 0.0, jnp.ones_like(lse))
    # The self joins the others; where there is none, its weight is 0.
    others = some * jax.nn.sigmoid(lse - self_exponent)
    own = jnp.where(has_self, jax.nn.sigmoid(self_exponent - lse), 0)
    pull = others[:, None] * (rows.at - weighted / total[:, None])
    sums = Sums(
        lse=jnp.logaddexp(lse, self_exponent),
        mean=others * (moment / total) + own * self_distance,
        pull=pull + own[:, None] * difference,
        self_weight=own,
        push=None,
    )
    if not pushes:
        return sums
    own = None if exclude_self else weight * own
    return sums._replace(
        push=_to_push(points, columns, difference, pushed, own)
    )


def push(
    points: Points,
    inv_two_var: jax.Array,
    exclude_self: bool,
    tile: tuple[int, int],
    sums: Sums,
    weight: jax.Array,
) -> jax.Array:
    """Visits all pairs again, with L known.

    Args:
      points: this and the next three as `forward`.
      inv_two_var: scalar.
      exclude_self: whether the sums leave the selves out.
      tile: queries and samples at once.
      sums: what `forward` returned.
      weight: `[m]`, of the queries.

    Returns:
      `sum_i weight_i w_ij (y_j - x_i)`, `[n, dim]`.
    """
    rows, columns, difference = _sides(points)
    (_, dim), (num_columns, _) = rows.at.shape, columns.at.shape
    column_tiles = jax.tree.map(lambda a: _split(a, tile[1]), columns)

    def visit_row(pushed, row_tile):
        row, lse, weight = row_tile

        def visit_tile(_, column):
            distance, counts = _distances(row, column)
            exponent = -inv_two_var * distance - lse[:, None]
            w = jnp.exp(jnp.where(counts, exponent, MASKED))
            return None, _matmul(_homogeneous(row.at, weight), w)

        _, products = _scan(visit_tile, None, column_tiles)
        return pushed + products, None

    shape = (*column_tiles.square.shape, dim + 1)
    start = jnp.zeros_like(columns.at, shape=(shape[0], shape[2], shape[1]))
    row_tiles = jax.tree.map(
        lambda a: _split(a, tile[0]), (rows, sums.lse, weight)
    )
    pushed, _ = _scan(visit_row, start, row_tiles)
    pushed = jnp.moveaxis(pushed, 1, 2).reshape(-1, dim + 1)[:num_columns].T
    own = None if exclude_self else weight * sums.self_weight
    return _to_push(points, columns, difference, pushed, own)


def _sides(points: Points) -> tuple[_Side, _Side, jax.Array]:
    """Queries, samples, and each query less its self, 0 where it has none."""
    x, y, index, query_mask, mask = points
    has_self = (index >= 0)[:, None]
    difference = jnp.where(has_self, x - y[index], 0)
    # Distances do not change with the origin; the rounding error of
    # |x|^2 + |y|^2 - 2 x.y does, and is least about the mean of the samples.
    centre = jnp.sum(y, 0) / jnp.maximum(jnp.sum(mask, dtype=y.dtype), 1)
    x, y = x - centre, y - centre
    number = jnp.arange(len(y), dtype=index.dtype)
    rows = _Side(x, jnp.sum(x**2, 1), index, query_mask)
    columns = _Side(y, jnp.sum(y**2, 1), number, mask)
    return rows, columns, difference


def _distances(row: _Side, column: _Side) -> tuple[jax.Array, jax.Array]:
    """Returns squared distances, and which pairs count, all but the selves."""
    product = _matmul(row.at, column.at.T)
    distance = row.square[:, None] + column.square[None, :] - 2 * product
    is_self = row.index[:, None] == column.index[None, :]
    return jnp.maximum(distance, 0), column.mask[None, :] & ~is_self


def _homogeneous(at: jax.Array, scale: jax.Array) -> jax.Array:
    """Returns `[dim + 1, k]`: points times scales, and the scales below."""
    ones = jnp.ones_like(at[:, :1])
    return (scale[:, None] * jnp.concatenate([at, ones], axis=1)).T


def _to_push(
    points: Points,
    columns: _Side,
    difference: jax.Array,
    pushed: jax.Array,
    self_weight: jax.Array | None,
) -> jax.Array:
    """`sum_i c_ij (y_j - x_i)` from sums of `c_ij [x_i, 1]`.

    Args:
      points: queries and samples.
      columns: this and the next one as `_sides` returns.
      difference: `[m, dim]`.
      pushed: `[dim + 1, n]`, without the selves.
      self_weight: `[m]`, c of the selves; None where they are left out.
    """
    push = columns.at * pushed[-1][:, None] - pushed[:-1].T
    if self_weight is None:
        return push
    return push.at[points.query_index].add(-self_weight[:, None] * difference)


def _scan(
    body: Callable[[Carry, Tile], tuple[Carry, Result]],
    start: Carry,
    tiles: Tile,
) -> tuple[Carry, Result]:
    """`lax.scan`, but without a loop around a single tile."""
    if jax.tree.leaves(tiles)[0].shape[0] > 1:
        return jax.lax.scan(body, start, tiles)
    carry, out = body(start, jax.tree.map(lambda t: t[0], tiles))
    return carry, jax.tree.map(lambda o: o[None], out)


def _split(array: jax.Array, tile: int) -> jax.Array:
    """`[k, ...]` to `[tiles, size, ...]`, with zeros (False) at the end.

    No size is above `tile`, and sizes are such that few zeros are needed.
    """
    length, *rest = array.shape
    count = max(-(-length // tile), 1)
    size = max(-(-length // count), 1)
    padding = [(0, count * size - length)] + [(0, 0)] * len(rest)
    return jnp.pad(array, padding).reshape(count, size, *rest)
