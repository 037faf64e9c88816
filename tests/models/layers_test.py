"""Norms over devices and masks."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from aeent_jax.models import layers


def _apply(x, mask, axis_name=None):
    module = layers.BatchNorm(axis_name)
    variables = {
        "params": {
            "scale": jnp.linspace(0.5, 2.0, x.shape[-1]),
            "bias": jnp.linspace(-1.0, 1.0, x.shape[-1]),
        },
        "batch_stats": {
            "mean": jnp.zeros(x.shape[-1]),
            "var": jnp.ones(x.shape[-1]),
        },
    }
    return module.apply(variables, x, mask, train=True, mutable=["batch_stats"])


def _example(rows=16):
    x = 3.0 + jax.random.normal(jax.random.key(1), (rows, 3, 2, 5))
    return x * jnp.linspace(0.1, 4.0, 5)


def test_running_variance_is_unbiased():
    x = _example(rows=3)
    _, updated = _apply(x, None)
    expected = np.var(np.asarray(x), axis=(0, 1, 2), ddof=1)
    # 0.9 * 1 + 0.1 * variance, in float32.
    np.testing.assert_allclose(
        updated["batch_stats"]["var"], 0.9 + 0.1 * expected, rtol=1e-6
    )


@pytest.mark.parametrize("valid", [1, 2])
def test_one_value_has_no_variance_to_run_down(valid):
    x, mask = jax.random.normal(jax.random.key(0), (4, 3)), jnp.arange(4)
    _, updated = _apply(x, mask < valid)
    moved = not np.array_equal(updated["batch_stats"]["var"], np.ones(3))
    assert moved == (valid > 1)
    moved = not np.array_equal(updated["batch_stats"]["mean"], np.zeros(3))
    assert moved == (valid > 1)


def test_masked_rows_count_nowhere():
    x = _example()
    mask = jnp.arange(16) < 11
    spoiled = jnp.where(mask[:, None, None, None], x, 1e6)
    y, updated = _apply(spoiled, mask)
    y_short, updated_short = _apply(x[:11], None)
    # The same sums with zeros added.
    np.testing.assert_allclose(y[:11], y_short, atol=1e-5)
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=1e-6),
        updated,
        updated_short,
    )


@pytest.mark.parametrize("devices", [2, 4, 8])
@pytest.mark.parametrize("valid", [16, 11, 3])
def test_statistics_and_gradient_do_not_depend_on_device_count(devices, valid):
    x = _example()
    mask = jnp.arange(16) < valid
    target = jax.random.normal(jax.random.key(2), x.shape)

    def loss(x, mask, target, axis_name):
        y, updated = _apply(x, mask, axis_name)
        weight = mask[:, None, None, None]
        return jnp.sum(weight * y * target), updated

    def split(array):
        return array.reshape(devices, -1, *array.shape[1:])

    one_grad, one_stats = jax.grad(
        functools.partial(loss, axis_name=None), has_aux=True
    )(x, mask, target)
    many_grad, many_stats = jax.pmap(
        jax.grad(functools.partial(loss, axis_name="batch"), has_aux=True),
        axis_name="batch",
        devices=jax.devices()[:devices],
    )(split(x), split(mask), split(target))
    # Float32 sums in another order.
    np.testing.assert_allclose(many_grad.reshape(x.shape), one_grad, atol=2e-5)
    jax.tree.map(
        lambda many, one: np.testing.assert_allclose(
            many, np.broadcast_to(one, many.shape), rtol=1e-5
        ),
        many_stats,
        one_stats,
    )


def test_variance_of_a_large_offset_is_accurate():
    x = 1e4 + jax.random.normal(jax.random.key(0), (64, 4, 4, 1))
    _, updated = _apply(x, None)
    expected = np.var(np.asarray(x, np.float64), ddof=1)
    # A difference of squares at 1e8 would be off by several units.
    np.testing.assert_allclose(
        updated["batch_stats"]["var"], 0.9 + 0.1 * expected, rtol=1e-4
    )


def _power_norm(z, mask=None, axis_name=None, train=True):
    variables = {"batch_stats": {"power": jnp.float32(4.0)}}
    return layers.PowerNorm(axis_name).apply(
        variables, z, mask, train=train, mutable=["batch_stats"]
    )


def _latents():
    z = 0.5 + jax.random.normal(jax.random.key(3), (16, 5))
    return z * jnp.linspace(0.1, 4.0, 5)


def test_power_is_that_of_the_valid_rows_about_zero():
    z, mask = _latents(), jnp.arange(16) < 11
    y, updated = _power_norm(jnp.where(mask[:, None], z, 1e6), mask)
    power = np.mean(np.square(z[:11]))
    # float32
    np.testing.assert_allclose(np.mean(np.square(y[:11])), 1.0, rtol=1e-6)
    np.testing.assert_allclose(y[:11], z[:11] / np.sqrt(power), rtol=1e-5)
    np.testing.assert_allclose(
        updated["batch_stats"]["power"], 0.9 * 4 + 0.1 * power, rtol=1e-6
    )


def test_power_in_evaluation_is_the_running_one():
    y, updated = _power_norm(_latents(), train=False)
    np.testing.assert_allclose(y, _latents() / 2, rtol=1e-6)
    assert updated["batch_stats"]["power"] == 4


def test_scale_of_the_latents_has_no_influence_but_a_constant_stays_one():
    z = _latents()
    np.testing.assert_allclose(
        _power_norm(1e-4 * z)[0],
        _power_norm(z)[0],
        rtol=1e-3,  # the epsilon is 1e-4 of such a power
    )
    # Latents that agree are not spread out again.
    together, _ = _power_norm(1.0 + 1e-3 * z)
    assert np.std(together) < 1e-2
    zero, pull = jax.vjp(lambda z: _power_norm(z)[0], jnp.zeros((4, 5)))
    np.testing.assert_array_equal(zero, 0)
    assert np.isfinite(pull(jnp.ones((4, 5)))[0]).all()


def test_power_and_its_gradient_do_not_depend_on_device_count():
    z, mask = _latents(), jnp.arange(16) < 11
    target = jax.random.normal(jax.random.key(2), z.shape)

    def loss(z, mask, target, axis_name):
        y, updated = _power_norm(z, mask, axis_name)
        return jnp.sum(mask[:, None] * y * target), updated

    def split(array):
        return array.reshape(8, -1, *array.shape[1:])

    gradient = jax.grad(functools.partial(loss, axis_name=None), has_aux=True)
    one, one_stats = gradient(z, mask, target)
    gradient = jax.grad(functools.partial(loss, axis_name="a"), has_aux=True)
    many, many_stats = jax.pmap(gradient, "a", devices=jax.devices()[:8])(
        split(z), split(mask), split(target)
    )
    # Float32 sums in another order.
    np.testing.assert_allclose(many.reshape(z.shape), one, atol=1e-5)
    np.testing.assert_allclose(
        many_stats["batch_stats"]["power"],
        np.full(8, one_stats["batch_stats"]["power"]),
        rtol=1e-5,
    )
