"""Rules that choose among trained networks without labels, and their regret.

A rule sees numbers of normal images alone: rates, and errors of training
normals and of normals that were held out of training (`data.
validation_fraction`), which calibrate nothing. Where a test split has labels,
the regret of a rule is the AUROC of the best network, chosen with these labels,
minus that of the network which the rule takes.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from aeent_jax.evaluation import metrics
from aeent_jax.results import comparison, tables
from aeent_jax.results.groups import DATA, LATENT, METHOD, Group

# The held-out error follows the training error as long as it falls by at least
# this share of what the training error falls by.
_FOLLOWS = 0.5
_SIZES = (1, 2, 4, 8, 16, 32, 64, 128)
_WEIGHTS = (1e-4, 3e-4, 1e-3, 3e-3)
_RATES = (8, 12, 16)


@dataclasses.dataclass(frozen=True)
class Candidate:
    """A network as a rule sees it, in the mean over seeds.

    Attributes:
      latent_dim: size of its latent vector.
      weight: of one nat; 0 without control.
      rate: nats of the training normals; infinite without a channel.
      train_error: mean squared error of the training normals.
      held_out_error: of the held-out normals; None where there are none.
      description_length: nats of a held-out normal; None as above.
    """

    latent_dim: int
    weight: float
    rate: float
    train_error: float
    held_out_error: float | None = None
    description_length: float | None = None


class Choice(NamedTuple):
    """The network that a rule takes, and the reason.

    Attributes:
      place: of the candidate; None where the rule cannot choose.
      reason: why, as it follows on "because".
    """

    place: int | None
    reason: str


def description_length(
    rate: float, train_error: float, held_out_error: float, num_values: float
) -> float:
    """Nats that describe a held-out normal: its latent, then its residual.

    n/2 log(2 pi s^2) + n/2 e/s^2 + rate: the residual, smoothed so that n of
    its values are about independent, under a Gaussian whose variance s^2 was
    fitted to the training normals.

    Args:
      rate: nats.
      train_error: s^2, mean square of the smoothed residual.
      held_out_error: e, the same of held-out normals.
      num_values: n, per image.
    """
    nats_per_value = math.log(2 * math.pi * train_error)
    nats_per_value += held_out_error / train_error
    return 0.5 * num_values * nats_per_value + rate


def _least_description(candidates: Sequence[Candidate]) -> Choice:
    """The network under which a held-out normal takes the fewest nats."""
    places = _controlled(candidates)
    lengths = [candidates[i].description_length for i in places]
    if not places or None in lengths:
        return Choice(None, _NOTHING_HELD_OUT)
    least = int(np.argmin(lengths))
    return Choice(
        places[least],
        f"a held-out normal takes {lengths[least]:.1f} nats, the fewest of"
        f" {_listed(lengths)}",
    )


def _follows_training(candidates: Sequence[Candidate]) -> Choice:
    """The largest rate whose held-out error follows the training error."""
    places = _controlled(candidates)
    points = [candidates[i] for i in places]
    if not places or None in [p.held_out_error for p in points]:
        return Choice(None, _NOTHING_HELD_OUT)
    last = 0
    for low, high in zip(points, points[1:], strict=False):
        trained = low.train_error - high.train_error
        held_out = low.held_out_error - high.held_out_error
        if held_out < _FOLLOWS * trained:
            break
        last += 1
    return Choice(
        places[last],
        f"up to {points[last].rate:.1f} of {_listed([p.rate for p in points])}"
        f" nats the error of held-out normals falls at least {_FOLLOWS:g} times"
        " as much as that of training normals",
    )


def _elbow(candidates: Sequence[Candidate]) -> Choice:
    """The point of rate and error farthest below the line between the ends."""
    places = _controlled(candidates)
    points = [candidates[i] for i in places]
    if len(places) < 3:
        return Choice(None, "an elbow needs three networks under control")
    errors = np.array(
        [
            p.train_error if p.held_out_error is None else p.held_out_error
            for p in points
        ]
    )
    rates = np.array([p.rate for p in points])
    x = (rates - rates[0]) / max(rates[-1] - rates[0], 1e-12)
    y = (errors - errors[-1]) / max(errors[0] - errors[-1], 1e-12)
    place = int(np.argmin(x + y))
    return Choice(
        places[place],
        f"at {rates[place]:.1f} of {_listed(rates)} nats the error bends most",
    )


def _take_rate(rate: float, candidates: Sequence[Candidate]) -> Choice:
    """The network whose rate has the ratio nearest to 1 to the one fixed."""
    points = [candidates[i] for i in _controlled(candidates)]
    rates = [max(point.rate, 1e-12) for point in points]
    if not rates:
        return Choice(None, "there is no network under control")
    nearest = int(np.argmin(np.abs(np.log(np.array(rates) / rate))))
    return Choice(
        _controlled(candidates)[nearest],
        f"{rates[nearest]:.1f} of {_listed(rates)} nats is nearest to {rate:g}",
    )


def _take_size(size: int, candidates: Sequence[Candidate]) -> Choice:
    return _take(
        [not c.weight and c.latent_dim == size for c in candidates],
        f"a plain network of latent size {size}",
    )


def _take_weight(weight: float, candidates: Sequence[Candidate]) -> Choice:
    return _take(
        [math.isclose(c.weight, weight) for c in candidates],
        f"a network at the weight {weight:g}",
    )


def _take(fits: Sequence[bool], description: str) -> Choice:
    if not any(fits):
        return Choice(None, f"there is no {description.removeprefix('a ')}")
    return Choice(fits.index(True), f"it is {description}, fixed beforehand")


Rule = Callable[[Sequence[Candidate]], Choice]
RULES: dict[str, Rule] = {
    "description_length": _least_description,
    "follows_training": _follows_training,
    "elbow": _elbow,
    **{f"rate_{n}": functools.partial(_take_rate, n) for n in _RATES},
    **{f"latent_{n}": functools.partial(_take_size, n) for n in _SIZES},
    **{f"weight_{w:g}": functools.partial(_take_weight, w) for w in _WEIGHTS},
}
_NOTHING_HELD_OUT = (
    "no normals were held out; train with data.validation_fraction=0.1, as"
    " configs/weights.py does"
)


def _controlled(candidates: Sequence[Candidate]) -> list[int]:
    """Places of the networks under control, by ascending rate."""
    places = [i for i, c in enumerate(candidates) if c.weight]
    return sorted(places, key=lambda i: candidates[i].rate)


def _listed(values: Sequence[float]) -> str:
    return ", ".join(f"{value:.1f}" for value in values)


def check_rules(names: Sequence[str]) -> None:
    """Refuses the name of a rule that is not there.

    Raises:
      ValueError: one is unknown; the choices are listed.
    """
    for name in names:
        if name not in RULES:
            raise ValueError(
                f"--select is {name!r}, but must be of {', '.join(RULES)}."
            )


def candidate_of(group: Group) -> Candidate:
    """The candidate that stands for a group of seeds."""

    def mean(*path: str) -> float | None:
        values = group.values(*path)
        return float(values.mean()) if len(values) else None

    rate = mean("rate_nats")
    rate = math.inf if rate is None else rate
    held_out = mean("held_out", "reconstruction_error")
    length = None
    if held_out is not None and math.isfinite(rate):
        length = description_length(
            rate,
            mean("held_out", "smoothed_error", "train"),
            mean("held_out", "smoothed_error", "val"),
            mean("held_out", "num_values"),
        )
    return Candidate(
        latent_dim=group.config[LATENT],
        weight=group.config["entropy.weight"] if group.is_controlled else 0.0,
        rate=rate,
        train_error=mean("reconstruction_error", "train_normal"),
        held_out_error=held_out,
        description_length=length,
    )


def describe(groups: Sequence[Group], rules: Sequence[str]) -> str:
    """Says which network each rule takes on each data set, why, and its regret.

    The choice is among plain autoencoders of any size and networks under
    control whose weight rises.

    Args:
      groups: groups of seeds, of one data set or of several.
      rules: keys of `RULES`.

    Returns:
      Sentences; and where there are labels, a table of regrets in Markdown.
    """
    pools: dict[str, list[Group]] = {}
    for group in groups:
        if _is_candidate(group):
            pools.setdefault(_name_data(group), []).append(group)
    sentences, regrets = [], {}
    for rule in rules:
        for data, pool in pools.items():
            choice = RULES[rule]([candidate_of(group) for group in pool])
            if choice.place is None:
                sentences.append(
                    f"{rule} cannot choose on {data}: {choice.reason}."
                )
                continue
            taken = pool[choice.place]
            sentences.append(
                f"{rule} takes {taken.runs[0].name} on {data}, because"
                f" {choice.reason}."
            )
            if len(taken.values("auroc")):
                regrets[rule, data] = regret(pool, taken)
    parts = ["\n".join(f"- {sentence}" for sentence in sentences)]
    if regrets:
        parts += [tables.markdown(_regret_table(regrets)), _REGRET]
    return "\n\n".join(parts)


_REGRET = (
    "Regret, points of AUROC: the best network of those at hand, chosen with"
    " the test labels, minus the one that a rule takes. Intervals from the same"
    " resampled images for both."
)


def _is_candidate(group: Group) -> bool:
    config = group.config
    if config[METHOD] != "ae":
        return False
    is_plain = not group.is_controlled and not config["channel.sigma"]
    rises = config["entropy.controller"] == "schedule"
    return is_plain or (group.is_controlled and rises)


def _name_data(group: Group) -> str:
    left_out = group.config["data.deduplicate"]
    return group.config[DATA] + (f" ({left_out})" if left_out else "")


def regret(pool: Sequence[Group], taken: Group) -> metrics.Difference:
    """The best AUROC of a pool minus that of one of its groups.

    Args:
      pool: groups on the same images.
      taken: one of them, with an AUROC.

    Returns:
      The difference, a fraction, and its paired interval; None for the interval
      where the scores of single images are not at hand.
    """
    ranked = [group for group in pool if len(group.values("auroc"))]
    best = max(ranked, key=lambda group: group.values("auroc").mean())
    if best is taken:
        return metrics.Difference(0.0, None)
    has_scores = all(run.scores for run in [*best.runs, *taken.runs])
    if has_scores and not comparison.obstacle(taken.runs, best.runs):
        return comparison.difference(best.runs, taken.runs)["auroc"]
    means = [group.values("auroc").mean() for group in (best, taken)]
    return metrics.Difference(float(means[0] - means[1]), None)


def _regret_table(
    regrets: dict[tuple[str, str], metrics.Difference],
) -> tables.Table:
    """A row per rule: the regret on each data set, the worst and the mean."""
    names = list(dict.fromkeys(data for _, data in regrets))
    rows = []
    for rule in dict.fromkeys(rule for rule, _ in regrets):
        own = {data: regrets.get((rule, data)) for data in names}
        values = [one.value for one in own.values() if one is not None]
        rows.append(
            [
                rule,
                *(
                    tables.NOTHING if one is None else tables.points(*one)
                    for one in own.values()
                ),
                *(
                    tables.percent(value)
                    for value in (max(values), sum(values) / len(values))
                ),
            ]
        )
    return tables.Table(["rule", *names, "worst", "mean"], rows)
