"""Weighted sums of anomaly scores; one term may be a score of the latents.

    squared                      one score
    squared+0.001*surprise       a sum
    description_length           the training objective of one image

`surprise` is minus the log density, in nats, of the latent of an image. The
density is a kernel density of the latents of the training normals. The kernel
is the channel's noise; without a channel its bandwidth maximises the
leave-one-out likelihood.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from aeent_jax import entropy, methods, models

SURPRISE = "surprise"
DESCRIPTION_LENGTH = "description_length"


class Term(NamedTuple):
    """A score and its weight in a sum."""

    weight: float
    name: str


def parse(
    spec: str, config: ml_collections.ConfigDict, method: methods.Method
) -> tuple[Term, ...]:
    """Reads a sum of scores.

    Args:
      spec: terms joined by "+", each a name or `weight*name`.
      config: the run's, for the weight of one nat in `description_length`.
      method: the run's.

    Returns:
      The terms; `description_length` is replaced by its two terms.

    Raises:
      ValueError: an unknown name, one that the method does not have, or a
        weight that is no number.
    """
    terms = []
    for text in spec.split("+"):
        weight, star, name = text.strip().rpartition("*")
        factor = _parse_weight(weight, spec) if star else 1.0
        if name == DESCRIPTION_LENGTH:
            terms += [
                Term(factor, "reconstruction"),
                Term(factor * _trained_weight(config), SURPRISE),
            ]
        else:
            if name != SURPRISE:
                try:
                    methods.get_score(name)
                except ValueError as error:
                    raise ValueError(
                        f"{str(error).rstrip('.')}, {SURPRISE} or"
                        f" {DESCRIPTION_LENGTH}, or a sum of them."
                    ) from error
                methods.check_score(name, config.method, method.extra)
            terms.append(Term(factor, name))
    if needs_latents(terms) and method.latent_dim is None:
        raise ValueError(
            f"the score is {spec}, but {config.method} has no latent vector;"
            " choose a score of images, such as squared."
        )
    return tuple(terms)


def _parse_weight(text: str, spec: str) -> float:
    try:
        weight = float(text)
    except ValueError:
        weight = math.nan
    if not math.isfinite(weight):
        raise ValueError(
            f"the score is {spec!r}, in which {text!r} is no number; write a"
            " sum as squared+0.001*surprise."
        )
    return weight


def _trained_weight(config: ml_collections.ConfigDict) -> float:
    if config.entropy.controller != "fixed":
        raise ValueError(
            f"the score is {DESCRIPTION_LENGTH}, but the weight of this run was"
            f" that of its controller ({config.entropy.controller}), which"
            f" changed; give the sum yourself, as reconstruction+0.001*"
            f"{SURPRISE}."
        )
    return config.entropy.weight


def needs_latents(terms: Sequence[Term]) -> bool:
    """Whether a sum has a term that needs the latents."""
    return any(term.name == SURPRISE for term in terms)


def of_images(terms: Sequence[Term]) -> Callable[..., methods.Score]:
    """Returns the part of a sum that needs one image and the network.

    Args:
      terms: all terms of the sum.

    Returns:
      A function like those of `methods.SCORES`; its score has a map where all
      terms have one.
    """
    chosen = [t for t in terms if t.name != SURPRISE]

    def score(
        method: methods.Method,
        variables: models.Variables,
        inputs: methods.Inputs,
        outputs: methods.Outputs,
    ) -> methods.Score:
        scores = [
            (w, methods.get_score(name)(method, variables, inputs, outputs))
            for w, name in chosen
        ]
        maps = None
        if scores and all(s.map is not None for _, s in scores):
            maps = sum(w * s.map for w, s in scores)
            if all(s.value is None for _, s in scores):
                return methods.Score(maps)
        values = [
            w * (jnp.mean(s.map, axis=(1, 2)) if s.value is None else s.value)
            for w, s in scores
        ]
        return methods.Score(maps, sum(values, jnp.zeros(len(inputs.x))))

    return score


def of_latents(
    terms: Sequence[Term],
    z: np.ndarray,
    samples: np.ndarray,
    sigma: float,
    *,
    own: bool,
) -> np.ndarray:
    """Computes the part of a sum that needs the training latents.

    Args:
      terms: all terms of the sum.
      z: latents of the images, `[N, D]`.
      samples: latents of the training normals, `[n, D]`.
      sigma: standard deviation of the channel's noise; 0 without a channel.
      own: whether `z` are the samples, which then leave themselves out.

    Returns:
      `[N]` float64.
    """
    weight = sum(t.weight for t in terms if t.name == SURPRISE)
    return weight * surprise(z, samples, sigma, own=own)


def surprise(
    z: np.ndarray, samples: np.ndarray, sigma: float, *, own: bool
) -> np.ndarray:
    """Minus the log density of latents under that of the training normals.

    Args:
      z: `[N, D]`.
      samples: `[n, D]`, at least 2.
      sigma: standard deviation of the kernel; 0 for the bandwidth of maximum
        leave-one-out likelihood.
      own: whether `z` are the samples, which then leave themselves out.

    Returns:
      `[N]` float64, in nats.

    Raises:
      ValueError: there are fewer samples than the density needs.
    """
    if len(samples) < 2:
        raise ValueError(
            f"the score {SURPRISE} needs at least 2 training images, and"
            f" there is {len(samples)}; train on more, or choose a score of"
            " images, such as squared."
        )
    index = np.arange(len(z)) if own else np.full(len(z), -1)
    per_query = _per_query(sigma or "loo_ml", z, samples, index)
    return np.asarray(per_query, np.float64)


@functools.partial(jax.jit, static_argnums=0)
def _per_query(bandwidth, z, samples, index):
    return entropy.kde_loo(z, samples, index, bandwidth=bandwidth).per_query
