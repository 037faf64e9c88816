"""Log-sum-exp of Gaussian kernels over all pairs, streamed, with gradients.

The one numeric primitive of the kernel estimators. Rows of `x` are queries and
rows of `y` samples; with `D_ij = |x_i - y_j|^2` and `b = 1 / (2 s^2)`

    L_i = log sum_j exp(-b D_ij)      w_ij = exp(-b D_ij - L_i)
    T_i = sum_j w_ij D_ij             V_i = sum_j w_ij (D_ij - T_i)^2

With cotangents g of L and h of T every derivative is a weighted sum over pairs:

    dD_ij = w_ij (-b g_i + h_i (1 + b T_i) - b h_i D_ij)
    dx_i = 2 sum_j dD_ij (x_i - y_j)      dy_j = -2 sum_i dD_ij (x_i - y_j)
    db = -sum_i (g_i T_i + h_i V_i)

Pairs are visited in tiles, so memory is O((m + n) dim) and a tile, never m x n.
The forward pass has `sum_j w_ij y_j` beside the sums of L and T: without h that
is all of dx. As for dy:

- The weights of `weighted_lse` say what g is, but for one factor, before the
  backward pass. With at most WHOLE samples the forward pass then has dy too,
  from tiles of a few queries, 4 dim for most sizes, and all samples. Value and
  gradient are 6 dim m n FLOP of matmul and m n exp, which is what automatic
  differentiation needs that keeps all of w.
- Else the backward pass visits all pairs again: 8 dim m n FLOP and 2 m n exp.
"""

import functools

import jax
import jax.numpy as jnp

from aeent_jax.entropy import kernel_sums, points

# Tiles are TILE x TILE, small enough for a cache of 2 MB. Value and gradient on
# such a core, at dim 16 and n = 16384, take 2.2 ns a pair, and 2.5 with twice
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
    inv_two_var: jax.Array,
    query_index: jax.Array | None = None,
    *,
    sample_mask: jax.Array | None = None,
    exclude_self: bool = False,
    tile: int | None = None,
) -> tuple[jax.Array, jax.Array]:
    """Returns `(L, T)`, the log-sum-exp and the mean squared distance.

    Differentiable in `x`, `y` and `inv_two_var`, through both results. Works
    under jit, vmap, grad, scan and device mappings. Second derivatives are
    exact and keep all pairs in memory; forward mode is refused, as of any
    custom_vjp. float32 and float64 are kept; narrower types are cast up. NaN or
    inf in a point gives NaN, never a finite number, for every query that meets
    it.

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
      tile: rows and columns of a tile at most; by default TILE.

    Returns:
      L: `[m]`, about -1e30 for a query without any valid sample.
      T: `[m]`, a mean weighted with w, in squared units; 0 for such a query.

    Raises:
      ValueError: a shape or a type does not fit, or there is no sample.
    """
    _, lse, mean = _check_and_sum(
        x, y, inv_two_var, None, query_index, sample_mask, exclude_self, tile
    )
    return lse, mean


def weighted_lse(
    x: jax.Array,
    y: jax.Array,
    inv_two_var: jax.Array,
    weight: jax.Array,
    query_index: jax.Array | None = None,
    *,
    sample_mask: jax.Array | None = None,
    exclude_self: bool = False,
    tile: int | None = None,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Returns `(sum_i weight_i L_i, L, T)`, the first with a cheaper gradient.

    Value and gradient of the sum take three products for each pair in place of
    four, and one exp in place of two, with up to WHOLE samples. With more, or
    as soon as L or T has a cotangent too, all is as in `pairwise_lse`.

    Args:
      x: `[m, dim]` queries.
      y: `[n, dim]` samples.
      inv_two_var: scalar `1 / (2 s^2)`.
      weight: `[m]` numbers or bool. A query of weight 0 must still be finite,
        since 0 NaN is NaN: estimators have theirs zeroed by `points.resolve`.
      query_index: as in `pairwise_lse`.
      sample_mask: as in `pairwise_lse`.
      exclude_self: as in `pairwise_lse`.
      tile: rows and columns of a tile at most; by default all samples, up to
        WHOLE, where a gradient is wanted, and else TILE.

    Returns:
      The sum, a scalar, and L and T as `pairwise_lse` returns them.

    Raises:
      ValueError: a shape or a type does not fit, or there is no sample.
    """
    if jnp.shape(weight) != jnp.shape(x)[:1]:
        raise ValueError(
            f"weight has shape {jnp.shape(weight)}, and {jnp.shape(x)[:1]} is"
            " needed: give one number to each query."
        )
    return _check_and_sum(
        x, y, inv_two_var, weight, query_index, sample_mask, exclude_self, tile
    )


@functools.partial(jax.jit, static_argnames=("exclude_self", "tile"))
def _check_and_sum(
    x, y, inv_two_var, weight, query_index, sample_mask, exclude_self, tile
):
    if query_index is None:
        query_index = jnp.full(jnp.shape(x)[:1], -1, jnp.int32)
    x, y, index, _, mask = points.resolve(
        x, y, query_index, None, sample_mask, min_samples=1
    )
    if jnp.shape(inv_two_var) != ():
        raise ValueError(
            f"inv_two_var has shape {jnp.shape(inv_two_var)}, and one number is"
            " needed: pass 1 / (2 s^2) of one bandwidth s."
        )
    index = jnp.where((index >= 0) & (index < len(y)), index, -1)
    b = jnp.asarray(inv_two_var).astype(x.dtype)
    weight = None if weight is None else weight.astype(x.dtype)
    x, y, b, weight = _alike(x, y, b, weight)
    problem = kernel_sums.Problem(x, y, b, index, mask)
    return _lse(exclude_self, tile, problem, weight)


def _alike(*arrays):
    """Makes all vary over the device axes that any of them varies over.

    shard_map checks that a gradient varies as its argument does, and each of
    the gradients here is made of all the arguments. The zeros are constants,
    whatever the arrays hold, and the compiler drops them.
    """
    zero = sum(jnp.zeros_like(a, shape=()) for a in jax.tree.leaves(arrays))
    return jax.tree.map(lambda a: a + zero, arrays)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _lse(exclude_self, tile, problem, weight):
    sums = kernel_sums.forward(exclude_self, _square(tile), problem)
    return _results(sums, weight)


def _square(tile: int | None) -> kernel_sums.Tile:
    side = TILE if tile is None else tile
    return kernel_sums.Tile(side, side)


def _whole(n: int, dim: int) -> kernel_sums.Tile:
    """A tile of all samples."""
    rows = min(max(4 * dim, 64), TILE)
    return kernel_sums.Tile(max(PAIRS // n, rows), n)


def _results(sums: kernel_sums.Sums, weight):
    total = None
    if weight is not None:
        total = jnp.sum(weight * sums.lse)
    return total, sums.lse, sums.mean


def _forward(exclude_self, tile, *primals):
    problem, weight = jax.tree.map(lambda primal: primal.value, primals)
    n, dim = problem.y.shape
    fits = weight is not None and tile is None and n <= WHOLE
    shape = _whole(n, dim) if fits else _square(tile)
    sums = kernel_sums.forward(exclude_self, shape, problem, weight)
    return _results(sums, weight), (problem, weight, sums)


def _backward(exclude_self, tile, residuals, cotangents):
    problem, weight, sums = residuals
    factor, g, h = (_materialise(c) for c in cotangents)
    b, zero = problem.inv_two_var, jnp.zeros_like(sums.lse)
    is_pushed = g is None and h is None and sums.push is not None
    g = zero if g is None else g
    if factor is not None:
        g = g + factor * weight
    # dD = w (offset + slope D)
    offset, slope = -b * g, None
    db = -jnp.sum(g * sums.mean)
    if h is not None:
        offset, slope = offset + h * (1 + b * sums.mean), -b * h
    dx = offset[:, None] * sums.pull
    if is_pushed:
        dy = -b * factor * sums.push
    else:
        dy, moments = kernel_sums.backward(
            exclude_self, _square(tile), problem, sums, offset, slope
        )
    if h is not None:
        second, spread = moments
        dx = dx + slope[:, None] * second
        db = db - jnp.sum(h * spread)
    dweight = None if factor is None else factor * sums.lse
    return kernel_sums.Problem(2 * dx, 2 * dy, db, None, None), dweight


_lse.defvjp(_forward, _backward, symbolic_zeros=True)


def _materialise(cotangent):
    """Returns a cotangent, or None for one that is known to be zero."""
    is_zero = isinstance(cotangent, jax.custom_derivatives.SymbolicZero)
    return None if is_zero else cotangent
