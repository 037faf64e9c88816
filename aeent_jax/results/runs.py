"""A finished run, read from its workdir or from a record of a sweep.

Every table and figure of results is made of these. A run that is still
training, or was stopped, is read as far as it goes.
"""

import csv
import dataclasses
import io
import json
import pathlib
import zipfile
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from aeent_jax import config as config_lib
from aeent_jax.runtime import storage, workdir

# Where a data set has no test split, evaluation reports its normal images.
_SPLITS = ("test", "val", "train")
_KINDS = ("normal", "abnormal")
# Keys of a configuration that a table cannot do without.
_NEEDED = ("data.name", "train.seed")
_SPEED = "train/images_per_second"


@dataclasses.dataclass(frozen=True)
class Scores:
    """Anomaly scores of the evaluated images.

    Attributes:
      ids: names of the images, in the split's order.
      labels: `[N]`, 0 normal, 1 abnormal.
      values: `[N]`, higher is more anomalous.
      images_sha256: digest of the images' pixels; None from runs of earlier
        versions.
    """

    ids: list[str]
    labels: np.ndarray
    values: np.ndarray
    images_sha256: str | None = None


@dataclasses.dataclass(frozen=True)
class Run:
    """One run.

    Attributes:
      name: the shortest end of its path that tells the runs apart, or the name
        of a sweep's member.
      config: flat key -> value; a record holds those alone that decide the
        trained parameters.
      evaluation: `metrics.json` of the evaluated split, diagnostics included;
        empty where the run has not been evaluated.
      trained: the last line of training, keys `train/...`.
      images_per_second: median over training; None where it was not logged.
      notes: sentences about missing parts; of a record, remarks for a table.
      scores: of single images; None in a record, and before an evaluation.
      metrics: the lines of `metrics.jsonl`; none in a record.
      environment: versions and devices, nested; empty if not recorded.
      workdir: the folder; None for a record.
    """

    name: str
    config: dict[str, Any]
    evaluation: dict[str, Any]
    trained: dict[str, Any]
    images_per_second: float | None
    notes: list[str]
    scores: Scores | None = None
    metrics: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    environment: dict[str, Any] = dataclasses.field(default_factory=dict)
    workdir: pathlib.Path | None = None

    @property
    def seed(self) -> int:
        """The seed of training."""
        return self.config["train.seed"]

    @property
    def experiment(self) -> dict[str, Any]:
        """The keys that decide the trained parameters, without the seed."""
        return {
            key: value
            for key, value in self.config.items()
            if config_lib.decides(key) and key != "train.seed"
        }

    @property
    def is_ranked(self) -> bool:
        """Whether it has rank metrics: evaluated, with abnormal images."""
        return self.evaluation.get("auroc") is not None

    def curve(self, key: str) -> tuple[np.ndarray, np.ndarray]:
        """Epochs `[n]` and finite values `[n]` of a logged key."""
        # A resumed run may have logged a step again: the last line counts.
        points = {
            line["step"]: (line["epoch"], line[key])
            for line in self.metrics
            if isinstance(line.get(key), int | float)
        }
        pairs = [points[step] for step in sorted(points)]
        epochs, values = np.array(pairs, np.float64).reshape(-1, 2).T
        finite = np.isfinite(values)
        return epochs[finite], values[finite]

    def arrays(self, name: str) -> dict[str, np.ndarray]:
        """Arrays of `score_maps.npz` or `panel.npz`; empty if not there."""
        if self.workdir is None:
            return {}
        path = _evaluated_folder(self.workdir) / f"{name}.npz"
        if not path.is_file():
            return {}
        try:
            with path.open("rb") as file, np.load(file) as arrays:
                return dict(arrays)
        except (OSError, EOFError, ValueError, zipfile.BadZipFile) as error:
            raise _damage(path, error) from error


def read(workdirs: Sequence[str | pathlib.Path]) -> list[Run]:
    """Reads the workdirs, in the order given.

    Args:
      workdirs: folders as given to training.

    Returns:
      The runs; their notes name what is missing.

    Raises:
      FileNotFoundError: a folder is not there or is not a workdir.
      ValueError: no or the same workdir is given, or a file is damaged.
    """
    if not workdirs:
        raise ValueError(
            "Found no run to report; pass one or more workdirs, separated by "
            "commas: --runs=DIR/a,DIR/b."
        )
    paths = [storage.to_path(folder) for folder in workdirs]
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


def _short_names(paths):
    """Last folder names, with as many parents as tell all apart."""
    for depth in range(1, max(len(path.parts) for path in paths) + 1):
        names = ["/".join(path.parts[-depth:]) for path in paths]
        if len(set(names)) == len(names):
            break
    return names


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
    config = _complete(_read_json(path / "config.json"))
    for key in _NEEDED:
        if key not in config:
            raise _damage(path / "config.json", f"it has no {key}")
    lines = workdir.read_metrics(path)
    trained = [line for line in lines if "train/loss" in line]
    speeds = [line[_SPEED] for line in lines if line.get(_SPEED) is not None]
    evaluation, scores = _read_evaluation(_evaluated_folder(path))
    recorded = path / "environment.json"
    return Run(
        name=name,
        config=config,
        evaluation=evaluation,
        trained=_training_keys(trained[-1]) if trained else {},
        images_per_second=float(np.median(speeds)) if speeds else None,
        notes=_notes(name, path, lines, evaluation),
        scores=scores,
        metrics=lines,
        environment=_read_json(recorded) if recorded.is_file() else {},
        workdir=path,
    )


def _complete(config):
    """Flat keys, with the defaults of those that are younger than the run."""
    return config_lib.flatten(config_lib.complete(config))


def _training_keys(line):
    return {k: v for k, v in line.items() if k.startswith("train/")}


def _read_evaluation(folder):
    """The content of `metrics.json` and the scores; empty and None without."""
    if not _is_complete(folder):
        return {}, None
    evaluation = _read_json(folder / "metrics.json")
    path = folder / "scores.csv"
    try:
        text = path.read_bytes().decode()
        rows = list(csv.DictReader(io.StringIO(text, newline="")))
        scores = Scores(
            ids=[row["id"] for row in rows],
            labels=np.array([int(row["label"]) for row in rows], np.int64),
            values=np.array([float(row["anomaly_score"]) for row in rows]),
            images_sha256=evaluation.get("images_sha256"),
        )
    except (KeyError, TypeError, ValueError, csv.Error) as error:
        raise _damage(path, "a row is not whole") from error
    counted = sum(evaluation.get(f"num_{kind}", 0) for kind in _KINDS)
    if counted != len(scores.ids):
        reason = f"it counts {counted} images, and scores.csv {len(rows)}"
        raise _damage(folder / "metrics.json", reason)
    return evaluation, scores


def _notes(name, path, lines, evaluation):
    """Says why the row of a run in a table has gaps."""
    if not evaluation:
        step = f"step {lines[-1]['step']}" if lines else "its start"
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


def _evaluated_folder(directory):
    """The first split's folder that is complete, else the test split's."""
    folders = [directory / "eval" / split for split in _SPLITS]
    complete = (f for f in folders if _is_complete(f))
    return next(complete, folders[0])


def _is_complete(folder):
    return all((folder / f).is_file() for f in ("metrics.json", "scores.csv"))


def _read_json(path):
    try:
        tree = json.loads(path.read_text())
    except ValueError as error:
        raise _damage(path, error) from error
    if not isinstance(tree, dict):
        raise _damage(path, "it holds no JSON object")
    return tree


def _damage(path, reason):
    return ValueError(
        f"Found damage in {path} ({reason}); delete it and run the command "
        "that wrote it again."
    )


def read_records(folder: pathlib.Path, evaluation: str = "") -> list[Run]:
    """Reads all records of a folder, with the scores where they are at hand.

    A record holds no scores of single images. They are taken from the workdir
    of the same run where it stands beside the folder, as `aeent sweep` leaves
    them.

    Args:
      folder: `records` of a sweep, or a copy of it.
      evaluation: a folder in `eval/<split>` of each workdir whose metrics and
        scores take the place of the run's own, such as `smoothed_box5`; empty
        for the run's own.

    Returns:
      The runs, by name.

    Raises:
      FileNotFoundError: there are none, or a workdir lacks the evaluation.
      ValueError: one is damaged or no record.
    """
    paths = sorted(folder.glob("*.json"))
    if not paths:
        raise FileNotFoundError(
            f"{folder} holds no records of a sweep; give the folder `records`"
            " that `aeent sweep` has written."
        )
    return [
        _with_scores(_read_record(path), folder.parent / path.stem, evaluation)
        for path in paths
    ]


def _read_record(path):
    record = workdir.read_json(path)
    groups = ("config", "evaluation")
    if (
        not isinstance(record, dict)
        or "member" not in record
        or not all(isinstance(record.get(g), dict) for g in groups)
    ):
        raise ValueError(
            f"{path} is no record of a sweep; take it out of the folder."
        )
    return from_record(record)


def from_record(record: Mapping[str, Any]) -> Run:
    """The run of a record, which `to_record` has made.

    Args:
      record: its nested values.

    Returns:
      The run, without scores of single images.
    """
    return Run(
        name=record["member"],
        config=_complete(_nested(record["config"])),
        evaluation=record["evaluation"]
        | {"diagnostics": record["diagnostics"]},
        trained=record["train"],
        images_per_second=record["images_per_second"],
        notes=[record["note"]] if record["note"] else [],
    )


def _nested(flat):
    tree: dict[str, Any] = {}
    for key, value in flat.items():
        group, _, name = key.rpartition(".")
        place = tree.setdefault(group, {}) if group else tree
        place[name] = value
    return tree


def _with_scores(run: Run, directory: pathlib.Path, evaluation: str) -> Run:
    """The run with scores, where the folder is the workdir of the same run."""
    other = None
    if (directory / "config.json").is_file():
        (other,) = read([directory])
        if (other.experiment, other.seed) != (run.experiment, run.seed):
            other = None
    if evaluation:
        return _evaluated_otherwise(run, other, directory, evaluation)
    if other is None or not other.is_ranked:
        return run
    is_same = other.evaluation["auroc"] == run.evaluation.get("auroc")
    return dataclasses.replace(run, scores=other.scores) if is_same else run


def _evaluated_otherwise(run, other, directory, evaluation):
    """The run with the metrics and scores of another evaluation."""
    found, scores = {}, None
    if other is not None:
        folder = _evaluated_folder(directory) / evaluation
        found, scores = _read_evaluation(folder)
    if not found:
        raise FileNotFoundError(
            f"{directory} has no evaluation {evaluation} of {run.name}; make it"
            f" with aeent evaluate --workdir={directory}, and --score or"
            " --deduplicate."
        )
    return dataclasses.replace(
        run, evaluation=run.evaluation | found, scores=scores
    )
