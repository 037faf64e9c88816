"""Sums of Gaussian kernels over all pairs of queries and samples, in tiles.

Two passes over the pairs, for `pairwise`, whose notation this is: `forward` has
the sums over the samples of each query and, if it can, the one that the
samples' gradient needs; `backward` has all that gradients need once L is known.
A tile has some queries as rows and samples as columns, and for each rows all
columns are visited. Products are `w @ y` and `x.T @ w`: on a CPU `w.T @ x`
takes two to five times as long.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from aeent_jax.entropy import tiles

# The logarithm of a masked kernel. Not -inf: inf - inf is NaN, in the running
# maximum of a row that has met no valid sample yet and in its gradient.
MASKED = -1e30

# Said explicitly: the default is a short format on recent accelerators.
_matmul = functools.partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)


class Tile(NamedTuple):
    """How many queries and samples are visited at once, at most."""

    rows: int
    columns: int


class Problem(NamedTuple):
    """What the sums are made of."""

    x: jax.Array  # [m, dim]
    y: jax.Array  # [n, dim], 0 where masked.
    inv_two_var: jax.Array
    index: jax.Array  # [m], which sample is the self of a query, or -1.
    mask: jax.Array  # [n]


class Sums(NamedTuple):
    """Sums over the samples j of each query i, and one over both."""

    lse: jax.Array  # L
    mean: jax.Array  # T
    pull: jax.Array  # [m, dim], sum_j w_ij (x_i - y_j)
    self_weight: jax.Array  # w of the self; 0 where it is left out.
    push: jax.Array | None  # [n, dim], sum_i weight_i w_ij (y_j - x_i)


class _Points(NamedTuple):
    """Points of one tile: queries or samples."""

    at: jax.Array
    square: jax.Array
    index: jax.Array  # Of the sample that a point is, or is the self of.


class _Self(NamedTuple):
    """The selves of the queries; zeros for those without."""

    exists: jax.Array
    difference: jax.Array  # x - self
    distance: jax.Array  # Its square.


def forward(
    exclude_self: bool,
    tile: Tile,
    problem: Problem,
    weight: jax.Array | None = None,
) -> Sums:
    """Visits the samples of each query.

    Args:
      exclude_self: whether the sums leave the selves out.
      tile: how many to visit at once.
      problem: points.
      weight: `[m]`, of the queries in `push`.

    Returns:
      The sums. `push` is None without `weight`, and also where a tile has not
      all samples as columns: w is known once a query has met them all.
    """
    x, y, b, index, mask = problem
    rows, columns = _points(problem)
    columns = tiles.split(tile.columns, (columns, mask))
    own = _self(problem)
    has_self = own.exists & (not exclude_self)
    exponent = jnp.where(has_self, -b * own.distance, MASKED)
    pushes = weight is not None and y.shape[0] <= tile.columns

    def visit_rows(pushed, row_tile):
        row, exponent, weight = row_tile

        def visit(so_far, column):
            *new, kernel = _partial_sums(row, *column, b)
            sums = new if so_far is None else _merge(so_far, new)
            return sums, kernel if pushes else None

        (top, total, *more), kernels = tiles.scan(visit, columns, MASKED)
        lse = top + jnp.log(total)
        if pushes:
            share = jnp.exp(top - jnp.logaddexp(lse, exponent))
            share = jnp.where(lse < MASKED / 2, 0, weight * share)
            product = _matmul(_homogeneous(share, row.at).T, kernels[0])
            pushed = tiles.add(pushed, product[None])
        return pushed, (lse, total, *more)

    row_tiles = tiles.split(tile.rows, (rows, exponent, weight))
    pushed, sums = tiles.scan(visit_rows, row_tiles)
    lse, total, moment, weighted = tiles.join(x.shape[0], sums)
    # 0 where no sample counts; not where L is NaN, which has to stay.
    some = jnp.where(lse < MASKED / 2, 0.0, jnp.ones_like(lse))
    mean = some * (moment / total)
    pull = some[:, None] * (rows.at - weighted / total[:, None])
    sums = Sums(lse, mean, pull, jnp.zeros_like(lse), None)
    if not exclude_self:
        sums = _with_self(sums, own, exponent)
    if pushes:
        weight = weight * sums.self_weight
        push = _join_push(exclude_self, problem, pushed, weight)
        sums = sums._replace(push=push)
    return sums


def backward(
    exclude_self: bool,
    tile: Tile,
    problem: Problem,
    sums: Sums,
    offset: jax.Array,
    slope: jax.Array | None,
):
    """Visits all pairs again, with L known.

    Args:
      exclude_self: whether the sums leave the selves out.
      tile: how many to visit at once.
      problem: points.
      sums: what `forward` found.
      offset: `[m]`.
      slope: `[m]`, or None for zeros.

    Returns:
      `sum_i w_ij (offset_i + slope_i D_ij) (y_j - x_i)`, `[n, dim]`, and with a
      slope `sum_j w_ij D_ij (x_i - y_j)`, `[m, dim]`, and V, `[m]`, else None.
    """
    x, _, b, _, mask = problem
    rows, columns = _points(problem)
    columns = tiles.split(tile.columns, (columns, mask))
    factors = [_homogeneous(offset, rows.at)]
    if slope is not None:
        factors.append(_homogeneous(slope, rows.at))

    def visit_rows(pushed, row_tile):
        row, lse, mean, (factor, *more) = row_tile

        def visit(so_far, column_tile):
            column, counts = column_tile
            distance, valid = _distances(row, column, counts)
            w = jnp.exp(jnp.where(valid, -b * distance - lse[:, None], MASKED))
            product = _matmul(factor.T, w)
            if not more:
                return None, product
            pull = w * distance
            product = product + _matmul(more[0].T, pull)
            pulled = jnp.sum(pull, 1)[:, None] * row.at
            spread = jnp.sum(w * (distance - mean[:, None]) ** 2, 1)
            new = pulled - _matmul(pull, column.at), spread
            return tiles.add(so_far, new), product

        moments, products = tiles.scan(visit, columns)
        return tiles.add(pushed, products), moments

    known = (rows, sums.lse, sums.mean, factors)
    pushed, moments = tiles.scan(visit_rows, tiles.split(tile.rows, known))
    own = _self(problem)
    weight = sums.self_weight
    if slope is not None:
        second, spread = tiles.join(x.shape[0], moments)
        second = second + (weight * own.distance)[:, None] * own.difference
        spread = spread + weight * (own.distance - sums.mean) ** 2
        moments, offset = (second, spread), offset + slope * own.distance
    push = _join_push(exclude_self, problem, pushed, weight * offset)
    return push, moments


def _points(problem: Problem) -> tuple[_Points, _Points]:
    """Centres queries and samples, both about the mean of the samples."""
    # Distances do not change with the origin; the rounding error of
    # |x|^2 + |y|^2 - 2 x.y does, and is least about the mean.
    x, y, _, index, mask = problem
    count = jnp.maximum(jnp.sum(mask, dtype=y.dtype), 1)
    centre = jnp.sum(y, 0) / count
    x, y = x - centre, y - centre
    number = jnp.arange(y.shape[0], dtype=index.dtype)
    return (
        _Points(x, jnp.sum(x**2, 1), index),
        _Points(y, jnp.sum(y**2, 1), number),
    )


def _self(problem: Problem) -> _Self:
    x, y, _, index, mask = problem
    # index is -1 for none: any row will do, the difference is not used.
    exists = (index >= 0) & mask[index]
    difference = jnp.where(exists[:, None], x - y[index], 0)
    return _Self(exists, difference, jnp.sum(difference**2, 1))


def _with_self(others: Sums, own: _Self, exponent: jax.Array) -> Sums:
    """Lets the self join the sums over the other samples.

    It has its distance from the difference: a query far from all others then
    has exactly L = 0 and no gradient, not the rounding errors of large norms.
    """
    share = jax.nn.sigmoid(others.lse - exponent)
    weight = jnp.where(own.exists, jax.nn.sigmoid(exponent - others.lse), 0)
    return Sums(
        jnp.logaddexp(others.lse, exponent),
        share * others.mean + weight * own.distance,
        share[:, None] * others.pull + weight[:, None] * own.difference,
        weight,
        None,
    )


def _homogeneous(scale: jax.Array, at: jax.Array) -> jax.Array:
    """Returns `[rows, dim + 1]` points times scales, and the scales."""
    return scale[:, None] * jnp.concatenate(
        [at, jnp.ones_like(at[:, :1])], axis=1
    )


def _join_push(exclude_self, problem: Problem, pushed, self_weight):
    """`sum_i c_ij (y_j - x_i)` of sums of `c_ij [x_i, 1]`, selves joined.

    Args:
      exclude_self: whether the sums leave the selves out.
      problem: points.
      pushed: `[tiles, dim + 1, columns]`, without the selves.
      self_weight: `[m]`, c of the selves.
    """
    _, columns = _points(problem)
    pushed = tiles.join(problem.y.shape[0], jnp.moveaxis(pushed, 1, 2))
    push = columns.at * pushed[:, -1:] - pushed[:, :-1]
    if exclude_self:
        return push
    difference = self_weight[:, None] * _self(problem).difference
    return push.at[problem.index].add(-difference)


def _distances(row: _Points, column: _Points, counts: jax.Array):
    """Returns squared distances, and which pairs count, all but the selves."""
    product = _matmul(row.at, column.at.T)
    distance = row.square[:, None] + column.square[None, :] - 2 * product
    is_self = row.index[:, None] == column.index[None, :]
    return jnp.maximum(distance, 0), counts[None, :] & ~is_self


def _partial_sums(row: _Points, column: _Points, counts, inv_two_var):
    """Sums over the samples of a tile but the selves, for each query.

    Returns:
      The maximum of the exponents and, relative to it, the sums of kernels, of
      kernel times distance, `[rows]`, and of kernel times sample,
      `[rows, dim]`, and the kernels. What is not used costs nothing.
    """
    distance, valid = _distances(row, column, counts)
    exponent = jnp.where(valid, -inv_two_var * distance, MASKED)
    top = jnp.max(exponent, 1)
    kernel = jnp.exp(exponent - top[:, None])
    return (
        top,
        jnp.sum(kernel, 1),
        jnp.sum(kernel * distance, 1),
        _matmul(kernel, column.at),
        kernel,
    )


def _merge(left, right):
    """Joins the partial sums of two sets of columns."""
    top = jnp.maximum(left[0], right[0])
    scale_left, scale_right = jnp.exp(left[0] - top), jnp.exp(right[0] - top)

    def join(a: jax.Array, b: jax.Array) -> jax.Array:
        # Not by transposing: the matmul would then write columns, slowly.
        column = (-1,) + (1,) * (a.ndim - 1)
        left_scale, right_scale = (
            scale.reshape(column) for scale in (scale_left, scale_right)
        )
        return a * left_scale + b * right_scale

    return [top, *map(join, left[1:], right[1:])]
