"""Controlled weights in the real training step, where the optimum is known.

A Gaussian source and a linear network, so that reverse water-filling gives the
weight that belongs to each rate and to each distortion.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from aeent_jax import entropy, methods
from aeent_jax.methods import autoencoders
from aeent_jax.runtime import parallel
from aeent_jax.training import controller, objective
from aeent_jax.training import step as train_step

SHAPE, DIM, COUNT, STEPS = (4, 2, 1), 8, 256, 3000
LEVEL = 0.01  # of the distortion in each dimension
DEVIATION = np.array([0.3, 0.25, 0.2, 0.15, 0.1, 0.08, 0.05, 0.03])


class LinearNetwork:
    """Images of 8 pixels to 8 latents and back, without a bias."""

    latent_dim = DIM

    def init(self, rng):
        """Draws two matrices."""
        matrices = jax.random.normal(rng, (2, DIM, DIM))
        params = {"encoder": matrices[0], "decoder": 0.1 * matrices[1]}
        return {"params": params, "batch_stats": {"encoder": {}, "decoder": {}}}

    def apply(self, half, variables, x, mask=None, *, train):
        """Images to latents, or latents to images."""
        shape = (DIM,) if half == "encoder" else SHAPE
        rows = x.reshape(len(x), DIM) @ variables["params"][half]
        return rows.reshape(len(x), *shape), {}


def make_images():
    """uint8 whose normalised pixels are Gaussian with `DEVIATION`."""
    draws = np.random.default_rng(0).normal(size=(COUNT, DIM))
    pixels = (draws * DEVIATION + 1) * 127.5
    return pixels.round().clip(0, 255).astype(np.uint8).reshape(-1, *SHAPE)


IMAGES = make_images()


def water_filling(level):
    """Distortion and rate at a level of distortion per dimension."""
    x = np.asarray(methods.normalise(IMAGES)).reshape(COUNT, DIM)
    variance = np.linalg.eigvalsh(np.cov(x.T, bias=True))
    rate = np.maximum(0.5 * np.log(variance / level), 0).sum()
    return np.minimum(variance, level).mean(), rate


def train(estimator, name, target):
    """Metrics `[STEPS]` of full batches, and the latents at the end."""
    network = LinearNetwork()
    method = autoencoders.from_network(network)
    program = train_step.StepConfig(
        method=method,
        rate=objective.Rate(1.0, estimator, 1e-4),
        optimizer=optax.adam(optax.cosine_decay_schedule(0.03, STEPS)),
        control=controller.Controller(name, target, step_size=0.02),
    )
    mapping = parallel.make_parallel(1)
    mapped = mapping.map(
        lambda *args: train_step.train_steps(program, *args),
        donate=(0,),
    )
    create = jax.jit(lambda seed: train_step.create_state(program, seed))
    hyper = train_step.Hyper(np.int32(0), np.float32(1e-4))
    constants = mapping.replicate((hyper, IMAGES))
    indices = np.tile(np.arange(COUNT, dtype=np.int32)[:, None], STEPS)
    batch = mapping.shard((indices, np.ones(indices.shape, bool)))
    state, metrics = mapped(
        mapping.replicate(jax.device_get(create(0))), *constants, *batch
    )
    state, metrics = mapping.fetch_replicated((state, metrics))
    z, _ = network.apply(
        "encoder",
        state.variables,
        methods.normalise(jnp.asarray(IMAGES)),
        train=False,
    )
    return metrics, z


@pytest.mark.parametrize("estimator", ["coding_rate", "kde_loo"])
@pytest.mark.parametrize(
    ("name", "measured", "index"),
    [
        ("target_rate", "rate_nats", 1),
        ("target_distortion", "reconstruction_loss", 0),
    ],
)
def test_target_is_reached(estimator, name, measured, index):
    best = water_filling(LEVEL)
    metrics, z = train(estimator, name, float(best[index]))
    last = {key: values[-200:].mean() for key, values in metrics.items()}
    # The acceptance of 5 %, on the number that the controller reads. Measured:
    # within 0.5 %.
    assert last[measured] == pytest.approx(best[index], rel=0.05)
    meter = float(entropy.coding_rate(z, sigma=1.0).value)
    if estimator == "coding_rate":
        # The other of the two follows, and the weight is the optimum's.
        assert last["reconstruction_loss"] == pytest.approx(best[0], rel=0.02)
        assert meter == pytest.approx(best[1], rel=0.02)
        assert last["weight"] == pytest.approx(2 * LEVEL / DIM, rel=0.05)
    else:
        # An upper bound that is loose by 5 % here: at its own 3.1 nats the
        # meter reads 3.0.
        assert meter == pytest.approx(best[1], rel=0.08)
        assert last["rate_nats"] > meter
