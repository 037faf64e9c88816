"""Log-sum-exp of Gaussian kernels over all pairs, streamed, with gradients.

The one numeric primitive of the kernel estimators. Rows of `x` are queries and
rows of `y` samples; with `D_ij = |x_i - y_j|^2` and `b = 1 / (2 s^2)`

    L_i = log sum_j exp(-b D_ij)      w_ij = exp(-b D_ij - L_i)
    T_i = sum_j w_ij D_ij             V_i = sum_j w_ij (D_ij - T_i)^2

Pairs are visited in tiles, and the backward pass visits them again, so memory
is O(n (dim + tile)) and never n x n. With cotangents g of L and h of T every
derivative is a weighted sum over pairs:

    dD_ij = w_ij (-b g_i + h_i (1 + b T_i) - b h_i D_ij)
    dx_i = 2 sum_j dD_ij (x_i - y_j)      dy_j = -2 sum_i dD_ij (x_i - y_j)
    db = -sum_i (g_i T_i + h_i V_i)

The forward pass, over the samples of a query, has a running maximum. It carries
`sum_j w_ij y_j` beside the sums of L and T: without h that is all of dx. The
backward pass, over the queries of a sample, has dy; only h needs a third one.
Value and gradient are 8 dim n^2 FLOP of matmul and 2 n^2 exp.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from aeent_jax.entropy import tiles

# Up to DENSE_ROWS rows on both sides there is one tile and no loop; above, the
# tiles are TILE x TILE. CPU time for value and gradient at dim 16, on a core
# with 2 MB of cache: n = 2048 in one tile takes twice that of tiles, and n =
# 4096 in tiles of 256, 512, 768, 1024 takes 3.4, 3.0, 3.9, 3.0 ns a pair.
DENSE_ROWS = 1024
TILE = 512

# The logarithm of a masked kernel. Not -inf: inf - inf is NaN, in the running
# maximum of a row that has met no valid sample yet and in its gradient.
_MASKED = -1e30

# Said explicitly: the default is a short format on recent accelerators.
_matmul = functools.partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)


class _Points(NamedTuple):
    """Points of one tile: queries or samples."""

    at: jax.Array
    square: jax.Array
    index: jax.Array  # Of the sample that a point is, or is the self of.


@functools.partial(jax.jit, static_argnames=("exclude_self", "tile"))
def pairwise_lse(
    x: jax.Array,
    y: jax.Array,
    inv_two_var: jax.Array,
    query_index: jax.Array | None = None,
    *,
    sample_mask: jax.Array | None = None,
    exclude_self: bool = False,
    tile: int | None = None,
) -> tuple[jax.Array, jax.Array]:
    """Returns `(L, T)`, the log-sum-exp and the mean squared distance.

    Differentiable in `x`, `y` and `inv_two_var`, through both results. Works
    under jit, vmap, grad, scan and device mappings. float32 and float64 are
    kept; narrower types are cast up. NaN or inf in a point gives NaN, never a
    finite number, for every query that meets it.

    Distances come from norms and products, so an exponent carries a rounding
    error of about `eps |x - mean|^2 / s^2`: in float32 below 1e-5 while points
    lie within 10 s of their mean, and 1e-3 at 100 s.

    Args:
      x: `[m, dim]` queries.
      y: `[n, dim]` samples.
      inv_two_var: scalar `1 / (2 s^2)`.
      query_index: `[m]` integers, the row of `y` that belongs to each query,
        its "self"; a number outside `0..n-1` says none. The distance to it is
        taken from the difference of the two rows, not from their norms: it is
        exactly 0 where they are equal. None says that no query has a self.
      sample_mask: `[n]` bool, which samples count; default all.
      exclude_self: whether the sum leaves the self out.
      tile: rows and columns of a tile at most; by default chosen from the
        sizes.

    Returns:
      L: `[m]`, about -1e30 for a query without any valid sample.
      T: `[m]`, a mean weighted with w, in squared units; 0 for such a query.
    """
    m, n = x.shape[0], y.shape[0]
    dtype = jnp.promote_types(jnp.promote_types(x.dtype, y.dtype), jnp.float32)
    if query_index is None:
        query_index = jnp.full(m, -1, jnp.int32)
    if sample_mask is None:
        sample_mask = jnp.ones(n, bool)
    in_range = (query_index >= 0) & (query_index < n)
    if tile is None:
        tile = DENSE_ROWS if max(m, n) <= DENSE_ROWS else TILE
    y = jnp.where(sample_mask[:, None], y, 0)
    points = (a.astype(dtype) for a in (x, y, jnp.asarray(inv_two_var)))
    index = jnp.where(in_range, query_index, -1)
    return _lse(exclude_self, tile, *_alike(*points), index, sample_mask)


def _alike(*arrays: jax.Array) -> list[jax.Array]:
    """Makes all vary over the device axes that any of them varies over.

    shard_map checks that a gradient varies as its argument does, and each of
    the gradients here is made of all the arguments. The zeros are constants,
    whatever the arrays hold, and the compiler drops them.
    """
    zero = sum(jnp.zeros_like(a, shape=()) for a in arrays)
    return [a + zero for a in arrays]


class _Sums(NamedTuple):
    """Sums over the samples j of each query, `[m, ...]`."""

    lse: jax.Array  # L
    mean: jax.Array  # T
    pull: jax.Array  # sum_j w_j (x - y_j)
    self_weight: jax.Array  # w of the self; 0 where it is left out.


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _lse(exclude_self, tile, x, y, inv_two_var, index, mask):
    sums = _sum(exclude_self, tile, x, y, inv_two_var, index, mask)
    return sums.lse, sums.mean


def _forward(exclude_self, tile, *primals):
    arguments = [primal.value for primal in primals]
    sums = _sum(exclude_self, tile, *arguments)
    return (sums.lse, sums.mean), (*arguments, sums)


def _backward(exclude_self, tile, residuals, cotangents):
    x, y, b, index, mask, sums = residuals
    g, h = (_materialise(c) for c in cotangents)
    zero = jnp.zeros_like(sums.lse)
    # dD = w (offset + slope D)
    offset = -b * (zero if g is None else g)
    slope = second = None
    db = -jnp.sum(zero if g is None else g * sums.mean)
    if h is not None:
        offset, slope = offset + h * (1 + b * sums.mean), -b * h
        second, spread = _second_moments(exclude_self, tile, *residuals)
        db = db - jnp.sum(h * spread)
    dx = offset[:, None] * sums.pull
    if h is not None:
        dx = dx + slope[:, None] * second
    dy = _sum_over_queries(tile, residuals, offset, slope)
    if not exclude_self:
        has_self, difference, distance = _to_self(x, y, index, mask)
        weight = sums.self_weight * (
            offset if h is None else offset + slope * distance
        )
        own = jnp.where(has_self[:, None], weight[:, None] * difference, 0)
        dy = dy.at[index].add(-own)
    return 2 * dx, 2 * dy, db, None, None


_lse.defvjp(_forward, _backward, symbolic_zeros=True)


def _materialise(cotangent):
    """Returns a cotangent, or None for one that is known to be zero."""
    is_zero = isinstance(cotangent, jax.custom_derivatives.SymbolicZero)
    return None if is_zero else cotangent


def _sum(exclude_self, tile, x, y, b, index, mask) -> _Sums:
    rows, columns = _points(x, y, index, mask)
    columns = tiles.split(tile, (columns, mask))

    def visit_rows(_, row: _Points):
        def visit(so_far, column):
            new = _partial_sums(row, *column, b)
            return (new if so_far is None else _merge(so_far, new)), None

        return None, tiles.scan(visit, columns, _MASKED)[0]

    _, sums = tiles.scan(visit_rows, tiles.split(tile, rows))
    top, total, moment, weighted = tiles.join(x.shape[0], sums)
    lse = top + jnp.log(total)
    # 0 where no sample counts; not where L is NaN, which has to stay.
    share = jnp.where(lse < _MASKED / 2, 0.0, jnp.ones_like(lse))
    mean = share * (moment / total)
    pull = share[:, None] * (rows.at - weighted / total[:, None])
    others = _Sums(lse, mean, pull, jnp.zeros_like(lse))
    return others if exclude_self else _with_self(others, x, y, b, index, mask)


def _with_self(others: _Sums, x, y, b, index, mask) -> _Sums:
    """Lets the self join the sums over the other samples.

    It has its distance from the difference: a query far from all others then
    has exactly L = 0 and no gradient, not the rounding errors of large norms.
    """
    has_self, difference, distance = _to_self(x, y, index, mask)
    exponent = jnp.where(has_self, -b * distance, _MASKED)
    share = jax.nn.sigmoid(others.lse - exponent)
    weight = jnp.where(has_self, jax.nn.sigmoid(exponent - others.lse), 0)
    return _Sums(
        jnp.logaddexp(others.lse, exponent),
        share * others.mean + weight * distance,
        share[:, None] * others.pull + weight[:, None] * difference,
        weight,
    )


def _second_moments(exclude_self, tile, x, y, b, index, mask, sums: _Sums):
    """Returns `sum_j w_j D_j (x - y_j)`, `[m, dim]`, and V, `[m]`."""
    rows, columns = _points(x, y, index, mask)
    columns = tiles.split(tile, (columns, mask))
    known = (rows, sums.lse, sums.mean)

    def visit_rows(_, row_tile):
        row, lse, mean = row_tile

        def visit(so_far, column_tile):
            column, counts = column_tile
            distance, is_self = _distances(row, column)
            valid = counts[None, :] & ~is_self
            w = jnp.exp(jnp.where(valid, -b * distance - lse[:, None], _MASKED))
            pull = w * distance
            pulled = jnp.sum(pull, 1)[:, None] * row.at
            spread = jnp.sum(w * (distance - mean[:, None]) ** 2, 1)
            new = pulled - _matmul(pull, column.at), spread
            return tiles.add(so_far, new), None

        return None, tiles.scan(visit, columns)[0]

    _, moments = tiles.scan(visit_rows, tiles.split(tile, known))
    second, spread = tiles.join(x.shape[0], moments)
    if not exclude_self:
        _, difference, distance = _to_self(x, y, index, mask)
        weight = sums.self_weight
        second = second + (weight * distance)[:, None] * difference
        spread = spread + weight * (distance - sums.mean) ** 2
    return second, spread


def _sum_over_queries(tile, residuals, offset, slope) -> jax.Array:
    """Returns `sum_i w_i (offset_i + slope_i D_i) (y - x_i)`, without selves.

    A tile holds its samples as rows: the product of a transposed matrix of
    weights takes as long as computing the weights again.
    """
    x, y, b, index, mask, sums = residuals
    rows, columns = _points(x, y, index, mask)
    # A query without valid sample gives no weight to any.
    level = jnp.where(sums.lse < _MASKED / 2, -_MASKED, sums.lse)
    # The last column sums the weights.
    point = jnp.concatenate([rows.at, jnp.ones_like(level)[:, None]], 1)
    factors = [offset[:, None] * point]
    if slope is not None:
        factors.append(slope[:, None] * point)
    queries = tiles.split(tile, (rows, level, *factors))

    def visit_columns(_, column: _Points):
        def visit(so_far, query):
            row, level, factor, *more = query
            distance, is_self = _distances(column, row)
            w = jnp.exp(
                jnp.where(is_self, _MASKED, -b * distance - level[None, :])
            )
            new = _matmul(w, factor)
            if more:
                new = new + _matmul(w * distance, more[0])
            return tiles.add(so_far, new), None

        return None, tiles.scan(visit, queries)[0]

    _, sums = tiles.scan(visit_columns, tiles.split(tile, columns))
    sums = tiles.join(y.shape[0], sums)
    return columns.at * sums[:, -1:] - sums[:, :-1]


def _points(x, y, index, mask) -> tuple[_Points, _Points]:
    """Centres queries and samples, both about the mean of the samples."""
    # Distances do not change with the origin; the rounding error of
    # |x|^2 + |y|^2 - 2 x.y does, and is least about the mean.
    count = jnp.maximum(jnp.sum(mask, dtype=y.dtype), 1)
    centre = jnp.sum(y, 0) / count
    x, y = x - centre, y - centre
    number = jnp.arange(y.shape[0], dtype=index.dtype)
    return (
        _Points(x, jnp.sum(x**2, 1), index),
        _Points(y, jnp.sum(y**2, 1), number),
    )


def _to_self(x, y, index, mask):
    """Returns which queries have a valid self, and `x - self`, also squared.

    Both are zero for a query that has none.
    """
    # index is -1 for none: any row will do, the difference is not used.
    has_self = (index >= 0) & mask[index]
    difference = jnp.where(has_self[:, None], x - y[index], 0)
    return has_self, difference, jnp.sum(difference**2, 1)


def _distances(a: _Points, b: _Points) -> tuple[jax.Array, jax.Array]:
    """Returns squared distances, and which pairs are a query and its self."""
    product = _matmul(a.at, b.at.T)
    distance = a.square[:, None] + b.square[None, :] - 2 * product
    is_self = a.index[:, None] == b.index[None, :]
    return jnp.maximum(distance, 0), is_self


def _partial_sums(row: _Points, column: _Points, counts, inv_two_var):
    """Sums over the samples of a tile but the selves, for each query.

    Returns:
      The maximum of the exponents and, relative to it, the sums of kernels, of
      kernel times distance, `[rows]`, and of kernel times sample,
      `[rows, dim]`. What the caller does not use costs nothing.
    """
    distance, is_self = _distances(row, column)
    valid = counts[None, :] & ~is_self
    exponent = jnp.where(valid, -inv_two_var * distance, _MASKED)
    top = jnp.max(exponent, 1)
    kernel = jnp.exp(exponent - top[:, None])
    return (
        top,
        jnp.sum(kernel, 1),
        jnp.sum(kernel * distance, 1),
        _matmul(kernel, column.at),
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

    return top, *map(join, left[1:], right[1:])
