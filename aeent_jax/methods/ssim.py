"""Structural similarity: the method `ae_ssim` and what its score is made of.

Wang, Bovik, Sheikh and Simoncelli (2004), "Image quality assessment: from error
visibility to structural similarity", equation 13, with their window and
constants.
"""

import dataclasses

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from aeent_jax.methods import autoencoders
from aeent_jax.methods.method import Method, Outputs

_WINDOW = 11  # pixels
_SIGMA = 1.5  # pixels
# (K L)^2 with the paper's K, for images of range L = 1.
_LUMINANCE, _CONTRAST = 0.01**2, 0.03**2


def _window_matrix(size: int) -> np.ndarray:
    """Windowed means along an axis: `[size - 10, size]`, rows of sum 1."""
    if size < _WINDOW:
        raise ValueError(
            f"an image has a side of {size} pixels, but the window of SSIM"
            f" needs {_WINDOW}; use larger images or another score."
        )
    offsets = np.arange(size) - np.arange(size - _WINDOW + 1)[:, None]
    inside = (offsets >= 0) & (offsets < _WINDOW)
    bell = np.exp(-0.5 * ((offsets - _WINDOW // 2) / _SIGMA) ** 2)
    weights = np.where(inside, bell, 0.0)
    return weights / weights.sum(axis=1, keepdims=True)


def similarity(a: jax.Array, b: jax.Array) -> jax.Array:
    """SSIM of images in [0, 1], at each place where the window fits.

    The window is a product of two Gaussians, so that each of the five moments
    takes two products with banded matrices.

    Args:
      a: `[B, H, W, C]`.
      b: of the same shape.

    Returns:
      `[B, H - 10, W - 10, C]`, at most 1; 1 where the images agree.

    Raises:
      ValueError: a side is shorter than the window.
    """
    rows, columns = (
        jnp.asarray(_window_matrix(size), a.dtype) for size in a.shape[1:3]
    )
    mean_a, mean_b, square_a, square_b, product = jnp.einsum(
        "hi,wj,mbijc->mbhwc",
        rows,
        columns,
        jnp.stack([a, b, a * a, b * b, a * b]),
        # Variances are differences of moments.
        precision=jax.lax.Precision.HIGHEST,
    )
    variances = square_a - mean_a**2 + square_b - mean_b**2
    covariance = product - mean_a * mean_b
    luminance = (2 * mean_a * mean_b + _LUMINANCE) / (
        mean_a**2 + mean_b**2 + _LUMINANCE
    )
    return luminance * (2 * covariance + _CONTRAST) / (variances + _CONTRAST)


def dissimilarity(x: jax.Array, x_hat: jax.Array) -> jax.Array:
    """1 - SSIM, in the mean over channels.

    Args:
      x: images in [-1, 1], `[B, H, W, C]`.
      x_hat: reconstructions; clipped to that range, as in the reference.

    Returns:
      `[B, H - 10, W - 10]`.
    """
    a, b = (jnp.clip((image + 1) / 2, 0, 1) for image in (x, x_hat))
    return jnp.mean(1 - similarity(a, b), axis=3)


def structural_error(x: jax.Array, outputs: Outputs) -> dict[str, jax.Array]:
    """The mean of 1 - SSIM of each image."""
    error = jnp.mean(dissimilarity(x, outputs.x_hat), axis=(1, 2))
    return {"reconstruction": error}


def make_ae_ssim(
    config: ml_collections.ConfigDict, axis_name: str | None
) -> Method:
    """`ae_ssim`: 1 - SSIM, as the loss and as the score.

    Source: Bergmann et al. (2019), in the form of MedIAnomaly.
    """
    score = "ssim_interpolated" if config.compat == "medianomaly" else "ssim"
    return dataclasses.replace(
        autoencoders.make_ae(config, axis_name),
        losses=structural_error,
        score=score,
    )
