"""Restores a run that was trained, evaluates it and encodes with it."""

import pathlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import ml_collections
import numpy as np

from aeent_jax import data, methods, models
from aeent_jax.data import near_copies
from aeent_jax.evaluation import evaluate
from aeent_jax.runtime import checkpoint, parallel, storage, workdir
from aeent_jax.training import experiment


def check(
    directories: Sequence[str | pathlib.Path], scores: Sequence[str] = ()
) -> None:
    """Refuses what can be refused before the first of several is evaluated.

    Args:
      directories: the workdirs of the runs.
      scores: as in `evaluate_workdir`.

    Raises:
      FileNotFoundError: one is no run.
      ValueError: one is given twice, or its configuration or a score cannot be
        used.
    """
    paths = [storage.absolute(directory) for directory in directories]
    for path in paths:
        if paths.count(path) > 1:
            raise ValueError(f"{path} is given twice; give each run once.")
        config = workdir.load_config(path)
        experiment.check_config(config)
        for score in scores:
            experiment.check_config(_scored_by(config, score))


def evaluate_workdir(
    directory: str | pathlib.Path,
    *,
    best: bool = False,
    scores: Sequence[str] = (),
    root: str = "",
    deduplicate: bool = False,
) -> list[dict[str, Any]]:
    """Evaluates the newest checkpoint of a run and writes `eval/` anew.

    Args:
      directory: the workdir of a run.
      best: take the checkpoint of the lowest validation error instead.
      scores: sums of scores as `score_sums.parse` reads them, each of which
        goes into a subfolder of `eval/<split>`; none for the run's own.
      root: folder of the images; empty for where training found them.
      deduplicate: leave near copies of training images out of the test split;
        the evaluation goes into the subfolder `near`.

    Returns:
      The contents of `metrics.json`, for each score.

    Raises:
      FileNotFoundError: there is no run, no checkpoint, or no image.
      ValueError: the checkpoint, the images or a score cannot be used.
    """
    run = restore(directory, best=best, root=root, deduplicate=deduplicate)
    folder = near_copies.TEST if deduplicate else ""
    configs = [_scored_by(run.config, score) for score in scores]
    # All before the first is used: a misspelt name is reported at once.
    evaluators = [
        evaluate.Evaluator(run.parallel, run.method, config)
        for config in configs or [run.config]
    ]
    return [
        evaluator.evaluate(
            run.variables,
            run.dataset,
            run.restored.step,
            run.directory,
            subfolder="/".join(filter(None, [folder, _folder_of(score)])),
            has_baselines=not scores,
        )
        for score, evaluator in zip(scores or [""], evaluators, strict=True)
    ]


def _folder_of(score: str) -> str:
    return score.replace("*", "x").replace(" ", "")


def _scored_by(config, score) -> ml_collections.ConfigDict:
    """The configuration with another score, which must not be empty.

    An empty one is the run's own, whose evaluation is never overwritten.
    """
    if not score.strip():
        raise ValueError(
            "one of the scores is empty; give names such as squared, with one"
            " comma between two."
        )
    changed = ml_collections.ConfigDict(config.to_dict())
    changed.eval.score = score
    return changed


def encode_workdir(
    directory: str | pathlib.Path, split: str, *, root: str = ""
) -> tuple[np.ndarray, float]:
    """Encodes a split with the newest checkpoint of a run.

    Args:
      directory: the workdir of a run.
      split: a name of its data set's splits.
      root: folder of the images; empty for where training found them.

    Returns:
      Clean latents `[N, D]` float32 in the split's order, and the run's
      `channel.sigma`.

    Raises:
      FileNotFoundError: there is no run or no checkpoint.
      ValueError: there is no such split, or the checkpoint cannot be used.
    """
    run = restore(directory, root=root)
    splits = run.dataset.splits
    if split not in splits:
        raise ValueError(
            f"The data of {directory} has no split {split!r}; choose one of"
            f" {', '.join(splits)}."
        )
    evaluator = evaluate.Evaluator(run.parallel, run.method, run.config)
    scored = evaluator.score(
        run.variables, splits[split].images, keep_maps=False
    )
    return scored.z, run.config.channel.sigma


class Trained(NamedTuple):
    """A run that was trained, restored to encode and to score.

    Attributes:
      directory: its workdir.
      config: its configuration.
      dataset: its splits, on the host.
      parallel: the devices.
      method: network, losses and score.
      restored: its checkpoint; the state is the network's variables alone.
      variables: these on the devices.
    """

    directory: pathlib.Path
    config: ml_collections.ConfigDict
    dataset: data.Dataset
    parallel: parallel.Parallel
    method: methods.Method
    restored: checkpoint.Restored
    variables: models.Variables


def restore(
    directory: str | pathlib.Path,
    *,
    best: bool = False,
    root: str = "",
    deduplicate: bool = False,
) -> Trained:
    """Restores a run; arguments and errors as `evaluate_workdir`."""
    directory = storage.to_path(directory)
    config = load_config(directory, root)
    if deduplicate:
        # Training images stay: this leaves out test images alone.
        with config.unlocked():
            config.data.deduplicate = near_copies.TEST
    try:
        dataset = experiment.load_data(config)
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"{error} If the images have moved, name their folder with"
            " --root=DIR."
        ) from error
    mapping = parallel.make_parallel(config.parallel.num_devices)
    restored = restore_variables(directory, config, best=best)
    check_images(directory, restored, dataset.fingerprint_of("train"))
    return Trained(
        directory,
        config,
        dataset,
        mapping,
        methods.make_method(config, parallel.AXIS),
        restored,
        mapping.replicate(restored.state),
    )


def load_config(
    directory: pathlib.Path, root: str = ""
) -> ml_collections.ConfigDict:
    """Loads the configuration of a run as it is used here.

    The images may be at another place, and the devices are those of this
    machine, however many trained the run.

    Args:
      directory: the workdir of a run.
      root: folder of the images; empty for where training found them.
    """
    config = workdir.load_config(directory)
    with config.unlocked():
        config.parallel.num_devices = 0
        if root:
            config.data.root = root
    return config


def check_images(
    directory: pathlib.Path, restored: checkpoint.Restored, fingerprint: str
) -> None:
    """Refuses training images other than those that a run was trained on.

    Args:
      directory: the workdir of the run.
      restored: its checkpoint.
      fingerprint: sha256 of the training split that there is now.

    Raises:
      ValueError: it is another.
    """
    if restored.metadata.get("train_images", fingerprint) != fingerprint:
        raise ValueError(
            f"{directory} was trained on other images than there are now: some"
            " were added, removed or changed; bring back those that it was"
            " trained on, name their folder with --root=DIR, or train anew."
        )


def restore_variables(
    directory: pathlib.Path,
    config: ml_collections.ConfigDict,
    *,
    best: bool = False,
) -> checkpoint.Restored:
    """Restores the network of a run, without its data.

    Args:
      directory: the workdir of a run.
      config: its configuration.
      best: take the checkpoint of the lowest validation error instead.

    Returns:
      The checkpoint, whose state is the variables alone, on the host.

    Raises:
      FileNotFoundError: there is no checkpoint.
      ValueError: the checkpoint cannot be used.
    """
    method = methods.make_method(config, parallel.AXIS)
    like = jax.eval_shape(method.init, jax.random.key(0))
    return checkpoint.restore_from(directory, like, best=best, partial=True)
