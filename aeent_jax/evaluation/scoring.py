"""Latents, score maps and anomaly scores of images, over all devices.

Exact: every image is scored once; batches are padded and the padding is
dropped. There is no channel noise here.
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
      anomaly_scores: `[N]` float64, the mean of each map unless the score is
        a number by itself.
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
    found = score(method, variables, inputs, outputs)
    x_hat = outputs.x_hat
    error = jnp.mean(jnp.square(inputs.x - x_hat), axis=(1, 2, 3))
    return outputs.z, found, error, x_hat


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
        parts, seconds, timed = [], 0.0, 0
        for begin, rows in self._batches(images):
            begun = time.monotonic()
            outputs = self._call(variables, rows, begin)
            outputs = outputs if keep_reconstructions else outputs[:3]
            count = min(len(rows), len(images) - begin)
            outputs = jax.tree.map(lambda a, n=count: a[:n], outputs)
            parts.append(_with_values(outputs, keep_maps))
            if begin:  # The first call may have compiled.
                seconds += time.monotonic() - begun
                timed += count
        z, found, errors, *x_hat = jax.tree.map(
            lambda *arrays: np.concatenate(arrays), *parts
        )
        return Scored(
            z=z,
            score_maps=found.map,
            anomaly_scores=found.value.astype(np.float64),
            reconstruction_error=errors,
            images_per_second=timed / seconds if timed else None,
            reconstructions=x_hat[0] if x_hat else None,
        )

    def reconstruct(
        self, variables: models.Variables, images: np.ndarray
    ) -> np.ndarray:
        """Returns reconstructions `[N, H, W, C]` in [0, 1] of a few images."""
        parts = [
            self._call(variables, rows, begin)[3][: len(images) - begin]
            for begin, rows in self._batches(images)
        ]
        return (np.concatenate(parts) + 1.0) / 2.0

    def _batches(self, images):
        size = self._batch_size
        for begin in range(0, len(images), size):
            rows = images[begin : begin + size]
            padding = [(0, size - len(rows))] + [(0, 0)] * (images.ndim - 1)
            yield begin, np.pad(rows, padding)

    def _call(self, variables, rows, begin):
        positions = np.arange(begin, begin + len(rows), dtype=np.int32)
        placed = self._parallel.shard((rows, positions))
        return self._parallel.fetch_sharded(self._step(variables, *placed))


def _with_values(outputs, keep_maps):
    """The outputs with a score for every image; maps only if they are kept."""
    z, found, *others = outputs
    value, maps = found.value, found.map
    if value is None:
        value = maps.mean(axis=(1, 2), dtype=np.float64)
    return z, methods.Score(maps if keep_maps else None, value), *others
