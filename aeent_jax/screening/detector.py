"""A trained network that scores new images, with what its verdicts rest on."""

import dataclasses
import functools
import pathlib
import re
import tempfile
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import ml_collections
import numpy as np
from flax import traverse_util

from aeent_jax import config as config_lib
from aeent_jax import data, models
from aeent_jax.data import files, nearest
from aeent_jax.evaluation import conformal, evaluate, scoring
from aeent_jax.runtime import parallel, workdir
from aeent_jax.screening import archive, reading
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
class Calibration:
    """Scores of normal images that verdicts are ranked among.

    Attributes:
      scores: `[n]` float64, of images that were neither trained on nor used to
        choose anything.
      groups: `[n]` int32; images of one volume or multi-frame file share one,
        and all others have one of their own.
      source: where they come from, as one phrase without names of files.
    """

    scores: np.ndarray
    groups: np.ndarray
    source: str

    def of_volumes(self) -> np.ndarray:
        """The largest score of each group of several, `[volumes]` float64."""
        _, place, sizes = np.unique(
            self.groups, return_inverse=True, return_counts=True
        )
        largest = np.full(len(sizes), -np.inf)
        np.maximum.at(largest, place, self.scores)
        return largest[sizes > 1]


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
    calibration: Calibration | None
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
          The detector. That of a run whose images are not there has no
          calibration.

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
        images: np.ndarray | str | pathlib.Path,
        *,
        calibration: np.ndarray | Sequence[str | pathlib.Path] | None = None,
        settings: Mapping[str, Any] | None = None,
        directory: str | pathlib.Path | None = None,
    ) -> "Detector":
        """Trains on normal images.

        Args:
          images: a folder, or `[N, H, W]` or `[N, H, W, 3]` uint8.
          calibration: other normal images, as `score` takes them; None holds
            some of `images` out, if there are enough.
          settings: keys of the configuration, such as `{"train.epochs": 50}`.
          directory: workdir of the run; None keeps none.

        Returns:
          The detector.

        Raises:
          ValueError: the images or the settings cannot be used.
        """
        config = config_lib.default()
        config.data.name = "folder"
        with tempfile.TemporaryDirectory() as temporary:
            root = pathlib.Path(temporary) / "images"
            if isinstance(images, np.ndarray):
                _write_images(images, root)
                config.data.cache_dir = temporary
                config.data.channels = 3 if images.ndim == 4 else 1
            else:
                root = pathlib.Path(images)
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

        Args:
          images: normal images that were not trained on, as `score` takes them.
          source: where they come from, as one phrase.

        Raises:
          ValueError: no image can be read.
        """
        scores, groups = [], []
        for group, found in enumerate(self._score_groups(images)):
            scores.append(found.anomaly_scores)
            groups += [group] * len(found.anomaly_scores)
        if not scores:
            raise ValueError(
                "there is no image to calibrate with; give normal images that"
                " the network was not trained on."
            )
        calibration = Calibration(
            np.concatenate(scores), np.array(groups, np.int32), source
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
            [found.anomaly_scores.max() for found in self._score_groups(images)]
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
        values = [
            self.group_p_value(found.anomaly_scores)
            for found in self._score_groups(images)
        ]
        return np.array(values)

    def group_p_value(self, scores: np.ndarray) -> float:
        """The p-value of one file: an image, or the frames of a volume.

        A volume is ranked by its largest score among those of the calibration
        volumes. Without calibration volumes it is Bonferroni's: the number of
        frames times the smallest of their p-values.

        Args:
          scores: `[k]` of its frames.
        """
        calibration = self.calibration
        if len(scores) == 1:
            return conformal.p_values(scores, calibration.scores)[0]
        if self.has_calibration_volumes:
            largest = calibration.of_volumes()
            return conformal.p_values(scores.max(keepdims=True), largest)[0]
        smallest = conformal.p_values(scores, calibration.scores).min()
        return min(1.0, len(scores) * smallest)

    def least_p_value(self, count: int) -> float:
        """The smallest p-value that a file of so many frames can have.

        Args:
          count: frames, at least 1.
        """
        calibration = self.calibration
        if count > 1 and self.has_calibration_volumes:
            return 1 / (len(calibration.of_volumes()) + 1)
        return min(1.0, count / (len(calibration.scores) + 1))

    @property
    def has_calibration_volumes(self) -> bool:
        """Whether some calibration images are slices of one volume."""
        groups = self.calibration.groups
        return len(np.unique(groups)) < len(groups)

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
        maps = [found.score_maps for found in self._score_groups(images)]
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

    def _score_groups(self, images):
        """Yields the scores of each image or file; batches span them."""
        waiting = []
        for pixels in self._groups(images):
            waiting.append(pixels)
            if sum(map(len, waiting)) >= self.config.eval.batch_size:
                yield from self._score_waiting(waiting)
                waiting = []
        if waiting:
            yield from self._score_waiting(waiting)

    def _score_waiting(self, waiting):
        scored = self.score_pixels(np.concatenate(waiting))
        maps, ends = scored.score_maps, np.cumsum([len(p) for p in waiting])
        for rows in (
            slice(e - len(p), e) for p, e in zip(waiting, ends, strict=True)
        ):
            yield dataclasses.replace(
                scored,
                anomaly_scores=scored.anomaly_scores[rows],
                score_maps=None if maps is None else maps[rows],
            )

    def _groups(self, images):
        """Yields the network's input `[k, S, S, C]` of each image or file."""
        if isinstance(images, np.ndarray):
            for image in images:
                yield reading.from_array(image, self.config)[None]
            return
        if isinstance(images, str | pathlib.Path):
            images = list(reading.find([str(images)]))
        for path in images:
            frames = reading.read(pathlib.Path(path), self.config)
            sound = [frame.pixels for frame in frames if not frame.problem]
            if not sound:
                raise files.UnreadableFileError(f"{path}: {frames[0].problem}")
            yield np.stack(sound)

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


def _write_images(images: np.ndarray, root: pathlib.Path) -> None:
    """Writes an array as files, the one form in which training reads images."""
    if images.dtype != np.uint8 or images.ndim not in (3, 4):
        raise ValueError(
            f"the images are {images.dtype} {images.shape}, but must be uint8"
            " [N, H, W] or [N, H, W, 3]; give a folder of files for others."
        )
    root.mkdir()
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
    about = dict(detector.about) | {
        "data": dataset.name,
        "data_sha256": dataset.fingerprint,
        "num_images": {s: len(split) for s, split in dataset.splits.items()},
        **reading.find_kinds(detector.config),
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
    scored = known.score_pixels(held_out.images[np.arange(len(held_out))])
    volumes = _volumes(held_out.ids)
    related = volumes if held_out.groups is None else held_out.groups
    if (count := len(np.unique(related))) < len(held_out):
        source += f", in {count} groups of relatives"
    calibration = Calibration(scored.anomaly_scores, volumes, source)
    known = dataclasses.replace(known, calibration=calibration)
    return _with_scale(known, scored)


def _volumes(ids: Sequence[str]) -> np.ndarray:
    """Numbers the volumes of images, which patients and near copies are not."""
    number_of: dict[str, int] = {}
    volumes = [_SLICE.sub(r"#\1", image_id) for image_id in ids]
    return np.array(
        [number_of.setdefault(v, len(number_of)) for v in volumes], np.int32
    )


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
        calibration = Calibration(
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
