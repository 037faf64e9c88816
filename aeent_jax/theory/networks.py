"""Latents and errors of each kind of image under a trained network.

The only place here that knows how a run is restored, scored and decoded.
"""

import dataclasses
import functools
import pathlib
from collections.abc import Callable, Mapping

import jax
import ml_collections
import numpy as np

from aeent_jax import data, methods
from aeent_jax.entropy import channel
from aeent_jax.evaluation import evaluate
from aeent_jax.training import restore

KINDS = ("train_normal", "test_normal", "test_abnormal")
# Halvings of a factor of 1e6 to a relative precision of 1e-4.
_HALVINGS = 17
_LEAST, _MOST = 1e-4, 1e2


@dataclasses.dataclass(frozen=True)
class Network:
    """A restored run and what it makes of the three kinds of image.

    Attributes:
      config: the resolved configuration.
      dataset: the splits.
      latents: kind -> clean latents `[N, D]`.
      images: kind -> `[N, H, W, C]` float32 in [-1, 1].
      scores: anomaly scores of the test split `[N]`.
    """

    config: ml_collections.ConfigDict
    dataset: data.Dataset
    latents: Mapping[str, np.ndarray]
    images: Mapping[str, np.ndarray]
    scores: np.ndarray
    _reconstruct: Callable[..., jax.Array]

    def error(self, kind: str, sigma: float, rows: int = 0) -> np.ndarray:
        """Mean squared error of each image, decoded from `z + sigma*eps`.

        Args:
          kind: one of `KINDS`.
          sigma: 0 decodes the clean latents, as in scoring.
          rows: how many images, a fixed random choice; 0 for all.

        Returns:
          `[N]` float64, the noise drawn anew for each image from a fixed key.
        """
        x = self.images[kind]
        if rows:
            x = choose(x, rows)
        size = self.config.eval.batch_size
        parts = []
        for begin in range(0, len(x), size):
            # One shape for all, so that it compiles once.
            place = np.arange(begin, begin + size)
            chosen = np.minimum(place, len(x) - 1)
            x_hat = self._reconstruct(x[chosen], np.float32(sigma), place)
            wanted = x[begin : begin + size]
            difference = np.asarray(x_hat)[: len(wanted)] - wanted
            parts.append(
                np.mean(difference**2, axis=(1, 2, 3), dtype=np.float64)
            )
        return np.concatenate(parts)

    def tolerated_noise(self, share: float, rows: int) -> float | None:
        """The noise that raises the training error by a share of itself.

        Args:
          share: positive, 0.1 for a tenth.
          rows: how many training images to find it on.

        Returns:
          sigma, in the unit of the latents; None where the decoder pays them
          so little heed that no noise does it.
        """
        kind = KINDS[0]
        z = self.latents[kind]
        limit = (1 + share) * self.error(kind, 0.0, rows).mean()
        rms = float(np.sqrt(np.mean((z - z.mean(0)) ** 2)))
        low, high = np.log(rms * np.array([_LEAST, _MOST])) if rms else (0, 0)
        if self.error(kind, float(np.exp(high)), rows).mean() < limit:
            return None
        for _ in range(_HALVINGS):
            middle = (low + high) / 2
            error = self.error(kind, float(np.exp(middle)), rows).mean()
            low, high = (middle, high) if error < limit else (low, middle)
        return float(np.exp((low + high) / 2))


def load(directory: str | pathlib.Path, *, root: str = "") -> Network:
    """Restores a run, and encodes the training and the test split.

    Args:
      directory: the workdir of a run.
      root: as in `restore.evaluate_workdir`.

    Returns:
      The network.

    Raises:
      FileNotFoundError: there is no run or no checkpoint.
      ValueError: the checkpoint cannot be used, or the data has no normal and
        abnormal test images.
    """
    run = restore.restore(directory, root=root)
    if run.method.latent_dim is None:
        raise ValueError(
            f"the method of {directory}, {run.config.method}, has no latent"
            " vector, and its rate is wanted: give runs of one that has."
        )
    chosen = _kinds(directory, run.dataset)
    evaluator = evaluate.Evaluator(run.parallel, run.method, run.config)
    scored = {
        name: evaluator.score(run.variables, run.dataset.splits[name].images)
        for name in ("train", "test")
    }
    reconstruct = jax.jit(functools.partial(_reconstruct, run.method))
    return Network(
        config=run.config,
        dataset=run.dataset,
        latents={k: scored[s].z[rows] for k, (s, rows) in chosen.items()},
        images={
            k: np.asarray(methods.normalise(run.dataset.splits[s].images[rows]))
            for k, (s, rows) in chosen.items()
        },
        scores=scored["test"].anomaly_scores,
        _reconstruct=functools.partial(reconstruct, run.restored.state),
    )


def _kinds(directory, dataset) -> dict[str, tuple[str, np.ndarray]]:
    """Split and rows of each kind."""
    train = np.ones(len(dataset.splits["train"]), bool)
    labels = np.zeros(0)
    if "test" in dataset.splits:
        labels = dataset.splits["test"].labels
    normal, abnormal = labels == data.NORMAL, labels == data.ABNORMAL
    if not (normal.any() and abnormal.any()):
        raise ValueError(
            f"the data of {directory} has {normal.sum()} normal and"
            f" {abnormal.sum()} abnormal test images, and some of each are"
            " needed: give runs on a data set that has both."
        )
    rows = [("train", train), ("test", normal), ("test", abnormal)]
    return dict(zip(KINDS, rows, strict=True))


def _reconstruct(method, variables, x, sigma, positions):
    """Reconstructs images from `z + sigma*eps`, on one device."""
    rng = jax.random.key(0)

    def noise(z):
        return z + sigma * channel.add_noise(0 * z, 1.0, rng, positions)

    inputs = methods.Inputs(x=x, mask=None, positions=positions, rng=rng)
    return method.forward(variables, inputs, noise, train=False).x_hat


def choose(array: np.ndarray, rows: int) -> np.ndarray:
    """A fixed random choice of rows, the same for every array of a length."""
    return array[np.random.default_rng(0).permutation(len(array))[:rows]]
