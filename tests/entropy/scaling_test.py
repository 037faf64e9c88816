import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from aeent_jax import entropy

HOWS = ["per_dimension", "whitened"]
rescale = jax.jit(entropy.rescale, static_argnums=1)


def correlated(n=60, dim=3):
    rng = np.random.default_rng(0)
    return rng.normal(size=(n, dim)) @ rng.normal(size=(dim, dim)) + 4


@functools.partial(jax.jit, static_argnums=1)
def entropy_of(z, how):
    """A kernel entropy of the rescaled latents, in the unit of the latents."""
    scaled, log_det = entropy.rescale(z, how)
    return entropy.kde_loo(scaled, bandwidth=0.5).value + log_det


def maps(how, dim=3):
    if how == "per_dimension":
        return np.diag([1e-2, -3.0, 40.0])
    rotation = scipy.stats.special_ortho_group.rvs(dim, random_state=1)
    return rotation @ np.diag([0.2, -3.0, 4.0]) @ rotation.T


@pytest.mark.parametrize("how", HOWS)
def test_entropy_changes_by_the_log_determinant_of_an_affine_map(how):
    z, a = correlated(), maps(how)
    with jax.enable_x64(True):
        before = float(entropy_of(z, how))
        after = float(entropy_of(z @ a + 7, how))
    _, logdet = np.linalg.slogdet(a)
    # float64, times the condition of the mapped covariance, about 1e4.
    assert after - before == pytest.approx(logdet, abs=1e-9)


@pytest.mark.parametrize("how", HOWS)
def test_is_the_affine_map_that_it_says(how):
    z = correlated()
    with jax.enable_x64(True):
        scaled, log_det = map(np.asarray, rescale(z, how))
    centred = z - z.mean(0)
    a, *_ = np.linalg.lstsq(scaled, centred, rcond=None)
    np.testing.assert_allclose(scaled @ a, centred, atol=1e-12)
    assert log_det == pytest.approx(np.linalg.slogdet(a)[1], abs=1e-12)
    covariance = np.cov(scaled.T)
    if how == "per_dimension":
        covariance = np.diag(np.diag(covariance))
    np.testing.assert_allclose(covariance, np.eye(3), atol=1e-12)


@pytest.mark.parametrize("how", HOWS)
def test_masked_rows_change_nothing(how):
    full = correlated().astype(np.float32)
    mask = np.arange(60) < 40
    hidden = np.where(mask[:, None], full, np.nan)
    expected, expected_log_det = rescale(full[:40], how)
    got, log_det = rescale(hidden, how, mask)
    # float32 sums in another order.
    np.testing.assert_allclose(got[:40], expected, atol=1e-4)
    np.testing.assert_array_equal(got[40:], 0)
    assert log_det == pytest.approx(float(expected_log_det), abs=1e-4)


def test_dimension_without_spread_has_no_entropy_and_a_finite_gradient():
    z = jnp.asarray(correlated()).at[:, 1].set(2.0)
    scaled, log_det = rescale(z, "per_dimension")
    np.testing.assert_array_equal(scaled[:, 1], 0)
    assert log_det == -jnp.inf
    gradient = jax.grad(lambda z: jnp.sum(rescale(z, "per_dimension")[0] ** 3))
    assert jnp.all(jnp.isfinite(gradient(z)))


@pytest.mark.parametrize("how", HOWS)
def test_nan_gives_nan(how):
    assert jnp.isnan(rescale(jnp.full((60, 3), jnp.nan), how)[1])


def test_unusable_arguments_are_refused():
    with pytest.raises(ValueError, match="'white', and one of .*per_dimen"):
        entropy.rescale(jnp.ones((4, 2)), "white")
    with pytest.raises(ValueError, match="3 rows of 3 .* at least 4 rows"):
        entropy.rescale(jnp.ones((3, 3)), "whitened")
    with pytest.raises(ValueError, match="has 1 rows"):
        entropy.rescale(jnp.ones((1, 3)), "per_dimension")
