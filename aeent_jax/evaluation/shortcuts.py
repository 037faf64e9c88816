"""Shortcuts of a data set: statistics that look at no anatomy.

Where such a statistic tells abnormal from normal images, a score can be high
for reasons that have nothing to do with disease: another scanner, another crop,
another compression. The largest AUROC among the statistics, in either
direction, is an oracle: statistic and direction are chosen with test labels.
"""

import statistics
from typing import Any

import numpy as np

from aeent_jax.data import dataset, nearest
from aeent_jax.evaluation import metrics

# Gray levels from 0 to 255 up to which a pixel is black.
_BLACK = 5
# AUROC that the interval has to exceed for a warning.
_WARNED = 0.6
_LEVEL = 0.05

_IMAGES_AT_A_TIME = 256


def measure(split: dataset.Split) -> dict[str, np.ndarray]:
    """Statistics of a split's images and, where there are files, of these.

    Args:
      split: N images.

    Returns:
      `[N]` float64 of each: those of `measure_images`; and `aspect`, width per
      height before an image was made square, and `file size`, in bytes, unless
      equal in all images.
    """
    values = measure_images(split.images)
    if split.originals is None:
        return values
    width, height, size = split.originals.astype(np.float64).T
    of_files = {"aspect": width / height, "file size": size}
    return values | {k: v for k, v in of_files.items() if np.ptp(v) > 0}


def measure_images(images: nearest.Images) -> dict[str, np.ndarray]:
    """Statistics of images.

    Args:
      images: `[N, H, W, C]` uint8, in memory or in files; H and W at least 2.

    Returns:
      `[N]` float64 of each: `mean intensity`, `contrast`, the standard
      deviation of the pixels, and `edge energy`, the mean absolute difference
      of neighbours down and to the right, in gray levels from 0 to 255; `share
      of black`, a fraction of the pixels.
    """
    blocks = range(0, len(images), _IMAGES_AT_A_TIME)
    parts = [_measure(images[i : i + _IMAGES_AT_A_TIME]) for i in blocks]
    return {k: np.concatenate([part[k] for part in parts]) for k in parts[0]}


def _measure(images: np.ndarray) -> dict[str, np.ndarray]:
    pixels, axes = images.astype(np.float64), (1, 2, 3)
    down, right = (np.abs(np.diff(pixels, axis=axis)) for axis in (1, 2))
    return {
        "mean intensity": pixels.mean(axes),
        "contrast": pixels.std(axes),
        "edge energy": down.mean(axes) + right.mean(axes),
        "share of black": (images <= _BLACK).mean(axes),
    }


def find_largest(
    values: dict[str, np.ndarray], labels: np.ndarray
) -> dict[str, Any]:
    """The statistic with the largest AUROC, in either direction.

    The interval is the score interval at the level 0.05 / k for k statistics
    (Bonferroni), so that it holds for the largest of them.

    Args:
      values: by name, `[N]` of each statistic.
      labels: `[N]`, 0 normal, 1 abnormal, both present.

    Returns:
      An entry like those of the baselines: `auroc`, `auroc_interval`,
      `statistic`, `direction` ("high" or "low": which end is abnormal), `tried`
      with the AUROC of each statistic for high values, and `warning`, a
      sentence, where the interval is above 0.6.
    """
    tried = {
        name: metrics.image_metrics(value, labels)["auroc"]
        for name, value in values.items()
    }
    name = max(tried, key=lambda k: abs(tried[k] - 0.5))
    auroc = max(tried[name], 1 - tried[name])
    level = _LEVEL / len(tried)
    num_abnormal = int(np.sum(labels == 1))
    low, high = metrics.score_interval(
        auroc,
        len(labels) - num_abnormal,
        num_abnormal,
        deviations=statistics.NormalDist().inv_cdf(1 - level / 2),
    )
    entry = {
        "auroc": auroc,
        "auroc_interval": [low, high],
        "statistic": name,
        "direction": "high" if tried[name] >= 0.5 else "low",
        "tried": tried,
    }
    if low > _WARNED:
        entry["warning"] = (
            f"{name.capitalize()} alone scores {100 * auroc:.0f} on this set"
            f" ({entry['direction']} in abnormal images; interval"
            f" {100 * low:.0f} to {100 * high:.0f}): a network can score as"
            " high without looking at anatomy."
        )
    return entry
