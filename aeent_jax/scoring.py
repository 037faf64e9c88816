"""Latents, score maps and anomaly scores of images, over all devices.

Exact: every image is scored once; batches are padded and the padding is
dropped. There is no channel noise here.
"""

import dataclasses
import time

import jax
import numpy as np

from aeent_jax import methods, models, parallel, train_step


@dataclasses.dataclass(frozen=True)
class Scored:
    """What a network says of N images, on the host.

    Attributes:
      z: clean latents, `[N, D]` float32.
      score_maps: `[N, H, W]` float32.
      anomaly_scores: `[N]` float64, the mean of each map.
      reconstruction_error: `[N]` float32, the method's loss of each image.
      images_per_second: without compilation; None where one call did all.
    """

    z: np.ndarray
    score_maps: np.ndarray
    anomaly_scores: np.ndarray
    reconstruction_error: np.ndarray
    images_per_second: float | None


def score_step(
    method: methods.Method,
    network: models.Autoencoder,
    variables: models.Variables,
    images: jax.Array,
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """Scores images on one device, with running statistics and no noise.

    Args:
      method: score map and reconstruction loss.
      network: encoder and decoder.
      variables: of the network.
      images: `[B, H, W, C]` uint8.

    Returns:
      `z` `[B, D]`, score maps `[B, H, W]`, reconstruction errors `[B]`, and
      reconstructions `[B, H, W, C]` in [-1, 1].
    """
    x = train_step.normalise(images)
    z, _ = network.encode(variables, x, train=False)
    x_hat, _ = network.decode(variables, z, train=False)
    score_map = method.score_map(x, x_hat)
    return z, score_map, method.reconstruction(x, x_hat), x_hat


class Scorer:
    """Scores images with a trained network."""

    def __init__(
        self,
        mapping: parallel.Parallel,
        method: methods.Method,
        network: models.Autoencoder,
        batch_size: int,
    ):
        """Prepares the scoring step; it compiles when first used.

        Args:
          mapping: the devices.
          method: score map and reconstruction loss.
          network: encoder and decoder.
          batch_size: images of one call, over all devices.
        """
        self._parallel = mapping
        self._batch_size = mapping.padded(batch_size)
        self._step = mapping.map(
            lambda *args: score_step(method, network, *args),
            [parallel.REPLICATED, parallel.SHARDED],
            [parallel.SHARDED] * 4,
        )

    def score(self, variables: models.Variables, images: np.ndarray) -> Scored:
        """Scores every image once, in order.

        Args:
          variables: replicated over the devices.
          images: `[N, H, W, C]` uint8, on the host.

        Returns:
          Latents, maps and scores.
        """
        parts, seconds, timed = [], 0.0, 0
        for begin, rows in self._batches(images):
            begun = time.monotonic()
            outputs = self._call(variables, rows)[:3]
            count = min(len(rows), len(images) - begin)
            parts.append([array[:count] for array in outputs])
            if begin:  # The first call may have compiled.
                seconds += time.monotonic() - begun
                timed += count
        z, maps, errors = (
            np.concatenate(arrays) for arrays in zip(*parts, strict=True)
        )
        return Scored(
            z=z,
            score_maps=maps,
            anomaly_scores=maps.mean(axis=(1, 2), dtype=np.float64),
            reconstruction_error=errors,
            images_per_second=timed / seconds if timed else None,
        )

    def reconstruct(
        self, variables: models.Variables, images: np.ndarray
    ) -> np.ndarray:
        """Returns reconstructions `[N, H, W, C]` in [0, 1] of a few images."""
        parts = [
            self._call(variables, rows)[3][: len(images) - begin]
            for begin, rows in self._batches(images)
        ]
        return (np.concatenate(parts) + 1.0) / 2.0

    def _batches(self, images):
        size = self._batch_size
        for begin in range(0, len(images), size):
            rows = images[begin : begin + size]
            padding = [(0, size - len(rows))] + [(0, 0)] * (images.ndim - 1)
            yield begin, np.pad(rows, padding)

    def _call(self, variables, rows):
        outputs = self._step(variables, self._parallel.shard(rows))
        return self._parallel.fetch_sharded(outputs)
