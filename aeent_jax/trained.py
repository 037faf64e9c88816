"""What can be done with a run that was trained: evaluate it, encode with it."""

import pathlib
from collections.abc import Sequence
from typing import Any

import jax
import ml_collections
import numpy as np

from aeent_jax import checkpoint, evaluate, storage, train_step, workdir
from aeent_jax import run as run_lib


def evaluate_workdir(
    directory: str | pathlib.Path,
    *,
    best: bool = False,
    scores: Sequence[str] = (),
) -> list[dict[str, Any]]:
    """Evaluates the newest checkpoint of a run and writes `eval/` anew.

    Args:
      directory: the workdir of a run.
      best: take the checkpoint of the lowest validation error instead.
      scores: sums of scores as `score_sums.parse` reads them, each of which
        goes into a subfolder of `eval/<split>`; none for the run's own.

    Returns:
      What `metrics.json` holds, for each score.

    Raises:
      FileNotFoundError: there is no run or no checkpoint.
      ValueError: the checkpoint or a score cannot be used.
    """
    run, restored, variables = restore(directory, best=best)
    if not scores:
        found = run.evaluator.evaluate(
            variables, run.dataset, restored.step, run.directory
        )
        return [found]
    evaluators = {}
    for score in scores:
        config = ml_collections.ConfigDict(run.config.to_dict())
        config.eval.score = score
        # All before the first is used: a misspelt name is found at once.
        evaluators[score] = evaluate.Evaluator(
            run.parallel, run.program.method, config
        )
    return [
        evaluator.evaluate(
            variables,
            run.dataset,
            restored.step,
            run.directory,
            subfolder=score.replace("*", "x").replace(" ", ""),
        )
        for score, evaluator in evaluators.items()
    ]


def encode_workdir(
    directory: str | pathlib.Path, split: str
) -> tuple[np.ndarray, float]:
    """Encodes a split with the newest checkpoint of a run.

    Args:
      directory: the workdir of a run.
      split: a name of its data set's splits.

    Returns:
      Clean latents `[N, D]` float32 in the split's order, and the run's
      `channel.sigma`.

    Raises:
      FileNotFoundError: there is no run or no checkpoint.
      ValueError: there is no such split, or the checkpoint cannot be used.
    """
    run, _, variables = restore(directory)
    splits = run.dataset.splits
    if split not in splits:
        raise ValueError(
            f"The data of {directory} has no split {split!r}; choose one of"
            f" {', '.join(splits)}."
        )
    scored = run.evaluator.score(
        variables, splits[split].images, keep_maps=False
    )
    return scored.z, run.config.channel.sigma


def restore(
    directory: str | pathlib.Path, *, best: bool = False
) -> tuple[run_lib.Run, checkpoint.Restored, Any]:
    """Restores a run; arguments and errors as `evaluate_workdir`.

    Returns:
      The run, its checkpoint, whose state is the variables alone, and these on
      the devices of the run.
    """
    directory = storage.to_path(directory)
    config = workdir.load_config(directory)
    run = run_lib.Run(config, directory)
    like = jax.eval_shape(
        lambda: train_step.create_state(run.program, config.train.seed)
    )
    restored = checkpoint.restore_from(
        directory, like.variables, best=best, partial=True
    )
    return run, restored, run.parallel.replicate(restored.state)
