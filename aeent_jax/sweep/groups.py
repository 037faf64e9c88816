"""Groups of a sweep's members: those that differ by their seed alone."""

import dataclasses
import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from aeent_jax.sweep.records import Record

SEED = "train.seed"
DATA = "data.name"
METHOD = "method"
LATENT = "model.latent_dim"
# They lead every table, in this order.
_LEADING = (DATA, METHOD)


@dataclasses.dataclass(frozen=True)
class Group:
    """Members that differ by their seed alone.

    Attributes:
      settings: key -> value of what varies in the sweep, the seed left out.
      records: at least one.
    """

    settings: dict[str, Any]
    records: list[Record]

    @property
    def config(self) -> dict[str, Any]:
        """The flat configuration of the first member."""
        return self.records[0]["config"]

    @property
    def is_controlled(self) -> bool:
        """Whether its members were trained under a penalty of the rate."""
        return (
            bool(self.config["entropy.weight"])
            and self.config["entropy.estimator"] != "none"
        )

    def values(self, *path: str) -> np.ndarray:
        """A number of each member, `[members]`; without those it lacks."""
        found = [_dig(record, path) for record in self.records]
        return np.array([v for v in found if v is not None], np.float64)


def _dig(tree: Any, path: Sequence[str]) -> Any:
    for key in path:
        tree = tree.get(key) if isinstance(tree, dict) else None
    return tree


def groups(records: Sequence[Record]) -> list[Group]:
    """Groups members by configuration, the seed left out.

    Args:
      records: in any order.

    Returns:
      The groups, in the order of their settings: names by alphabet, numbers
      ascending.

    Raises:
      ValueError: two members have the same configuration and seed.
    """
    keys = _varying(records)
    found: dict[str, Group] = {}
    for record in records:
        settings = {key: record["config"].get(key) for key in keys}
        group = found.setdefault(json.dumps(settings), Group(settings, []))
        group.records.append(record)
    for group in found.values():
        _refuse_repeated_seed(group)
    return sorted(found.values(), key=lambda group: _place(group.settings))


def _refuse_repeated_seed(group: Group) -> None:
    """One training counted twice would narrow the spread over seeds."""
    owners: dict[int, Record] = {}
    for record in group.records:
        owner = owners.setdefault(record["config"][SEED], record)
        if owner is not record:
            raise ValueError(
                f"The records {owner['member']} and {record['member']} have"
                " the same configuration and seed; take one out of the folder."
            )


def _varying(records: Sequence[Record]) -> list[str]:
    """Keys that differ between members; a sweep of seeds varies none."""
    values: dict[str, set[str]] = {}
    for record in records:
        # A key that a record lacks is newer than its run, and no difference.
        for key, value in record["config"].items():
            values.setdefault(key, set()).add(json.dumps(value))
    varying = [key for key in values if key != SEED and len(values[key]) > 1]
    # The baselines are rows too, of their own names and numbers of components.
    if any("baselines" in r["evaluation"] for r in records):
        varying = list(dict.fromkeys([*varying, DATA, METHOD, LATENT]))
    # Names lead, so that the rows of one estimator are together.
    names = {key for key in varying if _is_name(records, key)}
    return [
        *(key for key in _LEADING if key in varying),
        *(key for key in varying if key in names - {*_LEADING}),
        *(key for key in varying if key not in names | {*_LEADING}),
    ]


def _is_name(records: Sequence[Record], key: str) -> bool:
    return any(isinstance(r["config"].get(key), str) for r in records)


def _place(settings: dict[str, Any]) -> list[tuple[bool, Any]]:
    return [
        (isinstance(value, str), value if value is not None else 0)
        for value in settings.values()
    ]


def deviation(values: np.ndarray) -> float:
    """The standard deviation between seeds; 0 for one seed."""
    return float(values.std(ddof=1)) if len(values) > 1 else 0.0


def setting(value: Any) -> str:
    """A setting as tables show it."""
    return f"{value:g}" if isinstance(value, float) else str(value)
