import functools
import math

import entropy_reference as reference
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.stats
from sklearn import neighbors

from aeent_jax import entropy
from aeent_jax.entropy import neighbors as entropy_neighbors


def normal(n, dim, seed=0):
    return jax.random.normal(jax.random.key(seed), (n, dim))


@functools.partial(jax.jit, static_argnames="k")
def evaluate(z, mask=None, k=3):
    """The estimate of the masked latents, and its value's gradient."""

    def value(z):
        found = entropy.knn(z, query_mask=mask, k=k)
        return found.value, found

    (_, found), gradient = jax.value_and_grad(value, has_aux=True)(z)
    return found, gradient


def formula(distance, n, k, dim):
    """The estimate by its definition, from the distances to neighbours k."""
    log_ball = dim / 2 * math.log(math.pi) - math.lgamma(dim / 2 + 1)
    psi = scipy.special.digamma
    return psi(n) - psi(k) + log_ball + dim * np.log(distance)


def naive(z, k=3):
    """The estimate from all differences, sorted."""
    n, dim = z.shape
    square = jnp.sum((z[:, None] - z[None]) ** 2, -1)
    # Row 0 of the order is the query itself.
    nearest = jnp.sort(square, 1)[:, k]
    return jnp.mean(formula(1.0, n, k, dim) + dim / 2 * jnp.log(nearest))


@pytest.mark.parametrize(("dim", "k"), [(1, 1), (5, 3)])
def test_matches_the_formula_on_the_distances_of_scikit_learn(dim, k):
    with jax.enable_x64(True):
        z = np.random.default_rng(0).normal(size=(200, dim))
        tree = neighbors.NearestNeighbors(n_neighbors=k + 1).fit(z)
        found, _ = evaluate(z, k=k)
        np.testing.assert_allclose(
            found.per_query,
            formula(tree.kneighbors(z)[0][:, k], 200, k, dim),
            rtol=1e-12,
            atol=1e-13,
        )


def test_a_query_from_elsewhere_has_all_samples_for_neighbours():
    with jax.enable_x64(True):
        rng = np.random.default_rng(0)
        queries, samples = rng.normal(size=(30, 2)), rng.normal(size=(90, 2))
        tree = neighbors.NearestNeighbors(n_neighbors=3).fit(samples)
        found = entropy.knn(queries, samples, np.full(30, -1))
        np.testing.assert_allclose(
            found.per_query,
            formula(tree.kneighbors(queries)[0][:, 2], 91, 3, 2),
            rtol=1e-12,
            atol=1e-13,
        )


# Groups more and fewer than k, and all but one of a tile; each with a rest. No
# other test has these sizes, which are compiled with other constants here.
@pytest.mark.parametrize(("n", "k"), [(203, 3), (163, 40), (35, 34)])
def test_tiles_and_groups_find_the_same_neighbours(monkeypatch, n, k):
    monkeypatch.setattr(entropy_neighbors, "_TILE", 64)
    monkeypatch.setattr(entropy_neighbors, "_GROUP", 4)
    with jax.enable_x64(True):
        z = np.random.default_rng(0).normal(size=(n, 3))
        found = entropy.knn(z, k=k).per_query
    tree = neighbors.NearestNeighbors(n_neighbors=k + 1).fit(z)
    expected = formula(tree.kneighbors(z)[0][:, k], n, k, 3)
    # Float64 sums in another order.
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-13)


def test_a_query_whose_own_sample_is_masked_is_from_elsewhere():
    z = normal(40, 3)
    mask = jnp.arange(40) != 2
    own = entropy.knn(z, z, jnp.arange(40), sample_mask=mask).per_query[2]
    elsewhere = entropy.knn(z[2:3], z[mask], jnp.array([-1])).per_query[0]
    # float32
    assert own == pytest.approx(float(elsewhere), rel=1e-6)


@pytest.mark.parametrize("law", list(reference.LAWS))
def test_finds_the_entropy_of_known_laws(law):
    z, true = reference.draws_and_entropy(law, (8, 1024, 2))
    values = jax.jit(jax.vmap(lambda z: entropy.knn(z).value))(z)
    # A bias of at most .04, and four standard errors of the mean (.06).
    assert abs(jnp.mean(values) - 2 * true) < 0.1


def test_finds_the_entropy_of_a_gaussian_with_a_full_covariance():
    covariance = np.array([[4.0, 1.8], [1.8, 1.0]])
    law = scipy.stats.multivariate_normal(cov=covariance)
    draws = law.rvs((8, 1024), random_state=np.random.default_rng(0))
    values = jax.jit(jax.vmap(lambda z: entropy.knn(z).value))(draws)
    # A bias of at most .04, and four standard errors of the mean (.05).
    assert abs(jnp.mean(values) - law.entropy()) < 0.09


# 600 rows are more than one block.
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(np.float64, 1e-12), (np.float32, 5e-6)]
)
def test_gradient_is_that_of_the_naive_formula(dtype, tolerance):
    with jax.enable_x64(True):
        z = np.random.default_rng(0).normal(size=(600, 3)).astype(dtype)
        found, gradient = evaluate(z)
        value, expected = jax.jit(jax.value_and_grad(naive))(np.float64(z))
        assert gradient.dtype == dtype
        np.testing.assert_allclose(found.value, value, rtol=tolerance)
        error = reference.relative_error(gradient, expected)
        assert error < tolerance


def test_gradient_reaches_queries_and_samples_with_opposite_signs():
    queries, samples = normal(9, 2), normal(20, 2, seed=1)

    def value(queries, samples):
        return entropy.knn(queries, samples, jnp.full(9, -1)).value

    of_queries, of_samples = jax.grad(value, (0, 1))(queries, samples)
    # float32 sums of 9 terms of up to 2.
    np.testing.assert_allclose(of_queries.sum(0), -of_samples.sum(0), atol=1e-5)
    assert jnp.any(of_queries != 0)


def test_fewer_valid_neighbours_than_k_make_do_with_the_farthest():
    # Far from 0, where masked rows are put.
    z = normal(40, 3) + 9
    found, gradient = evaluate(z, np.arange(40) >= 37)
    expected, part = evaluate(z[37:], k=2)
    # The same numbers in another block.
    np.testing.assert_allclose(found.value, expected.value, rtol=1e-6)
    np.testing.assert_allclose(gradient[37:], part, rtol=1e-5)


@pytest.mark.parametrize("valid", [0, 1])
def test_without_any_valid_neighbour_there_is_no_gradient(valid):
    found, gradient = evaluate(normal(40, 3), np.arange(40) < valid)
    assert found.value == (np.inf if valid else 0)
    np.testing.assert_array_equal(gradient, 0)


def test_only_k_duplicates_make_a_query_minus_infinite():
    z = normal(40, 3)
    pair, _ = evaluate(z.at[1].set(z[0]))
    assert jnp.isfinite(pair.value)
    four, gradient = evaluate(z.at[1:4].set(z[0]))
    np.testing.assert_array_equal(four.per_query[:4], -np.inf)
    assert jnp.all(jnp.isfinite(four.per_query[4:]))
    assert jnp.all(jnp.isfinite(gradient))


def test_two_rows_have_the_entropy_of_their_distance():
    found, _ = evaluate(jnp.array([[0.0], [3.0]]), k=1)
    # psi(2) - psi(1) = 1, and a ball of length 2 * 3.
    assert found.value == pytest.approx(1 + math.log(6), rel=1e-6)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_one_bad_latent_makes_every_row_nan(bad):
    found, _ = evaluate(normal(40, 3).at[4, 0].set(bad))
    assert jnp.all(jnp.isnan(found.per_query))
    queries = normal(4, 3, seed=1)
    samples = normal(40, 3).at[4, 0].set(bad)
    there = entropy.knn(queries, samples, jnp.full(4, -1))
    assert jnp.all(jnp.isnan(there.per_query))
    here = entropy.knn(queries.at[1, 2].set(bad), normal(40, 3), jnp.arange(4))
    np.testing.assert_array_equal(jnp.isnan(here.per_query), [0, 1, 0, 0])


@pytest.mark.parametrize(
    ("n", "k", "sentence"),
    [
        (3, 3, "has 3 rows, .* at least 4: pass more latents"),
        (9, 0, "k is 0, and an integer of at least 1 is needed"),
        (9, 1.5, "k is 1.5, and an integer"),
    ],
)
def test_unusable_numbers_of_neighbours_are_refused(n, k, sentence):
    with pytest.raises(ValueError, match=sentence):
        entropy.knn(jnp.ones((n, 2)), k=k)


def test_memory_grows_with_n_and_not_with_its_square():
    def compiled(n):
        z = jax.ShapeDtypeStruct((n, 16), jnp.float32)
        return evaluate.lower(z).compile()

    small, large = compiled(8192), compiled(16384)
    sizes = [c.memory_analysis().temp_size_in_bytes for c in (small, large)]
    assert sizes[1] < 2.2 * sizes[0]
    assert "f32[16384,16384]" not in large.as_text()
