"""A second network, trained against that of a method in the same steps.

Both gradients are taken at the parameters before the step: that of the method
with the adversary's fixed, and that of the adversary with the outputs fixed, so
neither reaches the other's parameters. Methods without an adversary have the
empty state `()`, and nothing here adds to their step.
"""

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax
from jax import lax

from aeent_jax import methods, models
from aeent_jax.methods import streams
from aeent_jax.runtime import parallel

PyTree = Any


@flax.struct.dataclass
class State:
    """Everything that training changes in an adversary.

    Attributes:
      params: its parameters.
      batch_stats: its running statistics of BatchNorm.
      opt_state: of its optimizer.
    """

    params: PyTree
    batch_stats: PyTree
    opt_state: PyTree

    @property
    def variables(self) -> models.Variables:
        """What the adversary's functions take."""
        return {"params": self.params, "batch_stats": self.batch_stats}


def create(
    method: methods.Method,
    optimizer: optax.GradientTransformation,
    rng: jax.Array,
) -> State | tuple[()]:
    """Draws the initial state.

    Args:
      method: perhaps with an adversary.
      optimizer: of the method's network; the adversary has the same kind.
      rng: the key of the run.

    Returns:
      The state; `()` without an adversary.
    """
    if method.adversary is None:
        return ()
    variables = method.adversary.init(
        jax.random.fold_in(rng, streams.ADVERSARY_INIT)
    )
    return State(opt_state=optimizer.init(variables["params"]), **variables)


def losses(
    method: methods.Method,
    state: State | tuple[()],
    inputs: methods.Inputs,
    outputs: methods.Outputs,
) -> dict[str, jax.Array]:
    """What the method's network minimises because of the adversary.

    Args:
      method: perhaps with an adversary.
      state: as of `create`.
      inputs: one device's rows.
      outputs: of the method's network.

    Returns:
      Name -> loss of each image `[B]`, weighted; none without an adversary.
    """
    if method.adversary is None:
        return {}
    return method.adversary.losses(state.variables, inputs, outputs)


def update(
    method: methods.Method,
    optimizer: optax.GradientTransformation,
    state: State | tuple[()],
    inputs: methods.Inputs,
    outputs: methods.Outputs,
    count: jax.Array,
    scale: jax.Array | float,
) -> tuple[State | tuple[()], dict[str, jax.Array]]:
    """One step of the adversary, on one device.

    Args:
      method: perhaps with an adversary.
      optimizer: as of `create`.
      state: replicated.
      inputs: this device's rows, with a mask.
      outputs: of the method's network, before its step.
      count: valid rows of the global batch.
      scale: of the optimizer's updates.

    Returns:
      The new state, and `adversary_loss` in the mean over the global batch;
      `()` and no metric without an adversary.
    """
    adversary = method.adversary
    if adversary is None:
        return (), {}

    def share(params):
        variables = {"params": params, "batch_stats": state.batch_stats}
        loss, stats = adversary.own_loss(variables, inputs, outputs)
        return jnp.sum(jnp.where(inputs.mask, loss, 0.0)) / count, stats

    (loss, stats), grads = jax.value_and_grad(share, has_aux=True)(state.params)
    # The loss is a sum of the devices' shares, and so is its gradient.
    loss, grads = lax.psum((loss, grads), parallel.AXIS)
    updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
    updates = jax.tree.map(lambda update: scale * update, updates)
    params = optax.apply_updates(state.params, updates)
    params = adversary.renew(params, loss, inputs)
    return State(params, stats, opt_state), {"adversary_loss": loss}
