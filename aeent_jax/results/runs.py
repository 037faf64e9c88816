"""Reads what runs left in their workdirs, for reports."""

import csv
import dataclasses
import io
import json
import pathlib
import zipfile
from collections.abc import Sequence
from typing import Any

import numpy as np

from aeent_jax.runtime import storage

# Where a data set has no test split, evaluation reports its normal images.
_SPLITS = ("test", "val", "train")
_KINDS = ("normal", "abnormal")
# Of a configuration, by group: what a report cannot do without.
_NEEDED = {"data": "name", "train": "seed"}


@dataclasses.dataclass(frozen=True)
class Run:
    """One workdir, read.

    Attributes:
      name: The shortest end of the path that tells the runs apart.
      workdir: The folder.
      config: The resolved configuration, nested.
      environment: Versions and devices, nested; empty if not recorded.
      history: One dictionary a logged step, ascending; the last one where a
        resumed run logged a step again.
      evaluation: What `metrics.json` of the evaluated split holds; empty
        where the run has not been evaluated.
      ids: Names of the evaluated images, in the split's order.
      labels: `[N]`, 0 normal, 1 abnormal.
      scores: `[N]` anomaly scores.
      notes: Sentences on what is missing.
    """

    name: str
    workdir: pathlib.Path
    config: dict[str, Any]
    environment: dict[str, Any]
    history: list[dict[str, Any]]
    evaluation: dict[str, Any]
    ids: list[str]
    labels: np.ndarray
    scores: np.ndarray
    notes: list[str]

    def curve(self, key: str) -> tuple[np.ndarray, np.ndarray]:
        """Epochs `[n]` and finite values `[n]` of a logged key."""
        pairs = [
            (record["epoch"], record[key])
            for record in self.history
            if isinstance(record.get(key), int | float)
        ]
        epochs, values = np.array(pairs, np.float64).reshape(-1, 2).T
        finite = np.isfinite(values)
        return epochs[finite], values[finite]

    def arrays(self, name: str) -> dict[str, np.ndarray]:
        """Arrays of `score_maps.npz` or `panel.npz`; empty if not there."""
        path = _evaluated_folder(self.workdir) / f"{name}.npz"
        if not path.is_file():
            return {}
        try:
            with path.open("rb") as file, np.load(file) as arrays:
                return dict(arrays)
        except (OSError, EOFError, ValueError, zipfile.BadZipFile) as error:
            raise _damage(path, error) from error


def read(workdirs: Sequence[str]) -> list[Run]:
    """Reads the workdirs, in the order given.

    A run that is still training, or was stopped, is read as far as it goes,
    with a note that says what is missing.

    Args:
      workdirs: Folders as given to training.

    Returns:
      The runs.

    Raises:
      FileNotFoundError: If a folder is not there or is not a workdir.
      ValueError: If no or the same workdir is given, or a file is damaged.
    """
    if not workdirs:
        raise ValueError(
            "Found no run to report; pass one or more workdirs, separated by "
            "commas: --runs=DIR/a,DIR/b."
        )
    paths = [storage.to_path(workdir) for workdir in workdirs]
    resolved = [
        path if storage.is_in_bucket(path) else path.resolve() for path in paths
    ]
    for path, full in zip(paths, resolved, strict=True):
        if resolved.count(full) > 1:
            raise ValueError(
                f"Found the workdir {path} twice; pass each run once."
            )
    names = _short_names(resolved)
    return [_read_one(*pair) for pair in zip(names, paths, strict=True)]


def _read_one(name, path):
    if not path.is_dir():
        raise FileNotFoundError(
            f"Found no folder {path}; pass the workdir of a run, as it was "
            "given to aeent train."
        )
    if not (path / "config.json").is_file():
        raise FileNotFoundError(
            f"Found no config.json in {path}, so it is not the workdir of a "
            "run; pass the folder that was given to aeent train."
        )
    recorded = path / "environment.json"
    history = _read_history(path / "metrics.jsonl")
    folder = _evaluated_folder(path)
    evaluated = _is_complete(folder)
    ids, labels, scores = _read_scores(folder / "scores.csv", evaluated)
    evaluation = _read_json(folder / "metrics.json") if evaluated else {}
    counted = [evaluation.get(f"num_{kind}", 0) for kind in _KINDS]
    if sum(counted) != len(ids):
        reason = f"it counts {sum(counted)} images, and scores.csv {len(ids)}"
        raise _damage(folder / "metrics.json", reason)
    config = _read_json(path / "config.json")
    for group, key in _NEEDED.items():
        if not isinstance(config.get(group), dict) or key not in config[group]:
            raise _damage(path / "config.json", f"it has no {group}.{key}")
    return Run(
        name=name,
        workdir=path,
        config=config,
        environment=_read_json(recorded) if recorded.is_file() else {},
        history=history,
        evaluation=evaluation,
        ids=ids,
        labels=labels,
        scores=scores,
        notes=_notes(name, path, history, evaluation),
    )


def _notes(name, path, history, evaluation):
    """What a reader must know of a run whose table row has gaps."""
    if not evaluation:
        step = f"step {history[-1]['step']}" if history else "its start"
        return [
            f"{name} has no evaluation yet (training stands at {step}): let "
            f"it finish, or run aeent evaluate --workdir={path}."
        ]
    for kind, other in (_KINDS, _KINDS[::-1]):
        if not evaluation.get(f"num_{other}"):
            return [
                f"{name} was tested on {kind} images only, so no rank metric "
                "is defined for it; its scores and its rate are."
            ]
    return []


def _short_names(paths):
    """Last folder names, with as many parents as tell all apart."""
    for depth in range(1, max(len(path.parts) for path in paths) + 1):
        names = ["/".join(path.parts[-depth:]) for path in paths]
        if len(set(names)) == len(names):
            break
    return names


def _evaluated_folder(workdir):
    """The first split's folder that is complete, else the test split's."""
    folders = [workdir / "eval" / split for split in _SPLITS]
    complete = (f for f in folders if _is_complete(f))
    return next(complete, folders[0])


def _is_complete(folder):
    return all((folder / f).is_file() for f in ("metrics.json", "scores.csv"))


def _read_json(path):
    try:
        found = json.loads(path.read_text())
    except ValueError as error:
        raise _damage(path, error) from error
    if not isinstance(found, dict):
        raise _damage(path, "it holds no JSON object")
    return found


def _damage(path, reason):
    return ValueError(
        f"Found damage in {path} ({reason}); delete it and run the command "
        "that wrote it again."
    )


def _read_history(path):
    """Records by step; a run that was killed may end in half a line."""
    if not path.is_file():
        return []
    lines = path.read_text().splitlines()
    records = {}
    for number, line in enumerate(lines, start=1):
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            if number == len(lines):
                break
            raise ValueError(
                f"Found damage in {path}, line {number}: {error.msg}; delete "
                "that line."
            ) from error
        if not isinstance(record, dict) or "step" not in record:
            raise ValueError(
                f"Found damage in {path}, line {number}: no record of a step; "
                "delete that line."
            )
        records.setdefault(record["step"], {}).update(record)
    return [records[step] for step in sorted(records)]


def _read_scores(path, present):
    """Ids, labels and scores, or empty ones."""
    if not present:
        return [], np.zeros(0, np.int64), np.zeros(0)
    try:
        text = path.read_bytes().decode()
        rows = list(csv.DictReader(io.StringIO(text, newline="")))
        return (
            [row["id"] for row in rows],
            np.array([int(row["label"]) for row in rows], np.int64),
            np.array([float(row["anomaly_score"]) for row in rows]),
        )
    except (KeyError, TypeError, ValueError, csv.Error) as error:
        raise _damage(path, "a row is not whole") from error
