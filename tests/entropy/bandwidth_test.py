import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.spatial
import scipy.stats

from aeent_jax import entropy
from aeent_jax.entropy import bandwidth

SCIPYS = ["scott", "silverman"]


def everything(z):
    return jnp.ones(len(z), bool)


@functools.partial(jax.jit, static_argnums=0)
def value_and_pull(rule, z):
    """s, and `sum z ds/dz`, which is s where s is equivariant and smooth."""
    value, gradient = jax.value_and_grad(
        lambda z: bandwidth.resolve(rule, z, everything(z))
    )(z)
    return value, jnp.sum(z * gradient)


def clusters(distance):
    """Two groups; where they are far apart, scipy's rules smooth too much."""
    z = np.random.default_rng(0).normal(size=(60, 3))
    z[::2] += distance
    return z


@pytest.mark.parametrize("rule", SCIPYS)
@pytest.mark.parametrize("dim", [1, 5])
def test_rule_is_scipys_factor_of_the_rms_deviation(rule, dim):
    z = np.random.default_rng(0).normal(size=(60, dim)) * 4
    density = scipy.stats.gaussian_kde(z.T, bw_method=rule)
    deviation = np.sqrt(np.mean(np.var(z, 0, ddof=1)))
    with jax.enable_x64(True):
        got = bandwidth.resolve(rule, jnp.asarray(z), everything(z))
    np.testing.assert_allclose(got, density.factor * deviation, rtol=1e-12)


@pytest.mark.parametrize("distance", [0, 30])
def test_loo_ml_is_where_kde_loo_is_least(distance):
    z = clusters(distance)
    deviation = np.sqrt(np.mean(np.var(z, 0, ddof=1)))
    grid = deviation * np.geomspace(1e-2, 2, 400)
    with jax.enable_x64(True):
        value = jax.jit(jax.vmap(lambda s: entropy.kde_loo(z, bandwidth=s)))
        values = np.asarray(value(grid).value)
        best, _ = value_and_pull("loo_ml", jnp.asarray(z))
        least = np.asarray(value(jnp.full_like(grid, best)).value)[0]
    # Not above the grid's best but for what the last bisection leaves, and
    # within a step of the grid of it.
    assert least < np.min(values) + 1e-9
    assert (
        abs(np.log(float(best) / grid[np.argmin(values)])) < np.log(200) / 399
    )


def test_gradient_of_kde_loo_is_exact_though_the_factor_is_constant():
    z = clusters(30)
    with jax.enable_x64(True):
        direction = np.random.default_rng(1).normal(size=z.shape)

        @jax.jit
        def value(z):
            rule = entropy.LooMl(steps=40)
            return entropy.kde_loo(z, bandwidth=rule).value

        step = 1e-4
        up, down = value(z + step * direction), value(z - step * direction)
        slope = float(jnp.sum(jax.grad(value)(z) * direction))
        # Central differences: an error of step^2 of a value of order 1.
        assert slope == pytest.approx(float(up - down) / (2 * step), rel=1e-6)


def test_loo_ml_of_duplicates_is_the_lower_end():
    z = jnp.repeat(jax.random.normal(jax.random.key(0), (30, 2)), 2, 0)
    value, _ = value_and_pull("loo_ml", z)
    # float32, and what 20 bisections leave of the search.
    deviation = jnp.sqrt(jnp.mean(jnp.var(z, 0, ddof=1)))
    np.testing.assert_allclose(value, 1e-3 * deviation, rtol=1e-5)


def test_median_is_scipys_median_distance_over_the_root_of_two():
    z = np.random.default_rng(0).normal(size=(60, 3)) + 7
    with jax.enable_x64(True):
        got, _ = value_and_pull("median", jnp.asarray(z))
    distance = np.median(scipy.spatial.distance.pdist(z, "sqeuclidean"))
    np.testing.assert_allclose(got, np.sqrt(distance / 2), rtol=1e-12)


@pytest.mark.parametrize(
    "rule", [entropy.LooMl(max_queries=16), entropy.Median(max_rows=16)]
)
def test_bounded_rule_is_near_that_of_all_rows(rule):
    z = jax.random.normal(jax.random.key(0), (60, 3))
    few, _ = value_and_pull(rule, z)
    every, _ = value_and_pull(type(rule)(), z)
    # 15 rows in place of 60: the scatter of a scale is about 1/sqrt(2 * 45).
    np.testing.assert_allclose(few, every, rtol=0.3)
    assert few != every


@pytest.mark.parametrize("rule", list(bandwidth.RULES))
def test_rule_is_equivariant_and_its_gradient_along_the_scale(rule):
    z = jax.random.normal(jax.random.key(0), (60, 3)) + 1
    value, pull = value_and_pull(rule, z)
    # s(aZ) = a s(Z); float32, and for loo_ml one step of the last bisection.
    np.testing.assert_allclose(pull, value, rtol=1e-5)
    scaled, _ = value_and_pull(rule, 100 * z)
    np.testing.assert_allclose(scaled, 100 * value, rtol=1e-5)


@pytest.mark.parametrize("rule", list(bandwidth.RULES))
def test_rule_ignores_masked_rows_and_counts_the_others(rule):
    z = jax.random.normal(jax.random.key(0), (60, 3))
    mask = jnp.arange(60) < 40
    hidden = jnp.where(mask[:, None], z, 0)
    resolve = jax.jit(bandwidth.resolve, static_argnums=0)
    # Sums in another order.
    np.testing.assert_allclose(
        resolve(rule, hidden, mask),
        resolve(rule, z[:40], mask[:40]),
        rtol=1e-5,
    )
    one = jax.grad(lambda z: resolve(rule, z, jnp.arange(60) < 1))(hidden)
    assert jnp.all(jnp.isfinite(one))


@pytest.mark.parametrize("rule", list(bandwidth.RULES))
def test_rule_of_latents_without_a_scale_is_nan(rule):
    assert jnp.isnan(value_and_pull(rule, jnp.ones((60, 3)))[0])
    bad = jax.random.normal(jax.random.key(0), (60, 3)).at[1, 1].set(jnp.nan)
    assert jnp.isnan(value_and_pull(rule, bad)[0])


def test_estimators_take_a_number_a_name_or_a_rule():
    z = jax.random.normal(jax.random.key(0), (60, 3))
    by_name = entropy.kde_loo(z, bandwidth="scott")
    by_rule = entropy.kde_loo(z, bandwidth=bandwidth.Scott())
    assert by_name.value == by_rule.value
    by_number = entropy.kde_loo(z, bandwidth=0.5)
    assert by_number.diagnostics["bandwidth"] == 0.5


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
        ("scot", "bandwidth is 'scot', .* one of .*scott, silver.*spell"),
        (np.ones(2), r"bandwidth has shape \(2,\), .*pass a scalar"),
        (None, "bandwidth is None, and a positive number is needed"),
        ([1.0], r"bandwidth has shape \(1,\), .*pass a scalar"),
        (1j, "bandwidth is 1j, and a positive number is needed"),
        (bandwidth.LooMl, r"class LooMl, .*make one, LooMl\(...\)"),
    ],
)
def test_unusable_bandwidth_is_refused(value, sentence):
    z = jnp.ones((3, 2))
    with pytest.raises(ValueError, match=sentence):
        bandwidth.resolve(value, z, everything(z))


@pytest.mark.parametrize("rule", list(bandwidth.RULES))
def test_rule_for_one_sample_is_refused(rule):
    z = jnp.ones((1, 2))
    with pytest.raises(ValueError, match=f"1 rows, .*'{rule}' needs at least"):
        bandwidth.resolve(rule, z, everything(z))


@pytest.mark.parametrize("rule", ["loo_ml", "median"])
def test_rule_is_the_same_on_every_device(rule):
    z = jax.random.normal(jax.random.key(0), (60, 3))

    def share(rows):
        """This device's share of the entropy of the global batch."""
        samples = jax.lax.all_gather(rows, "batch", tiled=True)
        index = jax.lax.axis_index("batch") * 30 + jnp.arange(30)
        found = entropy.kde_loo(rows, samples, index, bandwidth=rule)
        return jnp.sum(found.per_query) / 60

    def step(rows):
        value, gradient = jax.value_and_grad(share)(rows)
        return jax.lax.psum(value, "batch"), gradient

    spec = jax.sharding.PartitionSpec("batch")
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:2]), ("batch",))
    mapped = jax.shard_map(
        step,
        mesh=mesh,
        in_specs=spec,
        out_specs=(jax.sharding.PartitionSpec(), spec),
    )
    value, gradient = jax.jit(mapped)(z)

    def whole(z):
        return entropy.kde_loo(z, bandwidth=rule).value

    expected, slope = jax.jit(jax.value_and_grad(whole))(z)
    # float32 sums in another order.
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    np.testing.assert_allclose(gradient, slope, rtol=1e-3, atol=1e-5)
