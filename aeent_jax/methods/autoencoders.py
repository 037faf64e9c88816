"""The plain autoencoder, and what differs in its loss or layers alone."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import ml_collections

from aeent_jax import models
from aeent_jax.methods.method import Encoded, Inputs, Method, Outputs


def make_network(
    config: ml_collections.ConfigDict,
    axis_name: str | None,
    *,
    encoded_vectors: int = 1,
    heads: int = 1,
    spatial: bool = False,
    normalises_hidden: bool = True,
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
        dtype=config.compute.dtype,
        matmul_precision=config.compute.matmul_precision,
        normalisation=config.channel.normalisation,
        encoded_vectors=encoded_vectors,
        heads=heads,
        spatial=spatial,
        normalises_hidden=normalises_hidden,
    )


def encode(
    network: models.Autoencoder,
    variables: models.Variables,
    inputs: Inputs,
    *,
    train: bool,
) -> Encoded:
    """Encodes images as they are."""
    z, stats = network.apply(
        "encoder", variables, inputs.x, inputs.mask, train=train
    )
    return Encoded(z, variables["batch_stats"] | {"encoder": stats}, {})


def decode(
    network: models.Autoencoder,
    variables: models.Variables,
    inputs: Inputs,
    encoded: Encoded,
    z_noisy: jax.Array,
    *,
    train: bool,
) -> Outputs:
    """Decodes noisy latents."""
    x_hat, stats = network.apply(
        "decoder", variables, z_noisy, inputs.mask, train=train
    )
    stats = encoded.batch_stats | {"decoder": stats}
    return Outputs(x_hat, encoded.z, z_noisy, stats, encoded.extra)


def squared_error(x: jax.Array, outputs: Outputs) -> dict[str, jax.Array]:
    """The mean squared error of each image."""
    error = jnp.mean(jnp.square(x - outputs.x_hat), axis=(1, 2, 3))
    return {"reconstruction": error}


def from_network(network: models.Autoencoder) -> Method:
    """The plain autoencoder on a network."""
    return Method(
        init=network.init,
        encode=functools.partial(encode, network),
        decode=functools.partial(decode, network),
        losses=squared_error,
        score="squared",
        latent_dim=network.latent_dim,
    )


def make_ae(config: ml_collections.ConfigDict, axis_name: str | None) -> Method:
    """`ae`: mean squared error, and squared error as the score map."""
    return from_network(make_network(config, axis_name))


def absolute_error(x: jax.Array, outputs: Outputs) -> dict[str, jax.Array]:
    """The mean absolute error of each image."""
    error = jnp.mean(jnp.abs(x - outputs.x_hat), axis=(1, 2, 3))
    return {"reconstruction": error}


def make_ae_l1(
    config: ml_collections.ConfigDict, axis_name: str | None
) -> Method:
    """`ae_l1`: mean absolute error, and absolute error as the score map."""
    return dataclasses.replace(
        make_ae(config, axis_name), losses=absolute_error, score="absolute"
    )


def _autoencode_places(network, variables, inputs, *_, train):
    """The pass of a network whose latents are no vector for a channel."""
    encoded = encode(network, variables, inputs, train=train)
    outputs = decode(
        network, variables, inputs, encoded, encoded.z, train=train
    )
    return outputs._replace(z=None, z_noisy=None)


def make_ae_spatial(
    config: ml_collections.ConfigDict, axis_name: str | None
) -> Method:
    """`ae_spatial`: a latent at each place, of `model.latent_dim` numbers.

    1x1 convolutions without bias stand for the linear layers. There is no
    latent vector, and so neither channel nor rate.
    """
    network = make_network(config, axis_name, spatial=True)
    return dataclasses.replace(
        from_network(network),
        encode=None,
        decode=functools.partial(_autoencode_places, network),
        latent_dim=None,
    )
