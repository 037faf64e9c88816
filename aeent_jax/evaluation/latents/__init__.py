"""Latents that exist already: every estimator on them, as one table."""

from aeent_jax.evaluation.latents.accuracy import (
    format_accuracy,
    measure_accuracy,
)
from aeent_jax.evaluation.latents.measuring import measure
from aeent_jax.evaluation.latents.reading import check, read
from aeent_jax.evaluation.latents.tables import format_json, format_table

__all__ = [
    "check",
    "format_accuracy",
    "format_json",
    "format_table",
    "measure",
    "measure_accuracy",
    "read",
]
