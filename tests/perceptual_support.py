"""Files for `ae_perceptual`, of small random weights in the true shapes."""

import pathlib

import numpy as np

from aeent_jax.models import vgg


def make_arrays(seed: int = 0) -> dict[str, np.ndarray]:
    """Weights in PyTorch's names and layouts; features are of order one."""
    rng = np.random.default_rng(seed)

    def draw(shape):
        if len(shape) == 1:
            return rng.normal(0, 0.1, shape).astype(np.float32)
        fan_in = np.prod(shape[1:])
        numbers = rng.standard_normal(shape, dtype=np.float32)
        return numbers * np.float32(np.sqrt(2 / fan_in))

    return {name: draw(shape) for name, shape in vgg.SHAPES.items()}


def make_statistics(seed: int = 1) -> dict[str, np.ndarray]:
    """Means and standard deviations of features."""
    rng = np.random.default_rng(seed)
    return {
        "mean": rng.uniform(0, 1, vgg.NUM_FEATURES).astype(np.float32),
        "std": rng.uniform(0.5, 2, vgg.NUM_FEATURES).astype(np.float32),
    }


def configure(config, folder: pathlib.Path):
    """Writes both files, once, and has a configuration name them."""
    weights, statistics = folder / "vgg19.npz", folder / "statistics.npz"
    if not statistics.exists():
        np.savez(weights, **make_arrays())
        np.savez(statistics, **make_statistics())
    config.loss.vgg_weights = str(weights)
    config.loss.vgg_statistics = str(statistics)
    return config
