"""Sentences of a report that depend on its numbers."""

from collections.abc import Sequence

from aeent_jax.results import comparison, groups, tables
from aeent_jax.results.comparison import Comparison
from aeent_jax.results.runs import Run

# More runs are summed up, not named one by one.
_MAX_NAMED = 4
_WEIGHT = "entropy.weight"


def byline(runs: Sequence[Run]) -> str:
    """Names of the runs, and the numbers of test images if they share them."""
    names = ", ".join(run.name for run in runs)
    if len(runs) > _MAX_NAMED:
        names = f"{len(runs)} runs"
    sizes = {
        (run.evaluation["num_normal"], run.evaluation["num_abnormal"])
        for run in runs
        if run.evaluation
    }
    if len(sizes) != 1:
        return names
    normal, abnormal = sizes.pop()
    return (
        f"{names} · {normal} normal and {abnormal or 'no'} abnormal test images"
    )


def caption(runs: Sequence[Run]) -> str:
    """The sentences below the main table."""
    text = "Percent, with 95 % intervals over the test images."
    if comparison.has_masks(runs):
        text += " Oracle Dice: its threshold is chosen with the test masks."
    if any(map(comparison.is_oracle, comparison.baselines(runs).values())):
        text += (
            " Oracle statistic: chosen with the test labels, its interval"
            " corrected for the number tried."
        )
    entries = [run.evaluation for run in runs]
    if comparison.lack_interval(
        [*entries, *comparison.baselines(runs).values()]
    ):
        text += f" {comparison.NO_INTERVAL}"
    return text


def paired(differences: Sequence[Comparison]) -> str:
    """The sentences below a table of differences."""
    lacks = any(
        interval is None
        for one in differences
        for _, interval in one.values.values()
    )
    return comparison.PAIRED + f" {comparison.NO_INTERVAL}" * lacks


def verdict(runs: Sequence[Run]) -> str:
    """The AUROCs in a sentence; "" without rank metrics."""
    ranked = [run for run in runs if run.is_ranked]
    if not ranked:
        return ""
    values = {
        run.name: tables.percent(run.evaluation["auroc"]) for run in ranked
    }
    if len(ranked) > _MAX_NAMED:
        low = min(ranked, key=lambda run: run.evaluation["auroc"]).name
        high = max(ranked, key=lambda run: run.evaluation["auroc"]).name
        answer = (
            f"Between {values[low]} of 100 times ({low}) and {values[high]} "
            f"({high}); "
        )
    else:
        first, *rest = (f"{name} in {v}" for name, v in values.items())
        answer = f"In 100 pairs, {_listed([first, *rest])}; "
    return (
        "Shown a normal and an abnormal image, how often does a run give the "
        f"abnormal one the higher score? {answer}tossing a coin, in 50."
    )


def question(runs: Sequence[Run]) -> str:
    """The question of this project and its answer; "" without such a pair.

    Args:
      runs: the first one under control is compared with the first plain one of
        the same latent size.
    """
    for run in runs:
        has_rate = run.evaluation.get("rate_nats") is not None
        if not (run.is_ranked and has_rate and run.config.get(_WEIGHT)):
            continue
        for other in runs:
            if (
                other.is_ranked
                and other.config.get("channel.sigma") == 0
                and other.config.get(groups.LATENT)
                == run.config.get(groups.LATENT)
                and not comparison.obstacle([other], [run])
            ):
                return _answer(run, other)
    return ""


def _answer(run: Run, other: Run) -> str:
    change = comparison.difference([run], [other])["auroc"]
    low, high = change.interval or (0.0, 0.0)
    answer = "These test images cannot tell"
    if low > 0 or high < 0:
        answer = "Yes" if low > 0 else "Not here"
    return (
        "Does it help to limit the information that passes from an image to its"
        f" reconstruction? {answer}: {run.name}, where"
        f" {run.evaluation['rate_nats']:.1f} nats pass, has an AUROC of"
        f" {tables.percent(run.evaluation['auroc'])}, and {other.name}, as wide"
        f" and without a limit, {tables.percent(other.evaluation['auroc'])}:"
        f" {tables.points(*change)} points."
    )


def certainty(differences: Sequence[Comparison]) -> list[str]:
    """Whether the test images tell the runs apart, a text per difference.

    Args:
      differences: to the first run.

    Returns:
      The texts; none where there are so many that only a table can be read.
    """
    if len(differences) >= _MAX_NAMED:
        return []
    texts = [_certainty(one) for one in differences]
    if texts:
        texts[-1] += " Other training seeds are a separate question."
    return texts


def _certainty(difference):
    value, interval = difference.values["auroc"]
    text = (
        f"The AUROC of {difference.name} is {100 * abs(value):.1f} points "
        f"{'above' if value >= 0 else 'below'} that of {difference.reference}"
    )
    if interval is None:
        return (
            f"{text}. All resamples of the images agree, so there is no "
            "interval: these few images cannot tell how sure that is."
        )
    low, high = interval
    text += (
        f" (95 % interval {100 * low:+.1f} to {100 * high:+.1f}, on the same "
        "images). "
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


def against_baselines(runs: Sequence[Run]) -> list[str]:
    """Whether the runs beat what needs no network; at most one text."""
    values = {
        name: entry["auroc"]
        for name, entry in comparison.baselines(runs).items()
        if "auroc" in entry and not comparison.is_oracle(entry)
    }
    ranked = [run for run in runs if run.is_ranked]
    if not values or not ranked:
        return []
    best = max(values, key=lambda name: values[name])
    above = [r.name for r in ranked if r.evaluation["auroc"] > values[best]]
    missed = [run.name for run in ranked if run.name not in above]
    if len(ranked) > _MAX_NAMED:
        outcome = f"{len(above)} of {len(ranked)} runs are above it."
    elif not missed:
        outcome = "Every run is above it."
    elif not above:
        outcome = "No run is above it."
        if best.startswith(comparison.BASELINES["pca"]):
            outcome += (
                " It is the best linear autoencoder of its size: what these"
                " networks learned beyond it does not help here."
            )
    else:
        outcome = (
            f"Above it: {_listed(above)}; not above it: {_listed(missed)}."
        )
    return [
        "Among the baselines that need no network, the best AUROC is "
        f"{tables.percent(values[best])} ({best}). {outcome}"
    ]


def shortcuts(runs: Sequence[Run]) -> list[str]:
    """Warnings of statistics that score high without looking at anatomy."""
    entries = comparison.baselines(runs).values()
    return [entry["warning"] for entry in entries if "warning" in entry]


def _listed(words: Sequence[str]) -> str:
    """Words as a sentence lists them: a, b and c."""
    *most, last = words
    return f"{', '.join(most)} and {last}" if most else last
