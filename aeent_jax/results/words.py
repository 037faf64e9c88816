"""Sentences of a report: what its numbers say, and what they mean."""

from collections.abc import Sequence

from aeent_jax.results import comparison
from aeent_jax.results.comparison import Difference
from aeent_jax.results.runs import Run

# More runs than this are summed up, not named one by one.
MAX_NAMED = 4

PAIRED = (
    "Points of percent, with intervals from the same resampled images for "
    "both runs."
)
_IMAGE_MEANINGS = {
    "AUROC": (
        "How often a random abnormal image scores higher than a random normal "
        "one. 50 is chance, 100 is perfect; below 50 the abnormal images score "
        "lower than the normal ones."
    ),
    "AP": (
        "Average precision: the share of abnormal images among the highest "
        "scores, averaged as one goes down the list. Its chance level is the "
        "share of abnormal images in the test set, so values of different "
        "test sets do not compare."
    ),
}
_PIXEL_MEANINGS = {
    "Pixel AP": (
        "Average precision over all pixels of all test images: do the score "
        "maps point at the lesion? Its chance level is the share of lesion "
        "pixels, often a few percent."
    ),
    "Oracle Dice": (
        "How far the pixels above a threshold overlap with the lesions, at the "
        "best threshold. That threshold is chosen with the test masks, which "
        "nobody has in use: read it as a ceiling."
    ),
}
_MEANINGS = {
    "The intervals": (
        "What would another sample of test images have given? Normal and "
        "abnormal images are drawn anew, with replacement, many times; 95 % of "
        "the results lie inside. Differences use the same draws for both runs, "
        "so that what is hard about an image cancels. The noise between "
        "training seeds is not in them: train several seeds before you "
        "believe a small difference."
    ),
    "Oracles": (
        "Figures that used the labels of the test set to choose something, and "
        "so promise more than use can keep. A run that was picked among "
        "several by its test metrics is one, such as the best of many narrow "
        "autoencoders; a metric named oracle is another."
    ),
    "Rate": (
        "How much the latent tells about the image, in nats (1 nat is 1.44 "
        "bits), by one meter for all runs, whatever estimator trained them: "
        "the coding rate of the latents of normal training images. Without "
        "noise on the latent there is no limit, and the rate is infinite."
    ),
    "Images/s": "Speed of training: the median over the run.",
    "Baselines": (
        "Scores that need no network: the mean intensity; the squared distance "
        "to the mean training image; the error of the best linear autoencoder "
        "(PCA). Where one of them does well, or far below 50, the abnormal "
        "images differ in a trivial way."
    ),
}


def caption(runs: Sequence[Run]) -> str:
    """What stands below the main table."""
    text = "Percent, with 95 % bootstrap intervals over the test images."
    if comparison.has_masks(runs):
        text += " Oracle Dice: its threshold is chosen with the test masks."
    return text


def meanings(runs: Sequence[Run]) -> dict[str, str]:
    """What each number of these runs means, term -> explanation."""
    pixel = _PIXEL_MEANINGS if comparison.has_masks(runs) else {}
    return _IMAGE_MEANINGS | pixel | _MEANINGS


def verdict(runs: Sequence[Run]) -> list[str]:
    """What the AUROCs say, in one sentence or two; none without rank metrics.

    Args:
      runs: The runs.

    Returns:
      At most one text.
    """
    ranked = comparison.ranked(runs)
    if not ranked:
        return []
    values = {
        run.name: comparison.percent(run.evaluation["auroc"]) for run in ranked
    }
    if len(ranked) > MAX_NAMED:
        low = min(ranked, key=lambda run: run.evaluation["auroc"]).name
        high = max(ranked, key=lambda run: run.evaluation["auroc"]).name
        answer = (
            f"Between {values[low]} of 100 times ({low}) and {values[high]} "
            f"({high}); "
        )
    else:
        first, *rest = (f"{name} in {v}" for name, v in values.items())
        answer = f"Of 100 pairs, {listed([first, *rest])}; "
    return [
        "Shown a normal and an abnormal image, how often does a run give the "
        f"abnormal one the higher score? {answer}tossing a coin, in 50."
    ]


def certainty(differences: Sequence[Difference]) -> list[str]:
    """Whether the test images tell the runs apart, a text a difference.

    Args:
      differences: To the first run.

    Returns:
      The texts; none where there are so many that only a table can be read.
    """
    if len(differences) >= MAX_NAMED:
        return []
    texts = [_certainty(difference) for difference in differences]
    if texts:
        texts[-1] += " Other training seeds are a separate question."
    return texts


def against_baselines(runs: Sequence[Run]) -> list[str]:
    """Whether the runs beat what needs no network; at most one text."""
    values = {
        name: entry["auroc"]
        for name, entry in comparison.baselines(runs).items()
        if "auroc" in entry
    }
    ranked = comparison.ranked(runs)
    if not values or not ranked:
        return []
    best = max(values, key=lambda name: values[name])
    above = [r.name for r in ranked if r.evaluation["auroc"] > values[best]]
    missed = [run.name for run in ranked if run.name not in above]
    if len(ranked) > MAX_NAMED:
        outcome = f"{len(above)} of {len(ranked)} runs are above it."
    elif not missed:
        outcome = "Every run is above it."
    elif not above:
        outcome = "No run is above it."
    else:
        outcome = f"Above it: {listed(above)}; not above it: {listed(missed)}."
    return [
        "Among the baselines that need no network, the best AUROC is "
        f"{comparison.percent(values[best])} ({best}). {outcome}"
    ]


def listed(words: Sequence[str]) -> str:
    """Words as a sentence lists them: a, b and c."""
    *most, last = words
    return f"{', '.join(most)} and {last}" if most else last


def _certainty(difference):
    value, low, high = (100 * part for part in difference.values["auroc"])
    text = (
        f"The AUROC of {difference.name} is {abs(value):.1f} points "
        f"{'above' if value >= 0 else 'below'} that of {difference.reference}"
        f" (95 % interval {low:+.1f} to {high:+.1f}, on the same images). "
    )
    if low <= 0 <= high:
        return (
            f"{text}The interval includes zero: these test images do not tell "
            "the two apart."
        )
    return (
        f"{text}The interval excludes zero: other test images of this kind "
        "would very likely show the same sign."
    )
