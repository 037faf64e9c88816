"""Made records of sweeps over the latent size."""

import csv
import json

import numpy as np

from aeent_jax import config as config_lib
from aeent_jax.evaluation import metrics
from aeent_jax.results import runs

EPOCHS = {"rsna": 250, "brain_mri": 200}


def run(**settings):
    """The run of a record, as `read_records` returns it."""
    return runs.from_record(record(**settings))


def record(
    *,
    size=4,
    seed=0,
    auroc=0.7,
    ap=0.7,
    data="kermany_cxr",
    method="ae",
    controlled=False,
    error=0.01,
    note="",
):
    """What `make_record` returns for a member of a table.

    Args:
      size: latent size; the error falls with it.
      seed: of the member; the errors grow with it by 1e-3.
      auroc: a fraction, as ap.
      ap: average precision.
      data: name of the data set.
      method: name of the method.
      controlled: whether under `coding_rate`, at 12 nats.
      error: of the training normals at size 1, without the seed's part.
      note: of the member.
    """
    variant = "controlled" if controlled else "plain"
    config = config_lib.apply_variant(config_lib.default(), variant)
    config.update_from_flattened_dict(
        {
            "data.name": data,
            "method": method,
            "model.latent_dim": size,
            "train.seed": seed,
            "train.epochs": EPOCHS.get(data, 100),
            "entropy.controller": "fixed",
        }
    )
    trained = error / size + 1e-3 * seed
    return {
        "member": f"{'ours' if controlled else f'{method}{size}'}_s{seed}",
        "overrides": {},
        "config": config_lib.decisive(json.loads(config.to_json())),
        "evaluation": {
            "split": "test",
            **_metrics(auroc, ap),
            "rate_nats": 12.0 if controlled else None,
            "reconstruction_error": {
                "train_normal": trained,
                "test_normal": trained + 0.002,
                "test_abnormal": trained + 0.005,
            },
            "baselines": {
                "mean_intensity": _metrics(0.40, 0.41),
                "mean_image": _metrics(0.55, 0.56),
                "pca": _metrics(0.6 + size / 1000, 0.6)
                | {"num_components": size},
            },
        },
        "diagnostics": {"train_normal": {}},
        "train": {"train/loss": 0.5},
        "images_per_second": 500.0,
        "wall_seconds": 60.0,
        "note": note,
    }


def _metrics(auroc, ap):
    return {
        "auroc": auroc,
        "auroc_interval": [auroc - 0.05, auroc + 0.04],
        "ap": ap,
        "ap_interval": [ap - 0.05, ap + 0.04],
    }


LABELS = np.arange(40) % 2


def _nested(flat):
    tree = {}
    for key, value in flat.items():
        *parents, name = key.split(".")
        place = tree
        for parent in parents:
            place = place.setdefault(parent, {})
        place[name] = value
    return tree


def write_workdir(place, one, *, images="image", shift=0.0):
    """Writes what a member leaves, and its AUROC into the record."""
    config, name = one["config"], one["member"]
    rng = np.random.default_rng(config["train.seed"])
    gap = shift + (1.0 if config["entropy.weight"] else 0.3)
    scores = rng.normal(size=len(LABELS)) + gap * LABELS
    found = metrics.image_metrics(scores, LABELS)
    one["evaluation"] |= found
    folder = place / name / "eval/test"
    folder.mkdir(parents=True)
    (place / name / "config.json").write_text(json.dumps(_nested(config)))
    counts = {"num_normal": 20, "num_abnormal": 20}
    (folder / "metrics.json").write_text(json.dumps(found | counts))
    with (folder / "scores.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "label", "anomaly_score"])
        for i, label in enumerate(LABELS):
            writer.writerow([f"{images}{i}", label, scores[i]])
    return scores
