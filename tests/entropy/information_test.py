import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from aeent_jax import entropy

KEY = jax.random.key(20240607)
METHODS = ["gaussian", "kde_loo"]
total_correlation = jax.jit(
    entropy.total_correlation, static_argnames=("method", "bandwidth")
)


def correlated(n=400, correlation=0.8, seed=0):
    """Two dimensions that depend on each other, and an independent third."""
    z = np.random.default_rng(seed).normal(size=(n, 3))
    other = math.sqrt(1 - correlation**2) * z[:, 1]
    z[:, 1] = correlation * z[:, 0] + other
    return z


def test_bracket_is_that_of_the_diagnostics_and_holds_the_rate():
    z = jax.random.normal(jax.random.key(0), (1024, 4))
    bracket = jax.jit(entropy.mutual_information)(z, KEY, 1.0)
    found = entropy.channel_diagnostics(z, KEY, 1.0)
    # Compiled apart, float32.
    np.testing.assert_allclose(bracket.low, found["rate_low"], rtol=1e-5)
    np.testing.assert_allclose(bracket.up, found["rate_up"], rtol=1e-5)
    # dim/2 log(1 + 1/sigma^2); one draw scatters by about .05.
    assert bracket.low - 0.2 < 2 * math.log(2) < bracket.up + 0.2


def test_bracket_ignores_masked_rows():
    z = jax.random.normal(jax.random.key(0), (64, 4)).at[40:].set(jnp.nan)
    masked = entropy.mutual_information(z, KEY, 1.0, jnp.arange(64) < 40)
    assert jnp.isfinite(masked.low)
    assert masked.low < masked.up


def test_gaussian_is_the_log_determinant_of_the_correlations():
    z = correlated()
    with jax.enable_x64(True):
        got = float(total_correlation(z * [1, 1e3, 1e-3] + 5))
    _, logdet = np.linalg.slogdet(np.corrcoef(z.T))
    # float64
    assert got == pytest.approx(-logdet / 2, rel=1e-9)
    # -1/2 log(1 - .8^2) = .51, within three of its standard errors .8/sqrt(n).
    assert got == pytest.approx(0.511, abs=0.12)


def test_estimators_give_the_sum_of_the_parts_less_the_whole():
    z = correlated(60)
    with jax.enable_x64(True):
        parts = [entropy.kde_loo(z[:, d : d + 1]).value for d in range(3)]
        expected = float(sum(parts) - entropy.kde_loo(z).value)
        got = float(total_correlation(z, method="kde_loo"))
    assert got == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("method", METHODS)
def test_is_larger_for_dependent_dimensions(method):
    values = [
        float(total_correlation(correlated(400, c), method=method))
        for c in (0.0, 0.8)
    ]
    # .51 in truth, of which Scott's kernel smooths a part away.
    assert values[1] - values[0] > 0.2
    # n = 400 in three dimensions: the kernel density's bias is below .15.
    assert abs(values[0]) < 0.15


@pytest.mark.parametrize("method", METHODS)
def test_masked_rows_change_nothing(method):
    z = correlated(60).astype(np.float32)
    mask = np.arange(60) < 40
    hidden = np.where(mask[:, None], z, np.nan)
    expected = float(total_correlation(z[:40], method=method))
    got = float(total_correlation(hidden, method=method, mask=mask))
    # float32 sums in another order.
    assert got == pytest.approx(expected, abs=1e-5)


def test_dimension_without_spread_tells_nothing():
    z = correlated(400)
    z[:, 2] = 3
    got = float(total_correlation(z))
    assert got == pytest.approx(float(total_correlation(z[:, :2])), rel=1e-5)
    gradient = jax.jit(jax.grad(entropy.total_correlation))(z)
    assert jnp.all(jnp.isfinite(gradient))


@pytest.mark.parametrize("method", METHODS)
def test_nan_gives_nan(method):
    z = correlated(60)
    z[1, 1] = np.nan
    assert np.isnan(total_correlation(z, method=method))


@pytest.mark.parametrize(
    ("shape", "arguments", "sentence"),
    [
        ((4, 2), {"method": "kd_loo"}, "'kd_loo', and one of .*gaussian"),
        ((3, 3), {}, "3 rows of 3 .* at least 4 rows"),
        ((4, 2), {"k": 3}, "k is given to the method 'gauss"),
        ((4, 2), {"method": "kde_loo", "k": 3}, "one of bandwidth is needed"),
    ],
)
def test_unusable_arguments_are_refused(shape, arguments, sentence):
    with pytest.raises(ValueError, match=sentence):
        entropy.total_correlation(jnp.ones(shape), **arguments)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_dimensions_that_determine_each_other_share_infinitely_much(seed):
    x = np.random.default_rng(seed).normal(size=(64, 2)).astype(np.float32)
    z = np.stack([x[:, 0], x[:, 1], 2 * x[:, 0] - x[:, 1]], 1)
    assert entropy.total_correlation(z) == np.inf
