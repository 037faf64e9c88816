"""Scores of held-out normals, and p-values of files among them."""

import dataclasses
from collections.abc import Sequence

import numpy as np
from absl import logging

from aeent_jax.evaluation import conformal

# A volume is nearly a training image where a larger share of its slices is:
# single slices may be alike, such as empty ones at its ends.
NEARLY_SHARE = 0.5


@dataclasses.dataclass(frozen=True)
class Calibration:
    """Scores of normal images that verdicts are ranked among.

    Attributes:
      scores: `[n]` float64, of images that were neither trained on nor used to
        choose anything.
      groups: `[n]` int32; images of one volume, series of slices or multi-frame
        file share one, and all others have one of their own.
      source: where they come from, as one phrase without names of files.
    """

    scores: np.ndarray
    groups: np.ndarray
    source: str

    @property
    def has_volumes(self) -> bool:
        """Whether some images are slices of one volume."""
        return len(np.unique(self.groups)) < len(self.groups)

    def of_volumes(self) -> np.ndarray:
        """The largest score of each group of several, `[volumes]` float64."""
        _, place, sizes = np.unique(
            self.groups, return_inverse=True, return_counts=True
        )
        largest = np.full(len(sizes), -np.inf)
        np.maximum.at(largest, place, self.scores)
        return largest[sizes > 1]

    def p_values(self, largest: np.ndarray, counts: np.ndarray) -> np.ndarray:
        """Ranks units, each an image or the frames of a volume.

        A volume is ranked by its largest score among those of the calibration
        volumes. Without calibration volumes it is Bonferroni's: the number of
        frames times the smallest of their p-values.

        Args:
          largest: `[m]` largest score of each; inf gives the least p-value.
          counts: `[m]` int, frames of each, at least 1.

        Returns:
          `[m]` float64 in (0, 1].
        """
        p = conformal.p_values(largest, self.scores)
        is_volume = counts > 1
        if not self.has_volumes:
            return np.minimum(1.0, counts * p)
        p[is_volume] = conformal.p_values(largest[is_volume], self.of_volumes())
        return p


def calibrate(
    scores: np.ndarray, units: Sequence[str], near: np.ndarray, source: str
) -> Calibration | None:
    """Makes a calibration of the images that are no training images.

    Args:
      scores: `[n]`.
      units: n names, equal for the slices of one volume.
      near: `[n]` bool, whether an image is nearly a training image.
      source: as `Calibration.source`.

    Returns:
      The calibration; None where no image is left.
    """
    number_of: dict[str, int] = {}
    groups = np.array(
        [number_of.setdefault(u, len(number_of)) for u in units], np.int32
    )
    share = np.bincount(groups, near) / np.maximum(np.bincount(groups), 1)
    kept = share[groups] <= NEARLY_SHARE
    if not kept.any():
        return None
    if not kept.all():
        source += (
            f", without {np.sum(~kept)} that are nearly equal to a training"
            " image"
        )
        logging.warning("Verdicts are calibrated with %s.", source)
    return Calibration(scores[kept], groups[kept], source)


def guarantee(n: int, alpha: float, fdr: float | None) -> str:
    """Says what a verdict promises, in sentences.

    Args:
      n: calibration normals, or volumes of normals where volumes are ranked.
      alpha: images whose p-value is at most this are flagged.
      fdr: False-discovery rate, in place of alpha; None for alpha.
    """
    if fdr is not None:
        return (
            f"At most {100 * fdr:.3g} % of the flagged files are"
            " normal on average, if calibration normals and new normals are"
            " exchangeable (Benjamini and Hochberg)."
        )
    if not conformal.flagged_ranks(n, alpha):
        return (
            f"There are {n} calibration volumes, and verdicts on volumes need"
            f" {conformal.normals_for(alpha)}: calibrate with more, or"
            " raise alpha."
        )
    bound = conformal.false_alarm_bound(n, alpha)
    expected = conformal.flagged_ranks(n, alpha) / (n + 1)
    return (
        f"If the {n} calibration normals and new normals are exchangeable,"
        f" {100 * expected:.2g} % of new normals are flagged on average, which"
        f" is at most alpha = {alpha:.3g}. If all are independent and"
        f" alike, the false-alarm rate is below {100 * bound:.1f} % for 95 % of"
        " calibration sets."
    )
