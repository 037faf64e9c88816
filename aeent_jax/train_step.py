"""The training state and one training step, written for one device.

The step sees its own rows of the global batch and speaks to the other devices
through collectives over `parallel.AXIS`. Losses, gradients, statistics and
metrics are those of the global batch on any number of devices.
"""

import dataclasses
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax
from jax import lax

from aeent_jax import methods, models, objective, parallel

PyTree = Any
Metrics = dict[str, jax.Array]


@flax.struct.dataclass
class TrainState:
    """Everything that training changes.

    Attributes:
      step: int32 scalar, steps done.
      params: parameters of encoder and decoder.
      batch_stats: running statistics of BatchNorm.
      opt_state: of the optimizer.
    """

    step: jax.Array
    params: PyTree
    batch_stats: PyTree
    opt_state: PyTree

    @property
    def variables(self) -> PyTree:
        """What the network's functions take."""
        return {"params": self.params, "batch_stats": self.batch_stats}


@flax.struct.dataclass
class Knobs:
    """Numbers of a run that its compiled step takes as arguments.

    Attributes:
      seed: int32 scalar, of the channel noise.
      weight: float32 scalar, of one nat in the loss.
    """

    seed: jax.Array
    weight: jax.Array


@dataclasses.dataclass(frozen=True)
class Program:
    """What a training step is compiled from.

    Attributes:
      method: reconstruction loss and score map.
      network: encoder and decoder, synchronised over `parallel.AXIS`.
      rate: the rate term.
      optimizer: from gradients to updates.
    """

    method: methods.Method
    network: models.Autoencoder
    rate: objective.Rate
    optimizer: optax.GradientTransformation


def create_state(program: Program, seed: int | jax.Array) -> TrainState:
    """Draws the initial state; the same for any number of devices."""
    variables = program.network.init(jax.random.key(seed))
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=variables["params"],
        batch_stats=variables["batch_stats"],
        opt_state=program.optimizer.init(variables["params"]),
    )


def normalise(images: jax.Array) -> jax.Array:
    """Maps uint8 images to float32 in [-1, 1]."""
    return images.astype(jnp.float32) / 127.5 - 1.0


def train_step(
    program: Program,
    state: TrainState,
    knobs: Knobs,
    images: jax.Array,
    indices: jax.Array,
    mask: jax.Array,
) -> tuple[TrainState, Metrics]:
    """One step of one device.

    Args:
      program: the static parts.
      state: replicated.
      knobs: replicated.
      images: the whole training split, `[N, H, W, C]` uint8, replicated.
      indices: `[B]` int32, this device's rows of the global batch.
      mask: `[B]` bool, False in padding.

    Returns:
      The new state, and scalars of the global batch: `loss`,
      `reconstruction_loss` (mean over pixels and images), `rate_nats` (the
      estimator's own number), `grad_norm`, `step` (after it),
      `count` (valid images).
    """
    axis = parallel.AXIS
    x = normalise(images[indices])
    positions = lax.axis_index(axis) * len(indices) + jnp.arange(len(indices))
    count = lax.psum(jnp.sum(mask), axis)
    rng = jax.random.fold_in(jax.random.key(knobs.seed), state.step)

    def share_of_loss(params):
        variables = {"params": params, "batch_stats": state.batch_stats}
        network = program.network
        z, encoder_stats = network.encode(variables, x, mask, train=True)
        z_noisy = objective.add_channel_noise(
            z, program.rate.sigma, rng, positions
        )
        x_hat, decoder_stats = network.decode(
            variables, z_noisy, mask, train=True
        )
        error = program.method.reconstruction(x, x_hat)
        error = jnp.sum(jnp.where(mask, error, 0.0)) / count
        rate = objective.rate_share(
            program.rate, z, z_noisy, mask, positions, axis
        )
        stats = {"encoder": encoder_stats, "decoder": decoder_stats}
        return error + knobs.weight * rate, (error, rate, stats)

    (loss, (error, rate, stats)), grads = jax.value_and_grad(
        share_of_loss, has_aux=True
    )(state.params)
    # The loss is a sum of the devices' shares, and so is its gradient.
    grads, loss, error, rate = lax.psum((grads, loss, error, rate), axis)
    updates, opt_state = program.optimizer.update(
        grads, state.opt_state, state.params
    )
    metrics = {
        "loss": loss,
        "reconstruction_loss": error,
        "rate_nats": rate,
        "grad_norm": optax.tree.norm(grads),
        "step": state.step + 1,
        "count": count,
    }
    params = optax.apply_updates(state.params, updates)
    return TrainState(state.step + 1, params, stats, opt_state), metrics


def train_steps(
    program: Program,
    state: TrainState,
    knobs: Knobs,
    images: jax.Array,
    indices: jax.Array,
    mask: jax.Array,
) -> tuple[TrainState, Metrics]:
    """Several steps of one device in one call.

    Args:
      program: the static parts.
      state: replicated.
      knobs: replicated.
      images: `[N, H, W, C]` uint8, replicated.
      indices: `[B, steps]` int32, this device's rows of each global batch.
      mask: `[B, steps]` bool.

    Returns:
      The new state and the metrics of `train_step`, each `[steps]`.
    """

    def step(state, batch):
        return train_step(program, state, knobs, images, *batch)

    if indices.shape[1] == 1:
        # A loop, even of one turn, is many times slower than none on CPU.
        state, metrics = step(state, (indices[:, 0], mask[:, 0]))
        return state, jax.tree.map(lambda value: value[None], metrics)
    return lax.scan(step, state, (indices.T, mask.T))
