"""Anomaly scores that need one image and the network.

Each maps `(method, variables, inputs, outputs)` to a `Score`, with the outputs
of a pass that does not train and has no channel noise. Scores by a gradient are
those of an image's loss with respect to that image, and repeat the pass.
`SCORES` is the closed table; `smoothed_box9` and `smoothed_gaussian2` stand for
two families of any width.
"""

import functools
import math
import re
from collections.abc import Callable, Collection
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from aeent_jax.methods import ssim, uncertainty
from aeent_jax.methods.method import Inputs, Method, Outputs, no_noise
from aeent_jax.models import Variables


class Score(NamedTuple):
    """How abnormal images look.

    Attributes:
      map: `[B, H, W]`, or None where the score has no place in the image.
      value: `[B]`; None for the mean of the map.
    """

    map: jax.Array | None
    value: jax.Array | None = None


def squared(
    method: Method, variables: Variables, inputs: Inputs, outputs: Outputs
) -> Score:
    """Squared error, in the mean over channels."""
    del method, variables
    return Score(jnp.mean(jnp.square(inputs.x - outputs.x_hat), axis=3))


def absolute(
    method: Method, variables: Variables, inputs: Inputs, outputs: Outputs
) -> Score:
    """Absolute error, in the mean over channels."""
    del method, variables
    return Score(jnp.mean(jnp.abs(inputs.x - outputs.x_hat), axis=3))


def reconstruction(
    method: Method, variables: Variables, inputs: Inputs, outputs: Outputs
) -> Score:
    """The method's own reconstruction loss of each image; it has no map."""
    del variables
    return Score(None, method.losses(inputs.x, outputs)["reconstruction"])


def smoothed(
    kind: str,
    width: float,
    method: Method,
    variables: Variables,
    inputs: Inputs,
    outputs: Outputs,
) -> Score:
    """The residual is low-pass filtered, then squared.

    Noise and fine texture that no autoencoder reconstructs average out of the
    residual; what it misses over a region stays.

    Args:
      kind: a name of `KERNELS`.
      width: of the kernel, in pixels.
      method: not used.
      variables: not used.
      inputs: of the pass.
      outputs: of the pass.

    Returns:
      The map.
    """
    del method, variables
    residual = inputs.x - outputs.x_hat
    rows, columns = (
        jnp.asarray(smoothing_matrix(kind, width, size), residual.dtype)
        for size in residual.shape[1:3]
    )
    low = jnp.einsum(
        "hi,wj,bijc->bhwc",
        rows,
        columns,
        residual,
        precision=jax.lax.Precision.HIGHEST,
    )
    return Score(jnp.mean(jnp.square(low), axis=3))


def _box(distance: np.ndarray, width: float) -> np.ndarray:
    return (np.abs(distance) <= width / 2).astype(np.float64)


def _gaussian(distance: np.ndarray, width: float) -> np.ndarray:
    return np.exp(-0.5 * (distance / width) ** 2)


# From distances in pixels and a width: of a box, its pixels; of a Gaussian, its
# standard deviation.
KERNELS = {"box": _box, "gaussian": _gaussian}


def smoothing_matrix(kind: str, width: float, size: int) -> np.ndarray:
    """One axis of a low-pass filter as a matrix `[size, size]`.

    Every row sums to 1: at the border the mean is over what is in the image.

    Args:
      kind: a name of `KERNELS`.
      width: in pixels, above 0.
      size: of the axis, in pixels.

    Returns:
      float64; `matrix @ signal` is the smoothed signal.
    """
    place = np.arange(size)
    weights = KERNELS[kind](place[:, None] - place, width)
    return weights / weights.sum(axis=1, keepdims=True)


def gradient(
    method: Method, variables: Variables, inputs: Inputs, outputs: Outputs
) -> Score:
    """Absolute gradient of an image's whole loss; of `vae`, of its ELBO."""
    del outputs

    def loss(x, outputs):
        return sum(method.losses(x, outputs).values())

    slope = _input_gradient(method, variables, inputs, loss)
    return Score(jnp.mean(slope, axis=3))


def gradient_reconstruction(
    method: Method, variables: Variables, inputs: Inputs, outputs: Outputs
) -> Score:
    """Absolute gradient of an image's reconstruction loss."""
    del outputs

    def loss(x, outputs):
        return method.losses(x, outputs)["reconstruction"]

    slope = _input_gradient(method, variables, inputs, loss)
    return Score(jnp.mean(slope, axis=3))


def gradient_kl(
    method: Method, variables: Variables, inputs: Inputs, outputs: Outputs
) -> Score:
    """Absolute gradient of an image's KL, unweighted."""
    del outputs
    slope = _input_gradient(method, variables, inputs, _kl)
    return Score(jnp.mean(slope, axis=3))


def gradient_combined(
    method: Method, variables: Variables, inputs: Inputs, outputs: Outputs
) -> Score:
    """Squared error times the absolute gradient of the KL, entry by entry.

    Source: after Zimmerer et al., arXiv 1907.02796.
    """
    error = jnp.square(inputs.x - outputs.x_hat)
    slope = _input_gradient(method, variables, inputs, _kl)
    return Score(jnp.mean(error * slope, axis=3))


def _kl(x, outputs):
    del x
    return outputs.extra["kl"]


def _input_gradient(method, variables, inputs, loss):
    """The absolute gradient of each image's own loss, `[B, H, W, C]`.

    In evaluation no image has an influence on another, so one gradient of the
    sum is that of every image.
    """

    def total(x):
        outputs = method.forward(
            variables, inputs._replace(x=x), no_noise, train=False
        )
        return jnp.sum(loss(x, outputs))

    return jnp.abs(jax.grad(total)(inputs.x))


def _enlarged(error: jax.Array, inputs: Inputs) -> jax.Array:
    """A coarse map `[B, h, w]`, bilinear to the size of the images."""
    return jax.image.resize(error, inputs.x.shape[:3], "bilinear")


def structural(
    method: Method, variables: Variables, inputs: Inputs, outputs: Outputs
) -> Score:
    """1 - SSIM where the window fits; its map is interpolated from there."""
    del method, variables
    error = ssim.dissimilarity(inputs.x, outputs.x_hat)
    return Score(_enlarged(error, inputs), jnp.mean(error, axis=(1, 2)))


def structural_interpolated(
    method: Method, variables: Variables, inputs: Inputs, outputs: Outputs
) -> Score:
    """1 - SSIM, interpolated before its mean, which weighs places unevenly."""
    return Score(structural(method, variables, inputs, outputs).map)


def weighted_squared(
    method: Method, variables: Variables, inputs: Inputs, outputs: Outputs
) -> Score:
    """Squared error over the predicted variance, in the mean over channels."""
    del method, variables
    return Score(jnp.mean(uncertainty.weighted_error(inputs.x, outputs), 3))


def perceptual(
    method: Method, variables: Variables, inputs: Inputs, outputs: Outputs
) -> Score:
    """Relative error of features; its map is interpolated from theirs."""
    del method, variables
    error = outputs.extra["perceptual_error"]
    return Score(_enlarged(error, inputs), jnp.mean(error, axis=(1, 2)))


def latent_distance(
    method: Method, variables: Variables, inputs: Inputs, outputs: Outputs
) -> Score:
    """Squared distance of z from that of x_hat, in the mean over dimensions.

    It is of the whole image, so it has no map.
    """
    del method, variables, inputs
    change = jnp.square(outputs.z - outputs.extra["z_again"])
    return Score(None, jnp.mean(change, axis=1))


SCORES: dict[str, Callable[..., Score]] = {
    "squared": squared,
    "absolute": absolute,
    "reconstruction": reconstruction,
    "gradient": gradient,
    "gradient_reconstruction": gradient_reconstruction,
    "gradient_kl": gradient_kl,
    "gradient_combined": gradient_combined,
    "ssim": structural,
    "ssim_interpolated": structural_interpolated,
    "weighted_squared": weighted_squared,
    "perceptual": perceptual,
    "latent_distance": latent_distance,
}
# The part of a method's `extra` that a score needs.
_NEEDED = {
    "gradient_kl": "kl",
    "gradient_combined": "kl",
    "latent_distance": "z_again",
    "perceptual": "perceptual_error",
    "weighted_squared": "log_variance",
}
_SMOOTHED = re.compile(rf"smoothed_({'|'.join(KERNELS)})(\d+\.?\d*)")


def get_score(name: str) -> Callable[..., Score]:
    """Looks a score up.

    Args:
      name: a key of `SCORES`, or one of a family, such as `smoothed_box9`.

    Returns:
      The function.

    Raises:
      ValueError: the name is unknown; the choices are listed.
    """
    family = _SMOOTHED.fullmatch(name)
    if family:
        width = float(family[2])
        if not 0 < width < math.inf:
            raise ValueError(
                f"the score is {name!r}, but the width must be above 0 pixels."
            )
        return functools.partial(smoothed, family[1], width)
    if name not in SCORES:
        families = (f"smoothed_{kind}9" for kind in KERNELS)
        raise ValueError(
            f"the score is {name!r}; choose one of"
            f" {', '.join([*SCORES, *families])} (or another width in pixels)."
        )
    return SCORES[name]


def check_score(name: str, method_name: str, extra: Collection[str]) -> None:
    """Refuses a score that a method does not have.

    Args:
      name: of the score.
      method_name: of the method.
      extra: what it has beside reconstructions and latents.

    Raises:
      ValueError: the score needs what is not in `extra`.
    """
    if name in _NEEDED and _NEEDED[name] not in extra:
        raise ValueError(
            f"the score is {name}, but {method_name} has no {_NEEDED[name]};"
            " choose another score, such as squared."
        )
