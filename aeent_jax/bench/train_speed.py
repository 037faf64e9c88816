"""Images per second of training and scoring, beside plain flax and PyTorch.

Each contender is started several times, in turns: A B C A B C. The speed of a
machine drifts and processes differ, so that the spread over starts says more
than one long run.
"""

import dataclasses
import functools
import importlib.util
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import ml_collections

from aeent_jax.bench import timing
from aeent_jax.results import tables
from aeent_jax.runtime import parallel
from aeent_jax.training import experiment

# Plain flax and PyTorch minimise the reconstruction error alone.
_SAME_WORK = {
    "channel.sigma": 0.0,
    "entropy.estimator": "none",
    "entropy.weight": 0.0,
}
_BASE = "one"
_PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy")

Start = Callable[..., dict[str, Any]]


@dataclasses.dataclass(frozen=True)
class Contender:
    """One line of the table.

    Attributes:
      name: its name in the table.
      kind: a name in `train_worker.KINDS`.
      num_devices: devices that it uses.
      members: members of a population.
      overrides: changes of the configuration, by dotted key.
    """

    name: str
    kind: str
    num_devices: int = 1
    members: int = 1
    overrides: Mapping[str, Any] = dataclasses.field(
        default_factory=lambda: _SAME_WORK
    )


def list_contenders(
    config: ml_collections.ConfigDict, num_devices: int, members: Sequence[int]
) -> dict[str, Contender]:
    """Lists the lines of the table.

    Args:
      config: the resolved configuration.
      num_devices: all devices of the machine.
      members: sizes of the populations.

    Returns:
      Ours on `one` device, the base of all ratios; on `all` where there are
      several; `objective`, with channel and rate, where the configuration has
      one; `plain` flax; PyTorch twice where it is installed; populations.
    """
    estimator = config.entropy.estimator
    listed = {_BASE: Contender("ours", "ours")}
    if num_devices > 1:
        listed["all"] = Contender("ours", "ours", num_devices)
    if estimator != "none":
        listed["objective"] = Contender(
            f"ours, {estimator}", "ours", num_devices, overrides={}
        )
    listed["plain"] = Contender("plain flax", "plain")
    if importlib.util.find_spec("torch") is not None:
        listed["torch"] = Contender("PyTorch", "torch")
        listed["torch_channels_last"] = Contender(
            "PyTorch, channels_last", "torch_channels_last"
        )
    for count in members:
        listed[f"population_{count}"] = Contender(
            f"population of {count}", "population", members=count
        )
    return listed


def measure(
    config: ml_collections.ConfigDict,
    *,
    steps: int,
    starts: int,
    members: Sequence[int] = (),
    log: Callable[[str], None],
) -> dict[str, Any]:
    """Measures all contenders in turns, each start in a process of its own.

    Args:
      config: the resolved configuration.
      steps: training steps, and batches to score, of a start.
      starts: starts of each contender.
      members: sizes of the populations to measure.
      log: takes lines on the progress.

    Returns:
      The object that `--json` prints: `environment`, `size`, and `entries` by
      contender with `name`, `num_devices`, `members`, and for `train` and
      `forward` the images per second of each start (`starts`), their median and
      their ratio to ours on one device (`over_ours`); and `startup` of each
      start.

    Raises:
      ValueError: bad configuration or numbers.
      RuntimeError: a contender failed.
    """
    for flag, number in (("steps", steps), ("starts", starts)):
        if number < 1:
            raise ValueError(f"--{flag} is {number}, but must be at least 1.")
    experiment.check_config(config)
    with tempfile.TemporaryDirectory(prefix="aeent-bench-") as folder:
        start = functools.partial(_start, config, steps, pathlib.Path(folder))
        log("Preparing the data ...")
        cores = parallel.count_cores()
        described = start(Contender("", "describe", cores))
        num_devices = len(described["environment"]["devices"])
        contenders = list_contenders(config, num_devices, members)
        results: dict[str, list[dict]] = {key: [] for key in contenders}
        for turn in range(starts):
            for key, contender in contenders.items():
                log(
                    f"Start {turn + 1} of {starts}: {contender.name} on"
                    f" {contender.num_devices} device(s) ..."
                )
                results[key].append(start(contender))
    return {
        "benchmark": "train",
        "environment": described["environment"],
        "size": _size(config, steps, starts, described["train_images"]),
        "entries": {
            key: _summarise(contender, results[key], results[_BASE])
            for key, contender in contenders.items()
        },
    }


def _start(config, steps, folder: pathlib.Path, contender) -> dict[str, Any]:
    """Starts a contender, waits for its end and returns its line of JSON."""
    config = config.copy_and_resolve_references()
    config.update_from_flattened_dict(contender.overrides)
    task = folder / "task.json"
    task.write_text(
        json.dumps(
            {
                "kind": contender.kind,
                "config": json.loads(config.to_json()),
                "num_devices": contender.num_devices,
                "members": contender.members,
                "steps": steps,
                "cache": str(folder / "xla"),
                "begun": time.time(),
            }
        )
    )
    done = subprocess.run(
        [sys.executable, "-m", "aeent_jax.bench.train_worker", str(task)],
        capture_output=True,
        text=True,
        env=os.environ | {"XLA_FLAGS": _flags_without_devices()},
    )
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        raise RuntimeError(
            f"{contender.name or 'The data'} failed with status"
            f" {done.returncode}: {reason}"
        )
    return json.loads(done.stdout.splitlines()[-1])


def _flags_without_devices() -> str:
    """XLA's flags of this process, which do not say how to split the CPU."""
    flags = os.environ.get("XLA_FLAGS", "").split()
    return " ".join(f for f in flags if "host_platform_device_count" not in f)


def _size(config, steps: int, starts: int, images: int) -> dict[str, Any]:
    return {
        "image_size": config.data.image_size,
        "channels": config.data.channels,
        **config.model.to_dict(),
        "dtype": config.compute.dtype,
        "batch_size": config.train.batch_size,
        "train_images": images,
        "steps": steps,
        "starts": starts,
    }


def _summarise(contender: Contender, results, base) -> dict[str, Any]:
    summary = {
        "name": contender.name,
        "num_devices": contender.num_devices,
        "members": contender.members,
        "startup": [result["startup"] for result in results],
    }
    for unit in ("train", "forward"):
        rates = [result[unit] for result in results]
        summary[unit] = None
        if None not in rates:
            ratio = timing.ratio(rates, [result[unit] for result in base])
            summary[unit] = {
                "images_per_second": statistics.median(rates),
                "over_ours": ratio._asdict(),
                "starts": rates,
            }
    return summary


_HEADER = (
    "contender",
    "devices",
    "training, images/s",
    "times ours on 1",
    "scoring, images/s",
    "times ours on 1",
)


def format_training(result: Mapping[str, Any]) -> str:
    """Formats the result of `measure` as a Markdown table with its notes."""
    size, entries = result["size"], result["entries"]
    lines = [
        f"{size['image_size']} px, {size['channels']} channel(s), latent"
        f" {size['latent_dim']}, base width {size['base_width']}, batch"
        f" {size['batch_size']}, {size['dtype']}",
        _describe_machine(result["environment"]),
        "",
        tables.markdown(tables.Table(_HEADER, [*map(_row, entries.values())])),
        "",
        f"Median (least to largest) of {size['starts']} start(s) of"
        f" {size['steps']} steps; each start is a process, in turns.",
        _describe_startup(entries["all" if "all" in entries else _BASE]),
    ]
    if any(entry["members"] > 1 for entry in entries.values()):
        lines.append(
            "Images of a population are those of all members together: below"
            " 1.00 it is slower than one member after another."
        )
    return "\n".join(lines)


def _describe_machine(environment: Mapping[str, Any]) -> str:
    devices, packages = environment["devices"], environment["packages"]
    versions = ", ".join(f"{name} {packages[name]}" for name in _PACKAGES)
    return (
        f"{len(devices)} device(s) of kind {devices[0]},"
        f" {environment['cores']} cores of {environment['processor']};"
        f" Python {environment['python']}, {versions}"
    )


def _row(entry: Mapping[str, Any]) -> list[str]:
    cells = [entry["name"], str(entry["num_devices"])]
    for unit in ("train", "forward"):
        measured = entry[unit]
        if measured is None:
            cells += [tables.NOTHING] * 2
            continue
        rates, ratio = measured["starts"], measured["over_ours"]
        cells.append(
            f"{measured['images_per_second']:.0f}"
            f" ({min(rates):.0f} to {max(rates):.0f})"
        )
        cells.append(
            f"{ratio['median']:.2f} ({ratio['low']:.2f} to {ratio['high']:.2f})"
        )
    return cells


def _describe_startup(entry: Mapping[str, Any]) -> str:
    first, last = entry["startup"][0], entry["startup"][-1]
    phases = ", ".join(f"{phase} {last[phase]:.1f}" for phase in last)
    return (
        f"{entry['name']} on {entry['num_devices']} device(s) ends its first"
        f" step {sum(first.values()):.1f} s after its first start and"
        f" {sum(last.values()):.1f} s after its last ({phases})."
    )
