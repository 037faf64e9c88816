"""Value and gradient of every estimator on 1, 2, 4 and 8 devices."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from aeent_jax import entropy

AXIS = "batch"
DIM, ROWS = 3, 48

# Valid rows of each eighth of the batch: full, ragged and empty shards.
RAGGED = [6, 6, 4, 0, 6, 1, 0, 3]
FULL = [6] * 8


def make_batch(valid):
    """x [48, dim], noise [48, dim] and mask [48], in the padded layout."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(ROWS, DIM)).astype(np.float32)
    noise = rng.normal(size=(ROWS, DIM)).astype(np.float32)
    mask = np.concatenate([np.arange(6) < count for count in valid])
    return x, noise, mask


def encode(params, x):
    return jnp.tanh(x @ params["kernel"]) + params["bias"]


PARAMS = {
    "kernel": np.random.default_rng(1).normal(size=(DIM, DIM)) * 1.5,
    "bias": np.ones(DIM),
}
PARAMS = jax.tree.map(np.float32, PARAMS)


def hyper(entry):
    return {entry.noise_argument: 0.6} if entry.noise_argument else {}


def reference(name, valid):
    """Loss and gradient on one array without padding."""
    x, noise, mask = make_batch(valid)
    entry = entropy.ESTIMATORS[name]

    def loss(params):
        z = encode(params, x[mask])
        noisy = z + 0.6 * noise[mask]
        queries = noisy if entry.noisy_queries else z
        return entry(queries, z, **hyper(entry)).value

    return jax.jit(jax.value_and_grad(loss))(PARAMS)


def per_device(name, params, x, noise, mask):
    """One device's part of the contract: its loss, whose gradients add up."""
    entry = entropy.ESTIMATORS[name]
    rows = x.shape[0]

    def loss(params):
        z = encode(params, x)
        noisy = z + 0.6 * noise
        gather = functools.partial(
            jax.lax.all_gather, axis_name=AXIS, tiled=True
        )
        found = entry(
            noisy if entry.noisy_queries else z,
            gather(z),
            jax.lax.axis_index(AXIS) * rows + jnp.arange(rows),
            query_mask=mask,
            sample_mask=gather(mask),
            **hyper(entry),
        )
        if not entry.per_query:
            return found.value / jax.lax.axis_size(AXIS), found.value
        count = jax.lax.psum(jnp.sum(mask), AXIS)
        return jnp.sum(found.per_query) / count, found.value

    (part, value), gradient = jax.value_and_grad(loss, has_aux=True)(params)
    return jax.lax.psum((part, gradient), AXIS), value


def on_devices(name, valid, devices):
    x, noise, mask = make_batch(valid)
    split = lambda a: a.reshape(devices, -1, *a.shape[1:])  # noqa: E731
    step = jax.pmap(
        functools.partial(per_device, name),
        AXIS,
        in_axes=(None, 0, 0, 0),
        devices=jax.devices()[:devices],
    )
    (loss, gradient), values = step(PARAMS, split(x), split(noise), split(mask))
    return loss[0], jax.tree.map(lambda g: g[0], gradient), values


@pytest.mark.parametrize("devices", [1, 2, 4, 8])
@pytest.mark.parametrize("valid", [RAGGED, FULL], ids=["ragged", "full"])
@pytest.mark.parametrize("name", list(entropy.ESTIMATORS))
def test_value_and_gradient_do_not_depend_on_the_devices(name, valid, devices):
    value, gradient = reference(name, valid)
    got, got_gradient, _ = on_devices(name, valid, devices)
    # float32 sums in another order.
    np.testing.assert_allclose(got, value, rtol=1e-5, atol=1e-6)
    for key, expected in gradient.items():
        np.testing.assert_allclose(
            got_gradient[key], expected, rtol=1e-4, atol=1e-5
        )


@pytest.mark.parametrize("name", list(entropy.ESTIMATORS))
def test_plain_mean_over_equal_shards_is_the_value(name):
    value, _ = reference(name, FULL)
    _, _, values = on_devices(name, FULL, 4)
    # float32
    np.testing.assert_allclose(np.mean(values), value, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["kde_loo", "kde_resub", "kde_kl"])
def test_mean_of_the_devices_own_entropies_is_another_number(name):
    x, noise, _ = make_batch(FULL)
    z = encode(PARAMS, x)
    entry = entropy.ESTIMATORS[name]
    queries = z + 0.6 * noise if entry.noisy_queries else z
    own = jax.vmap(lambda q, z: entry(q, z, bandwidth=0.6).value)(
        queries.reshape(8, 6, DIM), z.reshape(8, 6, DIM)
    )
    value, _ = reference(name, FULL)
    assert abs(np.mean(own) - value) > 0.1


@pytest.mark.parametrize("name", ["kde_loo", "coding_rate"])
def test_shard_map_gives_the_same_numbers(name):
    x, noise, mask = make_batch(RAGGED)
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:4]), (AXIS,))
    row, everywhere = jax.P(AXIS), jax.P()

    def step(params, x, noise, mask):
        # Told apart per device, so that the gradient is this device's part.
        params = jax.lax.pcast(params, AXIS, to="varying")
        return per_device(name, params, x, noise, mask)[0]

    mapped = jax.jit(
        jax.shard_map(
            step,
            mesh=mesh,
            in_specs=(everywhere, row, row, row),
            out_specs=everywhere,
        )
    )
    loss, gradient = mapped(PARAMS, x, noise, mask)
    value, expected = reference(name, RAGGED)
    # float32 sums in another order.
    np.testing.assert_allclose(loss, value, rtol=1e-5)
    for key in expected:
        np.testing.assert_allclose(
            gradient[key], expected[key], rtol=1e-4, atol=1e-5
        )
