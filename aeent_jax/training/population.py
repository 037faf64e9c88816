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
from typing import NamedTuple, TypeVar

import jax
import ml_collections
import numpy as np

from aeent_jax import config as config_lib
from aeent_jax.runtime import parallel, progress, stopping, workdir
from aeent_jax.training import batch_feed, experiment, loop
from aeent_jax.training import step as train_step

Tree = TypeVar("Tree")

# Keys whose values the members' compiled step takes as arguments.
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
      config: the resolved configuration of a run.

    Returns:
      The settings that members must share, as text.
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
    log: progress.Progress | None = None,
    stop: stopping.Stop | None = None,
) -> dict[int, str]:
    """Trains runs together, or goes on where they left off, and evaluates.

    Args:
      configs: the members' configurations, with equal `group_key`.
      directories: their workdirs.
      log: where progress goes, in steps of the population.
      stop: looked at after every call; all members are saved then.

    Returns:
      Place of a member -> why it failed; the others are finished.

    Raises:
      ValueError: the members do not belong together; bad configuration, data,
        workdir or checkpoint.
      loop.InterruptedRunError: it was asked to stop, and has saved.
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
        loop.check_source(run)
    log = log or progress.Progress(runs[0].plan.total_steps)
    stop = stop or stopping.Stop()
    with contextlib.ExitStack() as stack:
        begun: dict[int, list[_Begun]] = {}
        for place, run in enumerate(runs):
            stack.enter_context(workdir.claimed(run.directory, run.config))
            checkpoints = stack.enter_context(
                loop.open_checkpoints(run, asynchronous=False)
            )
            state, step = loop.restore_or_init(run, checkpoints, log)
            member = stack.enter_context(
                loop.open_member(run, checkpoints, step)
            )
            begun.setdefault(step, []).append(_Begun(place, member, state))
        # Runs that were stopped while they saved can be a checkpoint apart.
        for step, group in sorted(begun.items(), reverse=True):
            loop.fit(
                Together([b.member.run for b in group]),
                [b.member for b in group],
                [b.state for b in group],
                step,
                log=log,
                stop=stop,
            )
    return {
        b.place: str(b.member.failure)
        for group in begun.values()
        for b in group
        if b.member.failure is not None
    }


class _Begun(NamedTuple):
    """A member, where it stands among the others, and its state."""

    place: int
    member: loop.Member
    state: train_step.TrainState


def map_members(
    step_config: train_step.StepConfig, mapping: parallel.Parallel
) -> Callable[..., tuple[train_step.TrainState, train_step.Metrics]]:
    """Compiles `train_step.train_steps` for members side by side.

    Args:
      step_config: the static parts, the same for all members.
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


def pad(state: Tree, like: Tree) -> Tree:
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


def cut(state: Tree, like: Tree) -> Tree:
    """Undoes `pad`: the part of a padded state that its run alone has."""
    return jax.tree.map(
        lambda array, wanted: array[tuple(map(slice, wanted.shape))],
        state,
        like,
    )


class Together:
    """Members side by side on each device, in one program."""

    def __init__(self, runs: Sequence[experiment.Experiment]):
        """Prepares.

        Args:
          runs: the members, with equal `group_key`.
        """
        self._runs = runs
        # The widest has room for all.
        self._widest = max(runs, key=lambda r: r.config.model.latent_dim)
        self.parallel = self._widest.parallel
        # Devices have equal numbers; copies of the last fill up.
        missing = self.parallel.padded(len(runs)) - len(runs)
        self._rows = [*runs, *runs[-1:] * missing]
        self.step_fn = map_members(self._widest.step_config, self.parallel)

    def place(self, states):
        """Puts the padded states on the devices, with an axis of members."""
        like = _shapes(self._widest)
        padded = [pad(state, like) for state in states]
        missing = len(self._rows) - len(padded)
        return self.parallel.shard(_stacked(padded + padded[-1:] * missing))

    def place_hyper(self):
        """Puts the numbers of each member on its device."""
        return self.parallel.shard(
            _stacked([self._hyper(run) for run in self._rows])
        )

    def _hyper(self, run: experiment.Experiment) -> train_step.Hyper:
        rate = run.config.optimizer.learning_rate
        dim = run.step_config.method.latent_dim
        padded = self._widest.step_config.method.latent_dim
        return dataclasses.replace(
            run.hyper(),
            update_scale=np.float32(
                rate / self._widest.config.optimizer.learning_rate
            ),
            latent_mask=np.arange(padded) < dim if padded else None,
        )

    def make_feed(self, step):
        """Begins to give calls their images: all, and places for each row."""
        return batch_feed.make_feed(
            self.parallel,
            self._widest.dataset.splits["train"].images,
            lambda *call: _stacked([run.batch(*call) for run in self._rows]),
            self._widest.plan,
            step,
        )

    def fetch_metrics(self, metrics):
        """Fetches the metrics `[steps]` of each member."""
        return _unstacked(self.parallel.fetch_sharded(metrics), self._runs)

    def fetch_states(self, state):
        """Fetches the state of each member, as its run alone has it."""
        states = _unstacked(self.parallel.fetch_sharded(state), self._runs)
        return [
            cut(own, _shapes(run))
            for own, run in zip(states, self._runs, strict=True)
        ]


def _shapes(run: experiment.Experiment) -> train_step.TrainState:
    """The shapes of a run's state."""
    return jax.eval_shape(lambda: train_step.create_state(run.step_config, 0))


def _stacked(trees: Sequence[Tree]) -> Tree:
    return jax.tree.map(lambda *leaves: np.stack(leaves), *trees)


def _unstacked(tree: Tree, runs: Sequence[experiment.Experiment]) -> list[Tree]:
    """The rows of the members; others only fill up."""
    return [jax.tree.map(lambda a, i=i: a[i], tree) for i in range(len(runs))]
