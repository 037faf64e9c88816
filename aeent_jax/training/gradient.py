"""The gradient of what one training step minimises, on one device."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from aeent_jax import methods
from aeent_jax.entropy import channel
from aeent_jax.runtime import parallel
from aeent_jax.training import accumulation, adversary, objective

PyTree = Any


def share(
    step_config: Any,
    state: Any,
    hyper: Any,
    weight: jax.Array,
    inputs: methods.Inputs,
    count: jax.Array,
) -> tuple[tuple[PyTree, PyTree], tuple[Any, jax.Array, methods.Outputs]]:
    """This device's share of the gradient, and what was minimised.

    Args:
      step_config: a `train_step.StepConfig`.
      state: the `train_step.TrainState` before the step, replicated.
      hyper: the `train_step.Hyper`, replicated.
      weight: of one nat, in this step.
      inputs: this device's rows, with a mask.
      count: valid rows of the global batch.

    Returns:
      Gradients of the network's parameters and of the estimator's; and the
      losses by name, the rate in nats, and the network's outputs. All but the
      outputs add up over devices.
    """
    method, rate = step_config.method, step_config.rate

    def network(params, batch_stats, inputs):
        def noise(z):
            z_noisy = channel.add_noise(
                z, rate.sigma, inputs.rng, inputs.positions, rate.noise
            )
            if hyper.latent_mask is None:
                return z_noisy
            return jnp.where(hyper.latent_mask, z_noisy, z)

        variables = {"params": params, "batch_stats": batch_stats}
        outputs = method.forward(variables, inputs, noise, train=True)
        by_image = method.losses(inputs.x, outputs) | adversary.losses(
            method, state.adversary, inputs, outputs
        )
        losses = {
            name: jnp.sum(jnp.where(inputs.mask, loss, 0.0)) / count
            for name, loss in by_image.items()
        }
        return losses, outputs

    rate_share = functools.partial(
        objective.rate_share,
        rate,
        mask=inputs.mask,
        positions=inputs.positions,
        axis_name=parallel.AXIS,
    )

    def weighted_rate(latents, estimator_params):
        fixed = lax.stop_gradient
        nats = rate_share(*latents, estimator_params=fixed(estimator_params))
        minimised = weight * nats
        if rate.is_learned:
            # Its own likelihood, unweighted: at weight 0 it learns as well.
            minimised += rate_share(
                *fixed(latents), estimator_params=estimator_params
            )
        return minimised, nats

    def whole(trained):
        params, estimator_params = trained
        losses, outputs = network(params, state.batch_stats, inputs)
        latents = (outputs.z, outputs.z_noisy)
        minimised, nats = weighted_rate(latents, estimator_params)
        return sum(losses.values()) + minimised, (losses, nats, outputs)

    trained = (state.params, state.estimator_params)
    if step_config.microbatches == 1:
        return jax.grad(whole, has_aux=True)(trained)
    return accumulation.gradient(
        network,
        weighted_rate,
        trained,
        state.batch_stats,
        inputs,
        step_config.microbatches,
    )
