"""Tiny networks, data and configurations for the tests of training."""

import functools
import json
import pathlib

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax
import PIL.Image
from jax.experimental.compilation_cache import compilation_cache

from aeent_jax import config as config_lib
from aeent_jax import entropy, methods, models
from aeent_jax.methods import autoencoders
from aeent_jax.runtime import checkpoint, parallel, progress, storage
from aeent_jax.training import objective
from aeent_jax.training import step as train_step

IMAGE_SIZE = 16
LATENT_DIM = 4


def cache_home(tmp_path_factory) -> pathlib.Path:
    """Stands for ~/.cache: all tests of one session compile a program once."""
    return tmp_path_factory.getbasetemp() / "cache"


def use_compilation_cache(home: pathlib.Path):
    """Has this process use the cache that commands use; a generator."""
    values = {
        "jax_compilation_cache_dir": str(home / "aeent_jax" / "xla"),
        "jax_persistent_cache_min_compile_time_secs": 0,
        "jax_persistent_cache_min_entry_size_bytes": -1,
    }
    before = {name: getattr(jax.config, name) for name in values}
    _configure_jax(values)
    yield
    _configure_jax(before)


def _configure_jax(values):
    for name, value in values.items():
        jax.config.update(name, value)
    # Whether there is a cache is decided once, at the first compilation.
    compilation_cache.reset_cache()


def make_images(count: int, seed: int = 0) -> np.ndarray:
    """Smooth blobs `[count, 16, 16, 1]` uint8, which differ."""
    rng = np.random.default_rng(seed)
    grid = np.arange(IMAGE_SIZE)
    y, x = rng.uniform(4, 12, (2, count, 1))
    width = rng.uniform(2, 5, (count, 1))
    rows = np.exp(-(((grid - y) / width) ** 2))
    columns = np.exp(-(((grid - x) / width) ** 2))
    blobs = rows[:, :, None] * columns[:, None, :]
    return (40 + 200 * blobs).astype(np.uint8)[..., None]


def write_images(
    folder: pathlib.Path, images: np.ndarray, prefix: str = ""
) -> None:
    """Writes `[N, H, W, 1]` as 00.png, 01.png and so on."""
    folder.mkdir(parents=True)
    for i, image in enumerate(images):
        path = folder / f"{prefix}{i:02d}.png"
        PIL.Image.fromarray(image[..., 0]).save(path)


def make_class_folders(root: pathlib.Path, seed: int = 0) -> pathlib.Path:
    """14 normals to train; 6 normal and 5 abnormal, with masks, to test."""
    write_images(root / "train/normal", make_images(14, seed=seed))
    write_images(root / "test/normal", make_images(6, seed=1))
    abnormal, masks = make_images(5, seed=2), np.zeros((5, 16, 16, 1), np.uint8)
    abnormal[:, 3:6, 3:7] = 255
    masks[:, 3:6, 3:7] = 255
    write_images(root / "test/abnormal", abnormal, "a")
    write_images(root / "test/masks", masks, "a")
    return root


def make_network(
    axis_name: str | None = parallel.AXIS,
    normalisation: str = "none",
    latent_dim: int = LATENT_DIM,
) -> models.Autoencoder:
    """A tiny network."""
    return models.make_autoencoder(
        image_size=IMAGE_SIZE,
        channels=1,
        latent_dim=latent_dim,
        base_width=4,
        hidden_dim=32,
        depth=1,
        axis_name=axis_name,
        normalisation=normalisation,
    )


def make_method(
    axis_name: str | None = parallel.AXIS,
    normalisation: str = "none",
    latent_dim: int = LATENT_DIM,
) -> methods.Method:
    """The plain autoencoder on the tiny network."""
    return autoencoders.from_network(
        make_network(axis_name, normalisation, latent_dim)
    )


def _init_density(rng, dim, *, components):
    mean = jax.random.normal(rng, (dim,)) / components
    return {"mean": mean, "log_scale": jnp.zeros(dim)}


def _density(points, *, params, width):
    """Minus the log density of a product of normal laws, plus the width."""
    query_mask = points.query_mask
    scaled = (points.queries - params["mean"]) * jnp.exp(-params["log_scale"])
    minus_log = 0.5 * (scaled**2 + jnp.log(2 * jnp.pi)) + params["log_scale"]
    per_query = jnp.where(query_mask, minus_log.sum(1) + width, 0.0)
    value = jnp.sum(per_query) / jnp.maximum(jnp.sum(query_mask), 1)
    return entropy.Estimate(value, "h", per_query)


def add_density(monkeypatch):
    """Puts a learned estimator of known form, `density`, into the table."""
    entry = entropy.Estimator(
        _density,
        "upper bound",
        init=_init_density,
        per_query=True,
        noisy_queries=True,
        hyper=("components",),
        noise_argument="width",
    )
    monkeypatch.setitem(entropy.ESTIMATORS, "density", entry)


def make_step_config(
    optimizer: optax.GradientTransformation,
    fields: dict | None = None,
    **rate,
) -> train_step.StepConfig:
    """A tiny network with the channel and `kde_loo`, or as `rate` says."""
    term = {
        "sigma": 0.5,
        "estimator": "kde_loo",
        "weight": 1e-2,
        "bandwidth": "channel",
        "allow_unsound": False,
        "options": {"components": 4},
    }
    made = {
        "method": make_method(),
        "rate": objective.make_rate(**(term | rate)),
        "optimizer": optimizer,
    }
    return train_step.StepConfig(**(made | (fields or {})))


def tiny(root: pathlib.Path | str, cache_dir: pathlib.Path | str) -> dict:
    """Keys of a run of 3 epochs of 4 steps, the last ragged, on two devices.

    Args:
      root: the folder of images.
      cache_dir: of prepared copies.
    """
    return {
        "data.name": "folder",
        "data.root": str(root),
        "data.cache_dir": str(cache_dir),
        "data.image_size": IMAGE_SIZE,
        "model.latent_dim": LATENT_DIM,
        "model.base_width": 4,
        "model.hidden_dim": 32,
        "channel.sigma": 0.5,
        "entropy.weight": 1e-2,
        "train.epochs": 3,
        "train.batch_size": 4,
        "eval.batch_size": 8,
        "eval.num_resamples": 10,
        "parallel.num_devices": 2,
        "checkpoint.every_steps": 2,
        "log.tensorboard": False,
    }


def make_config(
    root: pathlib.Path, cache_dir: pathlib.Path, **overrides
) -> ml_collections.ConfigDict:
    """The configuration of `tiny`; in overrides `__` stands for the dot."""
    config = config_lib.default()
    config.lock()
    overrides = {key.replace("__", "."): v for key, v in overrides.items()}
    config.update_from_flattened_dict(tiny(root, cache_dir) | overrides)
    return config


def config_maker(tmp_path_factory):
    """`make_config` on one folder of images, made here."""
    folder = tmp_path_factory.mktemp("data")
    root = make_class_folders(folder / "images")
    return functools.partial(make_config, root, folder / "cache")


class Recorder(progress.Progress):
    """Keeps what a run says, and calls back after every step."""

    def __init__(self, after_step=lambda done: None):
        super().__init__(0)
        self.said: list[str] = []
        self.shown: list[int] = []
        self._after_step = after_step

    def write(self, text):
        self.said.append(text)

    def show(self, done, note):
        self.shown.append(done)
        self._after_step(done)

    @property
    def warnings(self) -> list[str]:
        # The images of these tests are few, which is no news.
        few = "by heart"
        return [
            text
            for text in self.said
            if text.startswith("WARNING") and few not in text
        ]


def final_state(workdir, config) -> checkpoint.Restored:
    """The newest checkpoint of a run."""
    from aeent_jax.training import experiment

    program = experiment.make_step_config(config, total_steps=10**6)
    like = jax.eval_shape(lambda: train_step.create_state(program, 0))
    return checkpoint.restore_from(workdir, like)


def assert_bitwise(actual, expected):
    """Compares trees of host arrays by their bytes."""
    actual, expected = map(jax.tree.flatten, (actual, expected))
    assert actual[1] == expected[1]
    for one, other in zip(actual[0], expected[0], strict=True):
        assert (one.dtype, one.shape) == (other.dtype, other.shape)
        assert one.tobytes() == other.tobytes()


def read_history(workdir) -> list[dict]:
    """The records of metrics.jsonl."""
    text = (storage.to_path(workdir) / "metrics.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines()]
