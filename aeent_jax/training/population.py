"""Trains many runs at once, in one compiled program.

A small network cannot fill an accelerator. Runs that differ in seed, learning
rate, weight of a nat or size of the latent alone are members of a population:
`vmap` trains several on one device, and devices have members of their own. The
latents are padded to the size of the widest member. Padded parameters are zero
and stay zero, since nothing reaches them and nothing comes from them, so a
member ends where its run alone would, up to rounding.

Each member has an ordinary workdir, with checkpoints of its own unpadded state:
a run alone can go on from them, and a population from those of runs alone.
"""

import contextlib
import dataclasses
import json
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import jax
import ml_collections
import numpy as np

from aeent_jax import config as config_lib
from aeent_jax.evaluation import evaluate
from aeent_jax.runtime import checkpoint, parallel, progress, workdir
from aeent_jax.training import batch_feed, experiment, metrics_window
from aeent_jax.training import loop as train
from aeent_jax.training import step as train_step

# What the members' compiled step takes as an argument.
_PER_MEMBER = (
    "train.seed",
    "optimizer.learning_rate",
    "entropy.weight",
    "model.latent_dim",
)
# Where zeros in the padding have no influence: means over dimensions, and
# kernels whose normalisation counts them, would see them.
_PADDABLE_METHODS = ("ae", "ae_l1", "ae_ssim", "ae_perceptual", "aeu", "ceae")
_PADDABLE_ESTIMATORS = ("none", "coding_rate")


def group_key(config: ml_collections.ConfigDict) -> str:
    """Runs of equal keys can be members of one population.

    Args:
      config: of a run, resolved.

    Returns:
      What they must have in common, as text.
    """
    flat = config_lib.flatten(config)
    for key in _PER_MEMBER:
        del flat[key]
    if not _can_pad(config):
        flat["model.latent_dim"] = config.model.latent_dim
    if config.entropy.controller != "fixed":
        flat["entropy.weight"] = config.entropy.weight
    if config.data.validation_fraction:
        # Another seed holds out other images.
        flat["train.seed"] = config.train.seed
    return json.dumps(flat, sort_keys=True)


def _can_pad(config) -> bool:
    return (
        config.method in _PADDABLE_METHODS
        and config.entropy.estimator in _PADDABLE_ESTIMATORS
        and config.channel.normalisation == "none"
    )


def train_population(
    configs: Sequence[ml_collections.ConfigDict],
    directories: Sequence[pathlib.Path],
    *,
    say: progress.Progress | None = None,
    asked_to_stop: Callable[[], bool] = lambda: False,
) -> dict[int, str]:
    """Trains runs together, or goes on where they left off, and evaluates.

    Args:
      configs: of the members, with equal `group_key`.
      directories: their workdirs.
      say: where progress goes, in steps of the population.
      asked_to_stop: looked at after every call; all members are saved then.

    Returns:
      Place of a member -> why it failed; the others are finished.

    Raises:
      ValueError: the members do not belong together; bad configuration, data,
        workdir or checkpoint.
      train.InterruptedRunError: it was asked to stop, and has saved.
    """
    if len({group_key(config) for config in configs}) != 1:
        raise ValueError(
            "The members of a population must differ in"
            f" {', '.join(_PER_MEMBER)} alone; train the others apart."
        )
    dataset = experiment.load_data(configs[0])
    batch_feed.refuse_stored(dataset.splits["train"].images)
    runs = [
        experiment.Experiment(config, directory, dataset)
        for config, directory in zip(configs, directories, strict=True)
    ]
    for run in runs:
        train.check_source(run)
    say = say or progress.Progress(runs[0].plan.total_steps)
    failed: dict[int, str] = {}
    with contextlib.ExitStack() as stack:
        for run in runs:
            stack.enter_context(workdir.claimed(run.directory, run.config))
        # Runs that were stopped while they saved can be a checkpoint apart.
        begun: dict[int, dict[int, train_step.TrainState]] = {}
        for place, run in enumerate(runs):
            with _checkpoints(run) as checkpoints:
                state, step = train.restore_or_init(run, checkpoints, say)
            begun.setdefault(step, {})[place] = state
        for step, states in sorted(begun.items(), reverse=True):
            population = _Population({p: runs[p] for p in states}, say)
            failed |= population.train(states, step, asked_to_stop)
    return failed


def map_members(
    step_config: train_step.StepConfig, mapping: parallel.Parallel
) -> Callable[..., Any]:
    """Compiles `train_step.train_steps` for members side by side.

    Args:
      step_config: of all members.
      mapping: the devices; each takes an equal share of the members.

    Returns:
      A function of states, hyper, images `[N, H, W, C]`, indices and masks
      `[M, B, steps]`, all but the images with a leading axis of members, to
      states and metrics.
    """
    step = parallel.alone(
        lambda *rows: train_step.train_steps(step_config, *rows)
    )
    return mapping.map(jax.vmap(step, in_axes=(0, 0, None, 0, 0)), donate=(0,))


def pad(state: Any, like: Any) -> Any:
    """Fills a member's state up with zeros.

    Args:
      state: a tree of host arrays.
      like: the same tree with the shapes of the widest member.

    Returns:
      The tree in those shapes.
    """

    def fill(array, wanted):
        filled = np.zeros(wanted.shape, wanted.dtype)
        filled[tuple(map(slice, np.shape(array)))] = array
        return filled

    return jax.tree.map(fill, state, like)


def cut(state: Any, like: Any) -> Any:
    """Undoes `pad`: the part of a padded state that its run alone has."""
    return jax.tree.map(
        lambda array, wanted: array[tuple(map(slice, wanted.shape))],
        state,
        like,
    )


def _checkpoints(run):
    return checkpoint.Checkpoints(
        run.directory / "checkpoints",
        keep=run.config.checkpoint.keep,
        asynchronous=False,
    )


class _Population:
    """Members that have done the same number of steps."""

    def __init__(
        self, runs: dict[int, experiment.Experiment], say: progress.Progress
    ):
        self._runs = runs
        self._say = say
        self._plan = next(iter(runs.values())).plan
        # The widest has room for all.
        widest = max(runs.values(), key=lambda r: r.config.model.latent_dim)
        self._step_config = widest.step_config
        self._parallel = widest.parallel
        self._base_rate = widest.config.optimizer.learning_rate
        self._images = widest.dataset.splits["train"].images
        places = list(runs)
        # Devices have equal numbers; copies of the last fill up.
        missing = self._parallel.padded(len(places)) - len(places)
        self._rows = places + places[-1:] * missing
        self._step_fn = map_members(self._step_config, self._parallel)

    def train(self, states, step, asked_to_stop) -> dict[int, str]:
        """Trains to the end; returns why members failed, by their places."""
        state = self._parallel.shard(self._stack(states))
        hyper = self._parallel.shard(
            _stacked([self._knobs(p) for p in self._rows])
        )
        images = self._parallel.replicate(self._images)
        failed: dict[int, str] = {}
        with contextlib.ExitStack() as stack:
            writers = {
                place: stack.enter_context(
                    contextlib.closing(
                        workdir.MetricsWriter(
                            run.directory,
                            step,
                            tensorboard=run.config.log.tensorboard,
                        )
                    )
                )
                for place, run in self._runs.items()
            }
            while step < self._plan.total_steps:
                size = self._plan.steps_from(step)
                batch = _stacked(
                    [self._runs[p].batch(step, size) for p in self._rows]
                )
                state, metrics = self._step_fn(
                    state, hyper, images, *self._parallel.shard(batch)
                )
                step += size
                self._add(metrics, failed)
                stops = asked_to_stop()
                if self._plan.ends_epoch(step):
                    self._write(step, writers, failed)
                if self._plan.saves(step) or stops:
                    self._save(state, step, failed)
                if stops and step < self._plan.total_steps:
                    raise train.InterruptedRunError(
                        f"Stopped after step {step} of"
                        f" {self._plan.total_steps}; the states of all members"
                        " are saved, and the same command goes on from them."
                    )
            self._evaluate(state, step, writers, failed)
        return failed

    def _knobs(self, place: int) -> train_step.Hyper:
        """The numbers of a member."""
        run = self._runs[place]
        rate = run.config.optimizer.learning_rate / self._base_rate
        dim, padded = run.step_config.method.latent_dim, self._latent_dim
        return dataclasses.replace(
            run.hyper(),
            update_scale=np.float32(rate),
            latent_mask=np.arange(padded) < dim if padded else None,
        )

    @property
    def _latent_dim(self) -> int | None:
        return self._step_config.method.latent_dim

    def _stack(self, states) -> Any:
        """The members' states, padded, with a leading axis of rows."""
        shapes = jax.eval_shape(
            lambda: train_step.create_state(self._step_config, 0)
        )
        return _stacked([pad(states[place], shapes) for place in self._rows])

    def _unpadded(self, state, row: int, place: int):
        """The state of a member as its run alone has it."""
        run = self._runs[place]
        shapes = jax.eval_shape(
            lambda: train_step.create_state(run.step_config, 0)
        )
        return cut(jax.tree.map(lambda a: a[row], state), shapes)

    def _add(self, metrics, failed) -> None:
        """Gathers the metrics `[rows, steps]` of a call."""
        metrics = self._parallel.fetch_sharded(metrics)
        for row, place in enumerate(self._runs):
            if place in failed:
                continue
            of_member = {name: values[row] for name, values in metrics.items()}
            try:
                run = self._runs[place]
                run.interval.add(train.checked(of_member, run.directory))
            except FloatingPointError as error:
                failed[place] = str(error)
        done = int(metrics["step"].flat[-1])
        alive = len(self._runs) - len(failed)
        note = f"{alive} of {len(self._runs)} members"
        self._say.show(done, note)

    def _write(self, step, writers, failed) -> None:
        """Writes a line of metrics for each member, where one is due."""
        epoch = step // self._plan.steps_per_epoch
        for place, run in self._runs.items():
            due = epoch % run.config.log.every_epochs == 0
            if place in failed or not (due or step == self._plan.total_steps):
                continue
            summary = run.interval.summary(run.step_config.rate)
            writers[place].write(run.stamp(step) | summary)
            run.interval = metrics_window.MetricsWindow()

    def _save(self, state, step, failed) -> None:
        host = self._parallel.fetch_sharded(state)
        for row, (place, run) in enumerate(self._runs.items()):
            if place in failed:
                continue
            with _checkpoints(run) as checkpoints:
                checkpoints.save(
                    step,
                    self._unpadded(host, row, place),
                    metadata=train.metadata_of(run),
                )

    def _evaluate(self, state, step, writers, failed) -> None:
        host = self._parallel.fetch_sharded(state)
        for row, (place, run) in enumerate(self._runs.items()):
            if place in failed:
                continue
            variables = self._unpadded(host, row, place).variables
            results = run.evaluator.evaluate(
                run.parallel.replicate(variables),
                run.dataset,
                step,
                run.directory,
            )
            writers[place].write(
                run.stamp(step) | evaluate.flat_metrics(results)
            )


def _stacked(trees: Sequence[Any]) -> Any:
    return jax.tree.map(lambda *leaves: np.stack(leaves), *trees)
