import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from aeent_jax.entropy import bandwidth


def everything(z):
    return jnp.ones(len(z), bool)


@pytest.mark.parametrize("rule", list(bandwidth.RULES))
def test_rule_is_scipys_in_one_dimension(rule):
    z = np.random.default_rng(0).normal(size=(60, 1)) * 4
    density = scipy.stats.gaussian_kde(z.T, bw_method=rule)
    with jax.enable_x64(True):
        got = bandwidth.resolve(rule, jnp.asarray(z), everything(z))
    np.testing.assert_allclose(
        got, np.sqrt(density.covariance[0, 0]), rtol=1e-12
    )


@pytest.mark.parametrize("rule", list(bandwidth.RULES))
def test_rule_has_scipys_factor_in_more_dimensions(rule):
    z = np.random.default_rng(0).normal(size=(60, 5))
    density = scipy.stats.gaussian_kde(z.T, bw_method=rule)
    deviation = np.sqrt(np.mean(np.var(z, 0, ddof=1)))
    with jax.enable_x64(True):
        got = bandwidth.resolve(rule, jnp.asarray(z), everything(z))
    np.testing.assert_allclose(got, density.factor * deviation, rtol=1e-12)


def test_rule_ignores_masked_rows_and_counts_the_others():
    z = jax.random.normal(jax.random.key(0), (30, 2))
    mask = jnp.arange(30) < 20
    hidden = jnp.where(mask[:, None], z, 0)
    # Sums in another order.
    np.testing.assert_allclose(
        bandwidth.resolve("scott", hidden, mask),
        bandwidth.resolve("scott", z[:20], mask[:20]),
        rtol=1e-6,
    )


def test_gradient_of_a_rule_is_along_the_scale():
    z = jax.random.normal(jax.random.key(0), (30, 2))
    value, gradient = jax.value_and_grad(
        lambda z: bandwidth.resolve("scott", z, everything(z))
    )(z)
    # s(aZ) = a s(Z); float32.
    np.testing.assert_allclose(jnp.sum(z * gradient), value, rtol=1e-5)


def test_traced_bandwidth_that_is_not_positive_becomes_nan():
    z = jnp.ones((3, 2))
    resolve = jax.jit(lambda s: bandwidth.resolve(s, z, everything(z)))
    np.testing.assert_array_equal(jnp.isnan(resolve(-1.0)), True)
    np.testing.assert_array_equal(jnp.isnan(resolve(0.0)), True)
    assert resolve(0.5) == 0.5


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        (0.0, "bandwidth is 0.0, and a positive number is needed"),
        (-2, "bandwidth is -2, and a positive number is needed"),
        (float("nan"), "bandwidth is nan, and a positive number is needed"),
        ("scot", "bandwidth is 'scot', .* one of .'scott', 'silverman'.*spell"),
        (np.ones(2), r"bandwidth has shape \(2,\), .*pass a scalar"),
    ],
)
def test_unusable_bandwidth_is_refused(value, sentence):
    z = jnp.ones((3, 2))
    with pytest.raises(ValueError, match=sentence):
        bandwidth.resolve(value, z, everything(z))


def test_rule_for_one_sample_is_refused():
    z = jnp.ones((1, 2))
    with pytest.raises(ValueError, match="1 rows, .*'scott' needs at least 2"):
        bandwidth.resolve("scott", z, everything(z))
