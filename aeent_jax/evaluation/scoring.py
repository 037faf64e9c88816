"""Latents, score maps and anomaly scores of images, over all devices.

Every image is scored exactly once: batches are padded and the padding is
dropped. Scoring adds no channel noise.
"""

import dataclasses
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from aeent_jax import methods, models
from aeent_jax.data import stored
from aeent_jax.runtime import parallel


@dataclasses.dataclass(frozen=True)
class Scored:
    """Latents and scores of N images, on the host.

    Attributes:
      z: clean latents, `[N, D]` float32; None where there is no latent vector.
      score_maps: `[N, H, W]` float32; None where the score has no map, or
        maps were not kept.
      anomaly_scores: `[N]` float64; the mean of each map, or the score itself
        where it has no map.
      reconstruction_error: `[N]` float32, the mean squared error of each image,
        whatever the method minimises.
      images_per_second: speed without compilation; None after a single call,
        which may have compiled.
      reconstructions: `[N, H, W, C]` float32 in [-1, 1]; None where they were
        not kept.
    """

    z: np.ndarray | None
    score_maps: np.ndarray | None
    anomaly_scores: np.ndarray
    reconstruction_error: np.ndarray
    images_per_second: float | None
    reconstructions: np.ndarray | None = None


def score_step(
    method: methods.Method,
    score: Callable[..., methods.Score],
    variables: models.Variables,
    images: jax.Array,
    positions: jax.Array,
) -> tuple[jax.Array | None, methods.Score, jax.Array, jax.Array]:
    """Scores images on one device, with running statistics and no noise.

    Args:
      method: network and score.
      score: like those of `methods.SCORES`.
      variables: of the network.
      images: `[B, H, W, C]` uint8.
      positions: `[B]` int, their places in the split.

    Returns:
      `z` `[B, D]` or None, the score, mean squared errors `[B]`, and
      reconstructions `[B, H, W, C]` in [-1, 1].
    """
    inputs = methods.Inputs(
        x=methods.normalise(images),
        mask=None,
        positions=positions,
        rng=jax.random.key(0),
    )
    outputs = method.forward(variables, inputs, methods.no_noise, train=False)
    scores = score(method, variables, inputs, outputs)
    x_hat = outputs.x_hat
    error = jnp.mean(jnp.square(inputs.x - x_hat), axis=(1, 2, 3))
    return outputs.z, scores, error, x_hat


class Scorer:
    """Scores images with a trained network."""

    def __init__(
        self,
        mapping: parallel.Parallel,
        method: methods.Method,
        batch_size: int,
        *,
        score: Callable[..., methods.Score],
    ):
        """Prepares the scoring step; it compiles when first used.

        Args:
          mapping: the devices.
          method: network and score.
          batch_size: images per call, over all devices.
          score: like those of `methods.SCORES`.
        """
        self._parallel = mapping
        self._batch_size = mapping.padded(batch_size)
        self._step = mapping.map(lambda *args: score_step(method, score, *args))

    def score(
        self,
        variables: models.Variables,
        images: np.ndarray | stored.StoredImages,
        *,
        keep_maps: bool = True,
        keep_reconstructions: bool = False,
    ) -> Scored:
        """Scores every image once, in order.

        Args:
          variables: replicated over the devices.
          images: `[N, H, W, C]` uint8, on the host or in files.
          keep_maps: whether to return the maps, which take four times the
            memory of gray images; all else is small.
          keep_reconstructions: whether to return the reconstructions, which
            take as much.

        Returns:
          Latents, maps and scores.
        """
        parts, seconds, timed, size = [], 0.0, 0, self._batch_size
        for begin in range(0, len(images), size):
            rows = images[begin : begin + size]
            count = len(rows)
            padding = [(0, size - count)] + [(0, 0)] * (images.ndim - 1)
            padded = np.pad(rows, padding)
            positions = np.arange(begin, begin + size, dtype=np.int32)
            begun = time.monotonic()
            placed = self._parallel.shard((padded, positions))
            outputs = self._step(variables, *placed)
            z, (maps, values), errors, x_hat = jax.tree.map(
                lambda array, count=count: array[:count],
                self._parallel.fetch_sharded(outputs),
            )
            if values is None:
                values = maps.mean(axis=(1, 2), dtype=np.float64)
            maps = maps if keep_maps else None
            x_hat = x_hat if keep_reconstructions else None
            parts.append((z, maps, values, errors, x_hat))
            if begin:  # The first call may have compiled.
                seconds += time.monotonic() - begun
                timed += count
        z, maps, values, errors, x_hat = jax.tree.map(
            lambda *arrays: np.concatenate(arrays), *parts
        )
        return Scored(
            z=z,
            score_maps=maps,
            anomaly_scores=values.astype(np.float64),
            reconstruction_error=errors,
            images_per_second=timed / seconds if timed else None,
            reconstructions=x_hat,
        )
