"""Training: from a configuration and data to checkpoints and an evaluation.

A run that is killed at any moment and started again ends with the same
parameters, bit for bit, on the same devices: batches and noise depend on (seed,
step) alone, and the state is saved whole.

One loop, `fit`, trains one run whose batches the devices share (`Alone`), or
several runs side by side in one program (`population.Together`).
"""

import collections
import contextlib
import dataclasses
import math
import pathlib
import time
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import jax
import ml_collections
import numpy as np

from aeent_jax import entropy
from aeent_jax.evaluation import evaluate
from aeent_jax.runtime import (
    checkpoint,
    hosts,
    parallel,
    profiling,
    progress,
    stopping,
    storage,
    workdir,
)
from aeent_jax.training import batch_feed, experiment, metrics_window, warnings
from aeent_jax.training import step as train_step


class InterruptedRunError(Exception):
    """The run was asked to stop, and saved its state."""


@dataclasses.dataclass
class Member:
    """A run in training.

    Attributes:
      run: its data, devices and programs.
      checkpoints: the checkpoints in its workdir.
      writer: writes its metrics.jsonl.
      failure: why its training cannot go on; None where it can.
      results: its final evaluation, as in `eval/<split>/metrics.json`.
    """

    run: experiment.Experiment
    checkpoints: checkpoint.Checkpoints
    writer: workdir.MetricsWriter
    failure: FloatingPointError | None = None
    results: dict[str, Any] = dataclasses.field(default_factory=dict)


@contextlib.contextmanager
def open_member(
    run: experiment.Experiment, checkpoints: checkpoint.Checkpoints, step: int
) -> Iterator[Member]:
    """A member that goes on from a step; its files are closed at the end."""
    writer = workdir.MetricsWriter(
        run.directory, step, tensorboard=run.config.log.tensorboard
    )
    with contextlib.closing(writer):
        yield Member(run, checkpoints, writer)


class Program(Protocol):
    """The compiled steps of some members, and what they take and give."""

    parallel: parallel.Parallel

    def place(
        self, states: Sequence[train_step.TrainState]
    ) -> train_step.TrainState:
        """Puts the states of the members on the devices."""

    def place_hyper(self) -> train_step.Hyper:
        """Puts the numbers of the members on the devices."""

    def make_feed(self, step: int) -> batch_feed.Feed:
        """Begins to give calls their images, from `step` on."""

    def step_fn(
        self,
        state: train_step.TrainState,
        hyper: train_step.Hyper,
        *rows: jax.Array,
    ) -> tuple[train_step.TrainState, train_step.Metrics]:
        """Does the steps of one call."""

    def fetch_metrics(
        self, metrics: train_step.Metrics
    ) -> list[dict[str, np.ndarray]]:
        """Fetches the metrics `[steps]` of each member."""

    def fetch_states(
        self, state: train_step.TrainState
    ) -> list[train_step.TrainState]:
        """Fetches the state of each member."""


class Alone:
    """One run, whose batches the devices share."""

    def __init__(self, run: experiment.Experiment):
        self._run = run
        self.parallel = run.parallel
        self.step_fn = run.step_fn
        self.make_feed = run.make_feed

    def place(self, states):
        """Puts the state on every device."""
        return self.parallel.replicate(states[0])

    def place_hyper(self):
        """Puts the numbers of the run on every device."""
        return self.parallel.replicate(self._run.hyper())

    def fetch_metrics(self, metrics):
        """Fetches the metrics `[steps]`."""
        return [self.parallel.fetch_replicated(metrics)]

    def fetch_states(self, state):
        """Fetches the state."""
        return [self.parallel.fetch_replicated(state)]


def train(
    config: ml_collections.ConfigDict,
    directory: str | pathlib.Path,
    *,
    log: progress.Progress | None = None,
) -> dict[str, Any]:
    """Trains, or goes on where the workdir left off, and evaluates.

    Args:
      config: the resolved configuration.
      directory: the workdir.
      log: where progress goes; None is standard error.

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
    # A bad configuration is refused before a file is written.
    run = experiment.Experiment(config, directory)
    check_source(run)
    log = log or progress.Progress(
        run.plan.total_steps, is_silent=not hosts.is_first()
    )
    with (
        workdir.claimed(directory, config),
        open_checkpoints(run) as checkpoints,
    ):
        state, step = restore_or_init(run, checkpoints, log)
        with open_member(run, checkpoints, step) as member:
            _log_start(run, step, log)
            with stopping.stop_signals() as stop:
                fit(Alone(run), [member], [state], step, log=log, stop=stop)
    if member.failure is not None:
        raise member.failure
    return member.results


def open_checkpoints(
    run: experiment.Experiment, *, asynchronous: bool = True
) -> checkpoint.Checkpoints:
    """The checkpoints of a run's workdir, to be closed."""
    return checkpoint.Checkpoints(
        run.directory / "checkpoints",
        keep=run.config.checkpoint.keep,
        asynchronous=asynchronous,
    )


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
    log: progress.Progress,
) -> tuple[train_step.TrainState, int]:
    """Latest in the workdir, else `restore_from`, else fresh.

    Args:
      run: the run.
      checkpoints: the checkpoints in its workdir.
      log: takes the sentences on what happens.

    Returns:
      The state, on the host, and the steps done.

    Raises:
      ValueError: the checkpoint is of another run, or cannot be used.
    """
    restored = checkpoints.restore_latest(_state_like(run))
    if restored is not None:
        for sentence in restored.damaged:
            log.write(f"WARNING: {sentence}")
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
        log.write(f"Starting from the weights of {source}.")
    return state.replace(**weights), 0


def _refuse_other_images(run, metadata):
    """A run goes on with the images that it began with, wherever they are."""
    if metadata["train_images"] != run.train_fingerprint:
        raise ValueError(
            f"The run in {run.directory} was trained on other images than"
            f" those of {run.config.data.name} now; give the folder that it"
            " began with as data.root, or another workdir."
        )


def _log_start(run, step, log):
    config, devices = run.config, run.parallel.devices
    sizes = {name: len(s) for name, s in run.dataset.splits.items()}
    log.write(
        f"{config.method} on {config.data.name} {sizes}, batch"
        f" {config.train.batch_size} over {len(devices)}"
        f" {devices[0].platform} device(s){hosts.describe()}"
        f" ({run.padded_size // len(devices)} each),"
        f" {run.plan.total_steps} steps, workdir {run.directory}"
    )
    for note in run.dataset.notes:
        log.write(note)
    if step == run.plan.total_steps:
        log.write(f"Training is complete at step {step}; only evaluating.")
        return
    if step:
        log.write(f"Going on from step {step}.")
    for sentence in warnings.warnings(
        run.step_config.rate,
        config.channel.normalisation,
        config.train.batch_size,
    ):
        log.write(f"WARNING: {sentence}")
    untraced = profiling.warning(config.log.profile, step, run.plan.total_steps)
    if untraced:
        log.write(f"WARNING: {untraced}")


def fit(
    program: Program,
    members: Sequence[Member],
    states: Sequence[train_step.TrainState],
    step: int,
    *,
    log: progress.Progress,
    stop: stopping.Stop,
) -> None:
    """Trains members from a step to the end, and evaluates them.

    Args:
      program: the compiled steps of these members.
      members: with an equal plan; their failures and results are set.
      states: the states of the members after `step` steps, on the host.
      step: steps done.
      log: where progress goes.
      stop: looked at after every call; all members are saved then.

    Raises:
      InterruptedRunError: it was asked to stop, and all are saved.
    """
    config, directory = members[0].run.config, members[0].run.directory
    trace = profiling.Trace(directory / "profile", config.log.profile)
    with (
        contextlib.closing(program.make_feed(step)) as feed,
        contextlib.closing(trace),
    ):
        state = _loop(
            program,
            members,
            program.place(states),
            step,
            feed,
            trace,
            log,
            stop,
        )
    alive = _alive(members, program.fetch_states(state))
    if alive:
        log.write("Evaluating ...")
    for member, own in alive:
        run, step = member.run, member.run.plan.total_steps
        member.results = run.evaluator.evaluate(
            run.parallel.replicate(own.variables),
            run.dataset,
            step,
            run.directory,
        )
        member.writer.write(
            run.stamp(step) | evaluate.flat_metrics(member.results)
        )


def _alive(members, values):
    """The members whose training goes on, each with its own value."""
    return [
        (member, value)
        for member, value in zip(members, values, strict=True)
        if member.failure is None
    ]


def _loop(program, members, state, step, feed, trace, log, stop):
    """Trains from `step` to the end; returns the final state."""
    plan, clock = members[0].run.plan, time.monotonic
    hyper = program.place_hyper()
    in_flight, compiled = collections.deque(), set()
    mark = clock()
    while step < plan.total_steps:
        size = plan.steps_from(step)
        rows = feed.next(step, size)
        trace.before(step, size)
        state, metrics = program.step_fn(state, hyper, *rows)
        step += size
        trace.after(step, metrics)
        in_flight.append(metrics)
        stop.agree()
        pause = plan.pauses(step) or stop.number is not None
        # Read one call late where calls overlap, so that nothing waits.
        keep = 0 if pause or program.parallel.waits_for_each_step else 1
        while len(in_flight) > keep:
            _gather(members, program.fetch_metrics(in_flight.popleft()))
        if all(member.failure is not None for member in members):
            return state
        if size in compiled:
            if len(members) == 1:  # Else the time is that of all of them.
                members[0].run.interval.add_time(size, clock() - mark)
            log.work(size, clock() - mark)
        compiled.add(size)
        log.show(step, _note(members))
        stops = stop.number is not None
        saves = plan.saves(step) or stops
        evaluates = _evaluates(members[0].run, step)
        own = [None] * len(members)
        if saves or evaluates:
            own = program.fetch_states(state)
        for member, member_state in _alive(members, own):
            if plan.ends_epoch(step):
                _end_epoch(member, member_state, step, evaluates, log)
            if saves:
                _save(member, member_state, step)
        if stops and step < plan.total_steps:
            for member in members:
                member.checkpoints.wait()
            raise InterruptedRunError(
                f"Stopped by {stop.name} after step {step} of"
                f" {plan.total_steps}; the state is saved, and the same command"
                " goes on from it."
            )
        mark = clock()
    return state


def _gather(members, metrics) -> None:
    """Adds the metrics of a call; where they are not finite, a member ends."""
    for member, own in _alive(members, metrics):
        try:
            member.run.interval.add(checked(own, member.run.directory))
        except FloatingPointError as error:
            member.failure = error


def _note(members) -> str:
    """The text on the progress line."""
    if len(members) > 1:
        alive = sum(member.failure is None for member in members)
        return f"{alive} of {len(members)} members"
    run = members[0].run
    return run.interval.note(run.step_config.rate)


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


def _evaluates(run, step) -> bool:
    """Whether an evaluation in the course of training is due."""
    every, plan = run.config.eval.every_epochs, run.plan
    if not every or not plan.ends_epoch(step) or step == plan.total_steps:
        return False
    return step // plan.steps_per_epoch % every == 0


def _end_epoch(member, state, step, evaluates, log) -> None:
    """Evaluates and writes what is due."""
    run = member.run
    _warn_of_saturation(run, log)
    evaluated = {}
    if evaluates:
        variables = run.parallel.replicate(state.variables)
        results = run.evaluator.evaluate(variables, run.dataset, step)
        evaluated = evaluate.flat_metrics(results)
    epoch = step // run.plan.steps_per_epoch
    is_last = step == run.plan.total_steps
    if epoch % run.config.log.every_epochs == 0 or evaluated or is_last:
        record = run.stamp(step) | run.interval.summary(run.step_config.rate)
        member.writer.write(record | evaluated)
        run.interval = metrics_window.MetricsWindow()


def _save(member, state, step) -> None:
    run = member.run
    member.checkpoints.save(
        step,
        state,
        metadata={
            "wall_seconds": run.wall_seconds(),
            "train_images": run.train_fingerprint,
            "interval": dataclasses.asdict(run.interval),
        },
        criterion=run.validation_error(state),
    )


def _warn_of_saturation(run, log) -> None:
    """Says so, once, where the training estimator is at its ceiling."""
    rate, interval = run.step_config.rate, run.interval
    count = round(interval.count / interval.steps)
    if run.has_warned or not rate.is_measured or count < 2:
        return
    # In nats of rate, what an estimator with the self term reads is at most
    # log n.
    reached = interval.summary(rate)["train/rate_nats"] / math.log(count)
    warning = entropy.saturation_warning(
        rate.estimator,
        entropy.ESTIMATORS[rate.estimator].includes_self,
        reached,
        count,
    )
    if warning:
        run.has_warned = True
        log.write(f"WARNING: {warning}")
