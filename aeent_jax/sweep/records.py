"""Records of finished members: a few KB each; tables are made of them.

A record holds no path and no time of day, so it can be kept in a repository.
"""

import pathlib
from typing import Any

import ml_collections
import numpy as np

from aeent_jax import config as config_lib
from aeent_jax import entropy
from aeent_jax.results import runs
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
    "held_out",
    "baselines",
)


def find_finished(
    directory: pathlib.Path, config: ml_collections.ConfigDict
) -> runs.Run | None:
    """The run of a workdir, or None where it is not finished.

    Args:
      directory: the workdir, which need not exist.
      config: the resolved configuration that it belongs to.

    Returns:
      The run with its closing evaluation.

    Raises:
      ValueError: a file in it is damaged.
    """
    if not (directory / "config.json").is_file():
        return None
    (run,) = runs.read([directory])
    last = run.metrics[-1] if run.metrics else {}
    # The last line is of the closing evaluation, which trains nothing; a run
    # that is to be longer than it was is not finished.
    is_finished = (
        "train/loss" not in last
        and last.get("epoch") == config.train.epochs
        and run.evaluation.get("step") == last["step"]
    )
    return run if is_finished else None


def make_record(member: Member, run: runs.Run) -> dict[str, Any]:
    """Sums a finished member up, for `runs.from_record`.

    Args:
      member: the member.
      run: its finished run.

    Returns:
      Its name, overrides, the configuration as far as it decides the result,
      metrics (fractions), rates (nats), diagnostics, the last line of training,
      the median speed, and a note: the member's own, and "saturated" or
      "collapsed" where that is so.
    """
    trained = [line for line in run.metrics if "train/loss" in line]
    notes = [note for note in (member.note, _note(member.config, run)) if note]
    return {
        "member": member.name,
        "overrides": member.overrides,
        "config": config_lib.decisive(member.config),
        "evaluation": {
            key: run.evaluation[key]
            for key in _EVALUATION
            if key in run.evaluation
        },
        "diagnostics": {
            kind: {
                key: value
                for key, value in diagnostics.items()
                if not isinstance(value, list)
            }
            for kind, diagnostics in run.evaluation["diagnostics"].items()
        },
        "train": run.trained,
        "images_per_second": run.images_per_second,
        "wall_seconds": trained[-1]["wall_seconds"] if trained else None,
        "note": ", ".join(notes),
    }


def _note(config: ml_collections.ConfigDict, run: runs.Run) -> str:
    """A word for what went wrong with the control of the rate, or ""."""
    rate = run.trained.get("train/rate_nats")
    estimator = entropy.ESTIMATORS.get(config.entropy.estimator)
    if rate is not None and estimator is not None:
        n = config.train.batch_size
        if entropy.saturation_warning(
            config.entropy.estimator,
            estimator.includes_self,
            rate / np.log(n),
            n,
        ):
            return "saturated"
    meter = run.evaluation["rate_nats"]
    if meter is not None and meter < _COLLAPSED_NATS:
        return "collapsed"
    return ""


def write_record(folder: pathlib.Path, record: dict[str, Any]) -> None:
    """Writes `<member>.json`."""
    folder.mkdir(parents=True, exist_ok=True)
    workdir.write_json(folder / f"{record['member']}.json", record)
