"""The method `aeu`: reconstructions with a variance at each pixel.

Mao, Xue, Wang, Zheng and Zhou (2020), "Abnormality detection in chest X-ray
images using uncertainty prediction autoencoders", in the form of MedIAnomaly.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import ml_collections

from aeent_jax import models
from aeent_jax.methods import autoencoders
from aeent_jax.methods.method import (
    Encoded,
    Inputs,
    Method,
    Outputs,
    without_padding,
)


def heads(
    decoded: jax.Array, mask: jax.Array | None
) -> tuple[jax.Array, jax.Array]:
    """Takes apart what the decoder gives.

    Args:
      decoded: `[B, H, W, 2C]`.
      mask: `[B]` bool, False in padding; None means all rows count.

    Returns:
      `x_hat` and the log-variance, `[B, H, W, C]` each.
    """
    x_hat, log_variance = jnp.split(decoded, 2, axis=3)
    return x_hat, without_padding(log_variance, mask)


def _decode(
    network: models.Autoencoder,
    variables: models.Variables,
    inputs: Inputs,
    encoded: Encoded,
    z_noisy: jax.Array,
    *,
    train: bool,
) -> Outputs:
    outputs = autoencoders.decode(
        network, variables, inputs, encoded, z_noisy, train=train
    )
    x_hat, log_variance = heads(outputs.x_hat, inputs.mask)
    return outputs._replace(x_hat=x_hat, extra={"log_variance": log_variance})


def weighted_error(x: jax.Array, outputs: Outputs) -> jax.Array:
    """Squared error over the variance that was predicted, `[B, H, W, C]`."""
    error = jnp.square(x - outputs.x_hat)
    return jnp.exp(-outputs.extra["log_variance"]) * error


def likelihood_error(x: jax.Array, outputs: Outputs) -> dict[str, jax.Array]:
    """The mean of exp(-s) (x - x_hat)^2 + s, of each image.

    Up to a factor 2 and a constant it is the negative log-likelihood of a
    Gaussian of log-variance s; it can be negative.
    """
    error = weighted_error(x, outputs) + outputs.extra["log_variance"]
    return {"reconstruction": jnp.mean(error, axis=(1, 2, 3))}


def make_aeu(
    config: ml_collections.ConfigDict, axis_name: str | None
) -> Method:
    """`aeu`: the decoder gives a log-variance beside each pixel."""
    network = autoencoders.make_network(config, axis_name, heads=2)
    return dataclasses.replace(
        autoencoders.from_network(network),
        decode=functools.partial(_decode, network),
        losses=likelihood_error,
        score="weighted_squared",
        extra=("log_variance",),
    )
