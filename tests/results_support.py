"""Made workdirs of finished runs, as training and evaluation leave them."""

import json

import numpy as np

from aeent_jax import figures
from aeent_jax.evaluation import metrics

COUNT = 40


def write_run(
    folder,
    *,
    seed=0,
    gain=0.5,
    rate=9.9,
    abnormal=True,
    masks=True,
    ids="test",
    evaluated=True,
    baselines=True,
    split="test",
):
    """Writes a workdir; a larger gain separates the images more."""
    out = folder / "eval" / split
    out.mkdir(parents=True)
    config = {
        "data": {"name": "phantom_cxr", "root": folder.name},
        "channel": {"sigma": 0.0 if rate is None else 1.0},
        "train": {"seed": 0, "epochs": 3},
    }
    (folder / "config.json").write_text(json.dumps(config))
    lines = [
        {
            "step": step,
            "epoch": step / 10,
            "wall_seconds": float(step),
            "train/reconstruction_loss": 1 / step,
            "train/rate_nats": rate,
            "train/images_per_second": 400.0 + step,
        }
        for step in (10, 20, 30)
    ]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (folder / "metrics.jsonl").write_text(text)
    if not evaluated:
        return str(folder)
    labels, lesions, maps = _scored(seed, gain, abnormal)
    scores = maps.mean(axis=(1, 2), dtype=np.float64)
    names = [f"{ids}/{i:03d}" for i in range(COUNT)]
    rows = zip(names, labels.tolist(), scores.tolist(), strict=True)
    (out / "scores.csv").write_text(
        "id,label,anomaly_score\n"
        + "".join(f"{name},{label},{score!r}\n" for name, label, score in rows)
    )
    arrays = {"score_maps": maps, "ids": np.array(names)}
    if masks and abnormal:
        arrays["masks"] = lesions
    np.savez_compressed(out / "score_maps.npz", **arrays)
    rng = np.random.default_rng(seed)
    figures.save_panel(
        out,
        images=rng.random((2, 8, 8, 1)),
        reconstructions=rng.random((2, 8, 8, 1)),
        score_maps=maps[:2],
        masks=arrays["masks"][:2] if "masks" in arrays else None,
        labels=labels[:2],
        ids=names[:2],
        scores=scores[:2],
    )
    results = _results(labels, scores, maps, arrays.get("masks"), rate)
    if abnormal and baselines:
        results["baselines"] = {
            "mean_intensity": _entry(labels, -scores),
            "pca": _entry(labels, scores / 2) | {"num_components": 16},
        }
    (out / "metrics.json").write_text(json.dumps(results | {"split": split}))
    return str(folder)


def change_json(path, **values):
    """Sets keys of a JSON file."""
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def _scored(seed, gain, abnormal):
    """Labels, masks and score maps."""
    rng = np.random.default_rng(seed)
    labels = np.arange(COUNT) % 2 if abnormal else np.zeros(COUNT, int)
    masks = np.zeros((COUNT, 8, 8), bool)
    masks[labels == 1, 2:5, 2:5] = True
    maps = rng.random(masks.shape) + gain * masks
    return labels, masks, maps.astype(np.float32)


def _entry(labels, scores, maps=None, masks=None):
    """Metrics with intervals, as evaluation writes them."""
    found = metrics.image_metrics(scores, labels)
    if masks is not None:
        found |= metrics.pixel_metrics(maps, masks)
    intervals = metrics.bootstrap(
        scores,
        labels,
        None if masks is None else maps,
        masks,
        num_resamples=20,
    )
    return found | {f"{k}_interval": list(v) for k, v in intervals.items()}


def _results(labels, scores, maps, masks, rate):
    groups = ["train_normal", "test_normal"]
    groups += ["test_abnormal"] if labels.any() else []
    diagnostics = {"num_latents": 20, "variance": [1.0, 2.0]}
    if rate is not None:
        diagnostics |= {"coding_rate": rate, "rate_up": 11.5, "rho": 6.0}
    results = {
        "score": "squared_error",
        "step": 30,
        "num_images": COUNT,
        "num_normal": int((labels == 0).sum()),
        "num_abnormal": int(labels.sum()),
        "rate_nats": rate,
        "reconstruction_error": {g: 0.01 for g in groups},
        "diagnostics": dict.fromkeys(groups, diagnostics),
    }
    if labels.any():
        results |= _entry(labels, scores, maps, masks)
    return results
