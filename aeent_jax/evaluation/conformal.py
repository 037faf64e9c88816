"""Verdicts with a guarantee, from the anomaly scores of normal images alone.

The calibration scores are those of n normal images that the network was not
trained on and that chose nothing about it. The split-conformal p-value of a new
image is its rank among them,

    p = (1 + #{calibration scores >= s}) / (n + 1),

and the image is flagged where p <= alpha. If calibration images and new normal
images are exchangeable, at most alpha of the new normal images are flagged on
average. If all are independent and alike, the false-alarm rate of one
calibration set is the upper tail beyond its l-th largest score, where l is the
number of ranks that are flagged, and follows the law Beta(l, n + 1 - l).

Sources: Vovk, Gammerman and Shafer, *Algorithmic Learning in a Random World*,
2005; Vovk, *Conditional validity of inductive conformal predictors*, 2012;
Bates, Candes, Lei, Romano and Sesia, *Testing for outliers with conformal
p-values*, Annals of Statistics 2023.
"""

import math
from typing import Any

import numpy as np

# Share of calibration sets for which the stated false-alarm rate holds.
CONFIDENCE = 0.95
# Levels of the verdicts that evaluations report.
ALPHAS = (0.05, 0.01)


def p_values(scores: np.ndarray, calibration: np.ndarray) -> np.ndarray:
    """Ranks scores among those of the calibration images.

    Args:
      scores: `[m]` anomaly scores, higher is more anomalous; NaN stays NaN.
      calibration: `[n]` finite scores, at least one.

    Returns:
      `[m]` float64 in [1 / (n + 1), 1].
    """
    ordered = np.sort(np.asarray(calibration, np.float64))
    scores = np.asarray(scores, np.float64)
    at_least = len(ordered) - np.searchsorted(ordered, scores, side="left")
    p = (1 + at_least) / (len(ordered) + 1)
    return np.where(np.isnan(scores), np.nan, p)


def flagged_ranks(n: int, alpha: float) -> int:
    """Counts the p-values j / (n + 1) with j in 1..n that are at most alpha.

    The division is the one of `p_values`, so both agree in every bit: a floor
    of alpha * (n + 1) loses a rank where that product is rounded down.

    Args:
      n: calibration images.
      alpha: level of the verdict.

    Returns:
      The number l of the guarantee; 0 where nothing can be flagged.
    """
    return int(np.sum(np.arange(1, n + 1) / (n + 1) <= alpha))


def check_alpha(alpha: float, n: int) -> None:
    """Refuses a level that n calibration images cannot reach.

    Args:
      alpha: level of the verdict.
      n: calibration images.

    Raises:
      ValueError: alpha is not between 0 and 1, or below 1 / (n + 1).
    """
    if not 0 < alpha < 1:
        raise ValueError(
            f"alpha is {alpha}, but must be above 0 and below 1; 0.05 flags at"
            " most one normal image in 20 on average."
        )
    if not flagged_ranks(n, alpha):
        raise ValueError(
            f"alpha is {alpha}, but {n} calibration normals cannot give a"
            f" p-value below 1/{n + 1} = {1 / (n + 1):.3g};"
            f" {normals_for(alpha)} are needed: calibrate with more normal"
            " images, or raise alpha."
        )


def normals_for(alpha: float) -> int:
    """Returns the least number of calibration normals that alpha needs."""
    n = max(1, math.ceil(1 / alpha) - 1)
    while not flagged_ranks(n, alpha):
        n += 1
    return n


def false_alarm_bound(n: int, alpha: float) -> float:
    """Bounds the false-alarm rate of most calibration sets.

    Args:
      n: calibration images.
      alpha: level of the verdict, at least 1 / (n + 1).

    Returns:
      The rate that `CONFIDENCE` of all calibration sets stay below, if
      calibration images and new normal images are independent and alike.
    """
    from scipy import stats

    ranks = flagged_ranks(n, alpha)
    return float(stats.beta.ppf(CONFIDENCE, ranks, n + 1 - ranks))


def benjamini_hochberg(p: np.ndarray, fdr: float) -> np.ndarray:
    """Flags p-values so that few of the flagged ones are of normal images.

    Conformal p-values of one calibration set depend on each other positively,
    so the procedure holds its level (Bates et al. 2023, theorem 2).

    Args:
      p: `[m]` p-values, one per independent unit; NaN is never flagged.
      fdr: expected share of normal units among the flagged ones, at most.

    Returns:
      `[m]` bool.
    """
    valid = ~np.isnan(p)
    ordered = np.sort(p[valid])
    m = len(ordered)
    passed = np.flatnonzero(ordered <= fdr * np.arange(1, m + 1) / max(m, 1))
    if not len(passed):
        return np.zeros(len(p), bool)
    return valid & (p <= ordered[passed[-1]])


def check_fdr(fdr: float, n: int, m: int) -> None:
    """Refuses a false-discovery rate at which nothing could be flagged.

    If all m units had the smallest p-value 1 / (n + 1), they would be flagged
    where that is at most the rate.

    Args:
      fdr: the rate.
      n: calibration normals.
      m: units that are screened.

    Raises:
      ValueError: the rate is not between 0 and 1, or too small for n.
    """
    if not 0 < fdr < 1:
        raise ValueError(
            f"fdr is {fdr}, but must be above 0 and below 1, such as 0.1."
        )
    if m and 1 / (n + 1) > fdr:
        raise ValueError(
            f"fdr is {fdr}, but with {n} calibration normals no p-value is"
            f" below {1 / (n + 1):.3g}, so nothing could be flagged;"
            f" {normals_for(fdr)} normals are the least: calibrate with more,"
            " or use --alpha."
        )


def measure(
    scores: np.ndarray, labels: np.ndarray, calibration: np.ndarray
) -> dict[str, Any]:
    """Measures the verdicts at `ALPHAS` on labelled images.

    Args:
      scores: `[m]` anomaly scores.
      labels: `[m]`, 0 normal and 1 abnormal.
      calibration: `[n]` scores.

    Returns:
      `num_calibration`, and under `alpha`, for each level that n scores reach,
      `false_alarm_rate` and `sensitivity` as `rate_of` gives them, where there
      are such images, and `false_alarm_bound`.
    """
    n, p = len(calibration), p_values(scores, calibration)
    found = {}
    for alpha in (a for a in ALPHAS if flagged_ranks(n, a)):
        found[str(alpha)] = {"false_alarm_bound": false_alarm_bound(n, alpha)}
        for label, name in enumerate(("false_alarm_rate", "sensitivity")):
            if (labels == label).any():
                found[str(alpha)][name] = rate_of(p[labels == label] <= alpha)
    return {"num_calibration": n, "alpha": found}


def rate_of(flags: np.ndarray) -> dict[str, float | list[float]]:
    """Estimates the rate at which images of one kind are flagged.

    Args:
      flags: `[m]` bool, m at least 1.

    Returns:
      `rate`, and the 95 % interval of Clopper and Pearson as `interval`.
    """
    from scipy import stats

    test = stats.binomtest(int(np.sum(flags)), len(flags))
    low, high = test.proportion_ci(CONFIDENCE, method="exact")
    return {
        "rate": float(np.mean(flags)),
        "interval": [float(low), float(high)],
    }


def rank_sum_p_value(scores: np.ndarray, calibration: np.ndarray) -> float:
    """Tests whether a batch scores like the calibration images.

    Args:
      scores: `[m]` finite scores of the batch.
      calibration: `[n]` scores.

    Returns:
      Two-sided p-value of the rank-sum test of Mann and Whitney.
    """
    from scipy import stats

    return float(stats.mannwhitneyu(scores, calibration).pvalue)
