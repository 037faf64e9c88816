"""Rank metrics of anomaly scores and their intervals, on the host.

Plain numpy in float64, no jax. A metric is computed from counts of abnormal and
normal examples per distinct score, from the highest score down, which takes one
sort and treats ties as scikit-learn does. All metrics are fractions.

Intervals are 95 % percentile intervals over resampled *images*, drawn with
replacement within the normal and within the abnormal ones. They answer "what
if the test set had held other images?"; the noise between training seeds is not
in them. Two corrections are made, both extend an interval:

- The value itself is always inside. Average precision is biased upwards under
  resampling: an image that is drawn twice ties with itself, and the precision
  of a tie is that at its end. The mean over resamples was above the value by
  .03 with 5 abnormal and 10 normal images and by .01 with 50 of each; for a
  ranking that is nearly reversed hardly any resample is as low as the value.
  Bins move pixel metrics by up to .004.
- The interval of AUROC holds Newcombe's score interval as well
  (`score_interval`). Resampling few images that are nearly in order gives next
  to no width, and none for a perfect order; the score interval takes the spread
  of the scores from a formula, which can be wrong. Both together are right more
  often than either. Measured on 150 to 400 simulated test sets per case (AUROC
  .7 to .98; 5 + 5 to 200 + 200 images; equal and unequal spread, mixtures, five
  grades), the true value was inside the resampled interval in as few as 33 % of
  the sets with 10 + 10 images, inside the score interval in as few as 81 % with
  160 normal and 40 abnormal images, and inside both together in at least 90 %.

Other metrics have no interval where all resamples agree, such as average
precision where every abnormal image is above every normal one: the images
cannot tell how sure the value is.
"""

from typing import NamedTuple

import numpy as np

Interval = tuple[float, float]


class Difference(NamedTuple):
    """A paired difference of a metric.

    Attributes:
      value: the difference of the metrics themselves, a fraction.
      interval: its 95 % interval; None where all resamples agree.
    """

    value: float
    interval: Interval | None


_PIXEL_METRICS = ("pixel_ap", "pixel_auroc", "oracle_dice")
_PERCENTILES = (2.5, 97.5)
_DEVIATIONS = 1.959963984540054  # of a normal distribution, for 95 %
# Resamples that differ by less agree: two orders of a float64 sum.
_AGREEMENT = 1e-12
# Quantiles of all and of the lesion pixels bound the bins of the pixel
# bootstrap; finer towards the top, where the precision changes fast.
_QUANTILES = np.concatenate(
    [np.linspace(0, 1, 512), 1 - np.geomspace(1e-6, 1e-2, 128)]
)


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
      ValueError: scores are not finite, shapes differ, or a class is empty.
    """
    scores, labels = _checked_images(scores, labels)
    _, positives, negatives = _rank(scores, labels)
    return {
        "auroc": float(_auroc(positives, negatives)),
        "ap": float(_average_precision(positives, negatives)),
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
      ValueError: maps are not finite, shapes differ, or a class is empty.
    """
    score_maps, masks = _checked_maps(score_maps, masks)
    values, positives, negatives = _rank(score_maps.ravel(), masks.ravel())
    overlaps = _dice(positives, negatives)
    best = int(np.argmax(overlaps))
    # Strictly above the next lower score is at or above this one.
    below = np.append(values[1:], np.nextafter(values[-1], -np.inf))
    return {
        "pixel_ap": float(_average_precision(positives, negatives)),
        "pixel_auroc": float(_auroc(positives, negatives)),
        "oracle_dice": float(overlaps[best]),
        "oracle_dice_threshold": float(below[best]),
    }


def _rank(scores, labels):
    """Abnormal and normal counts per distinct score, from the highest down."""
    order = np.argsort(scores)[::-1]
    ranked = scores[order]
    starts = np.flatnonzero(np.append(True, ranked[1:] != ranked[:-1]))
    positives = np.add.reduceat(labels[order].astype(np.float64), starts)
    sizes = np.diff(np.append(starts, len(ranked)))
    return ranked[starts], positives, sizes - positives


def _auroc(positives, negatives):
    """AUROC of counts `[..., thresholds]`; ties count one half."""
    above = np.cumsum(positives, axis=-1) - positives / 2
    pairs = positives.sum(-1) * negatives.sum(-1)
    return (negatives * above).sum(-1) / pairs


def _average_precision(positives, negatives):
    """Sum over thresholds of precision times the gain in recall."""
    true = np.cumsum(positives, axis=-1)
    # A resample may hold nothing above its first thresholds.
    predicted = np.maximum(true + np.cumsum(negatives, axis=-1), 1)
    return (positives * true / predicted).sum(-1) / positives.sum(-1)


def _dice(positives, negatives):
    """Dice of predicting everything down to each threshold."""
    true = np.cumsum(positives, axis=-1)
    predicted = true + np.cumsum(negatives, axis=-1)
    return 2 * true / (predicted + positives.sum(-1, keepdims=True))


def measure(
    scores: np.ndarray,
    labels: np.ndarray,
    score_maps: np.ndarray | None = None,
    masks: np.ndarray | None = None,
    *,
    num_resamples: int = 0,
) -> dict[str, float | list[float]]:
    """Metrics with their intervals, as files hold them.

    Args:
      scores: `[N]` anomaly scores.
      labels: `[N]`, 0 normal, 1 abnormal.
      score_maps: `[N, H, W]`, or None for the image metrics alone.
      masks: `[N, H, W]`, given with `score_maps`.
      num_resamples: as in `bootstrap`; 0 leaves intervals out.

    Returns:
      What `image_metrics` and `pixel_metrics` return, and under names such as
      `auroc_interval` the two ends of what `bootstrap` returns.

    Raises:
      ValueError: as in `image_metrics` and `pixel_metrics`.
    """
    values: dict[str, float | list[float]] = {**image_metrics(scores, labels)}
    if score_maps is not None and masks is not None:
        values |= pixel_metrics(score_maps, masks)
    if num_resamples:
        intervals = bootstrap(
            scores, labels, score_maps, masks, num_resamples=num_resamples
        )
        values |= {f"{k}_interval": [*pair] for k, pair in intervals.items()}
    return values


def bootstrap(
    scores: np.ndarray,
    labels: np.ndarray,
    score_maps: np.ndarray | None = None,
    masks: np.ndarray | None = None,
    *,
    num_resamples: int = 1000,
    seed: int = 0,
) -> dict[str, Interval]:
    """95 % intervals of the metrics over resampled images.

    Each contains the metric itself, and that of AUROC the score interval too;
    see the top of the module.

    Image metrics are exact in every resample. Pixel metrics are computed from
    one histogram per image, with bins between the 512 quantiles of all pixels
    and the 512 of the lesion pixels, and finer ones at the top: scores in one
    bin count as ties. Against the exact value that moves AUROC by at most
    0.001 times the ratio of all to normal pixels and lowers Dice by at most
    0.004; AP moves by under 0.001 in all cases that the tests try.

    Args:
      scores: `[N]` anomaly scores.
      labels: `[N]`, 0 normal, 1 abnormal.
      score_maps: `[N, H, W]`, or None for the image metrics alone.
      masks: `[N, H, W]`, given with `score_maps`.
      num_resamples: number of resamples.
      seed: seed of the resampling.

    Returns:
      Name of the metric -> (low, high), fractions. Metrics in which all
      resamples agree are left out; AUROC never is.

    Raises:
      ValueError: as in `image_metrics` and `pixel_metrics`.
    """
    scores, labels = _checked_images(scores, labels)
    counts = _resample(labels, num_resamples, seed)
    point = image_metrics(scores, labels)
    samples = _image_samples(scores, labels, counts)
    if score_maps is not None or masks is not None:
        maps, lesions = _checked_maps(score_maps, masks, len(labels))
        point |= pixel_metrics(maps, lesions)
        samples |= _pixel_samples(maps, lesions, counts)
    intervals = {k: _interval(v, point[k]) for k, v in samples.items()}
    abnormal = int(labels.sum())
    wide = score_interval(point["auroc"], len(labels) - abnormal, abnormal)
    low, high = intervals["auroc"] or wide
    intervals["auroc"] = (min(low, wide[0]), max(high, wide[1]))
    return {k: pair for k, pair in intervals.items() if pair is not None}


def score_interval(
    auroc: float,
    num_normal: int,
    num_abnormal: int,
    *,
    deviations: float = _DEVIATIONS,
) -> Interval:
    """Newcombe's score interval of an AUROC, his method 5; at 95 % by default.

    It holds every t with |auroc - t| <= deviations sqrt(V(t)). V is the
    variance of Hanley and McNeil at t, with the mean of the two sizes in place
    of each:

        V(t) = t (1 - t) (1 + k ((1 - t) / (2 - t) + t / (1 + t))) / (m n)
        k = (m + n - 2) / 2

    One normal and one abnormal image in order give 0.21 to 1.

    Args:
      auroc: the AUROC, a fraction.
      num_normal: m, at least 1.
      num_abnormal: n, at least 1.
      deviations: of a normal distribution, 1.96 for 95 %.

    Returns:
      (low, high), fractions.

    Source: Newcombe, Statistics in Medicine 25 (2006), 559-573.
    """
    more = (num_normal + num_abnormal - 2) / 2
    pairs = num_normal * num_abnormal

    def holds(t):
        variance = t * (1 - t) * (1 + more * ((1 - t) / (2 - t) + t / (1 + t)))
        return abs(auroc - t) <= deviations * np.sqrt(variance / pairs)

    ends = []
    for outside in (0.0, 1.0):
        inside = auroc
        for _ in range(60):  # Bisection to the last digit.
            middle = (inside + outside) / 2
            if holds(middle):
                inside = middle
            else:
                outside = middle
        ends.append(inside)
    return ends[0], ends[1]


def paired_bootstrap(
    a: np.ndarray,
    b: np.ndarray,
    labels: np.ndarray,
    *,
    maps_a: np.ndarray | None = None,
    maps_b: np.ndarray | None = None,
    masks: np.ndarray | None = None,
    num_resamples: int = 1000,
    seed: int = 0,
) -> dict[str, Difference]:
    """Differences a - b on the same images, with 95 % percentile intervals.

    Both methods see the same resampled images, so that what is hard about an
    image cancels. With several seeds a method's metric is the mean over its
    seeds, inside each resample; the seeds themselves are not resampled.

    Args:
      a: `[N]`, or `[seeds, N]`: anomaly scores of the first method.
      b: `[N]`, or `[seeds, N]`: the second method's, on the same images in
        the same order. The numbers of seeds may differ.
      labels: `[N]`, 0 normal, 1 abnormal.
      maps_a: `[N, H, W]`, or `[seeds, N, H, W]`, or None.
      maps_b: The second method's, given with `maps_a` and `masks`.
      masks: `[N, H, W]`.
      num_resamples: number of resamples.
      seed: seed of the resampling.

    Returns:
      Name of the metric -> difference and interval.

    Raises:
      ValueError: as in `image_metrics` and `pixel_metrics`.
    """
    a, b = np.atleast_2d(a), np.atleast_2d(b)
    _, labels = _checked_images(a[0], labels)
    counts = _resample(labels, num_resamples, seed)
    point_a, samples_a = _mean_over_seeds(a, maps_a, labels, masks, counts)
    point_b, samples_b = _mean_over_seeds(b, maps_b, labels, masks, counts)
    differences = {}
    for name in point_a:
        value = point_a[name] - point_b[name]
        resampled = samples_a[name] - samples_b[name]
        differences[name] = Difference(value, _interval(resampled, value))
    return differences


def _mean_over_seeds(scores, maps, labels, masks, counts):
    """Metrics of one method and their resamples, both averaged over seeds."""
    points, samples = [], []
    for seed_scores in scores:
        checked, _ = _checked_images(seed_scores, labels)
        points.append(image_metrics(checked, labels))
        samples.append(_image_samples(checked, labels, counts))
    if masks is not None:
        maps = np.asarray(maps)
        maps = maps[None] if maps.ndim == 3 else maps
        if len(maps) != len(scores):
            raise ValueError(
                f"Found score maps of {len(maps)} seeds and scores of "
                f"{len(scores)}; pass the maps of every seed."
            )
        for i, seed_maps in enumerate(maps):
            checked, checked_masks = _checked_maps(
                seed_maps, masks, len(labels)
            )
            exact = pixel_metrics(checked, checked_masks)
            points[i] |= {name: exact[name] for name in _PIXEL_METRICS}
            samples[i] |= _pixel_samples(checked, checked_masks, counts)
    return (
        {k: float(np.mean([p[k] for p in points])) for k in points[0]},
        {k: np.mean([s[k] for s in samples], axis=0) for k in samples[0]},
    )


def _resample(labels, num_resamples, seed):
    """How often each image is drawn, `[num_resamples, N]`, within classes."""
    rng = np.random.default_rng(seed)
    counts = np.zeros((num_resamples, len(labels)))
    for members in (np.flatnonzero(labels == 0), np.flatnonzero(labels == 1)):
        size = len(members)
        counts[:, members] = rng.multinomial(
            size, np.full(size, 1 / size), size=num_resamples
        )
    return counts


def _image_samples(scores, labels, counts):
    """Image metrics of every resample, name -> `[num_resamples]`."""
    order = np.argsort(scores)[::-1]
    ranked = scores[order]
    starts = np.flatnonzero(np.append(True, ranked[1:] != ranked[:-1]))
    drawn = counts[:, order]
    drawn_positives = drawn * labels[order]
    positives = np.add.reduceat(drawn_positives, starts, axis=1)
    negatives = np.add.reduceat(drawn - drawn_positives, starts, axis=1)
    return {
        "auroc": _auroc(positives, negatives),
        "ap": _average_precision(positives, negatives),
    }


def _pixel_samples(score_maps, masks, counts):
    """Pixel metrics of every resample, from one histogram per image."""
    positives, negatives = (
        (counts.astype(np.float32) @ histograms).astype(np.float64)
        for histograms in _histograms(score_maps, masks)
    )
    # Where only some abnormal images carry a mask, a resample may hold none.
    drawn = positives.sum(-1) > 0
    positives, negatives = positives[drawn], negatives[drawn]
    samples = {
        "pixel_ap": _average_precision(positives, negatives),
        "pixel_auroc": _auroc(positives, negatives),
        "oracle_dice": _dice(positives, negatives).max(-1),
    }
    filled = {}
    for name, values in samples.items():
        filled[name] = np.full(len(counts), np.nan)
        filled[name][drawn] = values
    return filled


def _histograms(score_maps, masks):
    """Abnormal and normal pixels per image and bin, highest bin first."""
    edges = np.unique(
        np.concatenate(
            [
                np.quantile(score_maps, _QUANTILES),
                np.quantile(score_maps[masks], _QUANTILES),
            ]
        )
    )
    bins = len(edges) + 1
    bin_of_pixel = len(edges) - np.searchsorted(edges, score_maps.ravel())
    image_of_pixel = np.repeat(np.arange(len(masks)), masks[0].size)
    cell = image_of_pixel * bins + bin_of_pixel
    histograms = []
    for members in (masks.ravel(), ~masks.ravel()):
        counted = np.bincount(cell[members], minlength=len(masks) * bins)
        histograms.append(counted.reshape(len(masks), bins).astype(np.float32))
    return histograms


def _interval(samples, value):
    """The 95 % percentile interval, extended to the value; or None.

    Resamples without a value are left out. Where the others agree, they say
    nothing of how sure the value is.
    """
    samples = samples[~np.isnan(samples)]
    if not len(samples) or np.ptp(samples) <= _AGREEMENT:
        return None
    low, high = np.percentile(samples, _PERCENTILES)
    return float(min(low, value)), float(max(high, value))


def _checked_images(scores, labels):
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


def _checked_maps(score_maps, masks, num_images=None):
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
