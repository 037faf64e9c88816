"""The compiled step of a configuration, and what XLA says of it."""

import contextlib
import pathlib
from typing import Any, NamedTuple

import jax
import ml_collections
import numpy as np

from aeent_jax import data
from aeent_jax.bench.costs import collectives
from aeent_jax.data import dataset as dataset_lib
from aeent_jax.training import experiment
from aeent_jax.training import step as train_step


class Step(NamedTuple):
    """One step of a configuration, compiled for some devices.

    Attributes:
      run: what it was compiled from.
      compiled: takes what `arguments` returns.
      flops: of one device.
      num_bytes: that one device reads and writes.
      temporaries: bytes of one device beside the arguments.
      collectives: of the step.
    """

    run: experiment.Experiment
    compiled: jax.stages.Compiled
    flops: float
    num_bytes: float
    temporaries: int
    collectives: list[collectives.Collective]


def blank_dataset(
    config: ml_collections.ConfigDict, train_images: int
) -> data.Dataset:
    """A training split of black images, for where the real one is not needed.

    Args:
      config: the resolved configuration.
      train_images: how many.

    Returns:
      The data set, without any other split.
    """
    side, channels = config.data.image_size, config.data.channels
    split = dataset_lib.Split(
        images=np.zeros((train_images, side, side, channels), np.uint8),
        labels=np.zeros(train_images, np.int32),
        masks=None,
        ids=tuple(f"{i:09d}" for i in range(train_images)),
    )
    return dataset_lib.make_dataset(config.data.name, {"train": split})


def lower_step(
    config: ml_collections.ConfigDict,
    dataset: data.Dataset,
    num_devices: int,
) -> tuple[experiment.Experiment, jax.stages.Lowered]:
    """Traces one training step, without compiling it.

    Args:
      config: the resolved configuration.
      dataset: its data, or a blank one.
      num_devices: on how many devices.

    Returns:
      The run, and its step as XLA gets it.

    Raises:
      ValueError: bad configuration, or more devices than there are.
    """
    config = config.copy_and_resolve_references()
    with config.unlocked():
        config.parallel.num_devices = num_devices
    # Nothing is written there.
    run = experiment.Experiment(config, pathlib.Path(), dataset)
    return run, run.step_fn.lower(*arguments(run, _blank_state(run)))


def compile_step(
    config: ml_collections.ConfigDict,
    dataset: data.Dataset,
    num_devices: int,
) -> Step:
    """Compiles one training step, and reads what it costs.

    FLOP are those of the program before XLA optimises it, which are the same on
    every backend: it counts the products that padding makes unnecessary as
    none. Bytes and temporaries are those of the program that it compiles here;
    another backend fuses otherwise.

    Args:
      config: the resolved configuration.
      dataset: its data, or a blank one.
      num_devices: on how many devices.

    Returns:
      The step.

    Raises:
      ValueError: bad configuration, or more devices than there are.
    """
    run, lowered = lower_step(config, dataset, num_devices)
    compiled = lowered.compile()
    memory = compiled.memory_analysis()
    return Step(
        run,
        compiled,
        flops=lowered.cost_analysis()["flops"],
        num_bytes=compiled.cost_analysis()["bytes accessed"],
        temporaries=memory.temp_size_in_bytes if memory else 0,
        collectives=collectives.parse(compiled.as_text(), num_devices),
    )


def arguments(
    run: experiment.Experiment, state: train_step.TrainState
) -> tuple:
    """What a step takes, on the devices.

    Args:
      run: the run.
      state: on the host.
    """
    with contextlib.closing(run.make_feed(0)) as feed:
        rows = feed.next(0, 1)
    return (*run.parallel.replicate((state, run.hyper())), *rows)


def _blank_state(run: experiment.Experiment) -> train_step.TrainState:
    """Zeros in the shapes of the state, for which nothing is compiled."""
    shapes = jax.eval_shape(lambda: train_step.create_state(run.step_config, 0))
    return jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)


def count_parameters(run: experiment.Experiment) -> dict[str, int]:
    """How many parameters the network has, by its parts and in `total`."""
    params = _blank_state(run).params
    counts = {name: _count(tree) for name, tree in params.items()}
    return counts | {"total": sum(counts.values())}


def _count(tree: Any) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def state_bytes(run: experiment.Experiment) -> int:
    """Bytes of everything that training changes, moments included."""
    return sum(leaf.nbytes for leaf in jax.tree.leaves(_blank_state(run)))
