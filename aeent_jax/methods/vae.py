"""The variational autoencoder (Kingma and Welling, arXiv 1312.6114).

The encoder gives `mu` and `log_var`, and in training the decoder sees a sample
with the noise of the channel on top:

    mu + sigma * eps' + exp(log_var / 2) * eps

The latent is `mu`, and `mu + sigma * eps'` the noisy one, so the rate is that
of the channel behind `mu`. An estimate from samples would take their own noise
for information, and a penalty on it would remove that noise; what the variances
tell of the image is for the KL to price.
"""

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import ml_collections

from aeent_jax import models
from aeent_jax.methods import autoencoders, streams
from aeent_jax.methods.method import (
    Encoded,
    Inputs,
    Method,
    Outputs,
    without_padding,
)

# From inputs and the size of the latent to `eps`, `[B, D]`.
Draw = Callable[[Inputs, int], jax.Array]


def standard_normal(inputs: Inputs, dim: int) -> jax.Array:
    """Independent standard normal numbers for each image, `[B, dim]`."""
    keys = streams.row_keys(inputs, streams.VAE_SAMPLE)
    return jax.vmap(lambda key: jax.random.normal(key, (dim,)))(keys)


def kl_divergence(mu: jax.Array, log_var: jax.Array) -> jax.Array:
    """KL divergence from N(0, I), in nats a dimension.

    Args:
      mu: means, `[B, D]`.
      log_var: logarithms of the variances, `[B, D]`.

    Returns:
      `[B]`, the mean over dimensions, as the reference has it, and not the sum.
    """
    terms = jnp.square(mu) + jnp.exp(log_var) - log_var - 1.0
    return 0.5 * jnp.mean(terms, axis=1)


def from_network(
    network: models.Autoencoder,
    *,
    kl_weight: float,
    samples_in_evaluation: bool,
    draw: Draw = standard_normal,
) -> Method:
    """The variational autoencoder on a network.

    Args:
      network: its encoder gives two vectors, the first of them `mu`.
      kl_weight: weight of the KL beside the mean squared error.
      samples_in_evaluation: whether the decoder sees a sample there too,
        instead of `mu`.
      draw: draws the samples.

    Returns:
      The method; `Outputs.extra` has `log_var` `[B, D]`, `sample` `[B, D]`,
      which is what the decoder sees, and `kl` `[B]`.
    """

    def encode(variables, inputs, *, train: bool) -> Encoded:
        encoded = autoencoders.encode(network, variables, inputs, train=train)
        mu, log_var = jnp.split(encoded.z, 2, axis=1)
        log_var = without_padding(log_var, inputs.mask)
        return encoded._replace(z=mu, extra={"log_var": log_var})

    def decode(variables, inputs, encoded, z_noisy, *, train: bool) -> Outputs:
        mu, log_var = encoded.z, encoded.extra["log_var"]
        sample = z_noisy
        if train or samples_in_evaluation:
            eps = draw(inputs, network.latent_dim).astype(mu.dtype)
            sample = z_noisy + jnp.exp(0.5 * log_var) * eps
        outputs = autoencoders.decode(
            network, variables, inputs, encoded, sample, train=train
        )
        kl = kl_divergence(mu, log_var)
        extra = encoded.extra | {"sample": sample, "kl": kl}
        return outputs._replace(z_noisy=z_noisy, extra=extra)

    return dataclasses.replace(
        autoencoders.from_network(network),
        encode=encode,
        decode=decode,
        losses=functools.partial(_losses, kl_weight),
        extra=("kl",),
    )


def _losses(kl_weight, x, outputs):
    error = autoencoders.squared_error(x, outputs)
    return error | {"kl": kl_weight * outputs.extra["kl"]}


def make_vae(
    config: ml_collections.ConfigDict, axis_name: str | None
) -> Method:
    """`vae`: mean squared error, and the KL from a standard normal law.

    Evaluation is of `mu`; with `compat=medianomaly` it is of one sample for
    each image, the same in every evaluation.

    Raises:
      ValueError: normalised latents, since the KL could not move the mean
        square of `mu`.
    """
    if config.channel.normalisation != "none":
        raise ValueError(
            f"channel.normalisation is {config.channel.normalisation}, but the"
            " KL of a vae already holds its latents near a standard normal law;"
            " set it to none."
        )
    return from_network(
        autoencoders.make_network(config, axis_name, encoded_vectors=2),
        kl_weight=config.loss.kl_weight,
        samples_in_evaluation=config.compat == "medianomaly",
    )
