"""Log-sum-exp of Gaussian kernels over all pairs, streamed, with a gradient.

The one numeric primitive of the kernel estimators. Rows of `x` are queries and
rows of `y` samples; with `D_ij = |x_i - y_j|^2` and `b = 1 / (2 s^2)`

    L_i = log sum_j exp(-b D_ij)      w_ij = exp(-b D_ij - L_i)
    T_i = sum_j w_ij D_ij

With the cotangent c of L all derivatives are weighted sums over pairs:

    dx_i = -2 b c_i sum_j w_ij (x_i - y_j)
    dy_j = -2 b sum_i c_i w_ij (y_j - x_i)
    db   = -sum_i c_i T_i

T is a diagnostic and has no gradient. Pairs are visited in tiles, so memory is
O((m + n) dim) and a tile, never m x n. The forward pass has `sum_j w_ij y_j`
beside the sums of L and T, and that is all of dx. As for dy:

- The weights of `weighted_lse` say what c is, but for one factor, before the
  backward pass. With at most WHOLE samples the forward pass then has dy too,
  from tiles of a few queries, 4 dim for most sizes, and all samples. Value and
  gradient are 6 dim m n FLOP of matmul and m n exp, as many as automatic
  differentiation needs that keeps all of w.
- Else the backward pass visits all pairs again: 8 dim m n FLOP and 2 m n exp.
"""

import functools

import jax
import jax.numpy as jnp

from aeent_jax.entropy import inputs, kernel_sums
from aeent_jax.entropy.inputs import Points

# Tiles are TILE x TILE, small enough for a cache of 2 MB. Value and gradient on
# such a core, at dim 16 and n = 16384, take 2.2 ns per pair, and 2.5 with twice
# the columns.
TILE = 512

# Tiles of all samples no longer fit the cache. At dim 16 and 128 they cost 0.7
# and 0.85 times what square tiles cost at n = 4096, 0.9 and 1.0 times at 16384,
# and 0.9 and 1.1 times at 32768.
WHOLE = 16384
# They have about PAIRS pairs where so many fit, and more queries only where the
# sums over queries, `[n, dim]` at each tile, would else take longest.
PAIRS = 2**18


def pairwise_lse(
    x: jax.Array,
    y: jax.Array,
    inv_two_var: float | jax.Array,
    query_index: jax.Array | None = None,
    *,
    sample_mask: jax.Array | None = None,
    exclude_self: bool = False,
    tile: int | None = None,
) -> tuple[jax.Array, jax.Array]:
    """Returns `(L, T)`, the log-sum-exp and the mean squared distance.

    L is differentiable in `x`, `y` and `inv_two_var`; T has no gradient. Works
    under jit, vmap, grad, scan and device mappings. Second derivatives are
    exact and keep all pairs in memory; forward mode is refused, as for any
    custom_vjp. float32 and float64 are kept; narrower types are cast up. NaN or
    inf in a point gives NaN, never a finite number, for every query that meets
    it.

    Distances come from norms and products, so an exponent carries a rounding
    error of about `eps |x - mean|^2 / s^2`: in float32 below 1e-5 while points
    lie within 10 s of their mean, and 1e-3 at 100 s.

    Args:
      x: `[m, dim]` queries.
      y: `[n, dim]` samples.
      inv_two_var: positive scalar `1 / (2 s^2)`.
      query_index: `[m]` integers, the row of `y` that belongs to each query,
        its "self"; a number outside `0..n-1` says none. The distance to it is
        taken from the difference of the two rows, not from their norms: it is
        exactly 0 where they are equal. None says that no query has a self.
      sample_mask: `[n]` bool, which samples count; default all.
      exclude_self: whether the sum leaves the self out.
      tile: rows and columns of a tile at most; by default TILE.

    Returns:
      L: `[m]`, about -1e30 for a query without any valid sample.
      T: `[m]`, a mean weighted with w, in squared units; 0 for such a query.

    Raises:
      ValueError: a shape or a type does not fit, or there is no sample.
    """
    if query_index is None:
        if exclude_self:
            raise ValueError(
                "exclude_self is given without query_index, and to leave one"
                " out the row of each query's own sample is needed: pass"
                " jnp.arange(m) where query i belongs to sample i."
            )
        query_index = jnp.full(jnp.shape(x)[:1], -1, jnp.int32)
    points = inputs.resolve(x, y, query_index, None, sample_mask)
    b = inputs.positive(
        "inv_two_var", inv_two_var, points.queries.dtype, "1 / (2 s^2)"
    )
    return weighted_lse(points, b, exclude_self=exclude_self, tile=tile)[1:]


@functools.partial(jax.jit, static_argnames=("exclude_self", "tile"))
def weighted_lse(
    points: Points,
    inv_two_var: jax.Array,
    weight: jax.Array | None = None,
    *,
    exclude_self: bool = False,
    tile: int | None = None,
) -> tuple[jax.Array | None, jax.Array, jax.Array]:
    """Returns `(sum_i weight_i L_i, L, T)`, the first with a cheaper gradient.

    Value and gradient of the sum take three products for each pair in place of
    four, and one exp in place of two, with up to WHOLE samples. With more, or
    as soon as L has a cotangent too, all is as in `pairwise_lse`.

    Args:
      points: checked.
      inv_two_var: scalar `1 / (2 s^2)`.
      weight: `[m]` numbers or bool; None for no sum. A query of weight 0 must
        still be finite, since 0 NaN is NaN: masked queries are zero in
        `points`.
      exclude_self: as in `pairwise_lse`.
      tile: rows and columns of a tile at most; by default all samples, up to
        WHOLE, where a gradient of the sum is wanted, and else TILE.

    Returns:
      The sum, a scalar, or None; and L and T as `pairwise_lse` returns them.
    """
    if weight is not None:
        weight = weight.astype(points.queries.dtype)
    # shard_map checks that a gradient varies over the device axes over which
    # its argument varies, and each gradient here is made of all the arguments.
    # So every argument is made to vary as they all do, by a zero made of all
    # of them: a constant, which the compiler drops.
    arguments = (*points[:2], jnp.asarray(inv_two_var), weight)
    zero = sum(jnp.zeros_like(a, shape=()) for a in arguments if a is not None)
    x, y, b, weight = (None if a is None else a + zero for a in arguments)
    points = points._replace(queries=x, samples=y)
    return _differentiable(exclude_self, tile, points, b, weight)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _differentiable(exclude_self, tile, points, b, weight):
    side = tile or TILE
    sums = kernel_sums.forward(points, b, exclude_self, (side, side))
    total = None if weight is None else jnp.sum(weight * sums.lse)
    return total, sums.lse, sums.mean


def _forward(exclude_self, tile, *primals):
    points, b, weight = jax.tree.map(lambda primal: primal.value, primals)
    n, dim = points.samples.shape
    side = tile or TILE
    shape = (side, side)
    if weight is not None and tile is None and n <= WHOLE:
        shape = (max(PAIRS // n, min(max(4 * dim, 64), TILE)), n)
    sums = kernel_sums.forward(points, b, exclude_self, shape, weight)
    total = None if weight is None else jnp.sum(weight * sums.lse)
    return (total, sums.lse, sums.mean), (points, b, weight, sums)


def _backward(exclude_self, tile, residuals, cotangents):
    points, b, weight, sums = residuals
    # None where a result is not used: then a cheaper way may do.
    of_total, of_lse, _ = (
        None if isinstance(c, jax.custom_derivatives.SymbolicZero) else c
        for c in cotangents
    )
    c = jnp.zeros_like(sums.lse) if of_lse is None else of_lse
    if of_total is not None:
        c = c + of_total * weight
    if of_total is not None and of_lse is None and sums.push is not None:
        push = of_total * sums.push
    else:
        side = tile or TILE
        push = kernel_sums.push(points, b, exclude_self, (side, side), sums, c)
    return (
        Points(-2 * b * c[:, None] * sums.pull, -2 * b * push, *(None,) * 3),
        -jnp.sum(c * sums.mean),
        None if of_total is None else of_total * sums.lse,
    )


_differentiable.defvjp(_forward, _backward, symbolic_zeros=True)
