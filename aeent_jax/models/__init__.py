"""Networks as pure functions over flax linen modules."""

from aeent_jax.models.autoencoder import (
    Autoencoder,
    Discriminator,
    Variables,
    make_autoencoder,
)
from aeent_jax.models.unet import UNet, make_unet

__all__ = [
    "Autoencoder",
    "Discriminator",
    "UNet",
    "Variables",
    "make_autoencoder",
    "make_unet",
]
