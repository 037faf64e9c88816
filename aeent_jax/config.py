"""The keys of a configuration and their types: those of configs/default.py.

A configuration can come from a file of another version, or be edited by hand.
What it lacks or has too much is said here, before a program stumbles over it.
"""

import copy
import functools
import pathlib
import runpy
from collections.abc import Iterator, Mapping
from typing import Any

DEFAULT = pathlib.Path(__file__).parents[1] / "configs" / "default.py"

# Keys and groups that came later than version 0.1.0. Their defaults change
# nothing, so a run that lacks them is one that has them.
_ADDED = (
    "compat",
    "compute",
    "corruption",
    "data.memory_budget_mb",
    "data.resize",
    "eval.score",
    "log.profile",
    "loss",
    "model.memory_slots",
    "model.shrink_threshold",
    "train.microbatches",
)

# A whole number is a number too, but true and false are neither.
_KINDS = {
    bool: (bool, "true or false"),
    int: (int, "a whole number"),
    float: ((int, float), "a number"),
    str: (str, "a string"),
}


def complete(config: Mapping[str, Any]) -> dict[str, Any]:
    """Fills in the keys that are younger than a configuration.

    Args:
      config: nested groups of values.

    Returns:
      The same with the defaults of what came later than version 0.1.0; other
      keys that it lacks stay away.
    """
    filled = {
        name: dict(value) if isinstance(value, Mapping) else value
        for name, value in config.items()
    }
    if not DEFAULT.is_file():
        return filled
    for key in _ADDED:
        group, _, name = key.rpartition(".")
        default, found = _default(), filled
        if group:
            default, found = default[group], filled.get(group)
        if isinstance(found, dict):
            found.setdefault(name, copy.deepcopy(default[name]))
    return filled


def check(config: Mapping[str, Any], source: str) -> None:
    """Refuses a configuration of other keys or types than the default's.

    A package without its folder `configs` has nothing to compare with, and
    refuses nothing.

    Args:
      config: nested groups of values.
      source: where it comes from, as a sentence begins.

    Raises:
      ValueError: a key is missing or unknown, or a value of another type; the
        first one is named.
    """
    if not DEFAULT.is_file():
        return
    fault = next(_faults(_default(), config), None)
    if fault is not None:
        raise ValueError(f"{source} has {fault}")


@functools.cache
def _default() -> dict[str, Any]:
    return runpy.run_path(str(DEFAULT))["get_config"]().to_dict()


def _faults(
    default: Mapping[str, Any], found: Mapping[str, Any], prefix: str = ""
) -> Iterator[str]:
    """What is wrong with each key, as it follows on "has"."""
    for name, value in default.items():
        key = f"{prefix}{name}"
        if name not in found:
            yield (
                f"no {key}, so it is of another version; add what it lacks"
                " from configs/default.py."
            )
        elif isinstance(value, Mapping):
            if isinstance(found[name], Mapping):
                yield from _faults(value, found[name], f"{key}.")
            else:
                yield (
                    f"{key} = {found[name]!r}, but it must be a group of keys;"
                    " write it as in configs/default.py."
                )
        elif not _fits(value, found[name]):
            yield (
                f"{key} = {found[name]!r}, but it must be"
                f" {_KINDS[type(value)][1]}; write it as in configs/default.py."
            )
    for name in found:
        if name not in default:
            yield (
                f"{prefix}{name}, which is no key of configs/default.py; remove"
                " it, or use the version that has it."
            )


def _fits(default: Any, value: Any) -> bool:
    types, _ = _KINDS[type(default)]
    is_truth = isinstance(value, bool)
    return isinstance(value, types) and is_truth == isinstance(default, bool)
