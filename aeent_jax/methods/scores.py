"""Anomaly scores that need one image and the network.

Each maps `(method, variables, inputs, outputs)` to a `Score`, with the outputs
of a pass that does not train and has no channel noise. `SCORES` is the closed
table.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from aeent_jax.methods import ssim, uncertainty


class Score(NamedTuple):
    """How abnormal images look.

    Attributes:
      map: `[B, H, W]`, or None where the score has no place in the image.
      value: `[B]`; None for the mean of the map.
    """

    map: jax.Array | None
    value: jax.Array | None = None


def squared(method: Any, variables: Any, inputs: Any, outputs: Any) -> Score:
    """Squared error, in the mean over channels."""
    del method, variables
    return Score(jnp.mean(jnp.square(inputs.x - outputs.x_hat), axis=3))


def absolute(method: Any, variables: Any, inputs: Any, outputs: Any) -> Score:
    """Absolute error, in the mean over channels."""
    del method, variables
    return Score(jnp.mean(jnp.abs(inputs.x - outputs.x_hat), axis=3))


def _enlarged(error: jax.Array, inputs: Any) -> jax.Array:
    """A coarse map `[B, h, w]`, bilinear to the size of the images."""
    return jax.image.resize(error, inputs.x.shape[:3], "bilinear")


def structural(method: Any, variables: Any, inputs: Any, outputs: Any) -> Score:
    """1 - SSIM where the window fits; its map is interpolated from there."""
    del method, variables
    error = ssim.dissimilarity(inputs.x, outputs.x_hat)
    return Score(_enlarged(error, inputs), jnp.mean(error, axis=(1, 2)))


def structural_interpolated(
    method: Any, variables: Any, inputs: Any, outputs: Any
) -> Score:
    """1 - SSIM, interpolated before its mean, which weighs places unevenly."""
    return Score(structural(method, variables, inputs, outputs).map)


def weighted_squared(
    method: Any, variables: Any, inputs: Any, outputs: Any
) -> Score:
    """Squared error over the predicted variance, in the mean over channels."""
    del method, variables
    return Score(jnp.mean(uncertainty.weighted_error(inputs.x, outputs), 3))


def perceptual(method: Any, variables: Any, inputs: Any, outputs: Any) -> Score:
    """Relative error of features; its map is interpolated from theirs."""
    del method, variables
    error = outputs.extra["perceptual_error"]
    return Score(_enlarged(error, inputs), jnp.mean(error, axis=(1, 2)))


SCORES: dict[str, Callable[..., Score]] = {
    "squared": squared,
    "absolute": absolute,
    "ssim": structural,
    "ssim_interpolated": structural_interpolated,
    "weighted_squared": weighted_squared,
    "perceptual": perceptual,
}
# Those that need more than a reconstruction, and the method that gives it.
OWNERS = {"weighted_squared": "aeu", "perceptual": "ae_perceptual"}


def get_score(name: str) -> Callable[..., Score]:
    """Looks a score up.

    Args:
      name: a key of `SCORES`.

    Returns:
      The function.

    Raises:
      ValueError: the name is unknown; the choices are listed.
    """
    if name not in SCORES:
        raise ValueError(
            f"the score is {name!r}; choose one of {', '.join(SCORES)}."
        )
    return SCORES[name]
