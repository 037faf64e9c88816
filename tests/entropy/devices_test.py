"""Value and gradient of every estimator on 1, 2, 4 and 8 devices."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from aeent_jax import entropy

AXIS = "batch"
NAMES = list(entropy.ESTIMATORS)
DIM, ROWS = 3, 48

# Valid rows of each eighth of the batch: full, ragged and empty shards.
RAGGED = (6, 6, 4, 0, 6, 1, 0, 3)
FULL = (6,) * 8


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


MIXTURE = entropy.ESTIMATORS["mixture"].init(jax.random.key(2), DIM)
QUANTISED = entropy.ESTIMATORS["quantised"].init(jax.random.key(2), DIM)
HYPER = {"mixture": {"params": MIXTURE}, "quantised": {"params": QUANTISED}}


def measure(name, z, noisy, index=None, *, gather=lambda rows: rows, **masks):
    """Calls an estimator as a trainer does, with noise of 0.6."""
    entry, hyper = entropy.ESTIMATORS[name], dict(HYPER.get(name, {}))
    if entry.noise_argument:
        hyper[entry.noise_argument] = 0.6
    queries = noisy if entry.noisy_queries else z
    samples = gather(noisy if entry.noisy_samples else z)
    if index is None:
        index = jnp.arange(len(queries))
    return entry(queries, samples, index, **masks, **hyper)


@functools.cache
def reference(valid):
    """Loss and gradient by name, on one array without padding."""
    x, noise, mask = make_batch(valid)

    def loss(params, name):
        z = encode(params, x[mask])
        noisy = z + 0.6 * noise[mask]
        return measure(name, z, noisy).value

    def all_losses(params):
        return {n: jax.value_and_grad(loss)(params, n) for n in NAMES}

    return jax.jit(all_losses)(PARAMS)


def per_device(params, x, noise, mask):
    """One device's part: losses whose gradients add up, and its own values."""
    rows = x.shape[0]
    gather = functools.partial(jax.lax.all_gather, axis_name=AXIS, tiled=True)
    index = jax.lax.axis_index(AXIS) * rows + jnp.arange(rows)
    count = jax.lax.psum(jnp.sum(mask), AXIS)
    masks = {"query_mask": mask, "sample_mask": gather(mask)}

    def loss(params, name):
        z = encode(params, x)
        noisy = z + 0.6 * noise
        found = measure(name, z, noisy, index, gather=gather, **masks)
        if entropy.ESTIMATORS[name].per_query:
            return found.value * jnp.sum(mask) / count, found.value
        return found.value / jax.lax.axis_size(AXIS), found.value

    results = {}
    for name in NAMES:
        (part, own), gradient = jax.value_and_grad(loss, has_aux=True)(
            params, name
        )
        results[name] = (*jax.lax.psum((part, gradient), AXIS), own)
    return results


@functools.cache
def make_step(devices):
    return jax.pmap(
        per_device,
        AXIS,
        in_axes=(None, 0, 0, 0),
        devices=jax.devices()[:devices],
    )


@functools.cache
def on_devices(valid, devices):
    """By name: loss and gradient, and each device's own value."""
    batch = [a.reshape(devices, -1, *a.shape[1:]) for a in make_batch(valid)]
    results = make_step(devices)(PARAMS, *batch)
    return {
        name: (loss[0], jax.tree.map(lambda g: g[0], gradient), own)
        for name, (loss, gradient, own) in results.items()
    }


def assert_same(got, expected):
    # float32 sums in another order.
    np.testing.assert_allclose(got[0], expected[0], rtol=1e-5, atol=1e-6)
    for key, gradient in expected[1].items():
        np.testing.assert_allclose(got[1][key], gradient, 1e-4, 1e-5)


# One has no neighbour, and two and four lie between one and eight: each costs a
# program of every estimator.
@pytest.mark.parametrize(
    "devices",
    [*(pytest.param(n, marks=pytest.mark.slow) for n in (1, 2, 4)), 8],
)
@pytest.mark.parametrize("valid", [RAGGED, FULL], ids=["ragged", "full"])
@pytest.mark.parametrize("name", NAMES)
def test_value_and_gradient_do_not_depend_on_the_devices(name, valid, devices):
    assert_same(on_devices(valid, devices)[name], reference(valid)[name])


@pytest.mark.parametrize("name", NAMES)
def test_plain_mean_over_equal_shards_is_the_value(name):
    _, _, own = on_devices(FULL, 8)[name]
    # float32
    np.testing.assert_allclose(
        np.mean(own), reference(FULL)[name][0], rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize("name", ["kde_loo", "kde_resub", "kde_kl"])
def test_mean_of_the_devices_own_entropies_is_another_number(name):
    x, noise, _ = make_batch(FULL)
    z = encode(PARAMS, x)
    own = jax.jit(jax.vmap(lambda z, noisy: measure(name, z, noisy).value))(
        z.reshape(8, 6, DIM), (z + 0.6 * noise).reshape(8, 6, DIM)
    )
    assert abs(np.mean(own) - reference(FULL)[name][0]) > 0.1


@pytest.mark.slow
def test_shard_map_gives_the_same_numbers():
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:4]), (AXIS,))
    row, everywhere = jax.P(AXIS), jax.P()

    def step(params, x, noise, mask):
        # Told apart per device, so that the gradient is this device's part.
        params = jax.lax.pcast(params, AXIS, to="varying")
        results = per_device(params, x, noise, mask)
        return {name: found[:2] for name, found in results.items()}

    mapped = jax.jit(
        jax.shard_map(
            step,
            mesh=mesh,
            in_specs=(everywhere, row, row, row),
            out_specs=everywhere,
        )
    )
    results = mapped(PARAMS, *make_batch(RAGGED))
    for name in NAMES:
        assert_same(results[name], reference(RAGGED)[name])
