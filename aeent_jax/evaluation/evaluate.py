"""Evaluation: score maps, anomaly scores, metrics, the channel's rate.

Exact: every image of a split is scored once, batches are padded and the padding
is dropped, rank metrics are computed on the host over the whole split. Images
are scored without channel noise. The meter and the diagnostics are those of the
Gaussian channel of the same sigma, also where training had uniform noise. Of
several processes all score, and the first alone writes, with what only the
files hold.

Images that are in files are scored a batch at a time. What is kept of each is
its latent, its score and, where the split has masks, its map and its mask:
pixel metrics need all of them, five bytes a pixel.
"""

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import ml_collections
import numpy as np

from aeent_jax import data, methods, models
from aeent_jax.evaluation import (
    baselines,
    files,
    metrics,
    rates,
    score_sums,
    scoring,
)
from aeent_jax.runtime import parallel

_PANEL_IMAGES = 4  # of each label

_LOGGED = (
    "auroc",
    "ap",
    "pixel_ap",
    "pixel_auroc",
    "oracle_dice",
    "images_per_second",
)

# That baselines are fitted to where the training images are not in memory.
_BASELINE_IMAGES = 4096


class Evaluator:
    """Scores splits with a trained network, over all devices."""

    def __init__(
        self,
        mapping: parallel.Parallel,
        method: methods.Method,
        config: ml_collections.ConfigDict,
    ):
        """Prepares the scoring step; it compiles when first used.

        Args:
          mapping: the devices.
          method: of the configuration.
          config: the resolved configuration.
        """
        self._config = config
        self._score = config.eval.score or method.score
        self._terms = score_sums.parse(self._score, config, method)
        self._scorer = scoring.Scorer(
            mapping,
            method,
            config.eval.batch_size,
            score=score_sums.of_images(self._terms),
        )
        self.score = self._scorer.score

    def evaluate(
        self,
        variables: models.Variables,
        dataset: data.Dataset,
        step: int,
        directory: pathlib.Path | None = None,
        *,
        subfolder: str = "",
    ) -> dict[str, Any]:
        """Evaluates the test split, or the normals where there is none.

        Args:
          variables: replicated over the devices.
          dataset: with `train`, and `val` or `test` if any.
          step: training steps done, for the record.
          directory: a workdir to write `eval/<split>/` into; None writes
            nothing and leaves intervals and baselines out.
          subfolder: of `eval/<split>` to write into instead, without baselines:
            for another score than the run's own.

        Returns:
          What `eval/<split>/metrics.json` holds.
        """
        name = next(s for s in ("test", "val", "train") if s in dataset.splits)
        split, train = dataset.splits[name], dataset.splits["train"]
        needs_maps = not split.is_stored or split.masks is not None
        scored = self.score(variables, split.images, keep_maps=needs_maps)
        trained = scored
        if name != "train":
            trained = self.score(variables, train.images, keep_maps=False)
        scored = self._with_latents(scored, trained)
        chosen, maps = _chosen_for_panel(split), scored.score_maps
        if directory is not None:
            # Here, since all processes must take part.
            shown = self._scorer.reconstruct(variables, split.images[chosen])
            maps = self._maps(variables, split, scored, chosen)
            if jax.process_index() > 0:
                directory = None
        results = {
            "split": name,
            "score": self._score,
            "has_score_map": maps is not None,
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
            if metrics.has_both_classes(split.labels) and not subfolder:
                results["baselines"] = self._baselines(train, split)
            files.write(
                directory / "eval" / name / subfolder,
                results,
                split,
                scored,
                files.Shown(chosen, shown, maps),
            )
        return results

    def _with_latents(self, scored, trained):
        """Adds the part of the score that needs the training normals."""
        if not score_sums.needs_latents(self._terms):
            return scored
        added = score_sums.of_latents(
            self._terms,
            scored.z,
            trained.z,
            self._config.channel.sigma,
            own=scored is trained,
        )
        return dataclasses.replace(
            scored,
            score_maps=None,
            anomaly_scores=scored.anomaly_scores + added,
        )

    def _rank_metrics(self, split, scored, with_intervals):
        if not metrics.has_both_classes(split.labels):
            return {}
        scores, labels = scored.anomaly_scores, split.labels
        found = metrics.image_metrics(scores, labels)
        maps = masks = None
        if (
            split.masks is not None
            and scored.score_maps is not None
            and metrics.has_both_classes(split.masks)
        ):
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
        kinds = {"train_normal": (trained, slice(None))}
        if name != "train":
            for kind, label in (
                (f"{name}_normal", data.NORMAL),
                (f"{name}_abnormal", data.ABNORMAL),
            ):
                chosen = split.labels == label
                if chosen.any():
                    kinds[kind] = (scored, chosen)
        found = {
            "rate_nats": None,
            "reconstruction_error": {
                kind: float(
                    of.reconstruction_error[rows].mean(dtype=np.float64)
                )
                for kind, (of, rows) in kinds.items()
            },
            "diagnostics": {},
        }
        if trained.z is None:
            return found
        sigma = self._config.channel.sigma
        latents = {kind: of.z[rows] for kind, (of, rows) in kinds.items()}
        # The bracket depends on the number of latents: the same everywhere.
        n = min(
            [self._config.eval.diagnostic_latents, *map(len, latents.values())]
        )
        return found | {
            "rate_nats": _meter(trained.z, sigma),
            "diagnostics": {
                kind: _diagnostics(_subset(z, n), sigma)
                for kind, z in latents.items()
            },
        }

    def _baselines(self, train, split):
        wanted, fitted = self._config.model.latent_dim, train.images
        if train.is_stored:
            order = np.random.default_rng(0).permutation(len(train))
            fitted = fitted[np.sort(order[:_BASELINE_IMAGES])]
        found = baselines.scores(fitted, split.images, num_components=wanted)
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
        used = baselines.usable_components(fitted, wanted)
        table["pca"]["num_components"] = used
        if len(fitted) < len(train):
            for name in ("mean_image", "pca"):
                table[name]["num_training_images"] = len(fitted)
        return table

    def _maps(self, variables, split, scored, chosen):
        """Score maps of the chosen images; None where the score has none."""
        if scored.score_maps is not None:
            return scored.score_maps[chosen]
        if split.is_stored:
            return self.score(variables, split.images[chosen]).score_maps
        return None


def _chosen_for_panel(split: data.Split) -> np.ndarray:
    """The places of a few images of each label, the same ones in every run."""
    order = np.random.default_rng(0).permutation(len(split.ids))
    return np.concatenate(
        [
            order[split.labels[order] == label][:_PANEL_IMAGES]
            for label in (data.NORMAL, data.ABNORMAL)
        ]
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
    return rates.coding_rate(z, sigma)


def _diagnostics(z: np.ndarray, sigma: float) -> dict[str, Any]:
    """`entropy.channel_diagnostics` with the noise of a fixed key."""
    if sigma == 0 or len(z) < 2:
        return {"num_latents": len(z), "variance": z.var(axis=0).tolist()}
    found = rates.diagnostics(z, sigma)
    return {"num_latents": len(z)} | jax.tree.map(np.ndarray.tolist, found)


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
    for name in _LOGGED:
        if name in results:
            flat[f"eval/{split}/{name}"] = results[name]
    for kind, error in results["reconstruction_error"].items():
        flat[f"eval/{kind}/reconstruction_error"] = error
    for kind, diagnostics in results["diagnostics"].items():
        for name, value in diagnostics.items():
            if not isinstance(value, list):
                flat[f"eval/{kind}/{name}"] = value
    return flat


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
