"""Means of the metrics between two lines of metrics.jsonl."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from aeent_jax.training import objective

# Metrics of a step that have no mean.
_NOT_AVERAGED = ("step", "count")


@dataclasses.dataclass
class MetricsWindow:
    """Metrics gathered between two lines of metrics.jsonl.

    Checkpoints hold it, so that a line is the same where a run was stopped
    before it.

    Attributes:
      sums: name -> sum of the metric over images.
      count: images.
      steps: steps.
      timed_steps: those that did not compile.
      seconds: that these took.
    """

    sums: dict[str, float] = dataclasses.field(default_factory=dict)
    count: float = 0.0
    steps: int = 0
    timed_steps: int = 0
    seconds: float = 0.0

    def add(self, metrics: dict[str, np.ndarray]) -> None:
        """Adds the metrics `[steps]` of a call."""
        counts = metrics["count"].astype(np.float64)
        for name, values in metrics.items():
            if name not in _NOT_AVERAGED:
                total = self.sums.get(name, 0.0) + float(counts @ values)
                self.sums[name] = total
        self.count += counts.sum()
        self.steps += len(counts)

    def add_time(self, steps: int, seconds: float) -> None:
        """Adds the time of steps that did not compile."""
        self.timed_steps += steps
        self.seconds += seconds

    def note(self, rate: objective.Rate) -> str:
        """The text on the progress line."""
        if not self.count:
            return ""
        means = self.summary(rate)
        text = f"loss {means['train/loss']:.5f}"
        if rate.is_measured:
            text += f"  rate {means['train/rate_nats']:.2f} nats"
        if self.seconds:
            text += f"  {means['train/images_per_second']:.0f} images/s"
        return text

    def summary(self, rate: objective.Rate) -> dict[str, float | None]:
        """Means over images; the rate is null where it is not measured."""
        means: dict[str, float | None] = {
            f"train/{name}": total / self.count
            for name, total in self.sums.items()
        }
        if not rate.is_measured:
            estimate = means.pop("train/rate_nats")
            means["train/rate_nats"] = None
            if rate.estimator != "none":
                means["train/latent_entropy_nats"] = estimate
        if self.seconds:
            per_step = self.count / self.steps
            means["train/images_per_second"] = (
                per_step * self.timed_steps / self.seconds
            )
        return means


def from_metadata(metadata: Mapping[str, Any]) -> MetricsWindow:
    """Restores the window that a checkpoint holds.

    Args:
      metadata: the metadata of the checkpoint.

    Returns:
      The interval; an empty one where the checkpoint is of a version that kept
      none, or other things in it: the next line is then of what follows.
    """
    gathered = metadata.get("interval", {})
    known = {field.name for field in dataclasses.fields(MetricsWindow)}
    return (
        MetricsWindow(**gathered) if set(gathered) == known else MetricsWindow()
    )
