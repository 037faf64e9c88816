"""Entropy from the distances to nearest neighbours, in nats.

How accurate it is. Mean error in nats for a standard Gaussian with k = 3, at n
= 256 / 1024 / 4096: dim 1 +.01 / +.01 / .00, dim 4 -.07 / -.07 / -.04, dim 8
+.07 / -.03 / -.05, dim 16 +.99 / +.69 / +.44 (tests/entropy/accuracy_test.py
measures it). The density is taken as constant over a ball that holds k of the n
points. In high dimensions that ball is about as wide as the law itself, and
more points hardly shrink it. The error has either sign: the estimate is no
bound.
"""

import functools
import math

import jax
import jax.numpy as jnp

from aeent_jax.entropy import inputs
from aeent_jax.entropy.estimator import Estimate, masked_mean
from aeent_jax.entropy.inputs import Points

# Distances that are held at a time: some queries against all samples. Measured
# on two CPU cores, n = 4096 and dim 16: 47 ms in blocks of 2**18, 133 ms in
# four times as large ones, which leave the cache.
_PAIRS = 2**18
# Samples at a time, so that a block holds many queries: for each query alone
# all samples would be read anew. Tiles and groups were 2.8 times as fast at
# n = 200000 and 1000000 in dim 16, and no slower at 64, 1024 and 4096.
_TILE = 4096
# Neighbours are first sought among the best of so many samples, because finding
# the largest of them is far cheaper than ranking them.
_GROUP = 32


def knn(
    points: Points,
    *,
    k: int = 3,
) -> Estimate:
    """Nearest-neighbour entropy, in nats; per query.

    `psi(n) - psi(k) + log c + dim * mean_i log r_i`, with r_i the distance of
    query i to its k-th nearest sample other than its own, psi the digamma
    function and c the volume of the unit ball. For a query from elsewhere,
    which leaves no sample out, psi(n + 1) takes the place of psi(n). There is
    no bandwidth: for a channel both the queries and the samples are
    `z + sigma*eps`. It does not saturate.

    Neighbours are ranked by norms and products: in float32 two whose squared
    distances differ by less than about 1e-7 |z - mean|^2 may change places.
    The value takes the difference of the two rows, and the gradient is that of
    its logarithm, `dim * (q_i - z) / r_i^2`, exact while the neighbours
    stay the same. Memory is O(n (dim + k)) and a block, never n x n.

    Args:
      points: as `Estimator`.
      k: which neighbour, at least 1; a larger one scatters less and blurs more.
        A query with fewer valid neighbours, as in a ragged last batch, takes
        the farthest of them, and their number as its k.

    Returns:
      Estimate of kind "h". `per_query` is -inf where k samples coincide with
      the query and inf where it has no valid neighbour, both with gradient 0.

    Raises:
      ValueError: k below 1, or fewer than k + 1 samples.

    Reference: Kozachenko and Leonenko 1987, Sample estimate of the entropy of a
    random vector; with digamma functions and any k in Kraskov, Stoegbauer and
    Grassberger 2004, equation 20, whose distance is the diameter.
    """
    inputs.at_least("k", k, 1, "the number of a neighbour")
    x, y, index, query_mask, sample_mask = points
    n, dim = y.shape
    if n <= k:
        raise ValueError(
            f"samples has {n} rows, and this estimator needs at least {k + 1}:"
            " pass more latents, or a larger batch."
        )
    neighbour = _kth_neighbour(jax.lax.stop_gradient(points), k)
    log_square = inputs.log(jnp.sum((x - y[neighbour]) ** 2, 1))
    # A bad sample is nobody's neighbour; without this it would go unseen.
    good = jnp.isfinite(log_square) | (log_square == -jnp.inf)
    good &= jnp.all(jnp.isfinite(y))
    log_square = jnp.where(good, log_square, jnp.nan)

    others = (jnp.sum(sample_mask) - (index >= 0)).astype(y.dtype)
    psi = jax.scipy.special.digamma
    log_ball = 0.5 * dim * math.log(math.pi) - math.lgamma(0.5 * dim + 1)
    per_query = (
        psi(others + 1)
        - psi(jnp.clip(others, 1, k))
        + log_ball
        + 0.5 * dim * log_square
    )
    per_query = jnp.where(others > 0, per_query, jnp.inf)
    per_query = jnp.where(query_mask, per_query, 0)
    return Estimate(masked_mean(per_query, query_mask), "h", per_query)


@functools.partial(jax.jit, static_argnames="k")
def _kth_neighbour(points: Points, k: int) -> jax.Array:
    """Returns the row of the samples that is k-th nearest to each query.

    The farthest of the valid ones where they are fewer than k, and any row
    where there is none.

    Returns:
      `[m]` int32.
    """
    x, y, index, _, mask = points
    # The rounding error of norms and products is least about the mean.
    centre = jnp.sum(y, 0) / jnp.maximum(jnp.sum(mask, dtype=y.dtype), 1)
    x, y = x - centre, y - centre
    tiles = _tiles(y, jnp.where(mask, jnp.sum(y**2, 1), jnp.inf))

    def search(query: tuple[jax.Array, jax.Array]) -> jax.Array:
        point, own = query

        def step(best: tuple, tile: tuple) -> tuple:
            samples, square, rows = tile
            # Said explicitly: the default is a short format on accelerators.
            product = jnp.matmul(
                samples, point, precision=jax.lax.Precision.HIGHEST
            )
            # |y - x|^2 without |x|^2, which does not change the order.
            nearness = jnp.where(rows == own, -jnp.inf, 2 * product - square)
            nearness, rows = _largest_groups(nearness, rows, k)
            nearness = jnp.concatenate([best[0], nearness])
            nearness, place = jax.lax.top_k(nearness, k)
            return (nearness, jnp.concatenate([best[1], rows])[place]), None

        # Made of the query, so that both vary over the same device axes.
        nothing = jnp.full_like(point, -jnp.inf, shape=(k,))
        start = nothing, jnp.zeros_like(own, shape=(k,))
        (nearness, nearest), _ = jax.lax.scan(step, start, tiles)
        distance = jnp.sum((point - y[nearest]) ** 2, 1)
        valid = nearness > -jnp.inf
        return nearest[jnp.argmax(jnp.where(valid, distance, -1))]

    at_a_time = max(_PAIRS // tiles[2].shape[1], 1)
    return jax.lax.map(search, (x, index), batch_size=at_a_time)


def _tiles(
    y: jax.Array, square: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Samples, squared norms and row numbers, in tiles that are filled up.

    Filling rows are infinitely far away, as masked rows are.

    Args:
      y: `[n, dim]`.
      square: `[n]`.

    Returns:
      `[tiles, tile, dim]`, `[tiles, tile]` and int32 `[tiles, tile]`.
    """
    n, dim = y.shape
    tile = min(n + -n % _GROUP, _TILE)
    pad = -n % tile
    y = jnp.pad(y, ((0, pad), (0, 0)))
    square = jnp.pad(square, (0, pad), constant_values=jnp.inf)
    rows = jnp.arange(n + pad, dtype=jnp.int32)
    return (
        y.reshape(-1, tile, dim),
        square.reshape(-1, tile),
        rows.reshape(-1, tile),
    )


def _largest_groups(
    nearness: jax.Array, rows: jax.Array, k: int
) -> tuple[jax.Array, jax.Array]:
    """Leaves the `k` groups that have the largest values, if there are more.

    Whatever is among the k largest values is in one of them.

    Args:
      nearness: `[tile]`.
      rows: `[tile]`.
      k: how many groups.

    Returns:
      The two, `[k * _GROUP]`, or as they were.
    """
    groups = nearness.reshape(-1, _GROUP)
    if len(groups) <= k:
        return nearness, rows
    _, best = jax.lax.top_k(jnp.max(groups, 1), k)
    return groups[best].ravel(), rows.reshape(-1, _GROUP)[best].ravel()
