"""Runs that differ by their seed alone, as one group."""

import dataclasses
import json
import os.path
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from aeent_jax.results.runs import Run

DATA = "data.name"
METHOD = "method"
LATENT = "model.latent_dim"
# They lead every table, in this order.
_LEADING = (DATA, METHOD)
# The seed at the end of a name, as in ae16_s0; of a common beginning its end.
_SEED_IN_NAME = re.compile(r"[_\-/.]+((s|seed)\d*)?$")


@dataclasses.dataclass(frozen=True)
class Group:
    """Runs of one experiment.

    Attributes:
      name: the beginning that the names of the runs share.
      runs: at least one, of different seeds.
      settings: key -> value of the keys in which the groups of a table differ.
    """

    name: str
    runs: list[Run]
    settings: dict[str, Any]

    @property
    def config(self) -> dict[str, Any]:
        """The flat configuration of the first run."""
        return self.runs[0].config

    @property
    def evaluation(self) -> dict[str, Any]:
        """The evaluation of the first run."""
        return self.runs[0].evaluation

    @property
    def is_controlled(self) -> bool:
        """Whether its runs were trained under a penalty of the rate."""
        return (
            bool(self.config["entropy.weight"])
            and self.config["entropy.estimator"] != "none"
        )

    def values(self, *path: str) -> np.ndarray:
        """A number of each run's evaluation, `[runs]`.

        Args:
          *path: keys, from the outermost to that of the number.

        Returns:
          The numbers; runs without it are left out.
        """
        values = [_dig(run.evaluation, path) for run in self.runs]
        return np.array([v for v in values if v is not None], np.float64)


def _dig(tree: Any, path: Sequence[str]) -> Any:
    for key in path:
        tree = tree.get(key) if isinstance(tree, dict) else None
    return tree


def by_experiment(runs: Sequence[Run]) -> list[Group]:
    """Groups runs by configuration and score, the seed left out.

    Args:
      runs: in any order. The first run of a seed counts, others of the same
        experiment and seed are passed over.

    Returns:
      The groups, in the order of their first runs.
    """
    members: dict[str, dict[int, Run]] = {}
    for run in runs:
        # Metrics by one score are not averaged with those by another.
        identity = [run.experiment, run.evaluation.get("score"), _images(run)]
        key = json.dumps(identity, sort_keys=True)
        members.setdefault(key, {}).setdefault(run.seed, run)
    first = [next(iter(seeds.values())) for seeds in members.values()]
    keys = _varying(first)
    return [
        Group(
            _common_name([run.name for run in seeds.values()]),
            list(seeds.values()),
            {key: one.config.get(key) for key in keys},
        )
        for one, seeds in zip(first, members.values(), strict=True)
    ]


def _images(run: Run) -> Any:
    """Identifies the evaluated images of a workdir, wherever its data were.

    Records do not say which images they are of.
    """
    if run.workdir is None or run.scores is None:
        return None
    return run.scores.images_sha256 or run.scores.ids


def refuse_repeated_seeds(runs: Sequence[Run]) -> None:
    """Refuses one training that is given twice: it narrows the spread.

    Args:
      runs: of a sweep.

    Raises:
      ValueError: two have the same configuration and seed.
    """
    owners: dict[str, Run] = {}
    for run in runs:
        key = json.dumps([run.experiment, run.seed], sort_keys=True)
        owner = owners.setdefault(key, run)
        if owner is not run:
            raise ValueError(
                f"The records {owner.name} and {run.name} have the same"
                " configuration and seed; take one out of the folder."
            )


def in_order(groups: Sequence[Group]) -> list[Group]:
    """Groups in the order of their settings: names by alphabet, numbers up."""
    return sorted(
        groups,
        key=lambda group: [
            (isinstance(value, str), value if value is not None else 0)
            for value in group.settings.values()
        ],
    )


def _varying(runs: Sequence[Run]) -> list[str]:
    """Keys in which runs of different experiments differ, names first."""
    values: dict[str, set[str]] = {}
    for run in runs:
        for key, value in run.experiment.items():
            values.setdefault(key, set()).add(json.dumps(value))
    varying = [key for key in values if len(values[key]) > 1]
    # Baselines are rows too, with names and numbers of components.
    if any("baselines" in run.evaluation for run in runs):
        varying = list(dict.fromkeys([*varying, DATA, METHOD, LATENT]))
    # Names lead, so that the rows of one estimator are together.
    names = {
        key
        for key in varying
        if any(isinstance(run.config.get(key), str) for run in runs)
    }
    return [
        *(key for key in _LEADING if key in varying),
        *(key for key in varying if key in names - {*_LEADING}),
        *(key for key in varying if key not in names | {*_LEADING}),
    ]


def _common_name(names: Sequence[str]) -> str:
    common = _SEED_IN_NAME.sub("", os.path.commonprefix(names))
    return common or names[0]


def deviation(values: np.ndarray) -> float:
    """The standard deviation between seeds; 0 for one seed."""
    return float(values.std(ddof=1)) if len(values) > 1 else 0.0
