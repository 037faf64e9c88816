"""Evaluation: score maps, anomaly scores, metrics, the channel's rate.

    on all devices, padded batches          on the host, float64

    test images  -> z, map, score, error -> AUROC, AP, pixel metrics, intervals
                          |                 (whole split at once: ranks)
                          v
    train images -> z, score, error -----> rate of the channel, diagnostics and
                          |                 error by kind of image
                          v
              part of the score that needs the training latents, added

Exact: every image of a split is scored once, and the padding is dropped before
anything else is computed. Images are scored without channel noise. Rate and
diagnostics are those of the Gaussian channel of the same sigma, even where
training had uniform noise.

Images in files are scored a batch at a time. The evaluator keeps the latent and
the score of each image and, where the split has masks, its map and its mask:
pixel metrics need all of them, five bytes per pixel.
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
    conformal,
    files,
    metrics,
    rates,
    score_sums,
    scoring,
    shortcuts,
)
from aeent_jax.runtime import parallel

# The evaluator takes the first of these splits that exists.
_EVALUATED = ("test", "val", "calibration", "train")
_PANEL_IMAGES = 4  # of each label

# Side in pixels of the box that smooths residuals of held-out normals: means
# over boxes that do not overlap are about independent.
_SMOOTHED = 5

_LOGGED = (
    "auroc",
    "ap",
    "pixel_ap",
    "pixel_auroc",
    "oracle_dice",
    "images_per_second",
)

# Baselines are fitted to so many images where these are not all in memory.
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
          method: network and score of the configuration.
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
        # Whether the score needs the latents of the training normals.
        self.needs_latents = score_sums.needs_latents(self._terms)
        self._smoothed = scoring.Scorer(
            mapping,
            method,
            config.eval.batch_size,
            score=methods.get_score(f"smoothed_box{_SMOOTHED}"),
        )

    def evaluate(
        self,
        variables: models.Variables,
        dataset: data.Dataset,
        step: int,
        directory: pathlib.Path | None = None,
        *,
        subfolder: str = "",
        has_baselines: bool = True,
    ) -> dict[str, Any]:
        """Evaluates the test split, or the normals where there is none.

        Args:
          variables: replicated over the devices.
          dataset: with `train`, and `val` or `test` if any.
          step: training steps done, for the record.
          directory: a workdir to write `eval/<split>/` into; None writes
            nothing and leaves intervals and baselines out.
          subfolder: of `eval/<split>` to write into instead.
          has_baselines: whether the score is the run's own, which the baselines
            are scored by too.

        Returns:
          The content of `eval/<split>/metrics.json`.
        """
        name = next(s for s in _EVALUATED if s in dataset.splits)
        split, train = dataset.splits[name], dataset.splits["train"]
        needs_maps = not split.is_stored or split.masks is not None
        scored = self.score(variables, split.images, keep_maps=needs_maps)
        trained = scored
        if name != "train":
            trained = self.score(variables, train.images, keep_maps=False)
        scored = self.add_latent_terms(scored, trained.z, own=scored is trained)
        verdicts = self._verdicts(variables, dataset, scored, trained)
        held_out = self._held_out(variables, dataset)
        chosen, maps = _chosen_for_panel(split), scored.score_maps
        if directory is not None:
            # The last calls of the devices, in which all processes take part.
            # From here on, the first process alone works on and writes.
            shown = self.score(
                variables, split.images[chosen], keep_reconstructions=True
            )
            if maps is not None:
                maps = maps[chosen]
            elif split.is_stored:
                maps = shown.score_maps
            if jax.process_index() > 0:
                directory = None
        resamples = self._config.eval.num_resamples if directory else 0
        results = {
            "split": name,
            "score": self._score,
            "has_score_map": maps is not None,
            "step": step,
            **_counts(split, scored),
            **({"left_out": dataset.left_out} if dataset.left_out else {}),
            "images_per_second": scored.images_per_second,
            **self._rank_metrics(split, scored, resamples),
            **rates.measure(name, split, scored, trained, self._config),
            **verdicts,
            **held_out,
        }
        if directory is not None:
            # So that runs are paired on the same pixels, not the same names.
            results["images_sha256"] = dataset.image_fingerprint_of(name)
            if has_baselines and metrics.has_both_classes(split.labels):
                results["baselines"] = self._baselines(train, split)
            files.write(
                directory / "eval" / name / subfolder,
                results,
                split,
                scored,
                files.Shown(chosen, (shown.reconstructions + 1) / 2, maps),
            )
        return results

    def add_latent_terms(
        self,
        scored: scoring.Scored,
        samples: np.ndarray | None,
        *,
        own: bool = False,
    ) -> scoring.Scored:
        """Adds the part of the score that needs the training normals.

        Args:
          scored: the part of the score that needs one image alone.
          samples: latents of the training normals, `[n, D]`; not used where
            the score has no such part.
          own: whether the scored images are the training normals, which then
            leave themselves out.

        Returns:
          The whole scores, without maps where a part was added.
        """
        if not self.needs_latents:
            return scored
        added = score_sums.of_latents(
            self._terms,
            scored.z,
            samples,
            self._config.channel.sigma,
            own=own,
        )
        return dataclasses.replace(
            scored,
            score_maps=None,
            anomaly_scores=scored.anomaly_scores + added,
        )

    def _rank_metrics(self, split, scored, num_resamples):
        if not metrics.has_both_classes(split.labels):
            return {}
        maps, masks = scored.score_maps, split.masks
        if maps is None or masks is None or not metrics.has_both_classes(masks):
            maps = masks = None
        return metrics.measure(
            scored.anomaly_scores,
            split.labels,
            maps,
            masks,
            num_resamples=num_resamples,
        )

    def _verdicts(self, variables, dataset, scored, trained):
        """False alarms and sensitivity, where normals were held out."""
        held_out = dataset.splits.get("calibration")
        if held_out is None or "test" not in dataset.splits:
            return {}
        found = self.score(variables, held_out.images, keep_maps=False)
        calibration = self.add_latent_terms(found, trained.z)
        return {
            "verdicts": conformal.measure(
                scored.anomaly_scores,
                dataset.splits["test"].labels,
                calibration.anomaly_scores,
            )
        }

    def _held_out(self, variables, dataset):
        """Errors by which networks are chosen without labels."""
        if "val" not in dataset.splits:
            return {}
        images = {
            name: dataset.splits[name].images for name in ("train", "val")
        }
        found = {
            name: self._smoothed.score(variables, own, keep_maps=False)
            for name, own in images.items()
        }
        pixels = int(np.prod(images["val"].shape[1:]))
        return {
            "held_out": {
                "num_images": len(images["val"]),
                "reconstruction_error": float(
                    found["val"].reconstruction_error.mean(dtype=np.float64)
                ),
                "smoothed_error": {
                    name: float(one.anomaly_scores.mean())
                    for name, one in found.items()
                },
                "num_values": pixels / _SMOOTHED**2,
            }
        }

    def _baselines(self, train, split):
        wanted, fitted = self._config.model.latent_dim, train.images
        if train.is_stored:
            order = np.random.default_rng(0).permutation(len(train))
            fitted = fitted[np.sort(order[:_BASELINE_IMAGES])]
        scores = baselines.scores(fitted, split.images, num_components=wanted)
        table = {
            name: metrics.measure(
                values,
                split.labels,
                num_resamples=self._config.eval.num_resamples,
            )
            for name, values in scores.items()
        }
        used = baselines.usable_components(fitted, wanted)
        table["pca"]["num_components"] = used
        if len(fitted) < len(train):
            for name in ("nearest_image", "mean_image", "pca"):
                table[name]["num_training_images"] = len(fitted)
        return table | {
            "shortcut": shortcuts.find_largest(
                shortcuts.measure(split), split.labels
            )
        }


def _chosen_for_panel(split: data.Split) -> np.ndarray:
    """The places of a few images of each label, the same ones in every run."""
    order = np.random.default_rng(0).permutation(len(split.ids))
    return np.concatenate(
        [
            order[split.labels[order] == label][:_PANEL_IMAGES]
            for label in (data.NORMAL, data.ABNORMAL)
        ]
    )


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


def _counts(split: data.Split, scored: scoring.Scored) -> dict[str, Any]:
    """Numbers of images, and a summary of the normals' scores."""
    normal = split.labels == data.NORMAL
    counts = {
        "num_images": len(split.ids),
        "num_normal": int(np.sum(normal)),
        "num_abnormal": int(np.sum(split.labels == data.ABNORMAL)),
    }
    if not normal.any():
        return counts
    scores = scored.anomaly_scores[normal]
    return counts | {
        "anomaly_score_of_normals": {
            "mean": float(scores.mean()),
            "sd": float(scores.std()),
            "median": float(np.median(scores)),
        }
    }
