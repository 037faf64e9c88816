"""Checkpoints that survive a kill, a full disk and a flipped bit.

    with checkpoint.Checkpoints(workdir / "checkpoints", keep=3) as checkpoints:
        restored = checkpoints.restore_latest(like=state)
        ...
        checkpoints.save(step, state, metadata={"epoch": 4})

Orbax writes them, asynchronously and atomically: it never takes an unfinished
checkpoint for a complete one. On disk it renames the folder when it is
complete; in a bucket it adds an object that says so. But Orbax loads a flipped
byte silently, and it fails in a different way for each kind of truncation. So
a record lies beside the arrays of each checkpoint:

    {step, criterion, metadata, arrays: {name: "float32[3,3]"}, sha256, seal}

`sha256` is the digest of the names, types, shapes and bytes of all arrays,
taken in memory before they are written, and `seal` is the digest of the rest of
the record. Files need not be read twice to be verified, in a bucket either. The
record tells apart two cases: a damaged checkpoint, whose bytes do not match
their digests, is skipped for the one before; a foreign one, which is sound but
of another network, is an error.
"""

import contextlib
import hashlib
import json
import logging
import math
import os
import pathlib
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple, NoReturn

import jax
import numpy as np
from absl import logging as absl_logging

from aeent_jax.runtime import storage

PyTree = Any
_RECORD = "record"
_STATE = "state"
# Orbax writes this object last into a checkpoint in a bucket.
_COMMITTED = "commit_success.txt"


class DamagedError(ValueError):
    """The bytes of a checkpoint are not those that were written."""


class Restored(NamedTuple):
    """A checkpoint that was read.

    Attributes:
      step: the step it was saved at.
      state: the tree asked for, with numpy arrays for leaves.
      metadata: the JSON object that was saved with it.
      damaged: one sentence for each newer checkpoint that cannot be used.
    """

    step: int
    state: PyTree
    metadata: dict[str, Any]
    damaged: tuple[str, ...] = ()


class Checkpoints:
    """The checkpoints of one run, for its writer.

    Only the job that has claimed the workdir may open them: opening removes the
    temporary folders of a killed run. `restore_from` reads the checkpoints of a
    run that may still be training.
    """

    def __init__(
        self,
        directory: str | os.PathLike[str],
        *,
        keep: int,
        asynchronous: bool = True,
    ):
        """Opens the folder, and makes it where there is none.

        Args:
          directory: the folder of the checkpoints.
          keep: how many of the latest to keep, at least 1; the best one is kept
            beyond these.
          asynchronous: write in the background.

        Raises:
          OSError: the folder cannot be made.
        """
        self._directory = storage.absolute(directory)
        self._keep = keep
        self._asynchronous = asynchronous
        self._saving: int | None = None
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
          step: the number of training steps done.
          state: a tree of host numpy arrays, unreplicated.
          metadata: a JSON object to go with them.
          criterion: lower is better; a step without one is never the best.

        Raises:
          OSError: this save failed, or the one before it did in the background.
            Older checkpoints are untouched, and `save` may be tried again.
        """
        # Orbax is imported and opened when used, so that commands start soon.
        import orbax.checkpoint as ocp

        self.wait()
        if step in self.steps():
            return
        arrays = {k: np.asarray(x) for k, x in _named_leaves(state).items()}
        record = _seal(step, arrays, metadata, criterion)
        # Orbax refuses arrays without elements; the record is enough for them.
        stored = {name: array for name, array in arrays.items() if array.size}
        items: dict[str, Any] = {_RECORD: ocp.args.JsonSave(record)}
        if stored:
            items[_STATE] = ocp.args.StandardSave(stored)
        self._saving = step
        self._criteria[step] = criterion
        try:
            if self._manager is None:
                self._manager = self._open_manager()
            # `force` skips Orbax's own idea of when a step should be saved.
            self._manager.save(
                step, args=ocp.args.Composite(**items), force=True
            )
        except Exception as error:
            self._recover(error)

    def restore_latest(self, like: PyTree) -> Restored | None:
        """Restores the newest sound checkpoint, or None where there is none.

        Newer checkpoints that are damaged are renamed to `damaged-<step>`: they
        stay for inspection, and the run can save these steps anew.

        Args:
          like: a tree of numpy arrays or `jax.ShapeDtypeStruct`.

        Raises:
          ValueError: the checkpoint is of another tree or of other shapes, or
            all checkpoints are damaged.
          OSError: a damaged checkpoint cannot be renamed.
        """
        self.wait()
        restored = _restore_newest(self._directory, like)
        if restored is not None and restored.damaged:
            self._set_aside([s for s in self.steps() if s > restored.step])
        return restored

    def steps(self) -> tuple[int, ...]:
        """The steps on disk or on their way to it, ascending."""
        manager = self._manager
        return () if manager is None else tuple(sorted(manager.all_steps()))

    def wait(self) -> None:
        """Returns once the save in flight is on disk; OSError if it failed."""
        try:
            if self._manager is not None:
                self._manager.wait_until_finished()
        except Exception as error:
            self._recover(error)
        self._saving = None

    def close(self) -> None:
        """Waits for the save in flight and stops the writer."""
        self.wait()
        if self._manager is not None:
            self._manager.close()

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _open(self) -> None:
        """Opens, or opens again, the folder."""
        _quiet_orbax()
        try:
            self._directory.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OSError(
                f"The checkpoint folder {self._directory} cannot be made:"
                f" {_reason(error)}. Choose a workdir that can be written to."
            ) from error
        self._criteria = _read_criteria(self._directory)
        # Orbax waits for all processes when it opens a folder, so that several
        # of them open it here, whatever each one finds there.
        is_fresh = jax.process_count() == 1 and _is_empty(self._directory)
        self._manager = None if is_fresh else self._open_manager()

    def _open_manager(self) -> Any:
        """Opens Orbax's manager, which removes unfinished checkpoints."""
        import orbax.checkpoint as ocp

        policies = ocp.checkpoint_managers
        return ocp.CheckpointManager(
            self._directory,
            options=ocp.CheckpointManagerOptions(
                # Orbax waits five minutes for a folder that its background
                # threads cannot make.
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
        # It has failed already; closing it may fail once more.
        with contextlib.suppress(Exception):
            if self._manager is not None:
                self._manager.close()
        self._open()
        latest = max(self.steps(), default=None)
        kept = "none is there yet" if latest is None else f"step {latest} is"
        raise OSError(
            f"The checkpoint of step {step} could not be written to"
            f" {self._directory}: {_reason(error)}. The latest that is"
            f" complete: {kept}; make room or give access, then start the run"
            " again to go on from it."
        ) from error

    def _set_aside(self, steps: Iterable[int]) -> None:
        """Renames damaged checkpoints, on the first process only."""
        import orbax.checkpoint as ocp
        from etils import epath

        # No process may still be reading when the first one renames.
        ocp.multihost.sync_global_processes("aeent_checkpoints_read")
        if jax.process_index() == 0:
            for step in steps:
                target = self._directory / f"damaged-{step}"
                epath.Path(target).rmtree(missing_ok=True)
                (self._directory / str(step)).rename(target)
        ocp.multihost.sync_global_processes("aeent_checkpoints_set_aside")
        self._manager.reload()


class _KeepBest:
    """Orbax preservation policy: keep the step of the lowest criterion.

    Orbax's own `BestN` ranks by a file of metrics; a damaged one keeps the
    manager from opening at all.
    """

    def __init__(self, criteria: Mapping[int, float | None]):
        self._criteria = criteria

    def should_preserve(
        self, checkpoints: Sequence[Any], *, context: Any
    ) -> Sequence[bool]:
        """Marks the best step; `context` is part of Orbax's signature."""
        del context
        best = _best_of([c.step for c in checkpoints], self._criteria)
        return [c.step == best for c in checkpoints]


def restore_from(
    path: str | os.PathLike[str],
    like: PyTree,
    *,
    best: bool = False,
    partial: bool = False,
) -> Restored:
    """Restores from any run, also one that is training, and changes nothing.

    Args:
      path: a workdir, or its folder of checkpoints.
      like: a tree of numpy arrays or `jax.ShapeDtypeStruct`.
      best: take the step of the lowest criterion, not the newest.
      partial: let the checkpoint have other groups beside those of `like`, such
        as the state of an optimizer beside `{"params": ...}`.

    Returns:
      The checkpoint.

    Raises:
      FileNotFoundError: there is no checkpoint, or none with a criterion.
      ValueError: the checkpoint is of another tree or other shapes; or all
        are damaged, or the best one is.
      OSError: it cannot be reached.
    """
    _quiet_orbax()
    directory = storage.absolute(path)
    if (directory / "checkpoints").is_dir():
        directory = directory / "checkpoints"
    if best:
        step = _best_of(complete_steps(directory), _read_criteria(directory))
        if step is None:
            raise FileNotFoundError(
                f"No checkpoint in {directory} has a criterion to be the best"
                " by; train with data.validation_fraction above 0, or take the"
                " latest."
            )
        return _restore_step(directory, step, like, partial=partial)
    restored = _restore_newest(directory, like, partial=partial)
    if restored is None:
        raise FileNotFoundError(
            f"There is no checkpoint in {directory}; give the workdir of a run"
            " that has saved one."
        )
    return restored


def complete_steps(directory: pathlib.Path) -> list[int]:
    """The steps of the complete checkpoints of a folder, ascending."""
    # Behind gs:// `is_dir` takes a failure of the network for no; `exists` does
    # not.
    if not (directory.exists() and directory.is_dir()):
        return []
    if _is_empty(directory):
        return []
    import orbax.checkpoint as ocp

    return sorted(ocp.utils.checkpoint_steps(directory))


def _is_empty(directory: pathlib.Path) -> bool:
    # A folder of a bucket exists once something is in it.
    if not directory.exists():
        return True
    return next(iter(directory.iterdir()), None) is None


def _restore_newest(
    directory: pathlib.Path, like: PyTree, *, partial: bool = False
) -> Restored | None:
    """The newest sound checkpoint; None where there is none at all."""
    damaged: list[str] = []
    for step in reversed(complete_steps(directory)):
        try:
            restored = _restore_step(directory, step, like, partial=partial)
        except DamagedError as error:
            damaged.append(str(error))
        else:
            return restored._replace(damaged=tuple(damaged))
    if damaged:
        raise ValueError(
            f"No checkpoint in {directory} can be used: {' '.join(damaged)}"
            " Restore the folder from a copy, or remove it to train from the"
            " beginning."
        )
    return None


def _restore_step(
    directory: pathlib.Path, step: int, like: PyTree, *, partial: bool
) -> Restored:
    """One checkpoint, verified."""
    import orbax.checkpoint as ocp

    path = directory / str(step)
    record = _read_record(path)
    wanted = _named_leaves(like)
    _refuse_foreign(record, wanted, path, partial=partial)
    # All arrays, also where a part is wanted: the digest is over all.
    arrays = _empty_arrays(record)
    stored = {name: x for name, x in arrays.items() if x.size}
    if stored:
        arrays |= _read(path, _STATE, ocp.args.StandardRestore(stored))
    if _sha256(arrays) != record["sha256"]:
        raise DamagedError(f"{path} is damaged: its arrays fail their digest.")
    state = jax.tree_util.tree_unflatten(
        jax.tree_util.tree_structure(like), [arrays[name] for name in wanted]
    )
    return Restored(step, state, record["metadata"])


def _read_criteria(directory: pathlib.Path) -> dict[int, float | None]:
    """The criterion of each step; a damaged step is left out."""
    criteria: dict[int, float | None] = {}
    for step in complete_steps(directory):
        with contextlib.suppress(DamagedError):
            criteria[step] = _read_record(directory / str(step))["criterion"]
    return criteria


def _best_of(
    steps: Iterable[int], criteria: Mapping[int, float | None]
) -> int | None:
    """The step of the lowest finite criterion, the latest of equals."""
    finite: list[tuple[float, int]] = []
    for step in steps:
        criterion = criteria.get(step)
        if criterion is not None and math.isfinite(criterion):
            finite.append((criterion, -step))
    return -min(finite)[1] if finite else None


def _read_record(path: pathlib.Path) -> dict[str, Any]:
    import orbax.checkpoint as ocp

    record = _read(path, _RECORD, ocp.args.JsonRestore())
    whole = isinstance(record, dict) and record.get("seal") == _digest(record)
    if not whole or path.name != str(record["step"]):
        raise DamagedError(f"{path} is damaged: its record fails its digest.")
    return record


def _read(path: pathlib.Path, item: str, args: Any) -> Any:
    import orbax.checkpoint as ocp

    try:
        with ocp.Checkpointer(ocp.CompositeCheckpointHandler()) as reader:
            items = reader.restore(
                path, args=ocp.args.Composite(**{item: args})
            )
    except MemoryError:
        raise
    except Exception as error:
        storage.check_reachable(path / _COMMITTED)
        # Orbax, TensorStore and json each raise errors of their own.
        raise DamagedError(
            f"{path} is damaged: its {item} cannot be read ({_reason(error)})."
        ) from error
    return items[item]


def _reason(error: Exception) -> str:
    """The cause in a few words, where TensorStore gives a paragraph."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    message = " ".join(str(error).split())
    code = re.search(r"os_error_code='(\d+)'", message)
    if code:
        return os.strerror(int(code[1]))
    status = re.match(r"[A-Z_]{5,}(?=: )", message)
    return status[0] if status else f"{type(error).__name__}: {message[:200]}"


def _named_leaves(tree: PyTree) -> dict[str, Any]:
    """The leaves of a tree by name, e.g. `params/encoder/kernel`."""
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }


def _signature(named: Mapping[str, Any]) -> dict[str, str]:
    """Type and shape of each array, e.g. `float32[3,3]`."""
    return {
        name: f"{np.dtype(x.dtype).name}[{','.join(map(str, x.shape))}]"
        for name, x in named.items()
    }


def _seal(step, arrays, metadata, criterion) -> dict[str, Any]:
    """The record of a checkpoint that is about to be written."""
    record = {
        "step": int(step),
        "criterion": None if criterion is None else float(criterion),
        # As it will be read back: tuples become lists, and keys strings.
        "metadata": json.loads(json.dumps(metadata)),
        "arrays": _signature(arrays),
        "sha256": _sha256(arrays),
    }
    return {**record, "seal": _digest(record)}


def _sha256(arrays: Mapping[str, np.ndarray]) -> str:
    """Digest of the names, types, shapes and bytes of arrays."""
    digest = hashlib.sha256(_canonical(_signature(arrays)))
    for name in sorted(arrays):
        digest.update(arrays[name].tobytes())
    return digest.hexdigest()


def _digest(record: Mapping[str, Any]) -> str:
    rest = {key: value for key, value in record.items() if key != "seal"}
    return hashlib.sha256(_canonical(rest)).hexdigest()


def _canonical(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True).encode()


def _empty_arrays(record: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Arrays of the names, types and shapes of a record, to be read into."""
    arrays = {}
    for name, signed in record["arrays"].items():
        dtype, shape = signed.removesuffix("]").split("[")
        sizes = [int(size) for size in shape.split(",") if size]
        arrays[name] = np.empty(sizes, np.dtype(dtype))
    return arrays


def _refuse_foreign(record, wanted, path, *, partial: bool) -> None:
    """Raises ValueError if the checkpoint is of another tree or other shapes.

    With `partial`, groups of the tree that are not wanted at all are left
    aside; groups that are wanted must still agree in every array.
    """
    there, here = record["arrays"], _signature(wanted)
    if partial:
        groups = {name.split("/")[0] for name in here}
        there = {k: v for k, v in there.items() if k.split("/")[0] in groups}
    names = [
        name
        for name in sorted({*there, *here})
        if there.get(name) != here.get(name)
    ]
    if names:
        first = names[0]
        more = f" (and {len(names) - 1} more differ)" if names[1:] else ""
        raise ValueError(
            f"The checkpoint {path} is of another network: {first} is"
            f" {there.get(first, 'absent')} there and"
            f" {here.get(first, 'absent')} here{more}; use the configuration"
            " it was trained with, or another workdir."
        )


def _quiet_orbax() -> None:
    """Silences Orbax from here on; asking again changes nothing.

    Orbax narrates each save. It logs a failed write four times, each time with
    a traceback, before it raises. It closes its event loop while TensorStore is
    still reporting to it, which prints one more traceback for each array. The
    errors among these are raised as exceptions as well.
    """
    for logger in (
        absl_logging.get_absl_logger(),
        logging.getLogger("asyncio"),
    ):
        logger.addFilter(_is_not_chatter)
    if not isinstance(sys.unraisablehook, _UnraisableHook):
        sys.unraisablehook = _UnraisableHook(sys.unraisablehook)


def _is_not_chatter(record: logging.LogRecord) -> bool:
    # asyncio reports futures of TensorStore that nobody waited for.
    return not (
        "/orbax/" in record.pathname or "OCDBT database" in record.getMessage()
    )


class _UnraisableHook:
    """Drops what TensorStore reports to a loop that Orbax has closed."""

    def __init__(self, before: Any):
        self._before = before

    def __call__(self, unraisable: Any) -> None:
        error = unraisable.exc_value
        if isinstance(error, RuntimeError) and "loop is closed" in str(error):
            return
        self._before(unraisable)
