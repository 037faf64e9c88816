"""Images per second of training, beside plain flax in the same minutes.

And beside plain PyTorch, where it is installed.
"""

import contextlib
import dataclasses
import functools
import importlib.util
import pathlib
import statistics
import tempfile
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import ml_collections

from aeent_jax.bench import rounds, timing, trainers
from aeent_jax.training import experiment

_STEP_ROUNDS = 5
_EPOCH_ROUNDS = 3

# Plain flax minimises the reconstruction error alone.
_SAME_WORK = {
    "channel.sigma": 0.0,
    "entropy.estimator": "none",
    "entropy.weight": 0.0,
}
_ENDLESS = {"train.epochs": 1_000_000, "eval.every_epochs": 0}


@dataclasses.dataclass(frozen=True)
class Entry:
    """One line of the table.

    Attributes:
      name: what it is.
      num_devices: on how many devices.
      overrides: of the configuration, by dotted key; None for what is not ours.
      trainer: of what is not ours; takes the configuration.
    """

    name: str
    num_devices: int
    overrides: Mapping[str, Any] | None = None
    trainer: Callable[[ml_collections.ConfigDict], rounds.Trainer] | None = None


def list_entries(
    config: ml_collections.ConfigDict, num_devices: int
) -> dict[str, Entry]:
    """What is compared.

    Args:
      config: the resolved configuration.
      num_devices: all there are.

    Returns:
      The entries: `plain` flax; plain PyTorch (`torch`) where it is installed;
      `one` device, where there are several; the `default` on all devices; and,
      where the configuration has one, its `objective` with channel and rate.
    """
    estimator = config.entropy.estimator
    listed = {
        "plain": Entry("plain flax", 1, trainer=trainers.Plain),
        "torch": Entry("plain PyTorch", 1, trainer=trainers.PlainTorch),
        "one": Entry("ours", 1, _SAME_WORK),
        "default": Entry("ours", num_devices, _SAME_WORK),
        "objective": Entry(f"ours, {estimator}", num_devices, {}),
    }
    if importlib.util.find_spec("torch") is None:
        del listed["torch"]
    if num_devices == 1:
        del listed["one"]
    if estimator == "none":
        del listed["objective"]
    return listed


def measure(
    config: ml_collections.ConfigDict,
    steps: int,
    *,
    say: Callable[[str], None],
    own_processes: bool | None = None,
    num_devices: int = 0,
) -> dict[str, Any]:
    """Measures the training of a configuration.

    The step is measured on a batch that is on the devices; the epoch is one of
    the real loop, with its batches, its metrics and what it writes, between the
    first epoch (which compiles) and any evaluation.

    Args:
      config: the resolved configuration.
      steps: steps of one round.
      say: takes lines on what is going on.
      own_processes: whether each contender has one; None means on the CPU.
      num_devices: all that are used; 0 means all there are.

    Returns:
      What `--json` prints: `environment`, `size`, `entries` with startup, step
      and epoch of each, and `second_start_seconds` of a process whose programs
      are compiled already (None on an accelerator).

    Raises:
      ValueError: bad configuration or number of steps.
    """
    if steps < 1:
        raise ValueError(f"--steps is {steps}, but must be at least 1.")
    experiment.check_config(config)
    if own_processes is None:
        own_processes = jax.default_backend() == "cpu"
    say("Preparing the data ...")
    images = len(experiment.load_data(config).splits["train"])
    entries = list_entries(config, num_devices or jax.local_device_count())
    with tempfile.TemporaryDirectory(prefix="aeent-bench-") as folder:
        start = functools.partial(_start, config, folder, own_processes, say)
        measured = _compete(entries, start, steps, say)
        second_start = None
        if own_processes:
            with contextlib.closing(start(entries["default"])) as contender:
                second_start = contender.startup
    return {
        "benchmark": "train",
        "environment": timing.describe_machine(),
        "size": _size(config, images) | {"steps_per_round": steps},
        "entries": _summarise(entries, measured),
        "second_start_seconds": second_start,
    }


class _Measured(NamedTuple):
    """What the contenders did, by the keys of the entries."""

    startup: dict[str, dict[str, float]]
    rates: dict[str, dict[str, list[float]]]  # Of "step" and of "epoch".


def _compete(entries, start, steps, say) -> _Measured:
    with contextlib.ExitStack() as stack:
        contenders = {
            key: stack.enter_context(contextlib.closing(start(entry)))
            for key, entry in entries.items()
        }
        say("Measuring steps ...")
        step = rounds.take_turns(contenders, steps, _STEP_ROUNDS)
        say("Measuring epochs ...")
        # The first epoch builds the run and compiles.
        epoch = rounds.take_turns(
            contenders, rounds.EPOCH, _EPOCH_ROUNDS, uncounted=1
        )
    startup = {key: c.startup for key, c in contenders.items()}
    return _Measured(startup, {"step": step, "epoch": epoch})


def _start(config, folder, own_process, say, entry) -> rounds.Contender:
    say(f"Starting {entry.name} on {entry.num_devices} device(s) ...")
    config, cache = config.copy_and_resolve_references(), f"{folder}/xla"
    if entry.trainer is not None:
        make = functools.partial(entry.trainer, config)
    else:
        devices = {"parallel.num_devices": entry.num_devices}
        config.update_from_flattened_dict(
            {**entry.overrides, **_ENDLESS, **devices}
        )
        directory = pathlib.Path(tempfile.mkdtemp(dir=folder))
        make = functools.partial(trainers.Ours, config, directory)
    if own_process:
        make = functools.partial(
            trainers.make_in_own_process, make, entry.num_devices, cache
        )
    else:
        trainers.use_cache(cache)
    return rounds.Contender(make, own_process=own_process)


def _size(config: ml_collections.ConfigDict, images: int) -> dict[str, Any]:
    return {
        "image_size": config.data.image_size,
        "channels": config.data.channels,
        **config.model.to_dict(),
        "batch_size": config.train.batch_size,
        "train_images": images,
    }


def _summarise(entries: dict[str, Entry], measured: _Measured):
    summaries = {}
    for key, entry in entries.items():
        summary = {"name": entry.name, "num_devices": entry.num_devices}
        summary["startup_seconds"] = measured.startup[key]
        for unit, rates in measured.rates.items():
            ratio = timing.ratio(rates[key], rates["plain"])
            summary[unit] = {
                "images_per_second": statistics.median(rates[key]),
                "over_plain_flax": ratio._asdict(),
                "rounds": rates[key],
            }
        summaries[key] = summary
    return summaries
