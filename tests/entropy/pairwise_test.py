import functools
import re

import entropy_reference as reference
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import test_util

from aeent_jax.entropy import inputs, pairwise


def weighted_lse(x, y, b, weight, index=None, *, sample_mask=None, **options):
    """`pairwise.weighted_lse` of points that are checked first."""
    if index is None:
        index = jnp.full(len(x), -1)
    points = inputs.resolve(x, y, index, None, sample_mask)
    b = jnp.asarray(b, points.queries.dtype)
    return pairwise.weighted_lse(points, b, weight, **options)


# m, n, dim, tile, exclude_self: one tile, tiles that do not divide, one row.
SHAPES = [
    (37, 13, 128, None, True),
    (64, 64, 16, 24, True),
    (13, 37, 2, 5, False),
]


def make_problem(m, n, dim, exclude_self):
    """Points, masks and cotangents, with values that float32 can hold."""
    rng = np.random.default_rng(0)
    return {
        "x": np.float32(rng.normal(size=(m, dim))),
        "y": np.float32(rng.normal(size=(n, dim))),
        # Kernels of about a third of the spread: many neighbours count.
        "inv_two_var": np.float32(3.0 / dim),
        "index": rng.permutation(max(m, n))[:m].astype(np.int32),
        "mask": rng.random(n) < 0.8 if n > 4 else np.ones(n, bool),
        "g": np.float32(rng.normal(size=m)),
        "exclude_self": exclude_self,
    }


def widen(problem):
    return {
        k: np.float64(v) if v.dtype == np.float32 else v
        for k, v in problem.items()
        if k != "exclude_self"
    } | {"exclude_self": problem["exclude_self"]}


def values_and_gradients(function, problem):
    """L, T and the gradients of g.L in x, y and inv_two_var."""

    def scalar(x, y, inv_two_var):
        lse, mean = function(
            x,
            y,
            inv_two_var,
            problem["index"],
            jnp.asarray(problem["mask"]),
            problem["exclude_self"],
        )
        return lse @ problem["g"], (lse, mean)

    (_, values), gradients = jax.jit(
        jax.value_and_grad(scalar, (0, 1, 2), has_aux=True)
    )(problem["x"], problem["y"], problem["inv_two_var"])
    return [*values, *gradients]


@pytest.mark.parametrize(("m", "n", "dim", "tile", "exclude_self"), SHAPES)
def test_matches_dense_float64_in_value_and_every_gradient(
    m, n, dim, tile, exclude_self
):
    def streamed(x, y, inv_two_var, index, mask, exclude_self):
        return pairwise.pairwise_lse(
            x,
            y,
            inv_two_var,
            index,
            sample_mask=mask,
            exclude_self=exclude_self,
            tile=tile,
        )

    problem = make_problem(m, n, dim, exclude_self)
    with jax.enable_x64(True):
        narrow = values_and_gradients(streamed, problem)
        wide = values_and_gradients(streamed, widen(problem))
        dense = values_and_gradients(reference.dense_lse, widen(problem))
    wide, narrow, dense = jax.tree.map(np.asarray, (wide, narrow, dense))
    scales = [np.abs(value).max() for value in dense]
    # The bandwidth's gradient is one sum of terms of both signs, whose rounding
    # is relative to them and not to what is left of them.
    scales[-1] = np.abs(problem["g"] * dense[1]).sum()
    # Relative to the largest entry: float64 differs by the order of summation
    # alone, float32 also through |x|^2 + |y|^2 - 2 x.y.
    for got, dtype, tolerance in (
        (wide, np.float64, 1e-12),
        (narrow, np.float32, 5e-6),
    ):
        for a, b, scale in zip(got, dense, scales, strict=True):
            assert a.dtype == dtype
            np.testing.assert_allclose(a, b, 0, tolerance * scale)


def test_gradients_match_finite_differences():
    problem = widen(make_problem(5, 7, 2, False))
    with jax.enable_x64(True):

        def lse(x, y, inv_two_var):
            return pairwise.pairwise_lse(
                x, y, inv_two_var, problem["index"], tile=3
            )[0]

        arguments = problem["x"], problem["y"], problem["inv_two_var"]
        # Central differences in float64: truncation 1e-8 at the default step.
        test_util.check_grads(lse, arguments, 1, ["rev"], 1e-6, 1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("weighted", [True, False])
def test_second_derivatives_match_dense(weighted):
    with jax.enable_x64(True):
        z = np.random.default_rng(0).normal(size=(5, 2))
        index = jnp.arange(5)

        weight = jnp.arange(1.0, 6.0)

        def slope(total):
            def energy(x):
                return jnp.sum(jax.grad(total)(x) ** 2)

            return jax.jit(jax.grad(energy))(z)

        def streamed(x):
            if weighted:
                return weighted_lse(
                    x, x, 0.7, weight, index, exclude_self=True
                )[0]
            lse, _ = pairwise.pairwise_lse(
                x, x, 0.7, index, exclude_self=True, tile=2
            )
            return weight @ lse**2

        def dense(x):
            lse, _ = reference.dense_lse(x, x, 0.7, index, None, True)
            return weight @ (lse if weighted else lse**2)

        got, expected = slope(streamed), slope(dense)
        assert reference.relative_error(got, expected) < 1e-12


def test_the_mean_distance_has_no_gradient():
    problem = make_problem(13, 13, 2, True)
    arguments = problem["x"], problem["y"], problem["inv_two_var"]

    def total(x, y, b):
        lse, mean = pairwise.pairwise_lse(x, y, b, problem["index"], tile=5)
        return jnp.sum(mean), lse

    for gradient in jax.jit(jax.grad(total, (0, 1, 2), has_aux=True))(
        *arguments
    )[0]:
        np.testing.assert_array_equal(gradient, 0)


def test_masked_samples_reach_neither_value_nor_gradient():
    z = jax.random.normal(jax.random.key(0), (8, 2))
    mask = jnp.arange(8) < 5

    def total(y, mask):
        lse, _ = pairwise.pairwise_lse(z, y, 1.0, sample_mask=mask, tile=3)
        return jnp.sum(lse)

    differentiate = jax.value_and_grad(total)
    value, gradient = differentiate(z.at[5:].set(jnp.nan), mask)
    expected, rows = differentiate(z[:5], None)
    # float32 sums about another mean, in other tiles.
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    np.testing.assert_allclose(gradient[:5], rows, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(gradient[5:], 0)


def test_default_tiles_agree_with_one_tile():
    n = pairwise.TILE + 37
    z = jax.random.normal(jax.random.key(0), (n, 4))
    index = jnp.arange(n, dtype=jnp.int32)

    def value_and_gradient(tile):
        def total(z):
            lse, _ = pairwise.pairwise_lse(
                z, z, 2.0, index, exclude_self=True, tile=tile
            )
            return jnp.mean(lse)

        return jax.jit(jax.value_and_grad(total))(z)

    (tiled, tiled_gradient), (whole, gradient) = map(
        value_and_gradient, (None, n)
    )
    np.testing.assert_allclose(tiled, whole, rtol=1e-6)
    # Sums of 500 float32 terms in another order.
    assert reference.relative_error(tiled_gradient, gradient) < 5e-6


def _compiled_gradient(n, function, dim=8):
    index = jnp.arange(n, dtype=jnp.int32)

    def total(x, y):
        return function(x, y, index)

    points = jax.ShapeDtypeStruct((n, dim), jnp.float32)
    gradient = jax.jit(jax.value_and_grad(total, (0, 1)))
    return gradient.lower(points, points).compile()


def _sum_each(x, y, index):
    lse, _ = pairwise.pairwise_lse(x, y, 0.5, index, exclude_self=True)
    return jnp.sum(lse)


def _sum_weighted(x, y, index):
    ones = jnp.ones(len(x))
    return weighted_lse(x, y, 0.5, ones, index, exclude_self=True)[0]


@pytest.mark.parametrize("function", [_sum_each, _sum_weighted])
def test_memory_grows_linearly_and_no_square_buffer_exists(function):
    small, large = (_compiled_gradient(n, function) for n in (8192, 16384))
    sizes = [c.memory_analysis().temp_size_in_bytes for c in (small, large)]
    # Linear, with the constant size of a tile: below a factor of 2.
    assert sizes[1] < 2.2 * sizes[0]
    assert sizes[0] < 8192 * 8192  # a quarter of one f32[n, n]
    for n, compiled in ((8192, small), (16384, large)):
        assert f"[{n},{n}]" not in compiled.as_text()


def test_a_weighted_sum_takes_three_products_and_one_exponential(monkeypatch):
    def count(function):
        # More than one tile: of one, XLA keeps the distances.
        text = _compiled_gradient(600, function).as_text()
        # Exponentials of pairs in tiles, not the 600 of rows.
        shapes = re.findall(r"f32\[(\d+),(\d+)\]\S* exponential\(", text)
        exps = [
            rows for rows, columns in shapes if int(rows) * int(columns) > 600
        ]
        return text.count(" dot("), len(exps)

    assert count(_sum_weighted) == (3, 1)
    assert count(_sum_each) == (4, 2)
    monkeypatch.setattr(pairwise, "WHOLE", 599)  # Too many samples.
    pairwise.weighted_lse.clear_cache()
    assert count(_sum_weighted) == (4, 2)
    pairwise.weighted_lse.clear_cache()


# Those of the results whose cotangents are not zero.
@pytest.mark.parametrize("cotangents", ["total", "total lse", "lse"])
@pytest.mark.parametrize("exclude_self", [True, False])
def test_weighted_sum_agrees_with_the_sum_of_weighted_terms(
    exclude_self, cotangents
):
    problem = widen(make_problem(13, 13, 2, exclude_self))

    def weigh(weighted, tile, x, y, b, weight):
        options = {
            "sample_mask": problem["mask"],
            "exclude_self": exclude_self,
            "tile": tile,
        }
        index = problem["index"]
        if weighted:
            total, lse, _ = weighted_lse(x, y, b, weight, index, **options)
        else:
            lse, _ = pairwise.pairwise_lse(x, y, b, index, **options)
            total = weight @ lse
        terms = {"total": 2 * total, "lse": lse @ lse}
        return sum(terms[name] for name in cotangents.split())

    with jax.enable_x64(True):
        arguments = [problem[k] for k in ("x", "y", "inv_two_var", "g")]
        expected, whole, tiled = (
            jax.jit(
                jax.value_and_grad(functools.partial(weigh, *how), (0, 1, 2, 3))
            )(*arguments)
            for how in ((False, 5), (True, None), (True, 5))
        )
        for got in (whole, tiled):
            jax.tree.map(
                # float64 sums of a dozen terms in another order.
                lambda a, b: np.testing.assert_allclose(a, b, 1e-11, 1e-11),
                got,
                expected,
            )


@pytest.mark.parametrize("exclude_self", [True, False])
def test_tiles_of_all_samples_agree_with_dense(exclude_self):
    # The number of their rows does not divide the queries.
    m, n = 3 * pairwise.TILE + 5, 2 * pairwise.TILE
    assert m % (pairwise.PAIRS // n)
    problem = make_problem(m, n, 4, exclude_self)
    index, mask, weight = (problem[k] for k in ("index", "mask", "g"))

    def whole(x, y, b):
        return weighted_lse(
            x, y, b, weight, index, sample_mask=mask, exclude_self=exclude_self
        )[0]

    def dense(x, y, b):
        lse, _ = reference.dense_lse(x, y, b, index, mask, exclude_self)
        return weight @ lse

    arguments = [problem[k] for k in ("x", "y", "inv_two_var")]
    got, expected = (
        jax.jit(jax.value_and_grad(function, (0, 1, 2)))(*arguments)
        for function in (whole, dense)
    )
    for a, b in zip(
        jax.tree.leaves(got), jax.tree.leaves(expected), strict=True
    ):
        # float32, sums of 1500 terms.
        assert reference.relative_error(a, b) < 1e-5


def test_queries_of_no_weight_change_no_gradient():
    z = jax.random.normal(jax.random.key(0), (6, 2))

    def gradients(queries):
        def total(x, y):
            return weighted_lse(x, y, 1.0, jnp.arange(queries) < 4)[0]

        return jax.grad(total, (0, 1))(z[:queries], z)

    (dx, dy), (fewer_dx, fewer_dy) = gradients(6), gradients(4)
    np.testing.assert_array_equal(dx[4:], 0)
    # Sums over other numbers of rows.
    np.testing.assert_allclose(dx[:4], fewer_dx, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(dy, fewer_dy, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"x": np.ones(3)}, r"shape \(3,\), and \[rows, dim\]"),
        ({"y": np.ones((3, 1))}, "2 dimensions and samples 1"),
        ({"y": np.ones((0, 2))}, "samples has 0 rows"),
        ({"inv_two_var": np.ones(2)}, r"inv_two_var has shape \(2,\)"),
        ({"query_index": np.zeros(4)}, "query_index is float"),
        ({"sample_mask": np.ones(4, bool)}, r"sample_mask is bool\[4\]"),
        ({"inv_two_var": 0.0}, "inv_two_var is 0.0, and a positive number"),
        ({"exclude_self": True}, "exclude_self is given without query_index"),
    ],
)
def test_what_does_not_fit_is_refused(arguments, message):
    points = np.ones((3, 2), np.float32)
    good = {"x": points, "y": points, "inv_two_var": 1.0}
    with pytest.raises(ValueError, match=message):
        pairwise.pairwise_lse(**good | arguments)


def test_vmap_and_scan_of_tiles_match_dense():
    z = jax.random.normal(jax.random.key(0), (3, 10, 2))
    index = jnp.arange(10)

    def gradient(function, z, **hyper):
        return jax.grad(
            lambda z: jnp.mean(function(z, z, 1.0, index, **hyper)[0])
        )(z)

    def tiled(z):
        return gradient(pairwise.pairwise_lse, z, tile=4)

    dense = functools.partial(gradient, reference.dense_lse)
    expected = jax.jit(jax.vmap(dense))(z)
    _, scanned = jax.lax.scan(lambda c, row: (c, tiled(row)), None, z)
    # float32
    for got in (jax.jit(jax.vmap(tiled))(z), scanned):
        np.testing.assert_allclose(got, expected, atol=1e-6)


def test_distance_to_self_is_exact_far_from_the_origin():
    # |x|^2 is 1e6, and its rounding error 0.06 in the distance to self would
    # be 60 in the exponent; the others are 1e6 away, and only the self counts.
    z = 1e3 * jax.random.normal(jax.random.key(0), (32, 4))
    lse, mean = pairwise.pairwise_lse(z, z, 1e3, jnp.arange(32))
    np.testing.assert_array_equal(lse, 0)
    np.testing.assert_array_equal(mean, 0)


def test_gradient_of_isolated_points_is_exactly_zero():
    z = 1e3 * jax.random.normal(jax.random.key(0), (16, 4))

    def total(z):
        return jnp.sum(pairwise.pairwise_lse(z, z, 0.5, jnp.arange(16))[0])

    np.testing.assert_array_equal(jax.grad(total)(z), 0)


def test_translation_costs_no_accuracy():
    z = np.float32(np.random.default_rng(0).normal(size=(64, 4)))
    # 1024 is exact in binary: the moved points differ by rounding z to 1e-4.
    moved = np.float32(np.round(z * 1024) / 1024)
    here = pairwise.pairwise_lse(moved, moved, 1.0, jnp.arange(64))
    there = pairwise.pairwise_lse(
        moved + 1024, moved + 1024, 1.0, jnp.arange(64)
    )
    for a, b in zip(here, there, strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-6, atol=2e-6)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("tile", [None, 4])
def test_a_bad_sample_makes_every_row_nan(bad, tile):
    z = np.random.default_rng(0).normal(size=(10, 2)).astype(np.float32)
    z[3, 1] = bad
    lse, mean = pairwise.pairwise_lse(
        z, z, 1.0, jnp.arange(10), exclude_self=True, tile=tile
    )
    # The row itself meets its own coordinates, all others meet the sample.
    assert np.isnan(lse).all()
    assert np.isnan(mean).all()


def test_rows_without_a_valid_sample_have_zero_gradient():
    z = jax.random.normal(jax.random.key(0), (6, 2))
    mask = jnp.zeros(6, bool).at[2].set(True)

    def results(x, y, b):
        return pairwise.pairwise_lse(
            x, y, b, jnp.arange(6), sample_mask=mask, exclude_self=True, tile=4
        )

    (lse, mean), pull_back = jax.vjp(results, z, z, 1.0)
    assert lse[2] < -1e29
    assert mean[2] == 0
    only_third = jnp.zeros(6).at[2].set(1.0)
    for gradient in pull_back((only_third, only_third)):
        np.testing.assert_array_equal(gradient, 0)

    def weighted(x, y, b):
        return weighted_lse(
            x,
            y,
            b,
            only_third,
            jnp.arange(6),
            sample_mask=mask,
            exclude_self=True,
        )[0]

    for gradient in jax.jit(jax.grad(weighted, (0, 1, 2)))(z + 1, z, 1.0):
        np.testing.assert_array_equal(gradient, 0)


def test_no_queries_give_no_results():
    lse, mean = pairwise.pairwise_lse(jnp.zeros((0, 2)), jnp.ones((3, 2)), 1.0)
    assert lse.shape == mean.shape == (0,)
