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

from aeent_jax import methods
from aeent_jax.methods import streams
from aeent_jax.runtime import parallel
from aeent_jax.training import (
    adversary,
    controller,
    gradient,
    objective,
)

PyTree = Any
Metrics = dict[str, jax.Array]


@flax.struct.dataclass
class TrainState:
    """Everything that training changes.

    What a run has no use for is an empty tree, so that its checkpoints hold
    nothing of it.

    Attributes:
      step: int32 scalar, steps done.
      params: parameters of encoder and decoder.
      batch_stats: running statistics of BatchNorm, and of the latents' power.
      opt_state: of the optimizer.
      estimator_params: of a learned estimator.
      estimator_opt_state: of its optimizer.
      ascent: of a controller of the weight.
      adversary: `adversary.State` of a method that is trained against one.
    """

    step: jax.Array
    params: PyTree
    batch_stats: PyTree
    opt_state: PyTree
    estimator_params: PyTree = flax.struct.field(default_factory=dict)
    estimator_opt_state: PyTree = ()
    ascent: PyTree = ()
    adversary: PyTree = ()

    @property
    def variables(self) -> PyTree:
        """What the network's functions take."""
        return {"params": self.params, "batch_stats": self.batch_stats}


@flax.struct.dataclass
class Hyper:
    """Numbers of a run that its compiled step takes as arguments.

    Attributes:
      seed: int32 scalar, of the channel noise.
      weight: float32 scalar, of one nat in the loss; a controller starts from
        it.
      update_scale: float32 scalar, of the optimizer's updates: in a population
        the members' learning rates differ by it.
      latent_mask: `[D]` bool, False in the padding of a population's latents;
        None for none.
    """

    seed: jax.Array
    weight: jax.Array
    update_scale: jax.Array | float = 1.0
    latent_mask: jax.Array | None = None


@dataclasses.dataclass(frozen=True)
class StepConfig:
    """What a training step is compiled from.

    Attributes:
      method: network and losses, synchronised over `parallel.AXIS`.
      rate: the rate term.
      optimizer: from gradients to updates; an adversary has its own state of
        the same.
      estimator_optimizer: the same for the parameters of a learned estimator.
      control: of the weight.
      microbatches: parts of a batch that are in memory one after another.
    """

    method: methods.Method
    rate: objective.Rate
    optimizer: optax.GradientTransformation
    estimator_optimizer: optax.GradientTransformation = optax.identity()
    control: controller.Controller = controller.Controller()
    microbatches: int = 1


def create_state(step_config: StepConfig, seed: int | jax.Array) -> TrainState:
    """Draws the initial state; the same for any number of devices."""
    rng, rate = jax.random.key(seed), step_config.rate
    variables = step_config.method.init(rng)
    dim = step_config.method.latent_dim
    estimator_params = {}
    if rate.is_learned:
        estimator_rng = jax.random.fold_in(rng, streams.ESTIMATOR_INIT)
        estimator_params = rate.entry.init(
            estimator_rng, dim, **dict(rate.hyper)
        )
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=variables["params"],
        batch_stats=variables["batch_stats"],
        opt_state=step_config.optimizer.init(variables["params"]),
        estimator_params=estimator_params,
        estimator_opt_state=step_config.estimator_optimizer.init(
            estimator_params
        ),
        ascent=controller.create(step_config.control),
        adversary=adversary.create(
            step_config.method, step_config.optimizer, rng
        ),
    )


def _make_inputs(images, indices, mask, rng):
    """This device's rows, and where they are in the global batch."""
    size, device = len(indices), lax.axis_index(parallel.AXIS)
    return methods.Inputs(
        x=methods.normalise(images[indices]),
        mask=mask,
        positions=device * size + jnp.arange(size),
        rng=rng,
    )


def train_step(
    step_config: StepConfig,
    state: TrainState,
    hyper: Hyper,
    images: jax.Array,
    indices: jax.Array,
    mask: jax.Array,
) -> tuple[TrainState, Metrics]:
    """One step of one device.

    Args:
      step_config: the static parts.
      state: replicated.
      hyper: replicated.
      images: the whole training split, `[N, H, W, C]` uint8, replicated.
      indices: `[B]` int32, this device's rows of the global batch.
      mask: `[B]` bool, False in padding.

    Returns:
      The new state, and scalars of the global batch: `loss` (without the
      likelihood that a learned estimator follows), each of the method's losses
      in the mean over images, as `reconstruction_loss`, `rate_nats` (the
      estimator's own number), `weight` (of this step), `grad_norm` (of the
      network), `step` (after it), `count` (valid images), and
      `adversary_loss` where there is an adversary.
    """
    rng = jax.random.fold_in(jax.random.key(hyper.seed), state.step)
    inputs = _make_inputs(images, indices, mask, rng)
    count = lax.psum(jnp.sum(mask), parallel.AXIS)
    weight = controller.weight_of(
        step_config.control, state.ascent, hyper.weight, state.step
    )
    grads, (losses, rate, outputs) = gradient.share(
        step_config, state, hyper, weight, inputs, count
    )
    # The loss is a sum of the devices' shares, and so is its gradient.
    grads, losses, rate = lax.psum((grads, losses, rate), parallel.AXIS)
    metrics = {
        "loss": sum(losses.values()) + weight * rate,
        **{f"{name}_loss": loss for name, loss in losses.items()},
        "rate_nats": rate,
        "weight": weight,
        "grad_norm": optax.tree.norm(grads[0]),
        "step": state.step + 1,
        "count": count,
    }
    opponent, found = adversary.update(
        step_config.method,
        step_config.optimizer,
        state.adversary,
        inputs,
        outputs,
        count,
        hyper.update_scale,
    )
    state = _with_new_parameters(
        step_config, state, grads, outputs.batch_stats, hyper.update_scale
    )
    state = dataclasses.replace(
        state,
        step=state.step + 1,
        ascent=controller.update(
            step_config.control,
            state.ascent,
            rate=rate,
            distortion=losses["reconstruction"],
            step=state.step,
            is_measured=count >= 2,
        ),
        adversary=opponent,
    )
    return state, metrics | found


def _with_new_parameters(step_config, state, grads, stats, scale):
    """The state with parameters and statistics after a step."""
    updates, opt_state = step_config.optimizer.update(
        grads[0], state.opt_state, state.params
    )
    updates = jax.tree.map(lambda update: scale * update, updates)
    estimator_updates, estimator_opt_state = (
        step_config.estimator_optimizer.update(
            grads[1], state.estimator_opt_state, state.estimator_params
        )
    )
    return dataclasses.replace(
        state,
        params=optax.apply_updates(state.params, updates),
        batch_stats=stats,
        opt_state=opt_state,
        estimator_params=optax.apply_updates(
            state.estimator_params, estimator_updates
        ),
        estimator_opt_state=estimator_opt_state,
    )


def train_steps(
    step_config: StepConfig,
    state: TrainState,
    hyper: Hyper,
    images: jax.Array,
    indices: jax.Array,
    mask: jax.Array,
) -> tuple[TrainState, Metrics]:
    """Several steps of one device in one call.

    Args:
      step_config: the static parts.
      state: replicated.
      hyper: replicated.
      images: `[N, H, W, C]` uint8: the whole training split, replicated, or
        the rows of this device in this call.
      indices: `[B, steps]` int32, this device's rows of each global batch, as
        places in `images`.
      mask: `[B, steps]` bool.

    Returns:
      The new state and the metrics of `train_step`, each `[steps]`.
    """

    def step(state, batch):
        return train_step(step_config, state, hyper, images, *batch)

    if indices.shape[1] == 1:
        # A loop, even of one turn, is many times slower than none on CPU.
        state, metrics = step(state, (indices[:, 0], mask[:, 0]))
        return state, jax.tree.map(lambda value: value[None], metrics)
    return lax.scan(step, state, (indices.T, mask.T))
