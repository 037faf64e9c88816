"""Evaluation: score maps, anomaly scores, metrics, the channel's rate.

Exact: every image of a split is scored once, batches are padded and the padding
is dropped, rank metrics are computed on the host over the whole split. Images
are scored without channel noise. The meter and the diagnostics are those of the
Gaussian channel of the same sigma, also where training had uniform noise.
"""

import csv
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import ml_collections
import numpy as np

from aeent_jax import (
    baselines,
    data,
    entropy,
    figures,
    methods,
    metrics,
    models,
    parallel,
    scoring,
    workdir,
)

_PANEL_IMAGES = 4  # of each label


class Evaluator:
    """Scores splits with a trained network, over all devices."""

    def __init__(
        self,
        mapping: parallel.Parallel,
        method: methods.Method,
        network: models.Autoencoder,
        config: ml_collections.ConfigDict,
    ):
        """Prepares the scoring step; it compiles when first used.

        Args:
          mapping: the devices.
          method: of the configuration.
          network: of the configuration.
          config: the resolved configuration.
        """
        self._config = config
        self._scorer = scoring.Scorer(
            mapping, method, network, config.eval.batch_size
        )
        self.score = self._scorer.score

    def evaluate(
        self,
        variables: models.Variables,
        dataset: data.Dataset,
        step: int,
        directory: pathlib.Path | None = None,
    ) -> dict[str, Any]:
        """Evaluates the test split, or the normals where there is none.

        Args:
          variables: replicated over the devices.
          dataset: with `train`, and `val` or `test` if any.
          step: training steps done, for the record.
          directory: a workdir to write `eval/<split>/` into; None writes
            nothing and leaves intervals and baselines out.

        Returns:
          What `eval/<split>/metrics.json` holds.
        """
        name = next(s for s in ("test", "val", "train") if s in dataset.splits)
        split, train = dataset.splits[name], dataset.splits["train"]
        scored = self.score(variables, split.images)
        trained = scored
        if name != "train":
            trained = self.score(variables, train.images)
        results = {
            "split": name,
            "score": "squared_error",
            "step": step,
            "num_images": len(split.ids),
            "num_normal": int(np.sum(split.labels == data.NORMAL)),
            "num_abnormal": int(np.sum(split.labels == data.ABNORMAL)),
            "images_per_second": scored.images_per_second,
        }
        if results["num_normal"]:
            results["anomaly_score_of_normals"] = _summary(
                scored.anomaly_scores[split.labels == data.NORMAL]
            )
        results |= self._rank_metrics(split, scored, directory is not None)
        results |= self._latent_metrics(name, split, scored, trained)
        if directory is not None:
            # So that runs are paired on the same pixels, not the same names.
            results["images_sha256"] = dataset.image_fingerprint_of(name)
            if metrics.has_both_classes(split.labels):
                results["baselines"] = self._baselines(train, split)
            folder = directory / "eval" / name
            folder.mkdir(parents=True, exist_ok=True)
            # Last, and none before: it stands for a whole evaluation.
            (folder / "metrics.json").unlink(missing_ok=True)
            _write_scores(folder, split, scored)
            self._draw_panel(folder, variables, split, scored)
            workdir.write_json(folder / "metrics.json", results)
        return results

    def _rank_metrics(self, split, scored, with_intervals):
        if not metrics.has_both_classes(split.labels):
            return {}
        scores, labels = scored.anomaly_scores, split.labels
        found = metrics.image_metrics(scores, labels)
        maps = masks = None
        if split.masks is not None and metrics.has_both_classes(split.masks):
            maps, masks = scored.score_maps, split.masks
            found |= metrics.pixel_metrics(maps, masks)
        if with_intervals:
            found |= _intervals(
                metrics.bootstrap(
                    scores,
                    labels,
                    maps,
                    masks,
                    num_resamples=self._config.eval.num_resamples,
                )
            )
        return found

    def _latent_metrics(self, name, split, scored, trained):
        """Rate and reconstruction error of each kind of image."""
        groups = {"train_normal": (trained.z, trained.reconstruction_error)}
        if name != "train":
            for kind, label in (
                (f"{name}_normal", data.NORMAL),
                (f"{name}_abnormal", data.ABNORMAL),
            ):
                chosen = split.labels == label
                if chosen.any():
                    groups[kind] = (
                        scored.z[chosen],
                        scored.reconstruction_error[chosen],
                    )
        sigma = self._config.channel.sigma
        limit = self._config.eval.diagnostic_latents
        # The bracket depends on the number of latents: the same everywhere.
        n = min([limit, *(len(z) for z, _ in groups.values())])
        latents = {kind: _subset(z, n) for kind, (z, _) in groups.items()}
        return {
            "rate_nats": _meter(trained.z, sigma),
            "reconstruction_error": {
                kind: float(errors.mean(dtype=np.float64))
                for kind, (_, errors) in groups.items()
            },
            "diagnostics": {
                kind: _diagnostics(z, sigma) for kind, z in latents.items()
            },
        }

    def _baselines(self, train, split):
        wanted = self._config.model.latent_dim
        found = baselines.scores(
            train.images, split.images, num_components=wanted
        )
        table = {}
        for name, scores in found.items():
            table[name] = metrics.image_metrics(scores, split.labels)
            table[name] |= _intervals(
                metrics.bootstrap(
                    scores,
                    split.labels,
                    num_resamples=self._config.eval.num_resamples,
                )
            )
        used = baselines.usable_components(train.images, wanted)
        table["pca"]["num_components"] = used
        return table

    def _draw_panel(self, folder, variables, split, scored):
        """Draws a few images of each label, the same ones in every run."""
        order = np.random.default_rng(0).permutation(len(split.ids))
        chosen = np.concatenate(
            [
                order[split.labels[order] == label][:_PANEL_IMAGES]
                for label in (data.NORMAL, data.ABNORMAL)
            ]
        )
        images = split.images[chosen]
        figures.save_panel(
            folder,
            images=images / 255.0,
            reconstructions=self._scorer.reconstruct(variables, images),
            score_maps=scored.score_maps[chosen],
            masks=None if split.masks is None else split.masks[chosen],
            labels=split.labels[chosen],
            ids=[split.ids[i] for i in chosen],
            scores=scored.anomaly_scores[chosen],
        )


def _subset(z: np.ndarray, n: int) -> np.ndarray:
    """A fixed random choice of `n` rows."""
    return z[np.random.default_rng(0).permutation(len(z))[:n]]


def _meter(z: np.ndarray, sigma: float) -> float | None:
    """The one meter of every axis in nats: the coding rate of all latents.

    Needs 1000 latents, or all there are; None where the rate is infinite. The
    latent of a single image tells nothing.
    """
    if sigma == 0:
        return None
    if len(z) < 2:
        return 0.0
    return float(entropy.coding_rate(z, sigma=sigma).value)


def _diagnostics(z: np.ndarray, sigma: float) -> dict[str, Any]:
    """`entropy.channel_diagnostics` with the noise of a fixed key."""
    if sigma == 0 or len(z) < 2:
        return {"num_latents": len(z), "variance": z.var(axis=0).tolist()}
    found = entropy.channel_diagnostics(z, jax.random.key(0), sigma)
    return {"num_latents": len(z)} | {
        key: np.asarray(value).tolist() for key, value in found.items()
    }


def _intervals(found: Mapping[str, metrics.Interval]) -> dict[str, list[float]]:
    return {f"{name}_interval": list(pair) for name, pair in found.items()}


def _summary(scores: np.ndarray) -> dict[str, float]:
    """Mean, spread and quantiles of the normals' scores: for thresholds."""
    return {
        "mean": float(scores.mean()),
        "sd": float(scores.std()),
        "median": float(np.median(scores)),
        "quantile_95": float(np.quantile(scores, 0.95)),
        "quantile_99": float(np.quantile(scores, 0.99)),
    }


def _write_scores(folder, split, scored):
    path = folder / "scores.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "label", "anomaly_score"])
        for row in zip(
            split.ids,
            split.labels.tolist(),
            map(repr, scored.anomaly_scores.tolist()),
            strict=True,
        ):
            writer.writerow(row)
    arrays = {"score_maps": scored.score_maps, "ids": np.array(split.ids)}
    if split.masks is not None:
        arrays["masks"] = split.masks
    np.savez_compressed(folder / "score_maps.npz", **arrays)


def flat_metrics(results: Mapping[str, Any]) -> dict[str, float | None]:
    """Numbers of an evaluation under flat keys, for metrics.jsonl.

    Args:
      results: as `Evaluator.evaluate` returns.

    Returns:
      `eval/<split>/auroc` and so on, `eval/rate_nats`, and for each kind of
      image its reconstruction error and diagnostics.
    """
    split = results["split"]
    flat: dict[str, float | None] = {"eval/rate_nats": results["rate_nats"]}
    for name in (
        "auroc",
        "ap",
        "pixel_ap",
        "pixel_auroc",
        "oracle_dice",
        "images_per_second",
    ):
        if name in results:
            flat[f"eval/{split}/{name}"] = results[name]
    for kind, error in results["reconstruction_error"].items():
        flat[f"eval/{kind}/reconstruction_error"] = error
    for kind, diagnostics in results["diagnostics"].items():
        for name, value in diagnostics.items():
            if not isinstance(value, list):
                flat[f"eval/{kind}/{name}"] = value
    return flat


def describe(results: Mapping[str, Any]) -> str:
    """A few lines for a person: counts, then each metric in percent."""
    lines = [
        f"{results['split']}: {results['num_normal']} normal and"
        f" {results['num_abnormal']} abnormal images, step {results['step']}"
    ]
    for name in ("auroc", "ap", "pixel_ap", "pixel_auroc", "oracle_dice"):
        if name in results:
            text = f"  {name:<12} {100 * results[name]:5.1f} %"
            if f"{name}_interval" in results:
                low, high = results[f"{name}_interval"]
                text += f"  ({100 * low:.1f} to {100 * high:.1f})"
            lines.append(text)
    if "auroc" not in results:
        lines.append("  no rank metrics: they need normal and abnormal images")
    rate = results["rate_nats"]
    shown = "infinite (no channel)" if rate is None else f"{rate:.2f} nats"
    lines.append(f"  {'rate':<12} {shown}")
    for kind, error in results["reconstruction_error"].items():
        lines.append(f"  {kind:<14} reconstruction error {error:.5f}")
    return "\n".join(lines)
