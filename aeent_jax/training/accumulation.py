"""The gradient of a batch in parts, with the entropy of the whole.

The entropy of a batch is no mean over its parts, and from few latents many
estimators can read only few nats. So the parts share one rate:

    1. encode   part 1, part 2, ...      keeps the latents of each, `[B, D]`
    2. rate     of all latents at once   keeps d rate / d latents, `[B, D]`
    3. replay   part 1, part 2, ...      adds up the gradients of
                                         losses + <d rate / d latents, latents>

                (statistics, gradient) -> part 1 -> part 2 -> ... -> the result

The sum is the gradient of the whole batch, at one further pass through the
encoder; the activations of one part alone are in memory. The statistics of
BatchNorm are those of a part, as always in gradient accumulation, and so are
those of `channel.normalisation=power`. Row i of the global batch is in part
`i % parts`, on any number of devices.
"""

from collections.abc import Callable
from typing import TypeVar

import jax
import jax.numpy as jnp
from jax import lax

from aeent_jax import methods, models
from aeent_jax.runtime import parallel
from aeent_jax.training import objective as objective_lib

# Trees of arrays: handed from one part to the next, with a row for each image,
# and the result of one part.
Carry = TypeVar("Carry")
Rows = TypeVar("Rows")
Result = TypeVar("Result")


def local_gradient(
    objective: objective_lib.Objective,
    trained: objective_lib.Trained,
    fixed: models.Variables,
    inputs: methods.Inputs,
    parts: int,
) -> tuple[objective_lib.Trained, objective_lib.Terms]:
    """The gradient of the objective in `trained`, part by part.

    Args:
      objective: the objective of this step.
      trained: replicated.
      fixed: the network's variables without its parameters.
      inputs: this device's rows, with a mask; a multiple of `parts`.
      parts: how many parts there are.

    Returns:
      The gradient in `trained`, and the terms, whose outputs have latents and
      statistics alone.
    """
    # The key is no row; each part has that of the whole.
    rows = _split(inputs._replace(rng=None), parts)
    variables = {"params": trained.params} | fixed

    def encode(carry, part):
        part = part._replace(rng=inputs.rng)
        z = objective.method.encode(variables, part, train=True).z
        noisy = objective.channel(z, rng=part.rng, positions=part.positions)
        return carry, (z, noisy)

    latents = (None, None)
    if objective.method.encode is not None:
        latents = _join(_each(encode, (), rows)[1])
    (slopes, estimator_grads), rate = jax.grad(
        objective.weighted_rate, argnums=(0, 1), has_aux=True
    )(latents, trained.estimator_params, inputs)

    def replay(carry, part_and_slopes):
        part, slopes = part_and_slopes
        part, (stats, grads) = part._replace(rng=inputs.rng), carry

        def minimised(params):
            variables = fixed | {"params": params, "batch_stats": stats}
            losses, outputs = objective.local_losses(variables, part)
            products = jax.tree.map(
                jnp.vdot, slopes, (outputs.z, outputs.z_noisy)
            )
            total = sum(losses.values()) + sum(jax.tree.leaves(products))
            return total, (losses, outputs.batch_stats)

        of_part, (losses, renewed) = jax.grad(minimised, has_aux=True)(
            trained.params
        )
        # A part of padding alone, in the ragged batch, has no statistics.
        is_any = lax.psum(jnp.sum(part.mask), parallel.AXIS) > 0
        stats = jax.tree.map(
            lambda new, old: jnp.where(is_any, new, old), renewed, stats
        )
        return (stats, jax.tree.map(jnp.add, grads, of_part)), losses

    start = fixed["batch_stats"], jax.tree.map(jnp.zeros_like, trained.params)
    (stats, grads), losses = _each(replay, start, (rows, _split(slopes, parts)))
    losses = jax.tree.map(lambda values: jnp.sum(values, axis=0), losses)
    outputs = methods.Outputs(None, *latents, stats, {})
    return (
        objective_lib.Trained(grads, estimator_grads),
        objective_lib.Terms(losses, rate, outputs),
    )


def _split(rows: Rows, parts: int) -> Rows:
    """Arrays `[B, ...]` to `[parts, B / parts, ...]`, row i to `i % parts`."""

    def split(array):
        shape = (len(array) // parts, parts, *array.shape[1:])
        return jnp.swapaxes(array.reshape(shape), 0, 1)

    return jax.tree.map(split, rows)


def _join(parts: Rows) -> Rows:
    """Undoes `_split`."""
    return jax.tree.map(
        lambda array: jnp.swapaxes(array, 0, 1).reshape(-1, *array.shape[2:]),
        parts,
    )


def _each(
    body: Callable[[Carry, Rows], tuple[Carry, Result]],
    carry: Carry,
    parts: Rows,
) -> tuple[Carry, Result]:
    """`lax.scan`; without a loop on CPU, where one is many times slower."""
    if jax.default_backend() != "cpu":
        return lax.scan(body, carry, parts)
    results = []
    for i in range(len(jax.tree.leaves(parts)[0])):
        part = jax.tree.map(lambda array, i=i: array[i], parts)
        carry, result = body(carry, _after(carry, part))
        results.append(result)
    return carry, jax.tree.map(lambda *each: jnp.stack(each), *results)


def _after(carry: Carry, part: Rows) -> Rows:
    """Makes `part` depend on `carry`, so that XLA cannot start it earlier.

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
