"""Rank metrics of anomaly scores, on the host.

Plain numpy, float64, no jax. A metric is computed from counts of abnormal and
normal examples per distinct score, from the highest score down, which takes
one sort and treats ties as scikit-learn does. All metrics are fractions.
"""

import numpy as np


def has_both_classes(labels: np.ndarray) -> bool:
    """Whether rank metrics are defined: some labels are 0 and some are 1.

    Ask before `image_metrics` (with labels) and `pixel_metrics` (with masks):
    both raise on one class only, as a run without abnormal images has.

    Args:
      labels: `[N]` labels, or masks of any shape; 0 normal, 1 abnormal.

    Returns:
      True if both classes are present.
    """
    positives = np.count_nonzero(labels)
    return bool(0 < positives < np.size(labels))


def image_metrics(scores: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Area under the ROC curve and average precision over images.

    Args:
      scores: `[N]` anomaly scores, higher = more anomalous.
      labels: `[N]`, 0 normal, 1 abnormal.

    Returns:
      `auroc` and `ap`, fractions, equal to scikit-learn's.

    Raises:
      ValueError: If scores are not finite, shapes differ, or a class is empty.
    """
    scores, labels = checked_images(scores, labels)
    _, positives, negatives = rank(scores, labels)
    return {
        "auroc": float(auroc(positives, negatives)),
        "ap": float(average_precision(positives, negatives)),
    }


def pixel_metrics(
    score_maps: np.ndarray, masks: np.ndarray
) -> dict[str, float]:
    """Localisation metrics, pooled over all pixels of all images.

    A pixel is predicted abnormal where its score is strictly above the
    threshold. `oracle_dice` is the exact maximum of the pooled Dice over all
    thresholds; the threshold is chosen with the test masks, which no user
    has, hence the name.

    Args:
      score_maps: `[N, H, W]`, higher = more anomalous.
      masks: `[N, H, W]`, non-zero where abnormal.

    Returns:
      `pixel_ap`, `pixel_auroc`, `oracle_dice` (fractions) and
      `oracle_dice_threshold` (in units of the score maps).

    Raises:
      ValueError: If maps are not finite, shapes differ, or a class is empty.
    """
    score_maps, masks = checked_maps(score_maps, masks)
    values, positives, negatives = rank(score_maps.ravel(), masks.ravel())
    overlaps = dice(positives, negatives)
    best = int(np.argmax(overlaps))
    # Strictly above the next lower score is at or above this one.
    below = np.append(values[1:], np.nextafter(values[-1], -np.inf))
    return {
        "pixel_ap": float(average_precision(positives, negatives)),
        "pixel_auroc": float(auroc(positives, negatives)),
        "oracle_dice": float(overlaps[best]),
        "oracle_dice_threshold": float(below[best]),
    }


def rank(scores, labels):
    """Abnormal and normal counts per distinct score, from the highest down."""
    order = np.argsort(scores)[::-1]
    ranked = scores[order]
    starts = np.flatnonzero(np.append(True, ranked[1:] != ranked[:-1]))
    positives = np.add.reduceat(labels[order].astype(np.float64), starts)
    sizes = np.diff(np.append(starts, len(ranked)))
    return ranked[starts], positives, sizes - positives


def auroc(positives, negatives):
    """AUROC of counts `[..., thresholds]`; ties count one half."""
    above = np.cumsum(positives, axis=-1) - positives / 2
    pairs = positives.sum(-1) * negatives.sum(-1)
    return (negatives * above).sum(-1) / pairs


def average_precision(positives, negatives):
    """Sum over thresholds of precision times the gain in recall."""
    true = np.cumsum(positives, axis=-1)
    # A resample may hold nothing above its first thresholds.
    predicted = np.maximum(true + np.cumsum(negatives, axis=-1), 1)
    return (positives * true / predicted).sum(-1) / positives.sum(-1)


def dice(positives, negatives):
    """Dice of predicting everything down to each threshold."""
    true = np.cumsum(positives, axis=-1)
    predicted = true + np.cumsum(negatives, axis=-1)
    return 2 * true / (predicted + positives.sum(-1, keepdims=True))


def checked_images(scores, labels):
    """Float64 scores and 0/1 labels, or a ValueError that says why not."""
    scores, labels = np.asarray(scores, np.float64), np.asarray(labels)
    if scores.ndim != 1 or scores.shape != labels.shape:
        raise ValueError(
            f"Found scores {scores.shape} and labels {labels.shape}; both "
            "must be [N]."
        )
    _check_finite(scores, "anomaly scores")
    if not np.isin(labels, (0, 1)).all():
        raise ValueError(
            f"Found labels {np.unique(labels).tolist()}; they must be 0 "
            "(normal) or 1 (abnormal)."
        )
    if not has_both_classes(labels):
        raise ValueError(
            f"Found {len(labels)} images of one class only; rank metrics need "
            "normal and abnormal ones: skip them where has_both_classes(labels)"
            " is false."
        )
    return scores, labels.astype(np.int64)


def checked_maps(score_maps, masks, num_images=None):
    """Score maps and boolean masks, or a ValueError that says why not."""
    score_maps, masks = np.asarray(score_maps), np.asarray(masks) != 0
    if score_maps.ndim != 3 or score_maps.shape != masks.shape:
        raise ValueError(
            f"Found score maps {score_maps.shape} and masks {masks.shape}; "
            "both must be [N, H, W]."
        )
    if num_images is not None and len(score_maps) != num_images:
        raise ValueError(
            f"Found {len(score_maps)} score maps and {num_images} images; "
            "pass one map for every image, in the same order."
        )
    _check_finite(score_maps, "score maps")
    if not has_both_classes(masks):
        raise ValueError(
            f"Found {np.count_nonzero(masks)} abnormal of {masks.size} pixels;"
            " pixel metrics need normal and abnormal ones: skip them where "
            "has_both_classes(masks) is false."
        )
    return score_maps, masks


def _check_finite(values, name):
    """Raises where a value is NaN or infinite, with the first such image."""
    bad = ~np.isfinite(values.reshape(len(values), -1)).all(axis=1)
    if bad.any():
        raise ValueError(
            f"Found NaN or infinity in the {name} of {bad.sum()} of {len(bad)}"
            f" images (first: image {int(np.argmax(bad))}); they must be "
            "finite: look for a training run that diverged."
        )
