"""The rate of a large global batch on eight devices, with no n x n array."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from aeent_jax import methods
from aeent_jax.runtime import parallel
from aeent_jax.training import objective

SIGMA, DIM, DEVICES = 0.7, 16, 8
# One has a value for each query, the other one for the whole batch.
ESTIMATORS = ("kde_loo", "coding_rate")


def rate_and_gradient(estimator, z, noise, mask):
    """The rate of the global batch and, in this device's `z`, its gradient."""
    rate = objective.Rate(SIGMA, estimator, 1.0)
    place = jax.lax.axis_index(parallel.AXIS) * len(z) + jnp.arange(len(z))

    def share(z):
        noisy = z + SIGMA * noise
        inputs = methods.Inputs(None, mask, place, None)
        return objective.local_rate(rate, z, noisy, inputs=inputs)

    nats, gradient = jax.value_and_grad(share)(z)
    return jax.lax.psum(nats, parallel.AXIS), gradient


@functools.cache
def mapped(estimator, num_devices):
    mapping = parallel.make_parallel(num_devices)
    return mapping, mapping.map(functools.partial(rate_and_gradient, estimator))


def make_batch(n):
    """Latents, noise and a mask: the last rows are padding, and hold NaN."""
    rng = np.random.default_rng(0)
    z, noise = rng.normal(size=(2, n, DIM)).astype(np.float32)
    mask = np.arange(n) < n - 5
    z[~mask] = np.nan
    return z, noise, mask


def measure(estimator, num_devices, n):
    mapping, step = mapped(estimator, num_devices)
    nats, gradient = step(*mapping.shard(make_batch(n)))
    return mapping.fetch_replicated(nats), mapping.fetch_sharded(gradient)


def compile_for_devices(estimator, n):
    shapes = [(DEVICES, n // DEVICES, *rest) for rest in ((DIM,), (DIM,), ())]
    dtypes = (jnp.float32, jnp.float32, bool)
    structs = map(jax.ShapeDtypeStruct, shapes, dtypes)
    return mapped(estimator, DEVICES)[1].lower(*structs).compile()


def temporaries(compiled):
    """Bytes of one device."""
    return compiled.memory_analysis().temp_size_in_bytes


def assert_no_square(compiled, n):
    """No array of all pairs, nor of one device's queries and all samples."""
    text = compiled.as_text()
    assert f"[{n},{n}]" not in text
    assert f"[{n // DEVICES},{n}]" not in text
    assert f"[{n},{n // DEVICES}]" not in text


def assert_same_as_on_one_device(estimator, n):
    nats, gradient = measure(estimator, DEVICES, n)
    wanted, wanted_gradient = measure(estimator, 1, n)
    # Sums over n rows in float32, in another order.
    np.testing.assert_allclose(nats, wanted, rtol=2e-6)
    valid = make_batch(n)[2]
    np.testing.assert_array_equal(gradient[~valid], 0)
    scale = np.abs(wanted_gradient[valid]).max()
    assert scale > 0
    np.testing.assert_allclose(
        gradient[valid], wanted_gradient[valid], rtol=1e-4, atol=1e-5 * scale
    )


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_several_tiles_on_each_device_give_the_rate_of_one_device(estimator):
    assert_same_as_on_one_device(estimator, 4096)


def test_memory_grows_with_the_batch_and_not_with_its_square():
    small, large = (compile_for_devices("kde_loo", n) for n in (8192, 16384))
    # Linear, with the constant size of a tile: below a factor of 2.
    assert temporaries(large) < 2.2 * temporaries(small)
    for n, compiled in ((8192, small), (16384, large)):
        assert_no_square(compiled, n)


@pytest.mark.slow
@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_65536_latents_have_the_rate_of_one_device_in_little_memory(estimator):
    n = 65_536
    compiled = compile_for_devices(estimator, n)
    assert_no_square(compiled, n)
    # The gathered latents and a few arrays like them: 4 MiB each. One array
    # of a device's queries and all samples would have 2 GiB.
    assert temporaries(compiled) < 64 * 2**20
    assert_same_as_on_one_device(estimator, n)
