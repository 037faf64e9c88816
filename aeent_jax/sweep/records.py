"""Records of finished members: a few KB each, from which tables are made.

A record holds no path and no time of day, so it can be kept in a repository.
"""

import json
import pathlib
from typing import Any

import ml_collections
import numpy as np

from aeent_jax import entropy
from aeent_jax.runtime import workdir
from aeent_jax.sweep.members import Member

# The decoder cannot tell three images apart by what passes.
_COLLAPSED_NATS = 1.0
_EVALUATION = (
    "split",
    "step",
    "num_normal",
    "num_abnormal",
    "auroc",
    "auroc_interval",
    "ap",
    "ap_interval",
    "pixel_ap",
    "pixel_ap_interval",
    "pixel_auroc",
    "pixel_auroc_interval",
    "oracle_dice",
    "oracle_dice_interval",
    "rate_nats",
    "reconstruction_error",
    "baselines",
)

Record = dict[str, Any]


def find_evaluation(
    directory: pathlib.Path, config: ml_collections.ConfigDict
) -> dict[str, Any] | None:
    """The closing evaluation of a run, or None where it is not finished.

    Args:
      directory: the workdir, which need not exist.
      config: the resolved configuration that it belongs to.

    Returns:
      What `eval/<split>/metrics.json` holds.
    """
    history = _read_history(directory)
    # The last line is of the closing evaluation, which trains nothing; a run
    # that is to be longer than it was is not finished.
    if (
        not history
        or "train/loss" in history[-1]
        or history[-1]["epoch"] != config.train.epochs
    ):
        return None
    for path in sorted(directory.glob("eval/*/metrics.json")):
        evaluation = workdir.read_json(path)
        if evaluation["step"] == history[-1]["step"]:
            return evaluation
    return None


def _read_history(directory: pathlib.Path) -> list[dict[str, Any]]:
    path = directory / "metrics.jsonl"
    if not path.is_file():
        return []
    history = []
    for line in path.read_text().splitlines():
        try:
            history.append(json.loads(line))
        except ValueError:
            break  # The line that a killed run did not finish.
    return history


def make_record(
    member: Member, directory: pathlib.Path, evaluation: dict[str, Any]
) -> Record:
    """Sums a finished member up.

    Args:
      member: the member.
      directory: its workdir.
      evaluation: what `find_evaluation` found.

    Returns:
      Its name, overrides, the configuration as far as it decides the result,
      metrics (fractions), rates (nats), diagnostics, the last line of training,
      the median speed, and a note: the member's own, and "saturated" or
      "collapsed" where that is so.
    """
    trained = [r for r in _read_history(directory) if "train/loss" in r]
    speeds = [r.get("train/images_per_second") for r in trained]
    speeds = [speed for speed in speeds if speed is not None]
    last = trained[-1] if trained else {}
    record = {
        "member": member.name,
        "overrides": member.overrides,
        "config": workdir.decisive(member.config),
        "evaluation": {
            key: evaluation[key] for key in _EVALUATION if key in evaluation
        },
        "diagnostics": {
            kind: {
                key: value
                for key, value in found.items()
                if not isinstance(value, list)
            }
            for kind, found in evaluation["diagnostics"].items()
        },
        "train": {k: v for k, v in last.items() if k.startswith("train/")},
        "images_per_second": float(np.median(speeds)) if speeds else None,
        "wall_seconds": last.get("wall_seconds"),
    }
    notes = [note for note in (member.note, _note(record)) if note]
    return record | {"note": ", ".join(notes)}


def _note(record: Record) -> str:
    """What went wrong with the control of the rate, in a word."""
    config, train = record["config"], record["train"]
    rate = train.get("train/rate_nats")
    # A learned estimator is in another table, and has no self term.
    estimator = entropy.ESTIMATORS.get(config["entropy.estimator"])
    if rate is not None and estimator is not None:
        n = config["train.batch_size"]
        if entropy.saturation_warning(
            config["entropy.estimator"],
            estimator.includes_self,
            rate / np.log(n),
            n,
        ):
            return "saturated"
    meter = record["evaluation"]["rate_nats"]
    if meter is not None and meter < _COLLAPSED_NATS:
        return "collapsed"
    return ""


def write_record(folder: pathlib.Path, record: Record) -> None:
    """Writes `<member>.json`."""
    folder.mkdir(parents=True, exist_ok=True)
    workdir.write_json(folder / f"{record['member']}.json", record)


def read_records(folder: pathlib.Path) -> list[Record]:
    """Reads all records of a folder.

    Args:
      folder: `records` of a sweep, or a copy of it.

    Returns:
      The records, by name.

    Raises:
      FileNotFoundError: there are none.
      ValueError: one is damaged or no record.
    """
    paths = sorted(folder.glob("*.json"))
    if not paths:
        raise FileNotFoundError(
            f"{folder} holds no records of a sweep; give the folder `records`"
            " that `aeent sweep` has written."
        )
    records = []
    for path in paths:
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
        records.append(record)
    return records
