"""The training state and one training step, written for one device.

The step sees its own rows of the global batch and speaks to the other devices
through collectives over `parallel.AXIS`. Losses, gradients, statistics and
metrics are those of the global batch on any number of devices.

    indices --> images --> gradient of the objective --psum--> optimizer
                                |                                |
                             outputs --> adversary's step   new parameters
                                |
                        rate, distortion --> weight of the next step
"""

import dataclasses
import functools

import flax.struct
import jax
import jax.numpy as jnp
import optax
from jax import lax

from aeent_jax import entropy, methods, models
from aeent_jax.entropy import channel
from aeent_jax.methods import streams
from aeent_jax.runtime import parallel
from aeent_jax.training import accumulation, controller, objective, optimizer
from aeent_jax.training import adversary as adversary_lib

Metrics = dict[str, jax.Array]


@flax.struct.dataclass
class TrainState:
    """Everything that training changes.

    A part that a run has no use for is an empty tree, so that its checkpoints
    do not hold it.

    Attributes:
      step: int32 scalar, steps done.
      params: parameters of encoder and decoder.
      batch_stats: running statistics of BatchNorm, and of the latents' power.
      opt_state: state of the optimizer.
      estimator_params: parameters of a learned estimator.
      estimator_opt_state: state of its optimizer.
      ascent: state of a controller of the weight.
      adversary: state of a method's adversary.
    """

    step: jax.Array
    params: optax.Params
    batch_stats: models.Variables
    opt_state: optax.OptState
    estimator_params: optax.Params = flax.struct.field(default_factory=dict)
    estimator_opt_state: optax.OptState = ()
    ascent: controller.Ascent | tuple[()] = ()
    adversary: adversary_lib.State | tuple[()] = ()

    @property
    def variables(self) -> models.Variables:
        """The variables of the network's functions."""
        return {"params": self.params, "batch_stats": self.batch_stats}


@flax.struct.dataclass
class Hyper:
    """Numbers of a run that its compiled step takes as arguments.

    Attributes:
      seed: int32 scalar, seed of the channel noise.
      weight: float32 scalar, weight of one nat in the loss; a controller starts
        from it.
      update_scale: float32 scalar, factor of the optimizer's updates: in a
        population the members' learning rates differ by it.
      latent_mask: `[D]` bool, False in the padding of a population's latents;
        None for none.
    """

    seed: jax.Array
    weight: jax.Array
    update_scale: jax.Array | float = 1.0
    latent_mask: jax.Array | None = None


@dataclasses.dataclass(frozen=True)
class StepConfig:
    """The static parts that a training step is compiled from.

    Attributes:
      method: network and losses, synchronised over `parallel.AXIS`.
      rate: the rate term.
      optimizer: from gradients to updates; an adversary has its own state for
        it.
      estimator_optimizer: optimizer of the parameters of a learned estimator.
      control: sets the weight of the rate.
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
    method = step_config.method
    variables = method.init(rng)
    estimator_params = {}
    init = entropy.ESTIMATORS[rate.estimator].init
    if init is not None:
        estimator_rng = jax.random.fold_in(rng, streams.ESTIMATOR_INIT)
        estimator_params = init(
            estimator_rng, method.latent_dim, **dict(rate.hyper)
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
        adversary=adversary_lib.create(
            method.adversary, step_config.optimizer, rng
        ),
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
      mask: `[B, steps]` bool, False in padding.

    Returns:
      The new state, and metrics of the global batch, each `[steps]`: `loss`
      (without the likelihood that a learned estimator follows), the mean over
      images of each loss of the method, as `reconstruction_loss`, `rate_nats`
      (the estimator's own number), `weight` (of this step), `grad_norm` (of the
      network), `step` (after it), `count` (valid images), and
      `adversary_loss` where there is an adversary.
    """
    step = functools.partial(train_step, step_config, hyper, images)
    if indices.shape[1] == 1:
        # A loop, even of one turn, is many times slower than none on CPU.
        state, metrics = step(state, (indices[:, 0], mask[:, 0]))
        return state, jax.tree.map(lambda value: value[None], metrics)
    return lax.scan(step, state, (indices.T, mask.T))


def train_step(
    step_config: StepConfig,
    hyper: Hyper,
    images: jax.Array,
    state: TrainState,
    batch: tuple[jax.Array, jax.Array],
) -> tuple[TrainState, Metrics]:
    """One step of one device.

    Args:
      step_config: this and the next three as `train_steps`.
      hyper: replicated.
      images: `[N, H, W, C]`.
      state: replicated.
      batch: indices and mask of this step, `[B]` each.

    Returns:
      As `train_steps`; the metrics are scalars.
    """
    method, rate = step_config.method, step_config.rate
    indices, mask = batch
    size = len(indices)
    inputs = methods.Inputs(
        x=methods.normalise(images[indices]),
        mask=mask,
        positions=lax.axis_index(parallel.AXIS) * size + jnp.arange(size),
        rng=jax.random.fold_in(jax.random.key(hyper.seed), state.step),
    )
    count = lax.psum(jnp.sum(mask), parallel.AXIS)
    weight = controller.weight_of(
        step_config.control, state.ascent, hyper.weight, state.step
    )

    # The objective and its gradient: here at once, or part by part.
    noise = functools.partial(
        channel.add_noise,
        sigma=rate.sigma,
        noise=rate.noise,
        latent_mask=hyper.latent_mask,
    )
    minimised = objective.Objective(method, rate, weight, count, noise)
    trained = objective.Trained(state.params, state.estimator_params)
    fixed = {"batch_stats": state.batch_stats, "adversary": state.adversary}
    if step_config.microbatches == 1:
        gradient = jax.grad(minimised, has_aux=True)
        grads, terms = gradient(trained, fixed, inputs)
    else:
        grads, terms = accumulation.local_gradient(
            minimised, trained, fixed, inputs, step_config.microbatches
        )
    # The devices' shares add up, and so do their gradients.
    grads, losses, rate_nats = lax.psum(
        (grads, terms.losses, terms.rate), parallel.AXIS
    )
    metrics = {
        "loss": sum(losses.values()) + weight * rate_nats,
        **{f"{name}_loss": loss for name, loss in losses.items()},
        "rate_nats": rate_nats,
        "weight": weight,
        "grad_norm": optax.tree.norm(grads.params),
        "step": state.step + 1,
        "count": count,
    }

    # Every update below starts from the state before the step.
    adversary, adversary_metrics = adversary_lib.update(
        method.adversary,
        step_config.optimizer,
        state.adversary,
        inputs,
        terms.outputs,
        count,
        hyper.update_scale,
    )
    params, opt_state = optimizer.descend(
        step_config.optimizer,
        grads.params,
        state.opt_state,
        state.params,
        hyper.update_scale,
    )
    estimator_params, estimator_opt_state = optimizer.descend(
        step_config.estimator_optimizer,
        grads.estimator_params,
        state.estimator_opt_state,
        state.estimator_params,
    )
    ascent = controller.update(
        step_config.control,
        state.ascent,
        rate=rate_nats,
        distortion=losses["reconstruction"],
        step=state.step,
        is_measured=count >= 2,
    )
    state = TrainState(
        step=state.step + 1,
        params=params,
        batch_stats=terms.outputs.batch_stats,
        opt_state=opt_state,
        estimator_params=estimator_params,
        estimator_opt_state=estimator_opt_state,
        ascent=ascent,
        adversary=adversary,
    )
    return state, metrics | adversary_metrics
