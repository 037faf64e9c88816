"""Sets the weight of the rate from step to step.

    fixed              weight
    schedule           weight * min(1, step / warmup_steps)
    target_rate        log weight += step_size * (rate / target - 1)
    target_distortion  log weight += step_size * (1 - distortion / target)

The last two are gradient ascent on the multiplier of a constraint, in its
logarithm so that it stays positive: they raise the weight while the rate is
above its target, or while the distortion is below its own. Both read a running
average, because one batch is noisy, and count one step as at most `step_size`,
because the first steps of a training are far from any target. All happens in
the compiled step.
"""

import dataclasses
import math

import flax.struct
import jax
import jax.numpy as jnp

CONTROLLERS = ("fixed", "schedule", "target_rate", "target_distortion")

# The weight stays within this factor of where it starts. A target that cannot
# be reached would otherwise drive it to 0 or to infinity, and it would take as
# long to come back.
_LARGEST_FACTOR = 1e3
_MOMENTUM = 0.9


@flax.struct.dataclass
class Ascent:
    """The state of the controllers with a target.

    Attributes:
      log_factor: float32 scalar, of the weight over the one it began with.
      average: float32 scalar, running average of what has the target.
    """

    log_factor: jax.Array
    average: jax.Array


@dataclasses.dataclass(frozen=True)
class Controller:
    """How the weight is set.

    Attributes:
      name: one of `CONTROLLERS`.
      target: the rate in nats, or the mean squared error, to be reached.
      step_size: step of the ascent on the logarithm of the weight.
      warmup_steps: over which the schedule rises, linearly from 0.
    """

    name: str = "fixed"
    target: float = 0.0
    step_size: float = 0.0
    warmup_steps: float = 0.0


def make_controller(
    *,
    name: str,
    target: float,
    step_size: float,
    warmup_steps: float,
    weight: float,
    is_measured: bool,
) -> Controller:
    """Checks the combination.

    Args:
      name: one of `CONTROLLERS`.
      target: above 0 where the name speaks of one.
      step_size: above 0 where there is a target.
      warmup_steps: above 0 for the schedule.
      weight: what the weight begins with, or rises to.
      is_measured: whether there is a channel and an estimator.

    Returns:
      The checked controller.

    Raises:
      ValueError: a number that this controller cannot use, or nothing that
        the weight could control.
    """
    controller = Controller(name, target, step_size, warmup_steps)
    if name == "fixed":
        return controller
    if not is_measured:
        raise ValueError(
            f"entropy.controller is {name!r}, but there is no rate to weigh;"
            " set channel.sigma=1 and an entropy.estimator, or"
            " entropy.controller=fixed."
        )
    needed = {"entropy.weight": weight}
    if name.startswith("target_"):
        needed |= {
            "entropy.target": target,
            "entropy.controller_rate": step_size,
        }
    else:
        needed["entropy.warmup_fraction"] = warmup_steps
    for key, value in needed.items():
        if not 0 < value < float("inf"):
            raise ValueError(
                f"{key} is {value}, but entropy.controller={name} needs a"
                " finite number above 0."
            )
    return controller


def create(controller: Controller) -> Ascent | tuple[()]:
    """Returns the initial state; empty where the weight follows no target."""
    if controller.name.startswith("target_"):
        return Ascent(jnp.zeros(()), jnp.zeros(()))
    return ()


def weight_of(
    controller: Controller,
    state: Ascent | tuple[()],
    weight: jax.Array,
    step: jax.Array,
) -> jax.Array:
    """Returns the weight of one nat in this step.

    Args:
      controller: how it is set.
      state: as `create` and `update` return.
      weight: what it begins with, or rises to.
      step: steps done before this one.

    Returns:
      Scalar.
    """
    if isinstance(state, Ascent):
        return weight * jnp.exp(state.log_factor)
    if controller.name == "schedule":
        # Linear, because a logarithm has no 0 to rise from.
        return weight * jnp.minimum(step / controller.warmup_steps, 1.0)
    return weight


def update(
    controller: Controller,
    state: Ascent | tuple[()],
    *,
    rate: jax.Array,
    distortion: jax.Array,
    step: jax.Array,
    is_measured: jax.Array,
) -> Ascent | tuple[()]:
    """Returns the state after a step.

    Args:
      controller: how the weight is set.
      state: before the step.
      rate: the rate of the global batch, in nats.
      distortion: mean squared error of the global batch.
      step: steps done before this one.
      is_measured: bool scalar; where False (a batch of one image has no rate)
        the state stays as it is.

    Returns:
      The new state.
    """
    if not isinstance(state, Ascent):
        return state
    if controller.name == "target_rate":
        value, sign = rate, 1.0
    else:
        value, sign = distortion, -1.0
    average = jnp.where(
        step == 0, value, _MOMENTUM * state.average + (1 - _MOMENTUM) * value
    )
    excess = sign * (average / controller.target - 1.0)
    moved = state.log_factor + controller.step_size * jnp.clip(excess, -1, 1)
    bound = math.log(_LARGEST_FACTOR)
    new = Ascent(jnp.clip(moved, -bound, bound), average)
    return jax.tree.map(lambda a, b: jnp.where(is_measured, a, b), new, state)
