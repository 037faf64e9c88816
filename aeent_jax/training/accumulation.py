"""The gradient of a batch in parts, with the entropy of the whole.

The entropy of a batch is no mean over its parts, and of few latents many
estimators can read few nats. So a batch whose activations do not fit into
memory is encoded part by part, of which only the latents are kept; the rate of
all latents is differentiated once, in the latents; and each part is run again,
its loss beside the product of its latents with that derivative. That is the
gradient of the whole, at one further pass through the encoder.

What is of a part alone are the statistics of BatchNorm, as always in gradient
accumulation, and of `channel.normalisation=power`. Row i of the global batch is
in part `i % parts`, on any number of devices.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from aeent_jax import methods
from aeent_jax.runtime import parallel

PyTree = Any


def gradient(
    network: Callable[..., tuple[dict[str, jax.Array], methods.Outputs]],
    rate: Callable[..., tuple[jax.Array, jax.Array]],
    trained: tuple[PyTree, PyTree],
    batch_stats: PyTree,
    inputs: methods.Inputs,
    parts: int,
) -> tuple[tuple[PyTree, PyTree], tuple[Any, jax.Array, methods.Outputs]]:
    """This device's share of the gradient and of what was minimised.

    Args:
      network: from parameters, statistics and inputs to the shares of the
        losses, which add up over rows and devices, and the outputs.
      rate: from the latents `(z, z_noisy)` of all of this device's rows and
        the parameters of an estimator to the share of what is minimised, and
        that of the rate in nats.
      trained: the parameters of the network and of the estimator.
      batch_stats: running statistics of the network.
      inputs: this device's rows, with a mask; a multiple of `parts`.
      parts: how many parts there are.

    Returns:
      The gradients, as `trained`; and the losses, the nats, and the outputs,
      of which there are latents and statistics alone.
    """
    params, estimator_params = trained
    rows = jax.tree.map(
        lambda array: _split(array, parts), inputs._replace(rng=None)
    )

    def encode(carry, part):
        part = part._replace(rng=inputs.rng)
        _, outputs = network(params, batch_stats, part)
        return carry, (outputs.z, outputs.z_noisy)

    latents = jax.tree.map(_join, _each(encode, (), rows)[1])
    (cotangents, estimator_grads), nats = jax.grad(
        rate, argnums=(0, 1), has_aux=True
    )(latents, estimator_params)

    def replay(carry, part_and_cotangents):
        part, cotangents = part_and_cotangents
        part, (stats, grads) = part._replace(rng=inputs.rng), carry

        def share(params):
            losses, outputs = network(params, stats, part)
            products = jax.tree.map(
                jnp.vdot, cotangents, (outputs.z, outputs.z_noisy)
            )
            minimised = sum(losses.values()) + sum(jax.tree.leaves(products))
            return minimised, (losses, outputs.batch_stats)

        found, (losses, renewed) = jax.grad(share, has_aux=True)(params)
        # A part of padding alone, in the ragged batch, has no statistics.
        is_any = lax.psum(jnp.sum(part.mask), parallel.AXIS) > 0
        stats = jax.tree.map(
            lambda new, old: jnp.where(is_any, new, old), renewed, stats
        )
        return (stats, jax.tree.map(jnp.add, grads, found)), losses

    start = (batch_stats, jax.tree.map(jnp.zeros_like, params))
    split = jax.tree.map(lambda array: _split(array, parts), cotangents)
    (stats, grads), losses = _each(replay, start, (rows, split))
    losses = jax.tree.map(lambda values: jnp.sum(values, axis=0), losses)
    outputs = methods.Outputs(None, *latents, stats, {})
    return (grads, estimator_grads), (losses, nats, outputs)


def _split(array: jax.Array, parts: int) -> jax.Array:
    """`[B, ...]` to `[parts, B / parts, ...]`, row i to part `i % parts`."""
    shape = (len(array) // parts, parts, *array.shape[1:])
    return jnp.swapaxes(array.reshape(shape), 0, 1)


def _join(array: jax.Array) -> jax.Array:
    """Undoes `_split`."""
    return jnp.swapaxes(array, 0, 1).reshape(-1, *array.shape[2:])


def _each(step: Callable, carry: PyTree, parts: PyTree) -> tuple[PyTree, Any]:
    """`lax.scan`; without a loop on CPU, where one is many times slower."""
    if jax.default_backend() != "cpu":
        return lax.scan(step, carry, parts)
    outputs = []
    for i in range(len(jax.tree.leaves(parts)[0])):
        part = jax.tree.map(lambda array, i=i: array[i], parts)
        carry, output = step(carry, _after(carry, part))
        outputs.append(output)
    return carry, jax.tree.map(lambda *each: jnp.stack(each), *outputs)


def _after(carry: PyTree, part: PyTree) -> PyTree:
    """The part, which is not there before the carry is.

    Else all parts would be in memory together: XLA drops an
    `optimization_barrier` on CPU before it decides on the order.
    """
    leaves = jax.tree.leaves(carry)
    if not leaves:
        return part
    zero = 0.0 * jnp.ravel(leaves[-1])[0]

    def depend(array):
        if jnp.issubdtype(array.dtype, jnp.floating):
            return array + zero.astype(array.dtype)
        return array

    return jax.tree.map(depend, part)
