"""The trainers that benchmarks compare."""

import contextlib
import os
import pathlib
import signal
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from aeent_jax import methods
from aeent_jax.bench import plain, plain_torch, rounds
from aeent_jax.runtime import parallel, progress
from aeent_jax.training import experiment, loop


def use_cache(folder: str) -> None:
    """Keeps all compiled programs in a folder; before JAX is used."""
    jax.config.update("jax_compilation_cache_dir", folder)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


def make_in_own_process(
    make_trainer: Callable[[], rounds.Trainer],
    num_cpu_devices: int,
    cache_dir: str,
) -> rounds.Trainer:
    """Makes a trainer where nothing has used JAX yet.

    Args:
      make_trainer: makes it.
      num_cpu_devices: into how many devices the CPU is split.
      cache_dir: of compiled programs.

    Returns:
      The trainer.
    """
    # Ctrl-C is for the benchmark, which then ends its processes.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    flags = os.environ.get("XLA_FLAGS", "").split()
    kept = [f for f in flags if "host_platform_device_count" not in f]
    os.environ["XLA_FLAGS"] = " ".join(kept)
    jax.config.update("jax_num_cpu_devices", num_cpu_devices)
    use_cache(cache_dir)
    return make_trainer()


class _Stopwatch:
    """Seconds between one call and the next."""

    def __init__(self):
        self._mark = time.perf_counter()

    def lap(self) -> float:
        """Returns the seconds since the last call, or the beginning."""
        before, self._mark = self._mark, time.perf_counter()
        return self._mark - before


class Ours:
    """This project's step and its real loop, from `loop.train`."""

    def __init__(
        self, config: ml_collections.ConfigDict, directory: pathlib.Path
    ):
        """Builds a run and does its first step twice, compiling each time.

        Args:
          config: the resolved configuration.
          directory: for the workdir of the real loop.
        """
        parallel.keep_freed_memory()
        self._config = config
        self._directory = directory
        watch = _Stopwatch()
        self._run = experiment.Experiment(self._config, directory)
        self.startup = {"data": watch.lap()}
        state = self._run.initial_state()
        self._state = self._run.parallel.replicate(state)
        self._knobs = self._run.parallel.replicate(self._run.hyper())
        self._size = self._run.plan.steps_from(0)
        with contextlib.closing(self._run.make_feed(0)) as feed:
            self._rows = feed.next(0, self._size)
        self._images = int(np.asarray(self._rows.mask).sum())
        self.startup["init"] = watch.lap()
        self.run_steps(self._size)
        self.startup["first step"] = watch.lap()
        # A program of its own is compiled anew, now from the cache on disk.
        self._run = experiment.Experiment(self._config, directory)
        watch.lap()
        self.run_steps(self._size)
        self.startup["first step, cached"] = watch.lap()

    def run_steps(self, steps: int) -> int:
        """Runs steps to their end, as the loop does; returns the images."""
        mapping, calls = self._run.parallel, -(-steps // self._size)
        for _ in range(calls):
            self._state, metrics = self._run.step_fn(
                self._state, self._knobs, *self._rows
            )
            if mapping.waits_for_each_step:
                mapping.fetch_replicated(metrics)
        jax.block_until_ready(self._state)
        return calls * self._images

    def run_epochs(self, gate: rounds.Gate) -> None:
        """Trains with `loop.train` until the gate raises."""
        images = len(self._run.dataset.splits["train"])
        epoch = _EndsOfEpochs(self._run.plan.steps_per_epoch, images, gate)
        loop.train(self._config, self._directory, say=epoch)


class _EndsOfEpochs(progress.Progress):
    """Shows nothing, and calls the gate where an epoch ends."""

    def __init__(self, steps: int, images: int, gate: rounds.Gate):
        super().__init__(0)
        self._steps = steps
        self._images = images
        self._gate = gate

    def say(self, text: str) -> None:
        """Says nothing."""

    def show(self, done: int, note: str) -> None:
        """Calls the gate after the last step of an epoch."""
        if done % self._steps == 0:
            self._gate(self._images)


def _plain_sizes(config: ml_collections.ConfigDict) -> dict[str, int]:
    names = ("latent_dim", "base_width", "hidden_dim", "depth")
    return {name: config.model[name] for name in names}


class Plain:
    """`plain.train_step` and the loop that one would write around it."""

    def __init__(self, config: ml_collections.ConfigDict):
        """Loads the data and does the first step twice, compiling each time.

        Args:
          config: the resolved configuration.
        """
        watch = _Stopwatch()
        self._all = experiment.load_data(config).splits["train"].images
        self.startup = {"data": watch.lap()}
        self._batch_size = config.train.batch_size
        self._order = np.random.default_rng(config.train.seed)
        self._state = plain.create_state(
            plain.Autoencoder(config.data.channels, **_plain_sizes(config)),
            config.data.image_size,
            config.optimizer.learning_rate,
            config.train.seed,
        )
        rows = self._all[: self._batch_size]
        self._x = methods.normalise(jnp.asarray(rows))
        self.startup["init"] = watch.lap()
        for name in ("first step", "first step, cached"):
            self._step = jax.jit(lambda *args: plain.train_step(*args))
            self.run_steps(1)
            self.startup[name] = watch.lap()

    def run_steps(self, steps: int) -> int:
        """Runs steps to their end; returns the images."""
        for _ in range(steps):
            self._state, _ = self._step(self._state, self._x)
        jax.block_until_ready(self._state)
        return steps * len(self._x)

    def run_epochs(self, gate: rounds.Gate) -> None:
        """Trains in a random order until the gate raises."""
        while True:
            order, losses = self._order.permutation(len(self._all)), []
            for begin in range(0, len(order), self._batch_size):
                rows = self._all[order[begin : begin + self._batch_size]]
                x = rows.astype(np.float32) / 127.5 - 1.0
                self._state, loss = self._step(self._state, x)
                losses.append(loss)
            np.mean(jax.device_get(losses))
            gate(len(order))


class PlainTorch:
    """`plain_torch.train_step` and the loop that one would write around it."""

    def __init__(self, config: ml_collections.ConfigDict):
        """Loads the data and does the first step twice.

        Args:
          config: the resolved configuration.
        """
        import torch  # Not a dependency of the project.

        watch = _Stopwatch()
        self._device = "cuda" if torch.cuda.is_available() else "cpu"
        self._all = experiment.load_data(config).splits["train"].images
        self.startup = {"data": watch.lap()}
        self._batch_size = config.train.batch_size
        self._order = np.random.default_rng(config.train.seed)
        torch.manual_seed(config.train.seed)
        self._network = plain_torch.make_autoencoder(
            image_size=config.data.image_size,
            channels=config.data.channels,
            **_plain_sizes(config),
        ).to(self._device)
        self._optimizer = torch.optim.Adam(
            self._network.parameters(), config.optimizer.learning_rate
        )
        self._x = self._put(self._all[: self._batch_size])
        self.startup["init"] = watch.lap()
        for name in ("first step", "first step, cached"):
            self.run_steps(1)
            self.startup[name] = watch.lap()

    def _put(self, rows: np.ndarray):
        import torch

        x = rows.astype(np.float32) / 127.5 - 1.0
        x = np.ascontiguousarray(np.moveaxis(x, -1, 1))
        return torch.from_numpy(x).to(self._device)

    def run_steps(self, steps: int) -> int:
        """Runs steps to their end; returns the images."""
        for _ in range(steps):
            loss = plain_torch.train_step(
                self._network, self._optimizer, self._x
            )
        loss.item()  # Waits where the device is another one.
        return steps * len(self._x)

    def run_epochs(self, gate: rounds.Gate) -> None:
        """Trains in a random order until the gate raises."""
        while True:
            order, losses = self._order.permutation(len(self._all)), []
            for begin in range(0, len(order), self._batch_size):
                x = self._put(
                    self._all[order[begin : begin + self._batch_size]]
                )
                losses.append(
                    plain_torch.train_step(self._network, self._optimizer, x)
                )
            np.mean([float(loss) for loss in losses])
            gate(len(order))
