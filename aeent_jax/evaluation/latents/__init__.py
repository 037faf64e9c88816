"""Latents that exist already: every estimator on them, as one table."""

from aeent_jax.evaluation.latents.measuring import measure
from aeent_jax.evaluation.latents.reading import check, read

__all__ = [
    "check",
    "measure",
    "read",
]
