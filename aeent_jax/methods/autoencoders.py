"""The plain autoencoder."""

import functools

import jax
import jax.numpy as jnp
import ml_collections

from aeent_jax import models
from aeent_jax.methods.method import Inputs, Method, Noise, Outputs


def make_network(
    config: ml_collections.ConfigDict,
    axis_name: str | None,
    *,
    encoded_vectors: int = 1,
) -> models.Autoencoder:
    """The reference autoencoder in the sizes of a configuration."""
    return models.make_autoencoder(
        image_size=config.data.image_size,
        channels=config.data.channels,
        latent_dim=config.model.latent_dim,
        base_width=config.model.base_width,
        hidden_dim=config.model.hidden_dim,
        depth=config.model.depth,
        axis_name=axis_name,
        normalisation=config.channel.normalisation,
        encoded_vectors=encoded_vectors,
    )


def autoencode(
    network: models.Autoencoder,
    variables: models.Variables,
    inputs: Inputs,
    noise: Noise,
    *,
    train: bool,
) -> Outputs:
    """Encodes, sends through the channel, decodes."""
    z, encoder_stats = network.encode(
        variables, inputs.x, inputs.mask, train=train
    )
    z_noisy = noise(z)
    x_hat, decoder_stats = network.decode(
        variables, z_noisy, inputs.mask, train=train
    )
    stats = {"encoder": encoder_stats, "decoder": decoder_stats}
    return Outputs(x_hat, z, z_noisy, stats, {})


def squared_error(x: jax.Array, outputs: Outputs) -> dict[str, jax.Array]:
    """The mean squared error of each image."""
    error = jnp.mean(jnp.square(x - outputs.x_hat), axis=(1, 2, 3))
    return {"reconstruction": error}


def from_network(network: models.Autoencoder) -> Method:
    """The plain autoencoder on a network."""
    return Method(
        init=network.init,
        forward=functools.partial(autoencode, network),
        losses=squared_error,
        score="squared",
        latent_dim=network.latent_dim,
    )


def make_ae(config: ml_collections.ConfigDict, axis_name: str | None) -> Method:
    """`ae`: mean squared error, and squared error as the score map."""
    return from_network(make_network(config, axis_name))
