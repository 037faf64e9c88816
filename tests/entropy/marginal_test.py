import functools
import math

import entropy_reference as reference
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from aeent_jax import entropy
from aeent_jax.entropy import marginal

MARGINALS = {
    "kde_marginal": entropy.kde_marginal,
    "vasicek": entropy.vasicek,
    "histogram": entropy.histogram,
}
NAMES = list(MARGINALS)


def normal(n, dim, seed=0):
    return jax.random.normal(jax.random.key(seed), (n, dim))


@jax.jit
def evaluate(z, mask=None):
    """By name: the value of the masked latents, and its gradient."""
    results = {}
    for name, estimator in MARGINALS.items():
        results[name] = jax.value_and_grad(
            lambda z, estimator=estimator: estimator(z, query_mask=mask).value
        )(z)
    return results


@functools.cache
def errors(law):
    """By name: the mean error of eight sets of 1024 draws, in nats a dim."""
    z, true = reference.draws_and_entropy(law, (8, 1024, 2))

    def measure(z):
        return {name: f(z).value / 2 - true for name, f in MARGINALS.items()}

    found = jax.jit(functools.partial(jax.lax.map, measure))(z)
    return {name: float(jnp.mean(error)) for name, error in found.items()}


@pytest.mark.parametrize("law", list(reference.LAWS))
@pytest.mark.parametrize(
    # The largest bias: of the kernels and bins at the ends of the uniform law,
    # and of the spacings between few draws.
    ("name", "bias"),
    [("kde_marginal", 0.07), ("vasicek", 0.03), ("histogram", 0.05)],
)
def test_finds_the_entropy_of_known_laws(name, bias, law):
    # Student's -log p has variance 1.5: four standard errors of 16384 draws.
    assert abs(errors(law)[name]) < bias + 4 * math.sqrt(1.5 / 16384)


@pytest.mark.parametrize(
    ("name", "promised"),
    # Mean error of one dimension that the module promises at n = 64.
    [("kde_marginal", 0.02), ("vasicek", -0.14), ("histogram", -0.12)],
)
def test_error_from_few_rows_is_the_promised_one(name, promised):
    z = normal(64, 128)
    error = evaluate(z)[name][0] / 128 - 0.5 * math.log(2 * math.pi * math.e)
    # Four standard errors of 8192 draws, and the last digit's half unit.
    assert abs(error - promised) < 4 * math.sqrt(0.5 / 8192) + 0.005


def test_is_too_high_by_the_total_correlation():
    # Correlation .8: the product of the marginals has .51 nat more.
    law = scipy.stats.multivariate_normal(cov=[[1, 0.8], [0.8, 1]])
    z = law.rvs(1024, random_state=np.random.default_rng(0))
    for value, _ in evaluate(z).values():
        excess = value - law.entropy()
        # Four standard errors of 1024 draws with -log p of variance 1.6.
        assert abs(excess + 0.5 * math.log(1 - 0.8**2)) < 4 * math.sqrt(
            1.6 / 1024
        )


# Whole groups alone, whole groups and a rest, a rest alone.
@pytest.mark.parametrize(("dim", "group"), [(4, 1), (5, 2), (3, 4)])
@pytest.mark.parametrize("bandwidth", ["scott", 0.5])
def test_kde_marginal_is_the_sum_of_the_groups_kde_loo(bandwidth, dim, group):
    with jax.enable_x64(True):
        rng = np.random.default_rng(0)
        z = rng.normal(size=(20, dim)) * np.arange(1, dim + 1)
        noisy = z + 0.5 * rng.normal(size=z.shape)
        hyper = {"query_index": jnp.arange(20), "bandwidth": bandwidth}
        found = entropy.kde_marginal(noisy, z, group=group, **hyper)
        parts = [
            entropy.kde_loo(
                noisy[:, i : i + group], z[:, i : i + group], **hyper
            )
            for i in range(0, dim, group)
        ]
        expected = sum(part.per_query for part in parts)
        np.testing.assert_allclose(found.per_query, expected, rtol=1e-12)
        np.testing.assert_allclose(found.value, expected.mean(), rtol=1e-12)
        np.testing.assert_allclose(
            found.diagnostics["scale_gradient"],
            sum(part.diagnostics["scale_gradient"] for part in parts),
            rtol=1e-12,
        )


def test_kde_marginal_gradient_is_that_of_the_naive_formula():
    def naive(z):
        total = 0
        for column in z.T[:, :, None]:
            s = jnp.std(column, ddof=1) * 40 ** (-1 / 5)
            lse, _ = reference.dense_lse(
                column, column, 0.5 / s**2, jnp.arange(40), exclude_self=True
            )
            total += jnp.mean(-lse) + math.log(39) + jnp.log(s)
        return total

    with jax.enable_x64(True):
        z = np.random.default_rng(0).normal(size=(40, 3))
        _, gradient = evaluate(z)["kde_marginal"]
        expected = jax.jit(jax.grad(naive))(z)
        assert reference.relative_error(gradient, expected) < 1e-12
        _, gradient = evaluate(np.float32(z))["kde_marginal"]
        assert reference.relative_error(gradient, expected) < 5e-6


def test_kde_marginal_is_the_same_one_group_at_a_time(monkeypatch):
    z = normal(20, 5)
    at_once = entropy.kde_marginal(z).per_query
    monkeypatch.setattr(marginal, "_PAIRS", 1)
    # float32 sums of five terms in another order.
    np.testing.assert_allclose(
        entropy.kde_marginal(z).per_query, at_once, rtol=1e-5, atol=1e-5
    )


def test_kde_marginal_has_no_ceiling():
    z = 1e4 * normal(32, 4)
    noisy = z + normal(32, 4, seed=1)
    found = entropy.kde_marginal(noisy, z, jnp.arange(32), bandwidth=1.0)
    # With the self term each dimension would stop at log n.
    assert entropy.to_rate(found, 1.0, 4) > 10 * 4 * math.log(32)


@pytest.mark.parametrize("group", [0, 5])
def test_kde_marginal_refuses_other_groups(group):
    with pytest.raises(ValueError, match=f"group is {group}, .*use kde_loo"):
        entropy.kde_marginal(jnp.ones((4, 6)), group=group)


@pytest.mark.parametrize(("n", "spacing"), [(7, 0), (40, 0), (40, 19), (4, 1)])
def test_vasicek_matches_scipy_in_each_dimension(n, spacing):
    with jax.enable_x64(True):
        z = np.random.default_rng(0).normal(size=(n, 3)) * [1, 5, 0.1]
        expected = scipy.stats.differential_entropy(
            z, method="vasicek", window_length=spacing or None
        ).sum()
        found = entropy.vasicek(z, spacing=spacing).value
        np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_vasicek_gradient_is_that_of_the_naive_formula():
    def naive(z):
        # sqrt(40) rounds to 6.
        rank = np.arange(40)
        upper, lower = np.minimum(rank + 6, 39), np.maximum(rank - 6, 0)
        ordered = jnp.sort(z, axis=0)
        return jnp.sum(jnp.log(ordered[upper] - ordered[lower])) / 40

    with jax.enable_x64(True):
        z = np.random.default_rng(0).normal(size=(40, 3))
        _, gradient = evaluate(z)["vasicek"]
        expected = jax.jit(jax.grad(naive))(z)
        assert reference.relative_error(gradient, expected) < 1e-12
        _, gradient = evaluate(np.float32(z))["vasicek"]
        assert reference.relative_error(gradient, expected) < 5e-6


def test_vasicek_narrows_its_window_to_the_valid_rows():
    z = normal(40, 3)
    found = entropy.vasicek(z, query_mask=jnp.arange(40) < 6, spacing=8).value
    # float32
    assert found == pytest.approx(entropy.vasicek(z[:6], spacing=2).value)


def test_vasicek_of_two_rows_is_the_entropy_between_them():
    found = entropy.vasicek(jnp.array([[1.0, 0.0], [4.0, 5.0]])).value
    assert found == pytest.approx(math.log(3) + math.log(5), rel=1e-6)


def test_vasicek_of_a_tie_within_a_window_is_minus_infinite():
    z = normal(40, 3)
    pair = entropy.vasicek(z.at[1].set(z[0]), spacing=1)
    assert jnp.isfinite(pair.value)
    value, gradient = jax.value_and_grad(
        lambda z: entropy.vasicek(z, spacing=1).value
    )(z.at[1:3, 1].set(z[0, 1]))
    assert value == -jnp.inf
    assert jnp.all(jnp.isfinite(gradient))


@pytest.mark.parametrize(
    ("spacing", "sentence"),
    [
        (-1, "spacing is -1, and an integer of at least 0"),
        (5, "spacing is 5 for 10 samples, and less than half"),
    ],
)
def test_vasicek_refuses_other_spacings(spacing, sentence):
    with pytest.raises(ValueError, match=sentence):
        entropy.vasicek(jnp.ones((10, 2)), spacing=spacing)


def naive_histogram(z, num_bins=32):
    """The entropy by triangular weights of all values in all bins."""
    total = 0
    for column in z.T:
        mean, deviation = jnp.mean(column), jnp.std(column)
        centres = jnp.linspace(
            mean - 4 * deviation, mean + 4 * deviation, num_bins
        )
        width = 8 * deviation / (num_bins - 1)
        offset = jnp.abs(column[:, None] - centres[None]) / width
        share = jnp.mean(jnp.maximum(1 - offset, 0), 0)
        total += jnp.sum(jax.scipy.special.entr(share + 1e-300))
        total += jnp.log(width)
    return total


def test_histogram_and_its_gradient_match_the_naive_formula():
    with jax.enable_x64(True):
        z = np.random.default_rng(0).normal(size=(40, 3))
        expected = jax.jit(jax.value_and_grad(naive_histogram))(z)
        value, gradient = evaluate(z)["histogram"]
        np.testing.assert_allclose(value, expected[0], rtol=1e-12)
        assert reference.relative_error(gradient, expected[1]) < 1e-12
        # Places among 32 bins carry 1e-6 each, which the logarithm of a small
        # share amplifies.
        _, gradient = evaluate(np.float32(z))["histogram"]
        assert reference.relative_error(gradient, expected[1]) < 5e-5


def test_miller_madow_adds_the_occupied_bins():
    z = np.random.default_rng(0).normal(size=(40, 1))

    @functools.partial(jax.jit, static_argnums=1)
    def value(z, miller_madow):
        return entropy.histogram(z, num_bins=9, miller_madow=miller_madow).value

    # The bins are 1 standard deviation apart.
    place = (z - z.mean()) / z.std() + 4
    occupied = np.union1d(np.floor(place), np.ceil(place)).size
    # float32
    assert value(z, True) - value(z, False) == pytest.approx(
        (occupied - 1) / 80, rel=1e-4
    )


def test_histogram_keeps_outliers_in_the_outermost_bin():
    z = np.zeros((100, 1))
    z[:50], z[0] = 1, 1e4
    place = np.clip((z - z.mean()) / (8 * z.std()) + 0.5, 0, 1)
    # The outlier, 10 standard deviations away, is in the last of 2 bins.
    assert place[0] == 1
    share = place.mean()
    value, gradient = jax.jit(
        jax.value_and_grad(lambda z: entropy.histogram(z, num_bins=2).value)
    )(z)
    expected = scipy.stats.entropy([share, 1 - share]) + np.log(8 * z.std())
    # float32
    np.testing.assert_allclose(value, expected, rtol=1e-6)
    assert jnp.all(jnp.isfinite(gradient))


def test_histogram_refuses_one_bin():
    with pytest.raises(ValueError, match="num_bins is 1, .*at least 2"):
        entropy.histogram(jnp.ones((4, 2)), num_bins=1)


def test_histogram_holds_no_array_of_values_by_bins():
    z = jax.ShapeDtypeStruct((1000, 7), jnp.float32)
    value = jax.jit(jax.grad(lambda z: entropy.histogram(z, num_bins=33).value))
    text = value.lower(z).as_text()
    assert "1000x7x33" not in text
    assert "33x7x1000" not in text
