"""One start of one contender of the training benchmark, as a process.

    python -m aeent_jax.bench.train_worker TASK.json

A start trains a fixed number of steps, scores as many batches and prints one
line of JSON. A process of its own has the threads, devices and allocator that a
user of the contender would have.
"""

import contextlib
import dataclasses
import json
import pathlib
import sys
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from aeent_jax import methods
from aeent_jax.bench import plain, plain_torch, timing
from aeent_jax.runtime import parallel
from aeent_jax.training import batch_feed, experiment, population
from aeent_jax.training import step as train_step

# Steps before those that are timed: the first one compiles.
_WARM_UP = 2


@dataclasses.dataclass(frozen=True)
class Task:
    """The work of one start.

    Attributes:
      kind: a name in `KINDS`, or "describe".
      config: the resolved configuration, as a dictionary.
      num_devices: devices to use; the CPU is split into as many.
      members: members of a population.
      steps: steps to time.
      cache: folder of compiled programs.
      begun: when the process was started, in seconds since the epoch.
    """

    kind: str
    config: dict[str, Any]
    num_devices: int
    members: int
    steps: int
    cache: str
    begun: float


class Ours:
    """The step and the evaluation of this project."""

    def __init__(self, task: Task, config: ml_collections.ConfigDict):
        """Loads the data and draws the initial state."""
        config.parallel.num_devices = task.num_devices
        config.eval.batch_size = config.train.batch_size
        # The workdir is not written to.
        self._run = run = experiment.Experiment(config, pathlib.Path())
        self._images = run.dataset.splits["train"].images
        self._state = run.parallel.replicate(run.initial_state())
        self._hyper = run.parallel.replicate(run.hyper())
        self._size = run.plan.steps_from(0)
        with contextlib.closing(run.make_feed(0)) as feed:
            self._rows = feed.next(0, self._size)

    def train(self, steps: int) -> int:
        """Trains at least so many steps; returns the images."""
        mapping, calls = self._run.parallel, -(-steps // self._size)
        for _ in range(calls):
            self._state, metrics = self._run.step_fn(
                self._state, self._hyper, *self._rows
            )
            if mapping.waits_for_each_step:
                mapping.fetch_replicated(metrics)
        jax.block_until_ready(self._state)
        return calls * self._size * self._run.config.train.batch_size

    def forward(self, steps: int) -> int:
        """Scores so many batches; returns the images."""
        batch_size = self._run.config.train.batch_size
        images = _take(self._images, steps * batch_size)
        self._run.evaluator.score(
            self._state.variables, images, keep_maps=False
        )
        return len(images)


class Population:
    """Members that differ in their seeds, in one program on each device."""

    def __init__(self, task: Task, config: ml_collections.ConfigDict):
        """Loads the data and draws the members' initial states."""
        config.parallel.num_devices = task.num_devices
        run = experiment.Experiment(config, pathlib.Path())
        images = run.dataset.splits["train"].images
        batch_feed.refuse_stored(images)
        mapping, seeds = run.parallel, np.arange(task.members, dtype=np.int32)
        self._step = population.map_members(run.step_config, mapping)
        create = jax.jit(
            jax.vmap(lambda s: train_step.create_state(run.step_config, s))
        )
        self._state = mapping.shard(jax.device_get(create(seeds)))
        hyper = [dataclasses.replace(run.hyper(), seed=seed) for seed in seeds]
        self._size = run.plan.steps_from(0)
        batch = run.batch(0, self._size)
        self._rest = (
            mapping.shard(_stack(hyper)),
            mapping.replicate(images),
            *mapping.shard(_stack([batch] * task.members)),
        )
        self._images = self._size * config.train.batch_size * task.members

    def train(self, steps: int) -> int:
        """Trains at least so many steps; returns the images of all members."""
        calls = -(-steps // self._size)
        for _ in range(calls):
            self._state, metrics = self._step(self._state, *self._rest)
            jax.block_until_ready(metrics)
        return calls * self._images

    forward = None


class PlainFlax:
    """`plain.train_step`, compiled with one `jit` on one device."""

    def __init__(self, task: Task, config: ml_collections.ConfigDict):
        """Loads the data and draws the initial state."""
        del task
        self._images = experiment.load_data(config).splits["train"].images
        self._state = plain.create_state(
            plain.Autoencoder(
                config.data.channels,
                dtype=jnp.dtype(config.compute.dtype),
                **_sizes(config),
            ),
            config.data.image_size,
            config.optimizer.learning_rate,
            config.train.seed,
        )
        self._batch_size = config.train.batch_size
        self._step, self._errors = map(
            jax.jit, (plain.train_step, plain.errors)
        )
        self._x = methods.normalise(
            jnp.asarray(_take(self._images, self._batch_size))
        )

    def train(self, steps: int) -> int:
        """Trains so many steps; returns the images."""
        for _ in range(steps):
            self._state, _ = self._step(self._state, self._x)
        jax.block_until_ready(self._state)
        return steps * self._batch_size

    def forward(self, steps: int) -> int:
        """Scores so many batches; returns the images."""
        images = _take(self._images, steps * self._batch_size)
        for rows in np.split(images, steps):
            np.asarray(self._errors(self._state, rows))
        return len(images)


class Torch:
    """`plain_torch.train_step`, with all cores or on a GPU."""

    def __init__(self, task: Task, config: ml_collections.ConfigDict):
        """Loads the data and draws the initial state."""
        import torch  # Not a dependency of the project.

        self._images = experiment.load_data(config).splits["train"].images
        self._device = "cuda" if torch.cuda.is_available() else "cpu"
        self._format = torch.contiguous_format
        if task.kind == "torch_channels_last":
            self._format = torch.channels_last
        torch.manual_seed(config.train.seed)
        self._network = plain_torch.make_autoencoder(
            image_size=config.data.image_size,
            channels=config.data.channels,
            **_sizes(config),
        ).to(self._device, memory_format=self._format)
        self._optimizer = torch.optim.Adam(
            self._network.parameters(), config.optimizer.learning_rate
        )
        self._is_bfloat16 = config.compute.dtype == "bfloat16"
        self._batch_size = config.train.batch_size
        self._x = self._put(_take(self._images, self._batch_size))

    def _put(self, rows: np.ndarray) -> Any:
        import torch

        x = torch.from_numpy(np.moveaxis(rows, -1, 1)).to(self._device)
        return (x.float() / 127.5 - 1.0).contiguous(memory_format=self._format)

    def _autocast(self) -> Any:
        import torch

        return torch.autocast(
            self._device, torch.bfloat16, enabled=self._is_bfloat16
        )

    def train(self, steps: int) -> int:
        """Trains so many steps; returns the images."""
        self._network.train()
        for _ in range(steps):
            with self._autocast():
                loss = plain_torch.train_step(
                    self._network, self._optimizer, self._x
                )
        loss.item()  # Waits for the device.
        return steps * self._batch_size

    def forward(self, steps: int) -> int:
        """Scores so many batches; returns the images."""
        self._network.eval()
        images = _take(self._images, steps * self._batch_size)
        for rows in np.split(images, steps):
            with self._autocast():
                errors = plain_torch.errors(self._network, self._put(rows))
            errors.cpu()
        return len(images)


KINDS = {
    "ours": Ours,
    "population": Population,
    "plain": PlainFlax,
    "torch": Torch,
    "torch_channels_last": Torch,
}


def _sizes(config: ml_collections.ConfigDict) -> dict[str, int]:
    names = ("latent_dim", "base_width", "hidden_dim", "depth")
    return {name: config.model[name] for name in names}


def _take(images: Any, count: int) -> np.ndarray:
    """`count` images in order, repeated where there are fewer."""
    return images[np.arange(count) % len(images)]


def _stack(trees: list[Any]) -> Any:
    return jax.tree.map(lambda *leaves: np.stack(leaves), *trees)


def run(task: Task) -> dict[str, Any]:
    """Does one start.

    Args:
      task: what to do.

    Returns:
      For "describe", `environment` and `train_images`; for a contender,
      `train` and `forward` (None for a population), in images per second, and
      `startup`, seconds of its phases up to the end of the first step.
    """
    imports = time.time() - task.begun
    config = ml_collections.ConfigDict(task.config)
    if task.kind == "describe":
        images = experiment.load_data(config).splits["train"].images
        return {
            "environment": timing.describe_machine(),
            "train_images": len(images),
        }
    begun = time.perf_counter()
    contender = KINDS[task.kind](task, config)
    ready = time.perf_counter()
    contender.train(1)
    first_step = time.perf_counter()
    return {
        "startup": {
            "imports": imports,
            "data and state": ready - begun,
            "first step": first_step - ready,
        },
        "train": _rate(contender.train, task.steps),
        "forward": contender.forward and _rate(contender.forward, task.steps),
    }


def _rate(work: Callable[[int], int], steps: int) -> float:
    work(_WARM_UP)
    begun = time.perf_counter()
    images = work(steps)
    return images / (time.perf_counter() - begun)


def main() -> None:
    """Does the task of the file that the command line names."""
    task = Task(**json.loads(pathlib.Path(sys.argv[1]).read_text()))
    parallel.keep_freed_memory()
    jax.config.update("jax_num_cpu_devices", task.num_devices)
    jax.config.update("jax_compilation_cache_dir", task.cache)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    sys.stdout.write(json.dumps(run(task)) + "\n")


if __name__ == "__main__":
    main()
