"""Images per second of populations, beside the same runs one after another."""

import statistics
from collections.abc import Callable, Sequence
from typing import Any

import jax
import ml_collections
import numpy as np

from aeent_jax.bench import machine, timing
from aeent_jax.runtime import parallel
from aeent_jax.training import experiment, population
from aeent_jax.training import step as train_step

_IMAGES = 256


def measure(
    config: ml_collections.ConfigDict,
    sizes: Sequence[int],
    *,
    steps: int,
    most_seconds: float,
    say: Callable[[str], None],
) -> dict[str, Any]:
    """Times steps of populations on one device, and of a run alone.

    Args:
      config: of each member; they differ by their seeds.
      sizes: numbers of members.
      steps: of one timed call sequence.
      most_seconds: of all runs together.
      say: where progress goes.

    Returns:
      `machine`, and for "alone" and each size its `images_per_second` of all
      members together, and that over "alone" (`times_alone`).

    Raises:
      ValueError: bad configuration or number of steps.
    """
    if steps < 1:
        raise ValueError(f"--steps is {steps}, but must be at least 1.")
    experiment.check_config(config)
    mapping = parallel.make_parallel(1)
    program = experiment.make_step_config(config, total_steps=10**6)
    images = _draw_images(config)
    calls = {"alone": _alone(program, mapping, images, config, steps)}
    for size in sizes:
        calls[str(size)] = _together(
            program, mapping, images, config, steps, size
        )
    other = machine.OtherWork()
    runs = timing.take_turns(calls, most_seconds, say)
    per_member = config.train.batch_size * steps
    speeds = {}
    for name, listed in runs.items():
        members = 1 if name == "alone" else int(name)
        seconds = statistics.median(run.seconds for run in listed)
        speeds[name] = members * per_member / seconds
    return {
        "machine": machine.describe()
        | {
            "device": mapping.devices[0].device_kind,
            "cores_of_others": other.cores(),
        },
        "populations": {
            name: {
                "images_per_second": speed,
                "times_alone": speed / speeds["alone"],
            }
            for name, speed in speeds.items()
        },
    }


def _draw_images(config) -> np.ndarray:
    shape = (config.data.image_size,) * 2 + (config.data.channels,)
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (_IMAGES, *shape), np.uint8)


def _batch(config) -> tuple[np.ndarray, np.ndarray]:
    indices = np.arange(config.train.batch_size, dtype=np.int32) % _IMAGES
    return indices[:, None], np.ones((len(indices), 1), bool)


def _knobs(config, seed: int) -> train_step.Hyper:
    return train_step.Hyper(
        np.int32(seed), np.float32(config.entropy.weight), np.float32(1.0)
    )


def _alone(program, mapping, images, config, steps) -> Callable[[], None]:
    step_fn = mapping.map(
        lambda *args: train_step.train_steps(program, *args),
        donate=(0,),
    )
    create = jax.jit(lambda seed: train_step.create_state(program, seed))
    state = mapping.replicate(jax.device_get(create(0)))
    constants = mapping.replicate((_knobs(config, 0), images))
    batch = mapping.shard(_batch(config))
    return _stepping(step_fn, state, (*constants, *batch), steps)


def _together(
    program, mapping, images, config, steps, size
) -> Callable[[], None]:
    step_fn = population.map_members(program, mapping)
    create = jax.jit(
        jax.vmap(lambda seed: train_step.create_state(program, seed))
    )
    state = mapping.shard(jax.device_get(create(np.arange(size))))
    hyper, batch = jax.tree.map(
        lambda *leaves: np.stack(leaves),
        *[(_knobs(config, seed), _batch(config)) for seed in range(size)],
    )
    constants = (mapping.shard(hyper), mapping.replicate(images))
    return _stepping(step_fn, state, (*constants, *mapping.shard(batch)), steps)


def _stepping(step_fn, state, constants, steps) -> Callable[[], None]:
    """A call that does steps, and goes on from them the next time."""
    states = [state]

    def call() -> None:
        for _ in range(steps):
            states[0], metrics = step_fn(states[0], *constants)
            jax.block_until_ready(metrics)

    return call


def format_populations(result: dict[str, Any]) -> str:
    """The result as a Markdown table."""
    found = result["machine"]
    lines = [
        f"{found['device']}, one device; {found['processor']},"
        f" {found['cores']} core(s)",
        "",
        "| members | images/s, all together | times one alone |",
        "|---|---|---|",
    ]
    for name, row in result["populations"].items():
        lines.append(
            f"| {name} | {row['images_per_second']:.0f}"
            f" | {row['times_alone']:.2f} |"
        )
    others = found["cores_of_others"]
    if others is not None and others > 0.1:
        lines.append(f"\nOther work kept {others:.1f} cores busy meanwhile.")
    return "\n".join(lines)
