"""Writing the checkpoints of one run, in the background."""

import contextlib
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NoReturn

import jax
import orbax.checkpoint as ocp

from aeent_jax.runtime import storage
from aeent_jax.runtime.checkpoint import lock, quiet, reading
from aeent_jax.runtime.checkpoint import record as record_lib

PyTree = Any


class Checkpoints:
    """The checkpoints of one run, and the only writer of their directory.

    Temporary directories left by a killed run are removed on opening, so a
    directory that is open already is refused. To read the checkpoints of a run
    that may still be training, use `restore_from`.
    """

    def __init__(
        self,
        directory: str | os.PathLike[str],
        *,
        keep: int,
        asynchronous: bool = True,
    ):
        """Opens the directory, and makes it where there is none.

        Args:
          directory: The folder of the checkpoints.
          keep: How many of the latest to keep; the best is kept beyond these.
          asynchronous: Write in the background.

        Raises:
          ValueError: `keep` is less than 1.
          OSError: The directory cannot be made, or another run writes to it.
        """
        if keep < 1:
            raise ValueError(
                f"The number of checkpoints to keep is {keep}; a run needs at"
                " least its latest to go on, so give 1 or more."
            )
        self._directory = storage.absolute(directory)
        self._keep = keep
        self._asynchronous = asynchronous
        self._saving: int | None = None
        self._make_directory()
        # The first process writes for all. A bucket has no locks.
        is_locked = jax.process_index() == 0 and not storage.is_in_bucket(
            self._directory
        )
        self._release = (
            lock.hold(self._directory, self) if is_locked else lambda: None
        )
        self._open()

    def save(
        self,
        step: int,
        state: PyTree,
        *,
        metadata: Mapping[str, Any],
        criterion: float | None = None,
    ) -> None:
        """Saves a state; the caller may change its arrays once this returns.

        A step that is on disk already is left as it is.

        Args:
          step: The number of training steps done.
          state: A tree of host numpy arrays, unreplicated.
          metadata: A JSON object to go with them.
          criterion: Lower is better; a step without one is never the best.

        Raises:
          OSError: This save failed, or the one before it did in the
            background. Older checkpoints are untouched, and `save` may be
            tried again.
          ValueError: A leaf is not a numpy array, the metadata is not JSON,
            or a later step is on disk.
        """
        self.wait()
        latest = max(self.steps(), default=-1)
        if step in self.steps():
            return
        if step < latest:
            raise ValueError(
                f"Step {step} cannot be saved in {self._directory}, which holds"
                f" the later step {latest}; give this run a workdir of its own."
            )
        arrays = record_lib.named_arrays(state)
        record = record_lib.seal(step, arrays, metadata, criterion)
        # Orbax refuses arrays without elements; the record is enough for them.
        stored = {name: array for name, array in arrays.items() if array.size}
        items: dict[str, Any] = {reading.RECORD: ocp.args.JsonSave(record)}
        if stored:
            items[reading.STATE] = ocp.args.StandardSave(stored)
        self._saving = step
        self._criteria[step] = criterion
        try:
            # `force` skips Orbax's own idea of when a step should be saved.
            self._manager.save(
                step, args=ocp.args.Composite(**items), force=True
            )
        except Exception as error:
            self._recover(error)

    def restore_latest(self, like: PyTree) -> reading.Restored | None:
        """Restores the newest sound checkpoint, or None where there is none.

        Newer ones that are damaged are renamed to `damaged-<step>`: they stay
        for inspection, and the run can save these steps anew.

        Args:
          like: A tree of numpy arrays or `jax.ShapeDtypeStruct`.

        Raises:
          ValueError: The checkpoint is of another tree or of other shapes, or
            all checkpoints are damaged.
          OSError: A damaged checkpoint cannot be renamed.
        """
        self.wait()
        restored = reading.restore_newest(self._directory, like)
        if restored is not None and restored.damaged:
            self._set_aside([s for s in self.steps() if s > restored.step])
        return restored

    def restore(self, step: int, like: PyTree) -> reading.Restored:
        """Restores one step; a damaged one is a ValueError here."""
        self.wait()
        return reading.restore_step(self._directory, step, like)

    def steps(self) -> tuple[int, ...]:
        """The steps on disk or on their way to it, ascending."""
        return tuple(sorted(self._manager.all_steps()))

    def best_step(self) -> int | None:
        """The step of the lowest criterion; None where no step has one."""
        return reading.best_of(self.steps(), self._criteria)

    def wait(self) -> None:
        """Returns once the save in flight is on disk; OSError if it failed."""
        try:
            self._manager.wait_until_finished()
        except Exception as error:
            self._recover(error)
        self._saving = None

    def close(self) -> None:
        """Waits for the save in flight and stops the writer."""
        try:
            self.wait()
            self._manager.close()
        finally:
            self._release()

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _make_directory(self) -> None:
        try:
            self._directory.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OSError(
                f"The checkpoint folder {self._directory} cannot be made:"
                f" {reading.reason(error)}. Choose a workdir that can be"
                " written to."
            ) from error

    def _open(self) -> None:
        """Opens, or opens again, the Orbax manager on what is on disk."""
        quiet.quiet_orbax()
        self._make_directory()
        self._criteria = reading.read_criteria(self._directory)
        policies = ocp.checkpoint_managers
        self._manager = ocp.CheckpointManager(
            self._directory,
            options=ocp.CheckpointManagerOptions(
                # Made in the background, a directory that cannot be made
                # leaves threads that wait for it for five minutes.
                async_options=ocp.AsyncOptions(
                    create_directories_asynchronously=False
                ),
                cleanup_tmp_directories=True,
                enable_async_checkpointing=self._asynchronous,
                preservation_policy=policies.AnyPreservationPolicy(
                    [policies.LatestN(self._keep), _KeepBest(self._criteria)]
                ),
                save_root_metadata=False,
            ),
        )

    def _recover(self, error: Exception) -> NoReturn:
        """Discards the failed writer, opens a fresh one, and reports."""
        step, self._saving = self._saving, None
        # It has failed already; what closing it may add is of no interest.
        with contextlib.suppress(Exception):
            self._manager.close()
        self._open()
        latest = max(self.steps(), default=None)
        kept = "none is there yet" if latest is None else f"step {latest} is"
        raise OSError(
            f"The checkpoint of step {step} could not be written to"
            f" {self._directory}: {reading.reason(error)}. The latest that is"
            f" complete: {kept}; make room or give access, then start the run"
            " again to go on from it."
        ) from error

    def _set_aside(self, steps: Iterable[int]) -> None:
        """Renames damaged checkpoints, on the first process only."""
        # No process may still be reading when the first one renames.
        ocp.multihost.sync_global_processes("aeent_checkpoints_read")
        if jax.process_index() == 0:
            for step in steps:
                target = self._directory / f"damaged-{step}"
                storage.remove_folder(target)
                (self._directory / str(step)).rename(target)
        ocp.multihost.sync_global_processes("aeent_checkpoints_set_aside")
        self._manager.reload()


class _KeepBest:
    """Orbax preservation policy: keep the step of the lowest criterion.

    In place of Orbax's `BestN`, which ranks by a file of metrics that, when
    damaged, keeps the manager from opening at all.
    """

    def __init__(self, criteria: Mapping[int, float | None]):
        self._criteria = criteria

    def should_preserve(
        self, checkpoints: Sequence[Any], *, context: Any
    ) -> Sequence[bool]:
        """Marks the best step; `context` is part of Orbax's signature."""
        del context
        best = reading.best_of([c.step for c in checkpoints], self._criteria)
        return [c.step == best for c in checkpoints]
