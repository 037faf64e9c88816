"""Parts of a batch with the losses of all methods, and in a loop."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import training_support

from aeent_jax.methods import autoencoders, memae, vae
from aeent_jax.runtime import parallel
from aeent_jax.training import accumulation, controller
from aeent_jax.training import step as train_step

SEED, WEIGHT, PARTS, DIM = 7, 0.3, 3, 4
IMAGES = training_support.make_images(14)
SHAPE = IMAGES.shape[1:]


class Unmixed:
    """A network in which images do not mix: nothing is of a part alone."""

    def __init__(self, vectors=1):
        self.latent_dim = DIM
        self._vectors = vectors

    def init(self, rng):
        first, second = jax.random.split(rng)
        pixels = int(np.prod(SHAPE))
        into = 0.1 * jax.random.normal(first, (pixels, DIM * self._vectors))
        out = 0.1 * jax.random.normal(second, (DIM, pixels))
        return {
            "params": {"encoder": into, "decoder": out},
            "batch_stats": {"encoder": {}, "decoder": {}},
        }

    def encode(self, variables, x, mask=None, *, train):
        del mask, train
        kernel = variables["params"]["encoder"]
        return jnp.tanh(x.reshape(len(x), -1) @ kernel), {}

    def decode(self, variables, z, mask=None, *, train):
        del mask, train
        return (z @ variables["params"]["decoder"]).reshape(-1, *SHAPE), {}


METHODS = {
    "ae": autoencoders.from_network(Unmixed()),
    # What it samples is each image's own, in whichever part that is.
    "vae": vae.from_network(
        Unmixed(2), kl_weight=0.1, samples_in_evaluation=False
    ),
    # Its memory is a parameter of neither half.
    "memae": memae.from_network(
        Unmixed(), num_slots=5, threshold=0.01, address_weight=0.1
    ),
}


def mapped_step(name, parts, num_devices):
    program = training_support.make_step_config(
        optax.sgd(0.1),
        fields={
            "method": METHODS[name],
            "microbatches": parts,
            "control": controller.Controller("target_rate", 1.0, 0.1),
        },
    )
    mapping = parallel.make_parallel(num_devices)
    mapped = mapping.map(
        lambda *args: train_step.train_steps(program, *args),
    )
    return program, mapping, mapped


def two_steps(name, parts, num_devices=1):
    """State and metrics, of 24 rows of which 20 are valid."""
    program, mapping, mapped = mapped_step(name, parts, num_devices)
    create = jax.jit(lambda seed: train_step.create_state(program, seed))
    hyper = train_step.Hyper(np.int32(SEED), np.float32(WEIGHT), np.float32(1))
    indices = np.arange(24, dtype=np.int32)[:, None] % len(IMAGES)
    mask = (np.arange(24) < 20)[:, None]
    batch = mapping.shard((indices, mask))
    state, *constants = mapping.replicate(
        (jax.device_get(create(SEED)), hyper, IMAGES)
    )
    state, _ = mapped(state, *constants, *batch)
    return mapping.fetch_replicated(mapped(state, *constants, *batch))


@functools.cache
def whole(name):
    return two_steps(name, 1)


def assert_close(actual, expected):
    # Sums of float32 in another order.
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=2e-4, atol=1e-5),
        actual,
        expected,
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", METHODS)
def test_parts_add_up_to_the_whole_with_all_of_its_losses(name):
    assert_close(two_steps(name, PARTS), whole(name))


@pytest.mark.slow
def test_parts_on_eight_devices_add_up_to_the_whole_on_one():
    assert_close(two_steps("vae", PARTS, 8), whole("vae"))


def test_parts_in_a_loop_add_up_to_the_whole(monkeypatch):
    loops = []
    scan = accumulation.lax.scan

    def recorded(*args):
        loops.append(len(jax.tree.leaves(args[2])[0]))
        return scan(*args)

    # As on accelerators.
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(accumulation.lax, "scan", recorded)
    found = two_steps("vae", PARTS)
    assert loops.count(PARTS) >= 2
    monkeypatch.undo()
    assert_close(found, whole("vae"))
