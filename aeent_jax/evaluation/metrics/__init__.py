"""Rank metrics of anomaly scores and their bootstrap intervals; no jax."""

from aeent_jax.evaluation.metrics.ranking import (
    has_both_classes,
    image_metrics,
    pixel_metrics,
)
from aeent_jax.evaluation.metrics.resampling import (
    Interval,
    bootstrap,
    paired_bootstrap,
)

__all__ = [
    "Interval",
    "bootstrap",
    "has_both_classes",
    "image_metrics",
    "paired_bootstrap",
    "pixel_metrics",
]
