"""What a configuration costs: parameters, FLOP, bytes, memory and time."""

import statistics
from collections.abc import Callable, Sequence
from typing import Any

import jax
import ml_collections

from aeent_jax.bench import machine, peaks, timing
from aeent_jax.bench.costs import hardware, programs
from aeent_jax.training import experiment

_MOST_SECONDS = 60.0


def analyse(
    config: ml_collections.ConfigDict,
    *,
    num_devices: int = 0,
    train_images: int = 0,
    names: Sequence[str] = tuple(hardware.HARDWARE),
    members: Sequence[int] = (1, 256, 1024),
    measures: bool = False,
    say: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Computes what a configuration costs from its compiled step.

    Args:
      config: the resolved configuration.
      num_devices: on which a run is spread; 0 means those of the
        configuration.
      train_images: of the training split; 0 means those of the data set.
      names: of the hardware to estimate for.
      members: of the populations to estimate for.
      measures: whether to time steps on this machine.
      say: takes lines on what is going on.

    Returns:
      What `--json` prints: `environment`; `parameters`; `step`, on one device
      and spread over several, with its collectives; `memory` of one device;
      `training`; `measured` (None where it is not); `estimates`.

    Raises:
      ValueError: bad configuration, data, or numbers.
    """
    hardware.check(names, members)
    if train_images < 0:
        raise ValueError(
            f"--train_images is {train_images}, but must be at least 1, or 0"
            " for the number that the data set has."
        )
    experiment.check_config(config)
    num_devices = (
        num_devices or config.parallel.num_devices or len(jax.devices())
    )
    if train_images:
        dataset = programs.blank_dataset(config, train_images)
    else:
        dataset = experiment.load_data(config)
    say("Compiling the step for one device ...")
    alone = programs.compile_step(config, dataset, 1)
    spread = alone
    if num_devices > 1:
        say(f"Compiling the step for {num_devices} devices ...")
        spread = programs.compile_step(config, dataset, num_devices)
    measured = None
    if measures:
        say("Timing steps ...")
        measured = measure(spread, alone.flops)
    member = _member(alone)
    return {
        "environment": machine.describe()
        | {
            "device": jax.devices()[0].device_kind,
            "jax": jax.__version__,
        },
        "parameters": programs.count_parameters(alone.run),
        "step": _describe_step(config, alone, spread),
        "memory": _describe_memory(alone),
        "training": {
            "images": alone.run.plan.num_examples,
            "epochs": alone.run.plan.epochs,
            "steps": member.steps,
        },
        "measured": measured,
        "estimates": [
            hardware.estimate(
                name, member, count, measured and measured["share_of_peak"]
            )
            for name in names
            for count in members
        ],
    }


def _member(alone: programs.Step) -> hardware.Member:
    return hardware.Member(
        flops=alone.flops,
        num_bytes=alone.num_bytes,
        memory=programs.state_bytes(alone.run) + alone.temporaries,
        images=alone.run.dataset.splits["train"].images.nbytes,
        steps=alone.run.plan.total_steps,
    )


def _describe_step(config, alone, spread) -> dict[str, Any]:
    listed = spread.collectives
    return {
        "batch_size": config.train.batch_size,
        "flops": alone.flops,
        "bytes": alone.num_bytes,
        "devices": spread.run.parallel.num_devices,
        "flops_per_device": spread.flops,
        "bytes_per_device": spread.num_bytes,
        "sent_bytes_per_device": sum(c.sent_bytes for c in listed),
        "collectives": [c._asdict() for c in listed],
    }


def _describe_memory(alone) -> dict[str, int]:
    parts = {
        "state": programs.state_bytes(alone.run),
        "images": alone.run.dataset.splits["train"].images.nbytes,
        "temporaries": alone.temporaries,
    }
    return parts | {"total": sum(parts.values())}


def measure(step: programs.Step, flops: float) -> dict[str, Any]:
    """Times steps on this machine; on a CPU, its peak in turns with them.

    Args:
      step: compiled for the devices to use.
      flops: of a step, of all devices together.

    Returns:
      `seconds_per_step` and `images_per_second`, medians of up to 5 runs;
      `hours` of all steps; `flops_per_second`; `share_of_peak`, of the float32
      matrix products that the same devices did meanwhile (None on accelerators,
      whose peak those are too small to reach); `devices`; `cores_of_others`.
    """
    run = step.run
    state, *rest = programs.arguments(run, run.initial_state())
    states = [state]

    def call() -> None:
        states[0], metrics = step.compiled(states[0], *rest)
        jax.block_until_ready(metrics)

    calls, peak = {"step": call}, None
    if run.parallel.devices[0].platform == "cpu":
        peak = peaks.prepare(run.parallel.num_devices)["matmul"]
        calls["peak"] = peak.run
    other = machine.OtherWork()
    runs = timing.take_turns(calls, _MOST_SECONDS, lambda name: None)
    seconds = {
        name: statistics.median(one.seconds for one in listed)
        for name, listed in runs.items()
    }
    per_second, share = flops / seconds["step"], None
    if peak is not None:
        # Other work can slow one down more than the other.
        share = min(1.0, per_second * seconds["peak"] / peak.work)
    return {
        "devices": run.parallel.num_devices,
        "seconds_per_step": seconds["step"],
        "images_per_second": run.plan.batch_size / seconds["step"],
        "hours": run.plan.total_steps * seconds["step"] / 3600,
        "flops_per_second": per_second,
        "share_of_peak": share,
        "cores_of_others": other.cores(),
    }
