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
    adversary: methods.Adversary,
    optimizer: optax.GradientTransformation,
    rng: jax.Array,
) -> State:
    """Draws the initial state.

    Args:
      adversary: the method's adversary.
      optimizer: the network's optimizer; the adversary has the same kind.
      rng: the key of the run.

    Returns:
      The state.
    """
    rng = jax.random.fold_in(rng, streams.ADVERSARY_INIT)
    variables = adversary.init(rng)
    return State(opt_state=optimizer.init(variables["params"]), **variables)


def update(
    adversary: methods.Adversary,
    optimizer: optax.GradientTransformation,
    state: State,
    inputs: methods.Inputs,
    outputs: methods.Outputs,
    count: jax.Array,
    scale: jax.Array | float,
) -> tuple[State, jax.Array]:
    """One step of the adversary, on one device.

    Args:
      adversary: the method's adversary.
      optimizer: as in `create`.
      state: replicated.
      inputs: this device's rows, with a mask.
      outputs: the outputs of the method's network before its step.
      count: valid rows of the global batch.
      scale: factor of the optimizer's updates.

    Returns:
      The new state, and its loss in the mean over the global batch.
    """

    def local_loss(params):
        variables = {"params": params, "batch_stats": state.batch_stats}
        loss, stats = adversary.loss(variables, inputs, outputs)
        return jnp.sum(jnp.where(inputs.mask, loss, 0.0)) / count, stats

    (loss, stats), grads = jax.value_and_grad(local_loss, has_aux=True)(
        state.params
    )
    # Shares of the devices add up, and so do their gradients.
    loss, grads = lax.psum((loss, grads), parallel.AXIS)
    params, opt_state = optimizer_lib.descend(
        optimizer, grads, state.opt_state, state.params, scale
    )
    params = adversary.renew(params, loss, inputs)
    return State(params, stats, opt_state), loss
