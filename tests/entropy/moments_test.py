import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from aeent_jax import entropy
from aeent_jax.entropy import moments


def with_covariance(covariance, n, seed=0):
    """Latents whose covariance, divided by n, is exactly the given one."""
    z = np.random.default_rng(seed).normal(size=(n, len(covariance)))
    z -= z.mean(0)
    whiten = np.linalg.inv(np.linalg.cholesky(z.T @ z / n)).T
    return z @ whiten @ np.linalg.cholesky(covariance).T


@jax.jit
def evaluate(z, mask, sigma=1.0):
    """The value of the masked latents, and its gradient."""

    def value(z):
        return entropy.coding_rate(z, sample_mask=mask, sigma=sigma).value

    return jax.value_and_grad(value)(z)


def everything(z):
    return np.ones(len(z), bool)


def full_covariance(dim, condition):
    rotation = np.eye(1)
    if dim > 1:
        rotation = scipy.stats.special_ortho_group.rvs(dim, random_state=0)
    return rotation * np.geomspace(4, 4 / condition, dim) @ rotation.T


@pytest.mark.parametrize("condition", [1, 1e2, 1e4])
@pytest.mark.parametrize("dim", [1, 8, 128])
def test_matches_the_capacity_of_a_gaussian_channel(dim, condition):
    sigma = 0.5
    covariance = full_covariance(dim, condition)
    z = with_covariance(covariance, 2 * dim + 3) + 5
    _, expected = np.linalg.slogdet(np.eye(dim) + covariance / sigma**2)
    # float32: 1e-6 of each factor of the determinant, of which there are dim.
    narrow, _ = evaluate(np.float32(z), everything(z), sigma)
    np.testing.assert_allclose(narrow, expected / 2, rtol=5e-6)
    with jax.enable_x64(True):
        wide, _ = evaluate(z, everything(z), sigma)
        np.testing.assert_allclose(wide, expected / 2, rtol=1e-12)


@pytest.mark.parametrize(("n", "dim"), [(7, 3), (5, 5)])
def test_primal_equals_dual(n, dim):
    with jax.enable_x64(True):
        a = np.random.default_rng(0).normal(size=(n, dim))
        expected = 0.5 * np.linalg.slogdet(np.eye(dim) + a.T @ a)[1]
        for one in (a, a.T):
            value, gradient = jax.jit(jax.value_and_grad(moments.half_logdet))(
                one
            )
            np.testing.assert_allclose(value, expected, rtol=1e-12)
            # d 1/2 logdet(I + A'A) = tr((I + A'A)^-1 A' dA)
            inverse = np.linalg.inv(np.eye(one.shape[1]) + one.T @ one)
            np.testing.assert_allclose(gradient, one @ inverse, atol=1e-13)


# More dimensions than rows; contract_test has fewer.
def test_masked_rows_change_neither_value_nor_gradient():
    full = jax.random.normal(jax.random.key(0), (4, 9))
    mask = np.arange(4) != 1
    expected, gradient = evaluate(full[mask], mask[mask])
    full = jnp.where(mask[:, None], full, jnp.nan)
    got, full_gradient = evaluate(full, mask)
    # Another order of summation in float32.
    np.testing.assert_allclose(got, expected, rtol=1e-5)
    np.testing.assert_allclose(full_gradient[mask], gradient, atol=1e-5)
    np.testing.assert_array_equal(full_gradient[~mask], 0)


@pytest.mark.parametrize("valid", [0, 1])
def test_fewer_than_two_valid_rows_carry_nothing(valid):
    z = jax.random.normal(jax.random.key(0), (4, 9))
    value, gradient = evaluate(z, np.arange(4) < valid)
    assert value == 0
    np.testing.assert_array_equal(gradient, 0)


def test_bounds_the_information_of_far_point_masses():
    # They carry log n through the channel, however far apart they are.
    z = 10 * jax.random.normal(jax.random.key(0), (20, 5))
    assert evaluate(z, everything(z))[0] > math.log(20)


def test_reads_low_from_few_rows():
    # 64 dimensions with variance .37 carry 10.07 nats.
    z = math.sqrt(0.37) * jax.random.normal(jax.random.key(0), (100, 64, 64))
    values = jax.jit(jax.vmap(lambda z: entropy.coding_rate(z).value))(z)
    # The published 8.9; measured 8.87, with a standard error below .02.
    assert jnp.mean(values) == pytest.approx(8.9, abs=0.05)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_bad_latents_give_nan(bad):
    z = jax.random.normal(jax.random.key(0), (4, 9)).at[1, 1].set(bad)
    assert jnp.isnan(evaluate(z, everything(z))[0])
