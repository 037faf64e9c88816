"""A trained network that scores new images, with what its verdicts rest on."""

import dataclasses
import functools
import pathlib
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import ml_collections
import numpy as np
from absl import logging
from flax import traverse_util

from aeent_jax import config as config_lib
from aeent_jax import data, models
from aeent_jax.data import files, nearest
from aeent_jax.evaluation import evaluate, scoring
from aeent_jax.runtime import parallel, workdir
from aeent_jax.screening import archive, reading
from aeent_jax.screening import calibration as calibration_lib
from aeent_jax.training import experiment, loop, restore

# Side of the block means that are kept of each training image.
_BLOCKS = 16
# Mean absolute difference of block means, in gray levels, below which an image
# is said to be nearly a training image.
_NEARLY_EQUAL = 2.0
# The part of all pixels of normal images that a heat map leaves below its
# strongest colour.
_MAP_QUANTILE = 0.999
# How the id of an image ends that is not the only one of its file: with the
# number of its volume, where there are several, and its own.
_SLICE = re.compile(r"#(v\d{4}s)?\d{4,}$")
# Keys of a configuration that name files of one machine.
_PRIVATE = (
    "data.root",
    "data.cache_dir",
    "checkpoint.restore_from",
    "loss.vgg_weights",
    "loss.vgg_statistics",
)


@dataclasses.dataclass(frozen=True)
class Detector:
    """Scores images by how badly a network of normal images reconstructs them.

    Attributes:
      config: the resolved configuration, without paths.
      variables: of the network, on the host.
      calibration: scores of held-out normals; None where there are none, and
        then there are scores and no verdicts.
      latents: `[n, D]` of the training normals, for a score that needs them;
        else None.
      blocks: `[n, 16, 16]` uint8, block means of the training normals, by which
        a training image is recognised.
      about: facts for the model card, JSON values.
    """

    config: ml_collections.ConfigDict
    variables: models.Variables
    calibration: calibration_lib.Calibration | None
    latents: np.ndarray | None
    blocks: np.ndarray
    about: Mapping[str, Any]

    @classmethod
    def load(
        cls,
        path: str | pathlib.Path,
        *,
        best: bool = False,
        root: str = "",
    ) -> "Detector":
        """Loads the workdir of a run, or a file of `aeent export`.

        Args:
          path: the folder or the file.
          best: of a run, take the checkpoint of the lowest validation error;
            its validation images have chosen it, and do not calibrate.
          root: of a run, folder of its images; empty for where training found
            them.

        Returns:
          The detector, without calibration where the images of the run are
          not there.

        Raises:
          FileNotFoundError: there is no such model.
          ValueError: the model cannot be used.
        """
        path = pathlib.Path(path).expanduser()
        if path.is_dir():
            return _from_run(path, best, root)
        if path.is_file() and (best or root):
            raise ValueError(f"{path} is no workdir; leave out best and root.")
        return _from_file(path)

    @classmethod
    def fit(
        cls,
        images: np.ndarray | str | pathlib.Path | Sequence[str | pathlib.Path],
        *,
        calibration: np.ndarray | Sequence[str | pathlib.Path] | None = None,
        settings: Mapping[str, Any] | None = None,
        directory: str | pathlib.Path | None = None,
    ) -> "Detector":
        """Trains on normal images.

        Args:
          images: a folder, paths of files, or `[N, H, W]` or `[N, H, W, 3]`
            uint8.
          calibration: other normal images, as `score` takes them; None holds
            some of `images` out, if there are enough.
          settings: keys of the configuration, such as `{"train.epochs": 50}`.
          directory: workdir of the run; None keeps none. Images given as an
            array or as paths are not kept with it: `save` keeps the verdicts.

        Returns:
          The detector.

        Raises:
          ValueError: the images or the settings cannot be used.
        """
        config = config_lib.default()
        config.data.name = "folder"
        with tempfile.TemporaryDirectory() as temporary:
            root = pathlib.Path(temporary) / "images"
            if isinstance(images, str | pathlib.Path):
                root = pathlib.Path(images)
            else:
                _write_images(images, root)
                config.data.cache_dir = temporary
            if isinstance(images, np.ndarray) and images.ndim == 4:
                config.data.channels = 3
            config.data.root = str(root)
            if calibration is not None:
                config.data.calibration = "none"
            config.update_from_flattened_dict(dict(settings or {}))
            run = pathlib.Path(directory or pathlib.Path(temporary) / "run")
            loop.train(config, run)
            detector = cls.load(run)
        if calibration is None:
            return detector
        return detector.calibrated(calibration)

    def calibrated(
        self,
        images: np.ndarray | Sequence[str | pathlib.Path],
        source: str = "images that the user named as normal",
    ) -> "Detector":
        """Returns the same network with verdicts ranked among these images.

        Training images and their near copies are left out.

        Args:
          images: normal images that were not trained on, as `score` takes them.
          source: where they come from, as one phrase.

        Raises:
          ValueError: an image cannot be read, or none is left.
        """
        scores, units, near = [], [], []
        for file, scored in self._score_files(images):
            scores += scored.anomaly_scores.tolist()
            units += file.units
            near += self.is_nearly_training_image(file.pixels).tolist()
        calibration = calibration_lib.calibrate(
            np.array(scores), units, np.array(near), source
        )
        if calibration is None:
            raise ValueError(
                f"of {len(scores)} images to calibrate with, none is other than"
                " the training images; give normal images that the network was"
                " not trained on."
            )
        return dataclasses.replace(self, calibration=calibration)

    @functools.cached_property
    def digest(self) -> str:
        """The sha256 that names the model: all that decides its scores."""
        card = {k: v for k, v in self.card().items() if k != "about"}
        return archive.digest(card, self._arrays())

    def save(self, path: str | pathlib.Path) -> None:
        """Writes one file that `load` reads on a machine without the run.

        Args:
          path: the file, by custom `*.aeent`.

        Raises:
          ValueError: the network needs files that the model does not hold.
        """
        if self.config.method == "ae_perceptual":
            raise ValueError(
                "ae_perceptual needs the files of VGG19, which a model file"
                " does not hold; screen with --model=WORKDIR instead."
            )
        path = pathlib.Path(path).expanduser()
        path.parent.mkdir(parents=True, exist_ok=True)
        archive.write(path, self.card(), self._arrays())

    def score(
        self, images: np.ndarray | Sequence[str | pathlib.Path]
    ) -> np.ndarray:
        """Scores images; higher is more anomalous.

        Args:
          images: `[N, H, W]` or `[N, H, W, 3]` uint8, or paths of files, of
            which the largest score of the frames of each is taken.

        Returns:
          `[N]` float64.

        Raises:
          ValueError: an image cannot be used.
        """
        return np.array(
            [s.anomaly_scores.max() for _, s in self._score_files(images)]
        )

    def p_values(
        self, images: np.ndarray | Sequence[str | pathlib.Path]
    ) -> np.ndarray:
        """Ranks images among the calibration normals; see `conformal`.

        Args:
          images: as `score` takes them.

        Returns:
          `[N]` float64 in (0, 1]; small values are anomalous.

        Raises:
          ValueError: an image cannot be used, or there is no calibration.
        """
        if self.calibration is None:
            raise ValueError(
                "the model has no calibration normals, so there is no p-value;"
                " give some with Detector.calibrated."
            )
        scores = [s.anomaly_scores for _, s in self._score_files(images)]
        return self.calibration.p_values(
            np.array([s.max() for s in scores]),
            np.array([len(s) for s in scores]),
        )

    def heatmaps(
        self, images: np.ndarray | Sequence[str | pathlib.Path]
    ) -> list[np.ndarray]:
        """Maps where images are anomalous, at the size of the network's input.

        Args:
          images: as `score` takes them.

        Returns:
          For each image or file, `[frames, S, S]` float32.

        Raises:
          ValueError: an image cannot be used, or the score has no map.
        """
        maps = [scored.score_maps for _, scored in self._score_files(images)]
        if any(m is None for m in maps):
            raise ValueError(
                "the score of this model is one number per image and has no"
                " map; choose another with --config.eval.score=squared."
            )
        return maps

    def score_pixels(
        self, pixels: np.ndarray, *, keep_reconstructions: bool = False
    ) -> scoring.Scored:
        """Scores images that have the form of the network's input.

        Args:
          pixels: `[N, S, S, C]` uint8.
          keep_reconstructions: whether to return these too.
        """
        evaluator, variables = self._on_devices
        scored = evaluator.score(
            variables, pixels, keep_reconstructions=keep_reconstructions
        )
        return evaluator.add_latent_terms(scored, self.latents)

    def is_nearly_training_image(self, pixels: np.ndarray) -> np.ndarray:
        """Tells training images and their near copies, `[N]` bool.

        Args:
          pixels: `[N, S, S, C]` uint8.
        """
        if not len(self.blocks):
            return np.zeros(len(pixels), bool)
        near = nearest.find_nearest(
            block_means(pixels)[..., None], self.blocks[..., None]
        )
        return near.distance <= _NEARLY_EQUAL

    @property
    def map_scale(self) -> float:
        """The value of a score map that is drawn in the strongest colour."""
        return self.about.get("map_scale", 1.0)

    @functools.cached_property
    def _on_devices(self):
        mapping = parallel.make_parallel()
        method = experiment.make_step_config(self.config, 10**6).method
        evaluator = evaluate.Evaluator(mapping, method, self.config)
        return evaluator, mapping.replicate(self.variables)

    def _score_files(self, images):
        """Yields each `_File` with its scores; batches span files."""
        waiting = []
        for file in self._files(images):
            waiting.append(file)
            if sum(len(f.pixels) for f in waiting) >= self._batch_size:
                yield from self._score_waiting(waiting)
                waiting = []
        if waiting:
            yield from self._score_waiting(waiting)

    @property
    def _batch_size(self) -> int:
        return self.config.eval.batch_size

    def _score_waiting(self, waiting):
        scored = self.score_pixels(np.concatenate([f.pixels for f in waiting]))
        maps, begin = scored.score_maps, 0
        for file in waiting:
            rows = slice(begin, begin + len(file.pixels))
            begin = rows.stop
            yield (
                file,
                dataclasses.replace(
                    scored,
                    anomaly_scores=scored.anomaly_scores[rows],
                    score_maps=None if maps is None else maps[rows],
                ),
            )

    def _files(self, images) -> Iterator["_File"]:
        if isinstance(images, np.ndarray):
            for i, image in enumerate(images):
                pixels = reading.from_array(image, self.config)
                yield _File(pixels[None], [str(i)])
            return
        if isinstance(images, str | pathlib.Path):
            images = list(reading.find([str(images)]))
        for path in images:
            frames = reading.read(pathlib.Path(path), self.config)
            sound = [frame for frame in frames if not frame.problem]
            if not sound:
                raise files.UnreadableFileError(f"{path}: {frames[0].problem}")
            pixels = np.stack([frame.pixels for frame in sound])
            yield _File(pixels, [frame.volume or f"{path}" for frame in sound])

    def card(self) -> dict[str, Any]:
        """Returns the model card: facts and the configuration, no paths.

        Facts are under `about`, and decide no score.
        """
        config = self.config.to_dict()
        for key in _PRIVATE:
            group, name = key.split(".")
            config[group][name] = ""
        card = {"about": dict(self.about), "config": config}
        if self.calibration is not None:
            card["calibration_source"] = self.calibration.source
        return card

    def _arrays(self) -> dict[str, np.ndarray]:
        weights = traverse_util.flatten_dict(dict(self.variables), sep="/")
        arrays = {f"weights/{k}": np.asarray(v) for k, v in weights.items()}
        arrays["training/blocks"] = self.blocks
        if self.latents is not None:
            arrays["training/latents"] = self.latents
        if self.calibration is not None:
            arrays["calibration/scores"] = self.calibration.scores
            arrays["calibration/groups"] = self.calibration.groups
        return arrays


def block_means(images: np.ndarray) -> np.ndarray:
    """Shrinks images to 16 x 16 means of blocks.

    The mean absolute difference of block means is at most that of the images,
    so equal images are never missed.

    Args:
      images: `[N, S, S, C]` uint8, S a multiple of 16.

    Returns:
      `[N, 16, 16]` uint8.
    """
    n, size = images.shape[:2]
    side = size // _BLOCKS
    shape = (n, _BLOCKS, side, _BLOCKS, -1)
    means = images.reshape(shape).mean(axis=(2, 4), dtype=np.float32)
    return np.rint(means).astype(np.uint8)


class _File(NamedTuple):
    """One image of an array, or the images of one file.

    Attributes:
      pixels: `[k, S, S, C]` uint8, the network's input.
      units: k names, equal for the slices of one volume.
    """

    pixels: np.ndarray
    units: list[str]


def _write_images(images, root: pathlib.Path) -> None:
    """Puts images into a folder, the one form in which training reads them."""
    root.mkdir()
    if not isinstance(images, np.ndarray):
        for i, path in enumerate(map(pathlib.Path, images)):
            name = f"{i:06d}_{path.name}"
            (root / name).symlink_to(path.expanduser().absolute())
        return
    if images.dtype != np.uint8 or images.ndim not in (3, 4):
        raise ValueError(
            f"the images are {images.dtype} {images.shape}, but must be uint8"
            " [N, H, W] or [N, H, W, 3]; give a folder of files for others."
        )
    for i, image in enumerate(images):
        reading.to_image(image).save(root / f"{i:06d}.png")


def _from_run(directory: pathlib.Path, best: bool, root: str) -> Detector:
    config = restore.load_config(directory, root)
    restored = restore.restore_variables(directory, config, best=best)
    about = {
        "kind": "aeent_jax model",
        "method": config.method,
        "score": config.eval.score,
        "step": restored.step,
        "packages": workdir.environment()["packages"],
        "use": "research; this is no medical device",
    }
    bare = Detector(
        config=config,
        variables=restored.state,
        calibration=None,
        latents=None,
        blocks=np.zeros((0, _BLOCKS, _BLOCKS), np.uint8),
        about=about,
    )
    try:
        dataset = experiment.load_data(config)
    except FileNotFoundError:
        if root:
            raise
        logging.warning(
            "The images of %s are not in %s, so no held-out normals calibrate;"
            " name their folder with --root=DIR, or give other normals with"
            " --calibration=FOLDER.",
            directory,
            config.data.root,
        )
        return bare
    restore.check_images(directory, restored, dataset.fingerprint_of("train"))
    return _with_data(bare, dataset, best)


def _with_data(
    detector: Detector, dataset: data.Dataset, best: bool
) -> Detector:
    """Adds what the images of a run tell: calibration, latents and facts."""
    train = dataset.splits["train"]
    images = train.images[np.arange(len(train))]
    evaluator, variables = detector._on_devices
    latents = None
    if evaluator.needs_latents:
        latents = evaluator.score(variables, images, keep_maps=False).z
    facts = reading.dicom_facts(detector.config)
    about = dict(detector.about) | {
        "data": dataset.name,
        "data_sha256": dataset.fingerprint,
        "num_images": {s: len(split) for s, split in dataset.splits.items()},
        "modalities": reading.marks(f.modality for f in facts.values()),
        "body_parts": reading.marks(f.body_part for f in facts.values()),
    }
    known = dataclasses.replace(
        detector, latents=latents, blocks=block_means(images), about=about
    )
    held_out = dataset.splits.get("calibration")
    source = "normals that were held out of training"
    if held_out is None and not best:
        held_out = dataset.splits.get("val")
        source = "the validation normals, which chose nothing"
    if held_out is None:
        return _with_scale(known, known.score_pixels(images))
    pixels = held_out.images[np.arange(len(held_out))]
    scored = known.score_pixels(pixels)
    series = {name: f.volume for name, f in facts.items()}
    volumes = [_volume(i, series) for i in held_out.ids]
    related = volumes if held_out.groups is None else held_out.groups
    if (count := len(np.unique(related))) < len(held_out):
        source += f", in {count} groups of relatives"
    near = known.is_nearly_training_image(pixels)
    calibration = calibration_lib.calibrate(
        scored.anomaly_scores, volumes, near, source
    )
    known = dataclasses.replace(known, calibration=calibration)
    return _with_scale(known, scored)


def _volume(image_id: str, series: Mapping[str, str]) -> str:
    """Names the volume of an image, which patients and near copies are not.

    Args:
      image_id: in its data set.
      series: volumes of DICOM files of one slice, by their ids.
    """
    return series.get(image_id) or _SLICE.sub(r"#\1", image_id)


def _with_scale(detector: Detector, scored: scoring.Scored) -> Detector:
    """Adds the scale of heat maps, from the maps of normal images."""
    if scored.score_maps is None:
        return detector
    scale = float(np.quantile(scored.score_maps, _MAP_QUANTILE))
    about = dict(detector.about) | {"map_scale": scale}
    return dataclasses.replace(detector, about=about)


def _from_file(path: pathlib.Path) -> Detector:
    card, arrays = archive.read(path)
    _check_content(path, card, arrays)
    config = config_lib.complete(card["config"])
    config_lib.check(config, f"{path}")
    weights = {
        name.removeprefix("weights/"): array
        for name, array in arrays.items()
        if name.startswith("weights/")
    }
    calibration = None
    if "calibration/scores" in arrays:
        calibration = calibration_lib.Calibration(
            arrays["calibration/scores"],
            arrays["calibration/groups"],
            card["calibration_source"],
        )
    detector = Detector(
        config=ml_collections.ConfigDict(config),
        variables=traverse_util.unflatten_dict(weights, sep="/"),
        calibration=calibration,
        latents=arrays.get("training/latents"),
        blocks=arrays["training/blocks"],
        about=card["about"],
    )
    _check_variables(path, detector)
    return detector


def _check_content(path, card, arrays) -> None:
    """Refuses a file that lacks what a detector is made of."""
    blocks = arrays.get("training/blocks", np.zeros(0))
    scores = arrays.get("calibration/scores", np.zeros(1))
    groups = arrays.get("calibration/groups", np.zeros(1))
    is_sound = (
        isinstance(card.get("config"), dict)
        and isinstance(card.get("about"), dict)
        and ("calibration/scores" in arrays) == ("calibration_source" in card)
        and blocks.shape[1:] == (_BLOCKS, _BLOCKS)
        and (scores.ndim, scores.shape) == (1, groups.shape)
        and len(scores)
        and np.isfinite(scores).all()
    )
    if not is_sound:
        raise ValueError(f"{path} lacks a part; export the model again.")


def _check_variables(path: pathlib.Path, detector: Detector) -> None:
    """Refuses weights that are not those of the configuration's network."""
    step_config = experiment.make_step_config(detector.config, 10**6)
    like = jax.eval_shape(step_config.method.init, jax.random.key(0))
    shapes = [jax.tree.map(np.shape, t) for t in (like, detector.variables)]
    if shapes[0] != shapes[1]:
        raise ValueError(
            f"{path} holds weights of another network than its configuration;"
            " export the model again."
        )
