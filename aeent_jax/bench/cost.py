"""Cost of a configuration: parameters, FLOP, bytes and memory of a step."""

import contextlib
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import jax
import ml_collections
import numpy as np

from aeent_jax import data
from aeent_jax.data import dataset as dataset_lib
from aeent_jax.training import experiment
from aeent_jax.training import step as train_step

_PREFIXES = ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


def measure(
    config: ml_collections.ConfigDict,
    *,
    num_devices: int = 1,
    train_images: int = 0,
    log: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Reads the cost of a training step from its compiled program.

    FLOP are those of the program before XLA optimises it, which are the same on
    every backend: products with padding count as none. Bytes and temporaries
    are those of the program for this backend.

    Args:
      config: the resolved configuration.
      num_devices: devices that a step is spread over.
      train_images: size of the training split; 0 counts that of the data set.
      log: takes lines on the progress.

    Returns:
      The object that `--json` prints: `parameters` by part of the network and
      in `total`; `step` with `batch_size`, `devices`, and `flops` and `bytes`
      of each device; `memory` of each device, in bytes; `training` with
      `images`, `epochs` and `steps`.

    Raises:
      ValueError: bad configuration, data, or numbers.
    """
    if train_images < 0:
        raise ValueError(
            f"--train_images is {train_images}, but must be at least 1, or 0"
            " for the number that the data set has."
        )
    experiment.check_config(config)
    if train_images:
        dataset = blank_dataset(config, train_images)
    else:
        dataset = experiment.load_data(config)
    log(f"Compiling the step for {num_devices} device(s) ...")
    run, lowered = lower_step(config, dataset, num_devices)
    compiled = lowered.compile()
    analysis, state = compiled.memory_analysis(), _blank_state(run)
    memory = {
        "state": sum(leaf.nbytes for leaf in jax.tree.leaves(state)),
        "images": dataset.splits["train"].images.nbytes,
        "temporaries": analysis.temp_size_in_bytes if analysis else 0,
    }
    counts = {name: _count(tree) for name, tree in state.params.items()}
    return {
        "parameters": counts | {"total": sum(counts.values())},
        "step": {
            "batch_size": config.train.batch_size,
            "devices": num_devices,
            "flops": lowered.cost_analysis()["flops"],
            "bytes": compiled.cost_analysis()["bytes accessed"],
        },
        "memory": memory | {"total": sum(memory.values())},
        "training": {
            "images": run.plan.num_examples,
            "epochs": run.plan.epochs,
            "steps": run.plan.total_steps,
        },
    }


def blank_dataset(
    config: ml_collections.ConfigDict, train_images: int
) -> data.Dataset:
    """A training split of black images, where the real one is not needed.

    Args:
      config: the resolved configuration.
      train_images: number of images.

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
    config: ml_collections.ConfigDict, dataset: data.Dataset, num_devices: int
) -> tuple[experiment.Experiment, jax.stages.Lowered]:
    """Traces one training step, without compiling it.

    Args:
      config: the resolved configuration.
      dataset: its data, or a blank one.
      num_devices: devices that the step is spread over.

    Returns:
      The run, and its step as XLA gets it.

    Raises:
      ValueError: bad configuration, or more devices than there are.
    """
    config = config.copy_and_resolve_references()
    config.parallel.num_devices = num_devices
    # The workdir is not written to.
    run = experiment.Experiment(config, pathlib.Path(), dataset)
    with contextlib.closing(run.make_feed(0)) as feed:
        rows = feed.next(0, 1)
    state = run.parallel.replicate((_blank_state(run), run.hyper()))
    return run, run.step_fn.lower(*state, *rows)


def _blank_state(run: experiment.Experiment) -> train_step.TrainState:
    """Zeros in the shapes of the state, for which nothing is compiled."""
    shapes = jax.eval_shape(lambda: train_step.create_state(run.step_config, 0))
    return jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)


def _count(tree: Any) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def format_cost(result: Mapping[str, Any]) -> str:
    """Formats the result of `measure` for a terminal."""
    step, memory = result["step"], result["memory"]
    counts = dict(result["parameters"])
    total = counts.pop("total")
    parts = ", ".join(f"{name} {count:,}" for name, count in counts.items())
    training = result["training"]
    return "\n".join(
        [
            f"Parameters   {total:,} ({parts})",
            f"Training     {training['steps']:,} steps: {training['epochs']}"
            f" epochs of {training['images']:,} images in batches of"
            f" {step['batch_size']}",
            f"A step       {_unit(step['flops'])}FLOP, reads and writes"
            f" {_unit(step['bytes'])}B, on each of {step['devices']} device(s)",
            f"Memory       {_unit(memory['total'])}B per device: state"
            f" {_unit(memory['state'])}B, images {_unit(memory['images'])}B,"
            f" temporaries {_unit(memory['temporaries'])}B",
        ]
    )


def _unit(number: float) -> str:
    """A number with three digits and the prefix of its unit: 2.31 G."""
    for size, prefix in _PREFIXES:
        if number >= size:
            return f"{number / size:.3g} {prefix}"
    return f"{number:.3g} "
