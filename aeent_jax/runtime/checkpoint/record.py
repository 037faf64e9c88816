"""The record that is saved beside the arrays, and what it proves.

    {step, criterion, metadata, arrays: {name: "float32[3,3]"}, sha256, seal}

`sha256` is over the names, types, shapes and bytes of all arrays, `seal` over
the rest of the record.
"""

import hashlib
import json
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

PyTree = Any


class DamagedError(ValueError):
    """The bytes on disk are not those that were written."""


def named_leaves(tree: PyTree) -> dict[str, Any]:
    """The leaves of a tree by name, e.g. `params/encoder/kernel`."""
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }


def named_arrays(state: PyTree) -> dict[str, np.ndarray]:
    """As `named_leaves`; a leaf that is not a numpy array is a ValueError."""
    named = named_leaves(state)
    for name, leaf in named.items():
        if not isinstance(leaf, np.ndarray | np.generic):
            raise ValueError(
                f"The leaf {name} of the state is a {type(leaf).__name__}; a"
                " checkpoint takes host numpy arrays, so apply jax.device_get"
                " or np.asarray."
            )
    return {name: np.asarray(leaf) for name, leaf in named.items()}


def signature(named: Mapping[str, Any]) -> dict[str, str]:
    """Type and shape of each array, e.g. `float32[3,3]`."""
    return {
        name: f"{np.dtype(x.dtype).name}[{','.join(map(str, x.shape))}]"
        for name, x in named.items()
    }


def sha256(arrays: Mapping[str, np.ndarray]) -> str:
    """Digest of the names, types, shapes and bytes of arrays."""
    digest = hashlib.sha256(_canonical(signature(arrays)))
    for name in sorted(arrays):
        digest.update(arrays[name].tobytes())
    return digest.hexdigest()


def seal(
    step: int,
    arrays: Mapping[str, np.ndarray],
    metadata: Mapping[str, Any],
    criterion: float | None,
) -> dict[str, Any]:
    """The record of a checkpoint that is about to be written.

    Raises:
      ValueError: The metadata is not JSON.
    """
    try:
        # As it will be read back: tuples become lists, and keys strings.
        plain = json.loads(json.dumps(metadata))
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"The metadata of step {step} is not JSON ({error}); give plain"
            " numbers, strings, lists and dictionaries."
        ) from error
    record = {
        "step": int(step),
        "criterion": None if criterion is None else float(criterion),
        "metadata": plain,
        "arrays": signature(arrays),
        "sha256": sha256(arrays),
    }
    return {**record, "seal": _digest(record)}


def check_seal(record: Any, path: pathlib.Path) -> None:
    """Raises DamagedError unless the record is whole and belongs to `path`."""
    whole = isinstance(record, dict) and record.get("seal") == _digest(record)
    if not whole or path.name != str(record["step"]):
        raise DamagedError(f"{path} is damaged: its record fails its digest.")


def check_arrays(
    record: Mapping[str, Any],
    arrays: Mapping[str, np.ndarray],
    path: pathlib.Path,
) -> None:
    """Raises DamagedError unless the arrays are those of the record."""
    if sha256(arrays) != record["sha256"]:
        raise DamagedError(f"{path} is damaged: its arrays fail their digest.")


def empty_arrays(record: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Arrays of the names, types and shapes of a record, to be read into."""
    arrays = {}
    for name, signed in record["arrays"].items():
        dtype, shape = signed.removesuffix("]").split("[")
        sizes = [int(size) for size in shape.split(",") if size]
        arrays[name] = np.empty(sizes, np.dtype(dtype))
    return arrays


def check_kinship(
    record: Mapping[str, Any],
    wanted: Mapping[str, Any],
    path: pathlib.Path,
    *,
    partial: bool = False,
) -> None:
    """Raises ValueError if the checkpoint is of another tree or shapes.

    Where it may be `partial`, the groups of the tree that are not wanted at all
    are left aside; those that are must still agree in every array.
    """
    there, here = record["arrays"], signature(wanted)
    if partial:
        groups = {_group_of(name) for name in here}
        there = {k: v for k, v in there.items() if _group_of(k) in groups}
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


def _group_of(name: str) -> str:
    return name.split("/")[0]


def _digest(record: Mapping[str, Any]) -> str:
    rest = {key: value for key, value in record.items() if key != "seal"}
    return hashlib.sha256(_canonical(rest)).hexdigest()


def _canonical(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True).encode()
