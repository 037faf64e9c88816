"""Networks as pure functions over flax linen modules."""

from aeent_jax.models.autoencoder import (
    Autoencoder,
    Variables,
    make_autoencoder,
)

__all__ = ["Autoencoder", "Variables", "make_autoencoder"]
