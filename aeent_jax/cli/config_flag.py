"""The flag --config: a configuration file, and its keys on the command line.

ml_collections parses it. This module looks first for a file that cannot be
loaded and for a misspelt key, which ml_collections would answer with a
traceback.
"""

import difflib
import functools
import os
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

_PARSERS = {
    bool: flags.BooleanParser(),
    int: flags.IntegerParser(),
    float: flags.FloatParser(),
}


def define() -> flags.FlagHolder:
    """Defines --config, which is the preset `default` where it is not given."""
    # A default here would be parsed on import, before any error is caught.
    return config_flags.DEFINE_config_file(
        "config",
        None,
        "Configuration file, or the name of a preset:"
        f" {', '.join(_presets())}. An argument of the file follows a colon,"
        " as in table1:rsna.",
        lock_config=True,
    )


def complete(args: Sequence[str]) -> list[str]:
    """Checks the configuration that a command line gives.

    Args:
      args: the command line, the program's name first.

    Returns:
      The command line with the path of its configuration file.

    Raises:
      ValueError: the file cannot be loaded, or has no such key, or a value is
        of another type or out of its range.
    """
    if "config" not in flags.FLAGS:
        return list(args)
    place, rest = _take_config(args)
    config = _load(place)
    for arg in rest:
        setting = re.match(r"--?(?:no)?config\.([^=]+)(?:=(.*))?$", arg, re.S)
        if setting:
            _check(config, *setting.groups())
    return [args[0], f"--config={place}", *rest]


def _take_config(args: Sequence[str]) -> tuple[str, list[str]]:
    """Returns the value of --config, and the other arguments."""
    place, rest = "default", list(args[1:])
    for i, arg in enumerate(rest):
        name, equals, value = arg.partition("=")
        if name in ("--config", "-config"):
            place = value if equals else "".join(rest[i + 1 : i + 2])
            del rest[i : i + (1 if equals else 2)]
            break
    return _find(place), rest


def _find(place: str) -> str:
    """Replaces the name of a preset by the path of its file."""
    name, *choice = place.split(":", 1)
    name = os.path.expanduser(name)
    if not pathlib.Path(name).is_file():
        presets = _presets()
        if name not in presets:
            raise ValueError(
                f"--config={place} is no file from the folder that you are in,"
                f" and no preset; the presets are {', '.join(presets)}."
            )
        name = str(presets[name])
    return ":".join([name, *choice])


@functools.cache
def _presets() -> dict[str, pathlib.Path]:
    """Name -> file; in an installed package, or beside it in a checkout."""
    package = pathlib.Path(config_lib.__file__).parent
    for folder in (package / "configs", package.parent / "configs"):
        if (folder / "default.py").is_file():
            return {
                path.stem: path
                for path in sorted(folder.glob("*.py"))
                if path.stem != "__init__"
            }
    return {}


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
            " needs; give one that has it, such as --config=table1:folder."
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
    """Returns the names that a configuration file defines."""
    path = pathlib.Path(place.split(":")[0])
    # So that a file can import one beside it, as a script can.
    sys.path.insert(0, str(path.absolute().parent))
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
    values = config_lib.flatten(config)
    group = [k for k in values if k.startswith(f"{key}.")]
    if group:
        raise ValueError(
            f"--config.{key} is a group; give one of its keys:"
            f" {', '.join(group)}."
        )
    if key in config_lib.REMOVED:
        raise ValueError(
            f"--config.{key} is {text!r}, but {config_lib.REMOVED[key][1]}."
        )
    if key not in values:
        near = difflib.get_close_matches(key, values, n=1)
        groups = dict.fromkeys(k.partition(".")[0] for k in values if "." in k)
        hint = f"the groups are {', '.join(groups)}."
        if near:
            hint = f"did you mean --config.{near[0]}?"
        raise ValueError(
            f"--config.{key} is no key of the configuration; {hint}"
        )
    known = config_lib.table().get(key)
    if known and text is not None and not known.holds(_parse(known, text)):
        raise ValueError(
            f"--config.{key} is {text!r}, but must be {known.kind}."
        )


def _parse(key: config_lib.Key, text: str) -> Any:
    """The value that a text means, or the text where it means none."""
    parser = _PARSERS.get(type(key.default))
    try:
        return parser.parse(text) if parser else text
    except (TypeError, ValueError):
        return text
