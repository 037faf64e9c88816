"""Networks as pure functions over flax linen modules."""

from aeent_jax.models.autoencoder import Autoencoder, make_autoencoder

__all__ = ["Autoencoder", "make_autoencoder"]
