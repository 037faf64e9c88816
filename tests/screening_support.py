"""A tiny trained run of 60 normal images, and images to screen."""

import functools
import pathlib

import numpy as np
import PIL.Image
import training_support

from aeent_jax import screening
from aeent_jax.training import loop


def train(tmp_path_factory, **overrides) -> pathlib.Path:
    """Trains on 60 files of telling names, of which 19 are held out."""
    folder = tmp_path_factory.mktemp("screening")
    root = folder / "normals"
    training_support.write_images(
        root, training_support.make_images(60), "secret_name_"
    )
    config = training_support.make_config(
        root, folder / "cache", **{"data__calibration": "auto"} | overrides
    )
    recorder = training_support.Recorder()
    loop.train(config, folder / "run", log=recorder)
    assert any("19 of 60 normals are held out" in s for s in recorder.said)
    return folder / "run"


@functools.cache
def load(run: pathlib.Path) -> screening.Detector:
    """The detector of a run, once."""
    return screening.Detector.load(run)


def abnormal(count: int) -> np.ndarray:
    """Images with a checkerboard, `[count, 16, 16]` uint8."""
    images = training_support.make_images(count, seed=9)[..., 0]
    images[:, 2:14, 2:14] = 255 * (np.indices((12, 12)).sum(0) % 2)
    return images


def write(folder: pathlib.Path, images: np.ndarray, prefix="") -> pathlib.Path:
    """Writes `[N, H, W]` as PNG."""
    folder.mkdir(parents=True, exist_ok=True)
    for i, image in enumerate(images):
        PIL.Image.fromarray(image).save(folder / f"{prefix}{i:03d}.png")
    return folder
