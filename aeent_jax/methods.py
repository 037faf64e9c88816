"""What distinguishes one method from another: network, loss and score map.

`METHODS` is the closed table; `--config.method` chooses by name.
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import ml_collections

from aeent_jax import models


@dataclasses.dataclass(frozen=True)
class Method:
    """One reconstruction method.

    Attributes:
      make_network: from (config, axis_name) to the network.
      reconstruction: from `x`, `x_hat` `[B, H, W, C]` to the loss of each
        image, `[B]`.
      score_map: from `x`, `x_hat` `[B, H, W, C]` to `[B, H, W]`; the anomaly
        score of an image is its mean.
    """

    make_network: Callable[..., models.Autoencoder]
    reconstruction: Callable[[jax.Array, jax.Array], jax.Array]
    score_map: Callable[[jax.Array, jax.Array], jax.Array]


def _make_autoencoder(
    config: ml_collections.ConfigDict, axis_name: str | None
) -> models.Autoencoder:
    return models.make_autoencoder(
        image_size=config.data.image_size,
        channels=config.data.channels,
        axis_name=axis_name,
        normalisation=config.channel.normalisation,
        **config.model,
    )


def _mean_squared_error(x: jax.Array, x_hat: jax.Array) -> jax.Array:
    return jnp.mean(jnp.square(x - x_hat), axis=(1, 2, 3))


def _squared_error_map(x: jax.Array, x_hat: jax.Array) -> jax.Array:
    return jnp.mean(jnp.square(x - x_hat), axis=3)


METHODS = {
    "ae": Method(_make_autoencoder, _mean_squared_error, _squared_error_map),
}


def get_method(name: str) -> Method:
    """Looks a method up.

    Args:
      name: a key of `METHODS`.

    Returns:
      The method.

    Raises:
      ValueError: the name is unknown; the choices are listed.
    """
    if name not in METHODS:
        raise ValueError(
            f"method is {name!r}; choose one of {', '.join(METHODS)}."
        )
    return METHODS[name]
