import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from aeent_jax import entropy

PER_QUERY = [
    name
    for name, entry in entropy.ESTIMATORS.items()
    if entry.per_query and not entry.init
]
Z = jax.random.normal(jax.random.key(0), (60, 3))
NOISY = Z + 0.5 * jax.random.normal(jax.random.key(1), Z.shape)


@functools.partial(jax.jit, static_argnums=(0, 1))
def sampled(name, max_queries, seed=0):
    return entropy.sample_queries(
        entropy.ESTIMATORS[name],
        Z,
        max_queries=max_queries,
        rng=jax.random.key(seed),
        noisy=NOISY,
    )


@functools.cache
def of_all(name):
    entry = entropy.ESTIMATORS[name]
    return entry(
        NOISY if entry.noisy_queries else Z,
        NOISY if entry.noisy_samples else Z,
        jnp.arange(60),
    )


@pytest.mark.parametrize("name", PER_QUERY)
def test_all_rows_give_the_estimate_without_error(name):
    for max_queries in (60, 1000):
        found = sampled(name, max_queries)
        # The rows in another order, float32.
        np.testing.assert_allclose(found.value, of_all(name).value, rtol=1e-5)
        assert found.diagnostics["standard_error"] == 0


@pytest.mark.parametrize("name", PER_QUERY)
def test_queries_are_rows_that_leave_their_own_sample_out(name):
    found = sampled(name, 20)
    among = np.abs(found.per_query[:, None] - of_all(name).per_query[None])
    # Each is the value of one row, to float32, and no row comes twice.
    assert np.max(np.min(among, 1)) < 1e-4
    assert len(set(np.argmin(among, 1).tolist())) == 20


def test_standard_error_is_the_scatter_over_choices():
    find = jax.jit(jax.vmap(lambda seed: sampled("kde_loo", 20, seed)))
    found = find(jnp.arange(400))
    scatter = np.std(found.value)
    said = np.sqrt(np.mean(found.diagnostics["standard_error"] ** 2))
    # The standard deviation of 400 draws is good to 1/sqrt(800) = 3.5 %.
    np.testing.assert_allclose(said, scatter, rtol=0.12)
    error = scatter / np.sqrt(400)
    assert abs(np.mean(found.value) - of_all("kde_loo").value) < 4 * error


def test_bandwidth_and_clean_queries_reach_the_estimator():
    found = entropy.sample_queries(
        entropy.ESTIMATORS["kde_loo"],
        Z,
        max_queries=60,
        rng=jax.random.key(0),
        bandwidth=0.7,
    )
    expected = entropy.kde_loo(Z, bandwidth=0.7).value
    np.testing.assert_allclose(found.value, expected, rtol=1e-5)
    assert found.diagnostics["bandwidth"] == jnp.float32(0.7)


def test_whole_batch_and_single_queries_are_refused():
    key = jax.random.key(0)
    coding_rate = entropy.ESTIMATORS["coding_rate"]
    with pytest.raises(ValueError, match="whole batch, .* fewer latents"):
        entropy.sample_queries(coding_rate, Z, max_queries=4, rng=key)
    loo = entropy.ESTIMATORS["kde_loo"]
    with pytest.raises(ValueError, match="max_queries is 1, and an integer"):
        entropy.sample_queries(loo, Z, max_queries=1, rng=key)
