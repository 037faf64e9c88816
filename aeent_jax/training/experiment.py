"""A run put together: a configuration, its data, devices and programs."""

import pathlib
import time

import jax
import ml_collections
import numpy as np
import optax

from aeent_jax import config as config_lib
from aeent_jax import data, entropy, methods
from aeent_jax.data import batches, sources
from aeent_jax.evaluation import evaluate, score_sums
from aeent_jax.runtime import parallel, profiling
from aeent_jax.training import (
    batch_feed,
    controller,
    metrics_window,
    objective,
    optimizer,
    schedule,
)
from aeent_jax.training import step as train_step

# On accelerators a call does several steps, so that a small network is not
# bound by dispatch. On CPU a loop around the convolutions' kernel gradient is
# many times slower than none.
_STEPS_PER_CALL_ON_ACCELERATORS = 8


def check_config(config: ml_collections.ConfigDict) -> None:
    """Refuses what can be refused without the data.

    Args:
      config: the resolved configuration.

    Raises:
      ValueError: a key that is missing, unknown or of another type, an unknown
        name, or a number out of its range.
    """
    config_lib.check(config.to_dict(), "The configuration")
    profiling.parse_steps(config.log.profile)
    # Refusals that need no data come before any is read.
    step_config = make_step_config(config, config.optimizer.warmup_steps + 1)
    score = config.eval.score or step_config.method.score
    score_sums.parse(score, config, step_config.method)


def load_data(config: ml_collections.ConfigDict) -> data.Dataset:
    """Loads the data set of a configuration."""
    window = config.data.window
    return data.load(
        config.data.name,
        root=config.data.root,
        cache_dir=config.data.cache_dir,
        image_size=config.data.image_size,
        channels=config.data.channels,
        validation_fraction=config.data.validation_fraction,
        calibration=config.data.calibration,
        seed=config.train.seed,
        window=sources.parse_window(window.split(",") if window else []),
        resize=config.data.resize,
        deduplicate=config.data.deduplicate,
        memory_budget_mb=config.data.memory_budget_mb,
    )


def make_step_config(
    config: ml_collections.ConfigDict, total_steps: int
) -> train_step.StepConfig:
    """Builds the static parts of a training step from a configuration.

    Args:
      config: the resolved configuration.
      total_steps: steps of the whole training.

    Returns:
      The static parts.

    Raises:
      ValueError: a name or value that is not known.
    """
    method = methods.make_method(config, parallel.AXIS)
    group = config.entropy
    rate = objective.make_rate(
        sigma=config.channel.sigma,
        noise=config.channel.noise,
        estimator=group.estimator,
        weight=group.weight,
        bandwidth=group.bandwidth,
        allow_unsound=group.allow_unsound,
        options=group.to_dict(),
    )
    is_learned = entropy.ESTIMATORS[rate.estimator].init is not None
    return train_step.StepConfig(
        method=method,
        rate=rate,
        optimizer=optimizer.make_optimizer(
            total_steps=total_steps, **config.optimizer
        ),
        estimator_optimizer=optax.adam(group.learning_rate)
        if is_learned
        else optax.identity(),
        control=controller.make_controller(
            name=group.controller,
            target=group.target,
            step_size=group.controller_rate,
            warmup_steps=group.warmup_fraction * total_steps,
            weight=rate.weight,
            is_measured=rate.is_measured,
        ),
        microbatches=_microbatches(config, method),
    )


def _microbatches(config, method) -> int:
    parts, size = config.train.microbatches, config.train.batch_size
    if size % parts:
        raise ValueError(
            f"train.microbatches is {parts}, but must divide train.batch_size,"
            f" which is {size}."
        )
    if 1 < parts == size:
        raise ValueError(
            f"train.microbatches is {parts}, so each part of a batch has one"
            " image, of which BatchNorm has no variance; set it to at most"
            f" {size // 2}."
        )
    if parts > 1 and method.adversary is not None:
        raise ValueError(
            f"train.microbatches is {parts}, but {config.method} is trained"
            " against an adversary, which sees whole batches; set it to 1."
        )
    return parts


class Experiment:
    """One run: its data, devices, plan and compiled programs.

    Attributes:
      config: the resolved configuration.
      directory: the workdir.
      dataset: the splits, on the host.
      train_fingerprint: sha256 of the training split.
      parallel: the devices.
      plan: when things happen.
      step_config: the static parts of a step.
      evaluator: scores splits.
      step_fn: `train_step.train_steps`, mapped and compiled.
      has_warned: whether the saturation of the estimator was reported.
      interval: the metrics since the last line of metrics.jsonl.
    """

    def __init__(
        self,
        config: ml_collections.ConfigDict,
        directory: pathlib.Path,
        dataset: data.Dataset | None = None,
    ):
        """Loads the data and builds what the configuration describes.

        Args:
          config: the resolved configuration.
          directory: the workdir.
          dataset: of the configuration, where it is loaded already.

        Raises:
          ValueError: bad configuration or data.
        """
        check_config(config)
        self.config = config
        self.directory = directory
        self.dataset = dataset or load_data(config)
        self.parallel = parallel.make_parallel(config.parallel.num_devices)
        self.train_fingerprint = self.dataset.fingerprint_of("train")
        images = self.dataset.splits["train"].images
        size = config.train.steps_per_call
        on_cpu = self.parallel.devices[0].platform == "cpu"
        self.plan = schedule.StepSchedule(
            num_examples=len(images),
            batch_size=config.train.batch_size,
            epochs=config.train.epochs,
            steps_per_call=size
            or (1 if on_cpu else _STEPS_PER_CALL_ON_ACCELERATORS),
            checkpoint_every=config.checkpoint.every_steps,
        )
        self.step_config = make_step_config(config, self.plan.total_steps)
        parts = config.train.microbatches
        self.padded_size = parts * self.parallel.padded(
            config.train.batch_size // parts
        )
        self.evaluator = evaluate.Evaluator(
            self.parallel,
            self.step_config.method,
            config,
        )
        self.step_fn = self.parallel.map(
            lambda *args: train_step.train_steps(self.step_config, *args),
            donate=(0,),
        )
        self.has_warned = False
        self.interval = metrics_window.MetricsWindow()
        self.started = time.monotonic()

    def wall_seconds(self) -> float:
        """Seconds of this run so far, those before a restart included."""
        return time.monotonic() - self.started

    def stamp(self, step: int) -> dict[str, float]:
        """The keys that every line of metrics.jsonl begins with."""
        return {
            "step": step,
            "epoch": step / self.plan.steps_per_epoch,
            "wall_seconds": round(self.wall_seconds(), 3),
        }

    def initial_state(self) -> train_step.TrainState:
        """Draws the initial state, on the host."""
        create = jax.jit(lambda s: train_step.create_state(self.step_config, s))
        return jax.device_get(create(self.config.train.seed))

    def hyper(self) -> train_step.Hyper:
        """The numbers of the run, on the host."""
        return train_step.Hyper(
            seed=np.int32(self.config.train.seed),
            weight=np.float32(self.config.entropy.weight),
            update_scale=np.float32(1.0),
        )

    def make_feed(self, step: int) -> batch_feed.Feed:
        """Begins to give calls their images, from `step` on; to be closed."""
        images = self.dataset.splits["train"].images
        return batch_feed.make_feed(
            self.parallel, images, self.batch, self.plan, step
        )

    def batch(self, step: int, steps: int) -> tuple[np.ndarray, np.ndarray]:
        """Indices and masks `[B, steps]` of the next call, on the host."""
        columns = [
            batches.train_batch(
                self.config.train.seed,
                step + i,
                self.plan.num_examples,
                self.plan.batch_size,
                self.padded_size,
            )
            for i in range(steps)
        ]
        indices, mask = (np.stack(c, 1) for c in zip(*columns, strict=True))
        return indices, mask

    def validation_error(self, state: train_step.TrainState) -> float | None:
        """Reconstruction error of the held-out normals; None without any."""
        if "val" not in self.dataset.splits:
            return None
        images = self.dataset.splits["val"].images
        variables = self.parallel.replicate(state.variables)
        scored = self.evaluator.score(variables, images, keep_maps=False)
        return float(np.mean(scored.reconstruction_error))
