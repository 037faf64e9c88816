import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from aeent_jax.entropy import estimator


def test_entropy_becomes_a_rate_by_taking_the_noise_off():
    found = estimator.Estimate(jnp.float32(9.0), "h")
    noise = 1.5 * math.log(2 * math.pi * math.e * 0.25)
    # float32
    rate = estimator.to_rate(found, 0.5, 3)
    assert rate == pytest.approx(9 - noise, rel=1e-6)


def test_uniform_noise_has_the_entropy_of_its_width():
    found = estimator.Estimate(jnp.float32(9.0), "h")
    rate = estimator.to_rate(found, 0.5, 3, "uniform")
    noise = 3 * math.log(0.5 * math.sqrt(12))
    assert rate == pytest.approx(9 - noise, rel=1e-6)  # float32


def test_unknown_noise_is_refused():
    found = estimator.Estimate(jnp.float32(9.0), "h")
    with pytest.raises(ValueError, match="is 'laplace', .*gaussian, uniform"):
        estimator.to_rate(found, 1.0, 3, "laplace")


@pytest.mark.parametrize("sigma", [0.0, -1.0, None, "a"])
def test_noise_without_a_width_is_refused(sigma):
    found = estimator.Estimate(jnp.float32(9.0), "h")
    with pytest.raises(ValueError, match="sigma is .*, and a positive number"):
        estimator.to_rate(found, sigma, 3)


def test_information_is_the_rate():
    found = estimator.Estimate(jnp.float32(9.0), "I")
    assert estimator.to_rate(found, 0.5, 3) == 9


def test_unknown_kind_is_refused():
    found = estimator.Estimate(jnp.float32(9.0), "H")
    with pytest.raises(ValueError, match="kind 'H', .*'h', 'I'.*set kind"):
        estimator.to_rate(found, 0.5, 3)


def test_is_a_pytree_whose_kind_is_static():
    found = estimator.Estimate(jnp.float32(1.0), "I", None, {"a": jnp.ones(2)})
    doubled = jax.jit(lambda e: jax.tree.map(lambda v: 2 * v, e))(found)
    assert doubled.kind == "I"
    assert doubled.value == 2
    assert doubled.per_query is None
    np.testing.assert_array_equal(doubled.diagnostics["a"], 2)


def test_masked_mean_of_no_rows_is_zero_with_zero_gradient():
    mask = jnp.zeros(3, bool)
    value, gradient = jax.value_and_grad(estimator.masked_mean)(
        jnp.ones(3), mask
    )
    assert value == 0
    np.testing.assert_array_equal(gradient, 0)
