"""The flag --config: a configuration file, and its keys on the command line.

ml_collections parses it. What it would answer with a traceback, a file that
cannot be loaded or a key that is misspelt, is found here first.
"""

import difflib
import pathlib
import re
import runpy
import sys
from collections.abc import Callable, Sequence
from typing import Any

import ml_collections
from absl import flags
from ml_collections import config_flags

from aeent_jax import config as config_lib

_KINDS = {
    bool: (flags.BooleanParser(), "true or false"),
    int: (flags.IntegerParser(), "a whole number"),
    float: (flags.FloatParser(), "a number"),
}


def define() -> flags.FlagHolder:
    """Defines --config, which is configs/default.py where it is not given."""
    # A default here would be parsed on import, before any error is caught.
    return config_flags.DEFINE_config_file(
        "config",
        None,
        "Configuration file; configs/default.py where none is given.",
        lock_config=True,
    )


def complete(args: Sequence[str]) -> list[str]:
    """Checks what a command line says of the configuration.

    Args:
      args: the command line, the program's name first.

    Returns:
      The command line, with a --config where it had none.

    Raises:
      ValueError: the file cannot be loaded, or has no such key, or a value is
        of another type.
    """
    if "config" not in flags.FLAGS:
        return list(args)
    place = _find_config(args)
    if place is None:
        args = [args[0], f"--config={config_lib.DEFAULT}", *args[1:]]
        place = str(config_lib.DEFAULT)
    config = _load(place)
    for arg in args[1:]:
        found = re.match(r"--?(?:no)?config\.([^=]+)(?:=(.*))?$", arg, re.S)
        if found:
            _check(config, found[1], found[2])
    return list(args)


def _find_config(args: Sequence[str]) -> str | None:
    for i, arg in enumerate(args):
        name, equals, value = arg.partition("=")
        if name in ("--config", "-config"):
            return value if equals else "".join(args[i + 1 : i + 2])
    return None


def load_default() -> ml_collections.ConfigDict:
    """The configuration of configs/default.py."""
    return _load(str(config_lib.DEFAULT))


def load_function(place: str, name: str) -> Callable[..., Any]:
    """Another function of a configuration file, beside its get_config.

    Args:
      place: as given with --config.
      name: of the function.

    Raises:
      ValueError: the file has none.
    """
    function = _execute(place).get(name)
    if not callable(function):
        raise ValueError(
            f"--config={place} has no function {name}, which this command"
            " needs; give a file such as configs/estimators.py."
        )
    return function


def _load(place: str) -> ml_collections.ConfigDict:
    defined = _execute(place)
    try:
        config = defined["get_config"](*place.split(":")[1:])
    except Exception as error:
        raise _unloadable(place, error) from error
    if not isinstance(config, ml_collections.ConfigDict):
        raise ValueError(
            f"--config={place} gives a {type(config).__name__}, but its"
            " get_config must return a ConfigDict, as configs/default.py does."
        )
    return config


def _execute(place: str) -> dict[str, Any]:
    """What a configuration file defines."""
    path = pathlib.Path(place.split(":")[0])
    if not path.is_file():
        raise ValueError(
            f"--config={place} is no file; give one such as"
            " configs/default.py, from the folder that you are in."
        )
    # So that one configuration can import another, from any current folder.
    sys.path[:0] = [
        str(path.absolute().parent.parent),
        str(config_lib.DEFAULT.parents[1]),
    ]
    try:
        return runpy.run_path(str(path))
    except Exception as error:
        raise _unloadable(place, error) from error


def _unloadable(place: str, error: Exception) -> ValueError:
    """The sentence for whatever the user's file raises."""
    return ValueError(
        f"--config={place} cannot be loaded ({type(error).__name__}: {error})."
    )


def _check(config: ml_collections.ConfigDict, key: str, text: str | None):
    """Raises unless `--config.key=text` is sound."""
    keys = _flat(config)
    if any(known.startswith(f"{key}.") for known in keys):
        raise ValueError(
            f"--config.{key} is a group; give one of its keys:"
            f" {', '.join(k for k in keys if k.startswith(f'{key}.'))}."
        )
    if key not in keys:
        near = difflib.get_close_matches(key, keys, n=1)
        groups = dict.fromkeys(k.partition(".")[0] for k in keys if "." in k)
        hint = f"the groups are {', '.join(groups)}."
        if near:
            hint = f"did you mean --config.{near[0]}?"
        raise ValueError(
            f"--config.{key} is no key of the configuration; {hint}"
        )
    parser, kind = _KINDS.get(type(keys[key]), (None, ""))
    if parser and text is not None:
        try:
            parser.parse(text)
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"--config.{key} is {text!r}, but must be {kind}."
            ) from error


def _flat(tree: ml_collections.ConfigDict, prefix: str = "") -> dict[str, Any]:
    flat = {}
    for key, value in tree.items():
        if isinstance(value, ml_collections.ConfigDict):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat
