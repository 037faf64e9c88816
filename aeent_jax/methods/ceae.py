"""The context-encoding autoencoder (Zimmerer et al., arXiv 1812.05941).

In training each image loses one square, which the network has to fill in from
its surroundings: latents and rate are those of the image without it, the error
is that from the whole one. In evaluation the images are whole.
"""

import dataclasses

import jax
import jax.numpy as jnp
import ml_collections

from aeent_jax import models
from aeent_jax.methods import autoencoders, streams
from aeent_jax.methods.method import Encoded, Inputs, Method

_BLACK = -1.0


def blacken_squares(inputs: Inputs, size: int) -> jax.Array:
    """Sets one square of each image to black.

    Args:
      inputs: images, and the keys of the squares' places: any place inside the
        image, one as likely as the other.
      size: side in pixels, at most that of the image.

    Returns:
      `[B, H, W, C]`.
    """
    height, width, channels = inputs.x.shape[1:]
    square = jnp.full((size, size, channels), _BLACK, inputs.x.dtype)
    room = jnp.array([height - size + 1, width - size + 1])

    def blacken(key, image):
        row, column = jax.random.randint(key, (2,), 0, room)
        return jax.lax.dynamic_update_slice(image, square, (row, column, 0))

    return jax.vmap(blacken)(
        streams.row_keys(inputs, streams.CEAE_SQUARE), inputs.x
    )


def from_network(network: models.Autoencoder, size: int) -> Method:
    """The context-encoding autoencoder on a network, with squares of a size."""

    def encode(variables, inputs, *, train: bool) -> Encoded:
        if train:
            inputs = inputs._replace(x=blacken_squares(inputs, size))
        return autoencoders.encode(network, variables, inputs, train=train)

    return dataclasses.replace(
        autoencoders.from_network(network), encode=encode
    )


def make_ceae(
    config: ml_collections.ConfigDict, axis_name: str | None
) -> Method:
    """`ceae`: mean squared error to the clean image.

    The reference's squares have 2.4 % of the image's area, 10 pixels of 64;
    here the side is `corruption.square_size`, whatever the image's.

    Raises:
      ValueError: a square that the image does not hold.
    """
    size, image_size = config.corruption.square_size, config.data.image_size
    if size > image_size:
        raise ValueError(
            f"corruption.square_size is {size}, but must be at most"
            f" data.image_size, which is {image_size}."
        )
    network = autoencoders.make_network(config, axis_name)
    return from_network(network, size)
