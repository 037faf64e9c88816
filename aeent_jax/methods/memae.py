"""The memory-augmented autoencoder (Gong et al., ICCV 2019, arXiv 1904.02639).

The decoder sees no latent but a mixture of learned memory slots, addressed by
it. The channel stands before the memory: it is the noisy latent that addresses,
and what the decoder can learn of an image has passed the channel.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import ml_collections
from jax import lax

from aeent_jax import models
from aeent_jax.methods import autoencoders, streams
from aeent_jax.methods.method import Encoded, Inputs, Method, Outputs

# The reference's, against the logarithm of 0 and the division by 0.
_EPSILON = 1e-12

_matmul = functools.partial(jnp.matmul, precision=lax.Precision.HIGHEST)


def address(z: jax.Array, slots: jax.Array, threshold: float) -> jax.Array:
    """Weights of the memory slots for each latent.

    A softmax over inner products, of which what does not exceed the threshold
    becomes 0 (equation 7 of the paper, in its continuous form), divided by the
    sum. The paper compares by cosine; the reference code, which this follows,
    by the inner product.

    Args:
      z: latents, `[B, D]`.
      slots: `[M, D]`.
      threshold: below `1 / M`, so that something is left.

    Returns:
      `[B, M]`; each row sums to 1.
    """
    weights = jax.nn.softmax(_matmul(z, slots.T), axis=1)
    excess = weights - threshold
    kept = jax.nn.relu(excess) * weights / (jnp.abs(excess) + _EPSILON)
    total = jnp.sum(kept, axis=1, keepdims=True)
    return kept / jnp.maximum(total, _EPSILON)


def address_entropy(addresses: jax.Array) -> jax.Array:
    """Entropy of each row of weights `[B, M]` in nats, `[B]`."""
    return -jnp.sum(addresses * jnp.log(addresses + _EPSILON), axis=1)


def from_network(
    network: models.Autoencoder,
    *,
    num_slots: int,
    threshold: float,
    address_weight: float,
) -> Method:
    """The memory-augmented autoencoder on a network.

    Args:
      network: encoder and decoder.
      num_slots: number of slots in the memory.
      threshold: addresses below it are 0.
      address_weight: weight of the addresses' entropy beside the mean squared
        error.

    Returns:
      The method; `Outputs.extra` has `addresses` `[B, num_slots]`, and the
      parameters have `memory` beside the two halves.
    """

    def init(rng: jax.Array) -> models.Variables:
        variables = network.init(rng)
        # As the reference: U(+-1/sqrt(D)).
        bound = network.latent_dim**-0.5
        slots = jax.random.uniform(
            jax.random.fold_in(rng, streams.MEMORY_INIT),
            (num_slots, network.latent_dim),
            minval=-bound,
            maxval=bound,
        )
        memory = {"memory": {"slots": slots}}
        return variables | {"params": variables["params"] | memory}

    return dataclasses.replace(
        autoencoders.from_network(network),
        init=init,
        decode=functools.partial(_decode, network, threshold),
        losses=functools.partial(_losses, address_weight),
    )


def _decode(
    network: models.Autoencoder,
    threshold: float,
    variables: models.Variables,
    inputs: Inputs,
    encoded: Encoded,
    z_noisy: jax.Array,
    *,
    train: bool,
) -> Outputs:
    slots = variables["params"]["memory"]["slots"]
    addresses = address(z_noisy, slots, threshold)
    mixture = _matmul(addresses, slots)
    outputs = autoencoders.decode(
        network, variables, inputs, encoded, mixture, train=train
    )
    return outputs._replace(z_noisy=z_noisy, extra={"addresses": addresses})


def _losses(address_weight, x, outputs):
    entropy = address_entropy(outputs.extra["addresses"])
    error = autoencoders.squared_error(x, outputs)
    return error | {"address": address_weight * entropy}


def make_memae(
    config: ml_collections.ConfigDict, axis_name: str | None
) -> Method:
    """`memae`: mean squared error, and the entropy of the addresses.

    Raises:
      ValueError: a threshold that may leave no address.
    """
    num_slots = config.model.memory_slots
    threshold = config.model.shrink_threshold
    if threshold >= 1 / num_slots:
        raise ValueError(
            f"model.shrink_threshold is {threshold}, but must be below"
            f" 1/{num_slots}, the weight of each of {num_slots} slots"
            " where all are alike."
        )
    return from_network(
        autoencoders.make_network(config, axis_name),
        num_slots=num_slots,
        threshold=threshold,
        address_weight=config.loss.address_weight,
    )
