"""Runs that differ only in their seed, summed up: mean, spread, differences."""

import dataclasses
import json
import os.path
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from aeent_jax import config
from aeent_jax.evaluation import metrics
from aeent_jax.results import comparison
from aeent_jax.results.runs import Run

SPREAD = "Mean and standard deviation over seeds."
CAPTION = (
    f"{SPREAD} Differences are of means over "
    "seeds, with 95 % intervals over the test images; the seeds themselves "
    "are not resampled."
)

# Groups of keys, and keys, that do not make another experiment.
_INDECISIVE = ("checkpoint", "eval", "log", "parallel")
_INDECISIVE_KEYS = (
    ("train", "seed"),
    ("data", "cache_dir"),
    ("data", "memory_budget_mb"),
)


@dataclasses.dataclass(frozen=True)
class Group:
    """Runs of one configuration with different seeds.

    Attributes:
      name: what the names of the runs begin with.
      runs: at least one, evaluated.
    """

    name: str
    runs: list[Run]

    def values(self, key: str) -> np.ndarray:
        """A metric of each run, `[seeds]`; empty where it is not defined."""
        found = [run.evaluation.get(key) for run in self.runs]
        return np.array([v for v in found if v is not None], np.float64)


def groups(runs: Sequence[Run]) -> list[Group]:
    """Groups runs by configuration, the seed left out.

    Args:
      runs: in any order; those without rank metrics are passed over, and so
        are repetitions of a seed.

    Returns:
      The groups in the order of their first runs; none where every
      configuration has one seed alone.
    """
    found: dict[str, list[Run]] = {}
    for run in comparison.ranked(runs):
        members = found.setdefault(_experiment(run), [])
        seeds = [member.config["train"]["seed"] for member in members]
        if run.config["train"]["seed"] not in seeds:
            members.append(run)
    if all(len(members) == 1 for members in found.values()):
        return []
    return [Group(_common_name(members), members) for members in found.values()]


def _experiment(run: Run) -> str:
    """What runs that differ in their seed alone have in common."""
    # Workdirs of older versions lack keys whose defaults change nothing.
    settings = config.complete(run.config)
    for group, key in _INDECISIVE_KEYS:
        settings.get(group, {}).pop(key, None)
    decisive = {k: v for k, v in settings.items() if k not in _INDECISIVE}
    # Metrics by one score are not averaged with those by another.
    decisive["score"] = run.evaluation.get("score")
    return json.dumps(decisive, sort_keys=True)


def _common_name(runs: Sequence[Run]) -> str:
    names = [run.name for run in runs]
    if len(names) == 1:
        return names[0]
    common = re.sub(r"[_\-/.]+(s|seed)?$", "", os.path.commonprefix(names))
    return common or names[0]


def table(found: Sequence[Group]) -> tuple[list[str], list[list[str]]]:
    """The table of groups.

    Args:
      found: the groups; differences are to the first.

    Returns:
      The names of the columns, and a row of text a group, in percent.
    """
    shown = comparison.columns([run for group in found for run in group.runs])
    header = ["runs", "seeds", *shown, "rate, nats"]
    header.append(f"AUROC minus {found[0].name}")
    rows = []
    for group in found:
        rates = group.values("rate_nats")
        rows.append(
            [
                group.name,
                str(len(group.runs)),
                *(_spread(100 * group.values(key)) for key in shown.values()),
                _spread(rates) if len(rates) else "infinite",
                _difference(found[0], group),
            ]
        )
    return header, rows


def score_table(
    found: Sequence[Group], results: Mapping[pathlib.Path, Sequence[Any]]
) -> tuple[list[str], list[list[str]]]:
    """AUROC over seeds: scores down, groups across.

    Args:
      found: the groups.
      results: by workdir, what an evaluation by each score returned, in the
        same order of scores.

    Returns:
      The names of the columns, and a row of text a score, in percent.
    """
    columns = [
        [[r.get("auroc") for r in results[run.workdir]] for run in group.runs]
        for group in found
    ]
    names = [r["score"] for r in results[found[0].runs[0].workdir]]
    header = ["AUROC of score", *(group.name for group in found)]
    rows = [
        [name, *(_spread(100 * np.array(c, float)[:, i]) for c in columns)]
        for i, name in enumerate(names)
    ]
    return header, rows


def _spread(values: np.ndarray) -> str:
    values = values[~np.isnan(values)]
    if not len(values):
        return "-"
    if len(values) == 1:
        return f"{values[0]:.1f}"
    return f"{values.mean():.1f} ± {values.std(ddof=1):.1f}"


def _difference(first: Group, group: Group) -> str:
    """Paired difference of the means over seeds, or why there is none."""
    if group is first:
        return "-"
    one, labels = first.runs[0], first.runs[0].labels
    if any(
        run.ids != one.ids or comparison.have_other_pixels(one, run)
        for run in [*first.runs, *group.runs]
    ):
        return "other images"
    value, low, high = metrics.paired_bootstrap(
        np.stack([run.scores for run in group.runs]),
        np.stack([run.scores for run in first.runs]),
        labels,
    )["auroc"]
    return f"{100 * value:+.1f} [{100 * low:+.1f}, {100 * high:+.1f}]"
