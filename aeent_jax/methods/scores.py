"""Anomaly scores that need one image and the network.

Each maps `(method, variables, inputs, outputs)` to a `Score`, with the outputs
of a pass that does not train and has no channel noise. Scores by a gradient are
those of an image's loss with respect to that image, and repeat the pass.
`SCORES` is the closed table.
"""

from collections.abc import Callable, Collection
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from aeent_jax.methods.method import no_noise


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


def gradient(method: Any, variables: Any, inputs: Any, outputs: Any) -> Score:
    """Absolute gradient of an image's whole loss; of `vae`, of its ELBO."""
    del outputs

    def loss(x, outputs):
        return sum(method.losses(x, outputs).values())

    slope = _input_gradient(method, variables, inputs, loss)
    return Score(jnp.mean(slope, axis=3))


def gradient_reconstruction(
    method: Any, variables: Any, inputs: Any, outputs: Any
) -> Score:
    """Absolute gradient of an image's reconstruction loss."""
    del outputs

    def loss(x, outputs):
        return method.losses(x, outputs)["reconstruction"]

    slope = _input_gradient(method, variables, inputs, loss)
    return Score(jnp.mean(slope, axis=3))


def gradient_kl(
    method: Any, variables: Any, inputs: Any, outputs: Any
) -> Score:
    """Absolute gradient of an image's KL, unweighted."""
    del outputs
    slope = _input_gradient(method, variables, inputs, _kl)
    return Score(jnp.mean(slope, axis=3))


def gradient_combined(
    method: Any, variables: Any, inputs: Any, outputs: Any
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


SCORES: dict[str, Callable[..., Score]] = {
    "squared": squared,
    "absolute": absolute,
    "gradient": gradient,
    "gradient_reconstruction": gradient_reconstruction,
    "gradient_kl": gradient_kl,
    "gradient_combined": gradient_combined,
}

# What a score needs of a method's `extra`.
_NEEDED = {"gradient_kl": "kl", "gradient_combined": "kl"}


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


def check_score(name: str, method_name: str, extra: Collection[str]) -> None:
    """Refuses a score that a method does not have.

    Args:
      name: of the score.
      method_name: of the method.
      extra: what it has beside reconstructions and latents.

    Raises:
      ValueError: the score is unknown, or needs what is not in `extra`.
    """
    get_score(name)
    if name in _NEEDED and _NEEDED[name] not in extra:
        raise ValueError(
            f"eval.score is {name}, but {method_name} has no {_NEEDED[name]};"
            " set another eval.score or choose vae as the method."
        )
