"""Trains the members of a sweep, each in a workdir of its own."""

import pathlib
import time
from collections.abc import Callable, Sequence

import ml_collections

from aeent_jax import config as config_lib
from aeent_jax.runtime import parallel, progress, stopping, workdir
from aeent_jax.sweep import records, workers
from aeent_jax.sweep.members import Member
from aeent_jax.training import loop
from aeent_jax.training import population as population_lib

# Members of one program at most, on accelerators.
_POPULATION = 64


class InterruptedSweepError(Exception):
    """The sweep was asked to stop; its workers have saved their state."""


class _Sweep:
    """A running sweep: starts and records members, shows the progress."""

    def __init__(self, members, out, num_devices, log, stop):
        self._members = {member.name: member for member in members}
        self._out = out
        self._num_devices = num_devices
        self._log = log
        self._mark = time.monotonic()
        self.failures: dict[str, str] = {}
        self.done = 0
        self.stop = stop

    def start(self, name: str) -> list[str] | None:
        """Returns the flags that train a member; None if it is finished."""
        if self._record(name):
            self.done += 1
            return None
        config = ml_collections.ConfigDict(self._members[name].config.to_dict())
        if self._num_devices and not config.parallel.num_devices:
            config.parallel.num_devices = self._num_devices
        return [
            f"--workdir={self._out / name}",
            *_flags(config),
        ]

    def end(self, name: str, sentence: str) -> None:
        """Records a member that ended, or notes why it failed."""
        self.done += 1
        if not sentence and not self._record(name):
            sentence = "it was stopped before its end."
        if sentence:
            self.failures[name] = sentence
            self._log.write(f"FAILED: {name}: {sentence}")
        # Workers run side by side, so one member takes the time since the last.
        now = time.monotonic()
        self._log.work(1, now - self._mark)
        self._mark = now

    def _record(self, name: str) -> bool:
        member, directory = self._members[name], self._out / name
        run = records.find_finished(directory, member.config)
        if run is None:
            return False
        record = records.make_record(member, run)
        records.write_record(self._out / "records", record)
        return True

    def is_finished(self, name: str) -> bool:
        """Whether a member is finished; counts and records it then."""
        finished = self._record(name)
        self.done += finished
        return finished

    def train_population(self, names: Sequence[str]) -> None:
        """Trains members in one program, in this process."""
        with workers.hold(names, self._out / "logs") as free:
            chosen = [n for n in free if not self.is_finished(n)]
            if not chosen:
                return
            self._log.write(f"One program trains {', '.join(chosen)}.")
            try:
                failed = population_lib.train_population(
                    [self._members[name].config for name in chosen],
                    [self._out / name for name in chosen],
                    stop=self.stop,
                )
            except loop.InterruptedRunError:
                return
        for place, name in enumerate(chosen):
            self.end(name, failed.get(place, ""))

    def look(self, names: Sequence[str]) -> bool:
        """Shows the progress; returns whether the sweep was asked to stop."""
        self._log.show(self.done, f"training {', '.join(names) or 'none'}")
        return self.stop.number is not None


def train_members(
    members: Sequence[Member],
    out: pathlib.Path,
    *,
    num_workers: int = 0,
    population: int = 0,
    configure_jax: Callable[[], None] = lambda: None,
    log: progress.Progress | None = None,
) -> dict[str, str]:
    """Trains the unfinished members, and writes a record per member.

    On a CPU one worker process per core, pinned to it, trains on one device:
    small networks train faster side by side than one network on all cores. On
    accelerators one program trains several members as a `population`. A worker
    trains the members that share no program with others, one after another, on
    all devices.

    Args:
      members: the members; finished ones are not trained again.
      out: the folder of the sweep: `<member>/`, `logs/`, `records/`.
      num_workers: processes at a time; 0 for the default above.
      population: largest number of members per program; 1 trains each by
        itself, 0 is the default above.
      configure_jax: is called before this process uses JAX; only populations
        use it here.
      log: where progress goes, in members; None is standard error.

    Returns:
      Name -> last sentence of each member that failed.

    Raises:
      ValueError: a workdir belongs to another configuration, or the number of
        workers is impossible.
      InterruptedSweepError: SIGTERM or SIGINT came; the workers have saved.
    """
    for member in members:
        workdir.check(out / member.name, member.config)
    platform = workers.find_platform()
    shares, num_devices = _make_workers(num_workers, platform)
    if population < 0:
        raise ValueError(
            f"--population is {population}, but must be at least 1, or 0 for"
            " what is fastest here."
        )
    # On a CPU a population is slower than its members one after another:
    # README.md, Speed; measured by `aeent bench train --members=1,2,4`.
    limit = population or (1 if platform == "cpu" else _POPULATION)
    together, apart = _split(members, limit)
    _make_folder(out)
    log = log or progress.Progress(len(members))
    log.write(
        f"{len(members)} members, {len(shares)} at a time, in {out}; their"
        f" output is in {out / 'logs'}"
    )
    with stopping.stop_signals() as stop:
        sweep = _Sweep(members, out, num_devices, log, stop)
        workers.run(
            apart,
            out / "logs",
            shares,
            start=sweep.start,
            end=sweep.end,
            look=sweep.look,
        )
        if together and stop.number is None:
            configure_jax()
            for names in together:
                if stop.number is None:
                    sweep.train_population(names)
    sweep.look([])
    log.finish()
    if stop.number is not None and sweep.done < len(members):
        raise InterruptedSweepError(
            f"Stopped by {stop.name} after {sweep.done} of {len(members)}"
            " members; those at work have saved their state, and the same"
            " command goes on from it."
        )
    return sweep.failures


def _make_folder(out: pathlib.Path) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OSError(
            f"--out={out} cannot be made ({error.strerror}); give a folder that"
            " can be written."
        ) from error


def _split(
    members: Sequence[Member], limit: int
) -> tuple[list[list[str]], list[str]]:
    """Returns the names of each population, and of single members."""
    if limit == 1:
        return [], [member.name for member in members]
    groups: dict[str, list[str]] = {}
    for member in members:
        key = population_lib.group_key(member.config)
        groups.setdefault(key, []).append(member.name)
    together, apart = [], []
    for names in groups.values():
        for begin in range(0, len(names), limit):
            chunk = names[begin : begin + limit]
            if len(chunk) > 1:
                together.append(chunk)
            else:
                apart += chunk
    return together, apart


def _make_workers(
    num_workers: int, platform: str
) -> tuple[list[set[int]], int]:
    """Returns the cores per worker, and its devices; 0 for all it sees."""
    if num_workers < 0:
        raise ValueError(
            f"--workers is {num_workers}, but must be at least 1, or 0 for one"
            " a core."
        )
    if platform != "cpu":
        if num_workers > 1:
            raise ValueError(
                f"--workers is {num_workers}, but on {platform} a member uses"
                " all devices; leave the flag out."
            )
        return [set()], 0
    shares = workers.share_cores(num_workers or parallel.count_cores())
    return shares, 1


def _flags(config) -> list[str]:
    """Returns the flags that turn the defaults into `config`."""
    wanted = config_lib.flatten(config)
    known = config_lib.flatten(config_lib.default())
    return [
        f"--config.{key}={value}"
        for key, value in wanted.items()
        if value != known[key]
    ]
