"""Rates, errors and diagnostics of each kind of image, from its latents.

Each estimator is called inside one compiled program here. Called directly it
would compile dozens of small programs at the first evaluation, and move arrays
to the device at every use.
"""

import functools
from typing import Any

import jax
import ml_collections
import numpy as np

from aeent_jax import data, entropy
from aeent_jax.evaluation import scoring

# Scores, and the rows of them that are of one kind of image.
_Kinds = dict[str, tuple[scoring.Scored, Any]]


def measure(
    name: str,
    split: data.Split,
    scored: scoring.Scored,
    trained: scoring.Scored,
    config: ml_collections.ConfigDict,
) -> dict[str, Any]:
    """Measures each kind of image: training normals, and those of a split.

    Args:
      name: of the split.
      split: the evaluated images.
      scored: their scores.
      trained: scores of the training normals.
      config: the resolved configuration.

    Returns:
      `rate_nats`, the coding rate of the training normals: the one meter of
      every axis in nats, which needs 1000 latents, or all there are; None
      without a channel. And by kind, `train_normal` or `<split>_<label>`, the
      `reconstruction_error` and the `diagnostics`. None and none where the
      method has no latent vector.
    """
    kinds: _Kinds = {"train_normal": (trained, slice(None))}
    if name != "train":
        for word, label in (
            ("normal", data.NORMAL),
            ("abnormal", data.ABNORMAL),
        ):
            rows = split.labels == label
            if rows.any():
                kinds[f"{name}_{word}"] = (scored, rows)
    errors = {
        kind: float(of.reconstruction_error[rows].mean(dtype=np.float64))
        for kind, (of, rows) in kinds.items()
    }
    sigma, rate, diagnostics = config.channel.sigma, None, {}
    if trained.z is not None:
        if sigma > 0:
            # One latent says nothing.
            rate = 0.0
            if len(trained.z) >= 2:
                z = jax.device_put(trained.z)
                rate = float(jax.device_get(_coding_rate(z, sigma)))
        latents = {kind: of.z[rows] for kind, (of, rows) in kinds.items()}
        # The bracket depends on the number of latents: the same for every kind.
        n = min([config.eval.diagnostic_latents, *map(len, latents.values())])
        for kind, z in latents.items():
            chosen = np.random.default_rng(0).permutation(len(z))[:n]
            diagnostics[kind] = diagnose(z[chosen], sigma)
    return {
        "rate_nats": rate,
        "reconstruction_error": errors,
        "diagnostics": diagnostics,
    }


def diagnose(z: np.ndarray, sigma: float) -> dict[str, Any]:
    """Diagnostics of latents, as plain numbers and lists.

    Args:
      z: `[n, dim]`, on the host.
      sigma: standard deviation of the channel's noise; 0 without a channel.

    Returns:
      `num_latents`, and `entropy.channel_diagnostics` with the noise of a fixed
      key; only the `variance` where there is no channel or one latent.
    """
    if sigma == 0 or len(z) < 2:
        return {"num_latents": len(z), "variance": z.var(axis=0).tolist()}
    numbers = jax.device_get(_diagnostics(jax.device_put(z), sigma))
    return {"num_latents": len(z)} | jax.tree.map(np.ndarray.tolist, numbers)


@functools.partial(jax.jit, static_argnums=1)
def _coding_rate(z, sigma):
    return entropy.coding_rate(z, sigma=sigma).value


@functools.partial(jax.jit, static_argnums=1)
def _diagnostics(z, sigma):
    return entropy.channel_diagnostics(z, jax.random.key(0), sigma)
