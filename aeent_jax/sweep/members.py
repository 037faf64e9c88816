"""The members of a sweep: their names, and what each of them changes."""

import dataclasses
import difflib
import fnmatch
import json
import re
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any

import ml_collections

from aeent_jax import config as config_lib
from aeent_jax.training import experiment

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._+-]*")
# Other files and folders of a sweep.
_TAKEN = ("logs", "records")

GetMembers = Callable[[ml_collections.ConfigDict], Iterable[tuple]]


@dataclasses.dataclass(frozen=True)
class Member:
    """One run of a sweep.

    Attributes:
      name: name of its workdir.
      overrides: flat key -> value that it changes in the shared configuration.
      config: the resolved configuration, locked.
      note: a remark for tables, such as "oracle".
    """

    name: str
    overrides: dict[str, Any]
    config: ml_collections.ConfigDict
    note: str = ""


def make_members(
    config: ml_collections.ConfigDict,
    get_members: GetMembers,
    *,
    only: str = "*",
    given: Collection[str] = (),
) -> list[Member]:
    """Resolves the members of a sweep, and checks them.

    Args:
      config: the shared configuration.
      get_members: returns pairs of a name and overrides for it, or triples
        with a note. Not a dictionary, so that two equal names are seen.
      only: a pattern of names, such as `kde_*`; the others are left out.
      given: flat keys that the command line sets; a member must not set them
        again.

    Returns:
      The members, in order.

    Raises:
      ValueError: there are no members, two have the same name or configuration,
        or one has a key or value that the configuration does not take.
    """
    entries = _read_entries(config, get_members)
    names = [name for name, *_ in entries]
    chosen = [e for e in entries if fnmatch.fnmatchcase(e[0], only)]
    if not chosen:
        raise ValueError(
            f"--only={only} matches none of the {len(names)} members; give a"
            f" pattern of their names, such as {names[-1]}."
        )
    members = [_resolve(config, *entry, given) for entry in chosen]
    _refuse_equal(members)
    return members


def find_names(
    config: ml_collections.ConfigDict, get_members: GetMembers
) -> list[str]:
    """The names of all members of a sweep.

    Args:
      config: the shared configuration.
      get_members: as in `make_members`.

    Raises:
      ValueError: there are no members, or two have the same name.
    """
    return [name for name, *_ in _read_entries(config, get_members)]


def _read_entries(config, get_members):
    """Triples of a name, overrides and a note."""
    try:
        entries = [
            (str(name), dict(overrides), " ".join(note))
            for name, overrides, *note in get_members(config)
        ]
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"get_members cannot be used ({type(error).__name__}: {error}); it"
            " must give pairs of a name and a dictionary of overrides, as in"
            " configs/estimators.py."
        ) from error
    if not entries:
        raise ValueError(
            "get_members gives no member, so there is nothing to train; have it"
            " yield at least one pair of a name and overrides."
        )
    _check_names([name for name, *_ in entries])
    return entries


def _check_names(names: Sequence[str]) -> None:
    for name in names:
        if not _NAME.fullmatch(name) or name in _TAKEN:
            raise ValueError(
                f"The member name {name!r} cannot be that of a folder of the"
                " sweep; use letters, digits and ._+- for it, and neither"
                f" {' nor '.join(_TAKEN)}."
            )
        if names.count(name) > 1:
            raise ValueError(
                f"get_members gives the name {name!r} {names.count(name)}"
                " times; give each member a name of its own."
            )


def _resolve(config, name, overrides, note, given) -> Member:
    """Applies the overrides to a copy."""
    resolved = ml_collections.ConfigDict(config.to_dict()).lock()
    keys = list(config_lib.flatten(config))
    for key, value in overrides.items():
        if key not in keys:
            near = difflib.get_close_matches(key, keys, n=1)
            hint = f"did you mean {near[0]}?" if near else "give one that is."
            raise ValueError(
                f"The member {name} sets {key}, which is no key of the"
                f" configuration; {hint}"
            )
        if key in given:
            raise ValueError(
                f"--config.{key} is given, but the member {name} sets {key}"
                " itself; leave the flag out, or change get_members."
            )
        try:
            resolved.update_from_flattened_dict({key: value})
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"The member {name} sets {key} to {value!r}, which has another"
                " type than its default; give a value of that type."
            ) from error
    try:
        experiment.check_config(resolved)
    except ValueError as error:
        raise ValueError(f"The member {name} is refused: {error}") from error
    return Member(name, overrides, resolved, note)


def _refuse_equal(members: Sequence[Member]) -> None:
    """The same training twice is a mistake, and reads as two seeds."""
    owners: dict[str, str] = {}
    for member in members:
        settings = json.dumps(config_lib.decisive(member.config))
        owner = owners.setdefault(settings, member.name)
        if owner != member.name:
            raise ValueError(
                f"The members {owner} and {member.name} have the same"
                " configuration; leave one of them out."
            )
