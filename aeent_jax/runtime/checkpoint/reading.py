"""Reading checkpoints. Nothing here changes a file."""

import contextlib
import math
import os
import pathlib
import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import jax
import orbax.checkpoint as ocp

from aeent_jax.runtime import storage
from aeent_jax.runtime.checkpoint import quiet
from aeent_jax.runtime.checkpoint import record as record_lib

PyTree = Any
RECORD = "record"
STATE = "state"
# What Orbax ends a checkpoint in a bucket with.
_COMMITTED = "commit_success.txt"


class Restored(NamedTuple):
    """What was read from a checkpoint.

    Attributes:
      step: The step it was saved at.
      state: The tree asked for, with numpy arrays for leaves.
      metadata: The JSON object that was saved with it.
      damaged: One sentence for each newer checkpoint that cannot be used.
    """

    step: int
    state: PyTree
    metadata: dict[str, Any]
    damaged: tuple[str, ...] = ()


def restore_from(
    path: str | os.PathLike[str],
    like: PyTree,
    *,
    best: bool = False,
    partial: bool = False,
) -> Restored:
    """Restores from any run, also one that is training, changing nothing.

    Args:
      path: A workdir, or its folder of checkpoints.
      like: A tree of numpy arrays or `jax.ShapeDtypeStruct`.
      best: Take the step of the lowest criterion, not the newest.
      partial: Let the checkpoint have other groups beside those of `like`, such
        as the state of an optimizer beside `{"params": ...}`.

    Raises:
      FileNotFoundError: There is no checkpoint, or none with a criterion.
      ValueError: The checkpoint is of another tree or other shapes; or all
        are damaged, or the best one is.
    """
    quiet.quiet_orbax()
    directory = storage.absolute(path)
    if (directory / "checkpoints").is_dir():
        directory = directory / "checkpoints"
    if best:
        step = best_of(complete_steps(directory), read_criteria(directory))
        if step is None:
            raise FileNotFoundError(
                f"No checkpoint in {directory} has a criterion to be the best"
                " by; train with data.validation_fraction above 0, or take the"
                " latest."
            )
        return restore_step(directory, step, like, partial=partial)
    restored = restore_newest(directory, like, partial=partial)
    if restored is None:
        raise FileNotFoundError(
            f"There is no checkpoint in {directory}; give the workdir of a run"
            " that has saved one."
        )
    return restored


def complete_steps(directory: pathlib.Path) -> list[int]:
    """The complete checkpoints of a directory, ascending."""
    # Behind gs:// `is_dir` takes a failure of the network for no; `exists` does
    # not.
    if not (directory.exists() and directory.is_dir()):
        return []
    return sorted(ocp.utils.checkpoint_steps(directory))


def restore_newest(
    directory: pathlib.Path, like: PyTree, *, partial: bool = False
) -> Restored | None:
    """The newest sound checkpoint; None where there is none at all."""
    damaged: list[str] = []
    for step in reversed(complete_steps(directory)):
        try:
            restored = restore_step(directory, step, like, partial=partial)
        except record_lib.DamagedError as error:
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


def restore_step(
    directory: pathlib.Path, step: int, like: PyTree, *, partial: bool = False
) -> Restored:
    """One checkpoint, verified."""
    steps = complete_steps(directory)
    if step not in steps:
        raise FileNotFoundError(
            f"There is no checkpoint of step {step} in {directory}; it has"
            f" {', '.join(map(str, steps)) or 'none'}."
        )
    path = directory / str(step)
    record = _read_record(path)
    wanted = record_lib.named_leaves(like)
    record_lib.check_kinship(record, wanted, path, partial=partial)
    # All of them, also where a part is wanted: the digest is over all.
    arrays = record_lib.empty_arrays(record)
    # Arrays without elements are in the record only: Orbax refuses them.
    stored = {name: x for name, x in arrays.items() if x.size}
    if stored:
        arrays |= _read(path, STATE, ocp.args.StandardRestore(stored))
    record_lib.check_arrays(record, arrays, path)
    state = jax.tree_util.tree_unflatten(
        jax.tree_util.tree_structure(like), [arrays[name] for name in wanted]
    )
    return Restored(step, state, record["metadata"])


def read_criteria(directory: pathlib.Path) -> dict[int, float | None]:
    """The criterion of each step; a damaged step is left out."""
    criteria: dict[int, float | None] = {}
    for step in complete_steps(directory):
        with contextlib.suppress(record_lib.DamagedError):
            criteria[step] = _read_record(directory / str(step))["criterion"]
    return criteria


def best_of(
    steps: Iterable[int], criteria: Mapping[int, float | None]
) -> int | None:
    """The step of the lowest finite criterion, the latest of equals."""
    finite: list[tuple[float, int]] = []
    for step in steps:
        criterion = criteria.get(step)
        if criterion is not None and math.isfinite(criterion):
            finite.append((criterion, -step))
    return -min(finite)[1] if finite else None


def reason(error: Exception) -> str:
    """The cause in a few words, where TensorStore gives a paragraph."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    message = " ".join(str(error).split())
    code = re.search(r"os_error_code='(\d+)'", message)
    if code:
        return os.strerror(int(code[1]))
    status = re.match(r"[A-Z_]{5,}(?=: )", message)
    return status[0] if status else f"{type(error).__name__}: {message[:200]}"


def _read_record(path: pathlib.Path) -> dict[str, Any]:
    record = _read(path, RECORD, ocp.args.JsonRestore())
    record_lib.check_seal(record, path)
    return record


def _read(path: pathlib.Path, item: str, args: Any) -> Any:
    try:
        with ocp.Checkpointer(ocp.CompositeCheckpointHandler()) as reader:
            items = reader.restore(
                path, args=ocp.args.Composite(**{item: args})
            )
    except MemoryError:
        raise
    except Exception as error:
        storage.check_reachable(path / _COMMITTED)
        # Orbax, TensorStore and json raise whatever the damage leads them to.
        raise record_lib.DamagedError(
            f"{path} is damaged: its {item} cannot be read ({reason(error)})."
        ) from error
    return items[item]
