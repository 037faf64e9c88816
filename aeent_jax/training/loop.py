"""Training: from a configuration and data to checkpoints and an evaluation.

A run that is killed at any moment and started again ends with the same
parameters, bit for bit, on the same devices: batches and noise depend on (seed,
step) alone, and the state is saved whole.
"""

import collections
import contextlib
import dataclasses
import math
import pathlib
import signal
import time
from collections.abc import Iterator
from typing import Any

import jax
import ml_collections
import numpy as np

from aeent_jax import entropy
from aeent_jax.evaluation import evaluate
from aeent_jax.runtime import (
    checkpoint,
    hosts,
    profiling,
    progress,
    storage,
    workdir,
)
from aeent_jax.training import experiment, metrics_window, warnings
from aeent_jax.training import step as train_step


class InterruptedRunError(Exception):
    """The run was asked to stop, and saved its state."""


def train(
    config: ml_collections.ConfigDict,
    directory: str | pathlib.Path,
    *,
    say: progress.Progress | None = None,
) -> dict[str, Any]:
    """Trains, or goes on where the workdir left off, and evaluates.

    Args:
      config: the resolved configuration.
      directory: the workdir.
      say: where progress goes; None is standard error.

    Returns:
      The metrics of the final evaluation, as in `eval/<split>/metrics.json`.

    Raises:
      ValueError: bad configuration, data, workdir or checkpoint.
      OSError: the workdir is in use, or cannot be read or written.
      FloatingPointError: the loss is not finite; checkpoints before that stay.
      InterruptedRunError: SIGTERM or SIGINT came; the state was saved.
    """
    directory = storage.to_path(directory)
    profiling.check_place(directory, config.log.profile)
    # Whatever can be refused is refused before a file is written.
    run = experiment.Experiment(config, directory)
    check_source(run)
    say = say or progress.Progress(
        run.plan.total_steps, is_silent=not hosts.is_first()
    )
    with (
        workdir.claimed(directory, config),
        checkpoint.Checkpoints(
            directory / "checkpoints", keep=config.checkpoint.keep
        ) as checkpoints,
    ):
        state, step = restore_or_init(run, checkpoints, say)
        state = run.parallel.replicate(state)
        writer = workdir.MetricsWriter(
            directory, step, tensorboard=config.log.tensorboard
        )
        _say_start(run, step, say)
        with contextlib.closing(writer), _stop_signals(run):
            trace = profiling.Trace(directory / "profile", config.log.profile)
            with (
                contextlib.closing(run.make_feed(step)) as feed,
                contextlib.closing(trace),
            ):
                state = _loop(
                    run, state, step, feed, trace, checkpoints, writer, say
                )
            say.say("Evaluating ...")
            step = run.plan.total_steps
            results = run.evaluator.evaluate(
                state.variables, run.dataset, step, directory
            )
            writer.write(run.stamp(step) | evaluate.flat_metrics(results))
    return results


def check_source(run: experiment.Experiment) -> None:
    """Refuses a `checkpoint.restore_from` that this run cannot start from.

    Args:
      run: the run; nothing is read where its workdir holds a checkpoint.

    Raises:
      ValueError, OSError: as `checkpoint.restore_from`.
    """
    if not checkpoint.complete_steps(run.directory / "checkpoints"):
        _restore_source(run)


def _restore_source(run):
    """The variables of `checkpoint.restore_from`, none where it is empty.

    Nothing else of that run, which may be another kind of training.
    """
    source = run.config.checkpoint.restore_from
    if not source:
        return {}
    like = _state_like(run)
    return checkpoint.restore_from(source, like.variables, partial=True).state


def _state_like(run):
    """The shapes and types of the state."""
    return jax.eval_shape(
        lambda: train_step.create_state(run.step_config, run.config.train.seed)
    )


def restore_or_init(
    run: experiment.Experiment,
    checkpoints: checkpoint.Checkpoints,
    say: progress.Progress,
) -> tuple[train_step.TrainState, int]:
    """Latest in the workdir, else `restore_from`, else fresh.

    Args:
      run: the run.
      checkpoints: of its workdir.
      say: where what happens is said.

    Returns:
      The state, on the host, and the steps done.

    Raises:
      ValueError: the checkpoint is of another run, or cannot be used.
    """
    restored = checkpoints.restore_latest(_state_like(run))
    if restored is not None:
        for sentence in restored.damaged:
            say.say(f"WARNING: {sentence}")
        if restored.step > run.plan.total_steps:
            raise ValueError(
                f"The workdir holds a checkpoint of step {restored.step}, but"
                f" this configuration ends at step {run.plan.total_steps}; give"
                " another workdir."
            )
        _refuse_other_images(run, restored.metadata)
        run.started -= restored.metadata["wall_seconds"]
        run.interval = metrics_window.from_metadata(restored.metadata)
        return restored.state, restored.step
    state = run.initial_state()
    weights = _restore_source(run)
    if weights:
        source = run.config.checkpoint.restore_from
        say.say(f"Starting from the weights of {source}.")
    return state.replace(**weights), 0


def _refuse_other_images(run, metadata):
    """A run goes on with the images that it began with, wherever they are."""
    if metadata["train_images"] != run.train_fingerprint:
        raise ValueError(
            f"The run in {run.directory} was trained on other images than"
            f" those of {run.config.data.name} now; give the folder that it"
            " began with as data.root, or another workdir."
        )


def _say_start(run, step, say):
    config, devices = run.config, run.parallel.devices
    sizes = {name: len(s) for name, s in run.dataset.splits.items()}
    say.say(
        f"{config.method} on {config.data.name} {sizes}, batch"
        f" {config.train.batch_size} over {len(devices)}"
        f" {devices[0].platform} device(s){hosts.describe()}"
        f" ({run.padded_size // len(devices)} each),"
        f" {run.plan.total_steps} steps, workdir {run.directory}"
    )
    for note in run.dataset.notes:
        say.say(note)
    if step == run.plan.total_steps:
        say.say(f"Training is complete at step {step}; only evaluating.")
        return
    if step:
        say.say(f"Going on from step {step}.")
    for sentence in warnings.warnings(
        run.step_config.rate,
        config.channel.normalisation,
        config.train.batch_size,
    ):
        say.say(f"WARNING: {sentence}")
    untraced = profiling.warning(config.log.profile, step, run.plan.total_steps)
    if untraced:
        say.say(f"WARNING: {untraced}")


@contextlib.contextmanager
def _stop_signals(run) -> Iterator[None]:
    """Turns the first SIGTERM or SIGINT into a wish to stop after a step."""
    if hosts.are_several():
        # JAX listens to SIGTERM, and tells the others.
        with hosts.interrupts_ask_to_stop():
            yield
        return

    def ask(number, frame):
        del frame
        run.stop_signal = number
        # A second Ctrl-C ends the process at once.
        signal.signal(number, signal.SIG_DFL)

    try:
        numbers = (signal.SIGTERM, signal.SIGINT)
        old = {number: signal.signal(number, ask) for number in numbers}
    except ValueError:  # Not in the main thread, as in a notebook's worker.
        yield
        return
    try:
        yield
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)


def _loop(run, state, step, feed, trace, checkpoints, writer, say):
    """Trains from `step` to the end; returns the final state."""
    plan, clock = run.plan, time.monotonic
    hyper = run.parallel.replicate(run.hyper())
    in_flight, compiled = collections.deque(), set()
    mark = clock()
    while step < plan.total_steps:
        size = plan.steps_from(step)
        rows = feed.next(step, size)
        trace.before(step, size)
        state, metrics = run.step_fn(state, hyper, *rows)
        step += size
        trace.after(step, metrics)
        in_flight.append(metrics)
        if hosts.agree_to_stop():
            run.stop_signal = signal.SIGTERM
        pause = plan.pauses(step) or run.stop_signal is not None
        # Read one call late where calls overlap, so that nothing waits.
        keep = 0 if pause or run.parallel.waits_for_each_step else 1
        while len(in_flight) > keep:
            metrics = run.parallel.fetch_replicated(in_flight.popleft())
            run.interval.add(checked(metrics, run.directory))
        if size in compiled:
            run.interval.add_time(size, clock() - mark)
            say.work(size, clock() - mark)
        compiled.add(size)
        say.show(step, run.interval.note(run.step_config.rate))
        if plan.ends_epoch(step):
            _end_epoch(run, state, step, writer, say)
        if plan.saves(step) or run.stop_signal is not None:
            _save(run, checkpoints, state, step)
        if run.stop_signal is not None and step < plan.total_steps:
            checkpoints.wait()
            name = signal.Signals(run.stop_signal).name
            raise InterruptedRunError(
                f"Stopped by {name} after step {step} of {plan.total_steps};"
                " the state is saved, and the same command goes on from it."
            )
        mark = clock()
    return state


def checked(
    metrics: dict[str, np.ndarray], directory: pathlib.Path
) -> dict[str, np.ndarray]:
    """Returns the metrics of a call if loss and gradient are finite.

    Args:
      metrics: each `[steps]`.
      directory: the workdir, for the sentence.

    Raises:
      FloatingPointError: they are not.
    """
    for i, step in enumerate(metrics["step"]):
        for name in ("loss", "grad_norm"):
            value = metrics[name][i]
            if not np.isfinite(value):
                raise FloatingPointError(
                    f"{name} is {value} at step {step}, so training stopped;"
                    f" any checkpoint in {directory / 'checkpoints'} is of an"
                    " earlier step. Lower optimizer.learning_rate or set"
                    " optimizer.clip_norm=1, and use a new workdir."
                )
    return metrics


def _end_epoch(run, state, step, writer, say) -> None:
    """Writes and evaluates what is due."""
    epoch, config = step // run.plan.steps_per_epoch, run.config
    _warn_of_saturation(run, say)
    every = config.eval.every_epochs
    is_last = step == run.plan.total_steps
    evaluated = {}
    if every and epoch % every == 0 and not is_last:
        results = run.evaluator.evaluate(state.variables, run.dataset, step)
        evaluated = evaluate.flat_metrics(results)
    if epoch % config.log.every_epochs == 0 or evaluated or is_last:
        record = run.stamp(step) | run.interval.summary(run.step_config.rate)
        writer.write(record | evaluated)
        run.interval = metrics_window.MetricsWindow()


def metadata_of(run: experiment.Experiment) -> dict[str, Any]:
    """What a checkpoint says of its run."""
    return {
        "wall_seconds": run.wall_seconds(),
        "train_images": run.train_fingerprint,
        "interval": dataclasses.asdict(run.interval),
    }


def _save(run, checkpoints, state, step) -> None:
    checkpoints.save(
        step,
        run.parallel.fetch_replicated(state),
        metadata=metadata_of(run),
        criterion=run.validation_error(state),
    )


def _warn_of_saturation(run, say) -> None:
    """Says so, once, where the training estimator is at its ceiling."""
    rate, interval = run.step_config.rate, run.interval
    count = round(interval.count / interval.steps)
    if run.has_warned or not rate.is_measured or count < 2:
        return
    # In nats of rate, what an estimator with the self term reads is at most
    # log n.
    reached = interval.summary(rate)["train/rate_nats"] / math.log(count)
    warning = entropy.saturation_warning(
        rate.estimator, rate.includes_self, reached, count
    )
    if warning:
        run.has_warned = True
        say.say(f"WARNING: {warning}")
