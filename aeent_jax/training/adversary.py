"""A second network, trained against that of a method in the same steps.

Both gradients are taken at the parameters before the step: that of the method
with the adversary's fixed, and that of the adversary with the outputs fixed, so
neither reaches the other's parameters.
"""

import flax.struct
import jax
import jax.numpy as jnp
import optax
from jax import lax

from aeent_jax import methods, models
from aeent_jax.methods import streams
from aeent_jax.runtime import parallel
from aeent_jax.training import optimizer as optimizer_lib


@flax.struct.dataclass
class State:
    """Everything that training changes in an adversary.

    Attributes:
      params: its parameters.
      batch_stats: its running statistics of BatchNorm.
      opt_state: state of its optimizer.
    """

    params: optax.Params
    batch_stats: models.Variables
    opt_state: optax.OptState

    @property
    def variables(self) -> models.Variables:
        """The variables of the adversary's functions."""
        return {"params": self.params, "batch_stats": self.batch_stats}


def create(
    adversary: methods.Adversary | None,
    optimizer: optax.GradientTransformation,
    rng: jax.Array,
) -> State | tuple[()]:
    """Draws the initial state.

    Args:
      adversary: the method's adversary; None where it has none.
      optimizer: the network's optimizer; the adversary has the same kind.
      rng: the key of the run.

    Returns:
      The state; empty without an adversary.
    """
    if adversary is None:
        return ()
    rng = jax.random.fold_in(rng, streams.ADVERSARY_INIT)
    variables = adversary.init(rng)
    return State(opt_state=optimizer.init(variables["params"]), **variables)


def update(
    adversary: methods.Adversary | None,
    optimizer: optax.GradientTransformation,
    state: State | tuple[()],
    inputs: methods.Inputs,
    outputs: methods.Outputs,
    count: jax.Array,
    scale: jax.Array | float,
) -> tuple[State | tuple[()], dict[str, jax.Array]]:
    """One step of the adversary, on one device.

    Args:
      adversary: this and the optimizer as in `create`.
      optimizer: from gradients to updates.
      state: replicated.
      inputs: this device's rows, with a mask.
      outputs: the outputs of the method's network before its step.
      count: valid rows of the global batch.
      scale: factor of the optimizer's updates.

    Returns:
      The new state, and its metrics: `adversary_loss`, the mean over the
      global batch. Without an adversary both are empty.
    """
    if adversary is None:
        return (), {}

    def local_loss(params):
        variables = {"params": params, "batch_stats": state.batch_stats}
        loss, stats = adversary.loss(variables, inputs, outputs)
        return jnp.sum(jnp.where(inputs.mask, loss, 0.0)) / count, stats

    (loss, stats), grads = jax.value_and_grad(local_loss, has_aux=True)(
        state.params
    )
    # The devices' shares add up, and so do their gradients.
    loss, grads = lax.psum((loss, grads), parallel.AXIS)
    params, opt_state = optimizer_lib.descend(
        optimizer, grads, state.opt_state, state.params, scale
    )
    params = adversary.renew(params, loss, inputs)
    return State(params, stats, opt_state), {"adversary_loss": loss}
