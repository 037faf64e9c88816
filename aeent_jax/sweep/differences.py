"""Paired differences: what is under control minus what is not.

They need the scores of single images, which records do not hold: they are made
where the workdirs stand beside the records, as `aeent sweep` leaves them.
"""

import pathlib
import re
from collections.abc import Sequence

import numpy as np

from aeent_jax import config
from aeent_jax.evaluation import metrics
from aeent_jax.results import comparison, words
from aeent_jax.results import runs as runs_lib
from aeent_jax.runtime import workdir
from aeent_jax.sweep.groups import DATA, SEED, Group
from aeent_jax.sweep.records import Record

# Columns -> key of the metric.
_METRICS = {"AUROC": "auroc", "AP": "ap"}
_SEED_IN_NAME = re.compile(r"_s\d+$")

Runs = dict[int, runs_lib.Run]


def make_differences(
    found: Sequence[Group], folders: Sequence[pathlib.Path]
) -> str:
    """The differences of each group under control to each that is not.

    Both means are over the seeds that both have; the intervals are over
    resampled images, the same ones for both.

    Args:
      found: the groups.
      folders: of their records; workdirs are looked for beside them.

    Returns:
      A table in Markdown, in points of percent; "" where no pair of groups has
      its workdirs.
    """
    runs = {
        id(group): _read_runs(group, [folder.parent for folder in folders])
        for group in found
    }
    rows = [
        row
        for ours in found
        for theirs in found
        if ours.is_controlled
        and not theirs.is_controlled
        and ours.config.get(DATA) == theirs.config.get(DATA)
        for row in _row(ours, theirs, runs[id(ours)], runs[id(theirs)])
    ]
    if not rows:
        return ""
    table = comparison.markdown(
        ["data", "difference", "seeds", *_METRICS], rows
    )
    return f"{table}\n\n{words.PAIRED}\n"


def _read_runs(group: Group, places: Sequence[pathlib.Path]) -> Runs:
    """Seed -> evaluated run, of the members that have rank metrics."""
    found = {}
    for record in group.records:
        candidates = [
            run
            for place in places
            if (run := _read_run(record, place / record["member"]))
        ]
        if candidates:
            found[record["config"][SEED]] = candidates[0]
    return found


def _read_run(record: Record, directory: pathlib.Path) -> runs_lib.Run | None:
    """The run of a record, or None where it is not that run's folder."""
    if not (directory / "config.json").is_file():
        return None
    (run,) = runs_lib.read([str(directory)])
    auroc = run.evaluation.get("auroc")
    # A run of an older version lacks keys that its record has.
    settings = workdir.flatten(config.complete(run.config))
    is_same = auroc == record["evaluation"].get("auroc") and all(
        settings.get(key) == value for key, value in record["config"].items()
    )
    return run if auroc is not None and is_same else None


def _row(
    ours: Group, theirs: Group, our_runs: Runs, their_runs: Runs
) -> list[list[str]]:
    """The row of a pair, or none where they have no seed in common."""
    seeds = sorted(our_runs.keys() & their_runs.keys())
    pairs = [(our_runs[seed], their_runs[seed]) for seed in seeds]
    if not pairs:
        return []
    first = pairs[0][0]
    if any(run.ids != first.ids for pair in pairs for run in pair):
        return []
    ours_scores, theirs_scores = (
        np.stack([run.scores for run in side])
        for side in zip(*pairs, strict=True)
    )
    values = metrics.paired_bootstrap(ours_scores, theirs_scores, first.labels)
    return [
        [
            str(ours.config.get(DATA)),
            f"{_name(ours)} - {_name(theirs)}",
            str(len(seeds)),
            *(comparison.points(values[key]) for key in _METRICS.values()),
        ]
    ]


def _name(group: Group) -> str:
    """The name of its members, without the seed."""
    return _SEED_IN_NAME.sub("", group.records[0]["member"])
