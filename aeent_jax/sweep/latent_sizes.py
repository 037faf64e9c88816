"""Results against the latent size: curves, errors, and the best size."""

import dataclasses
import json
from collections.abc import Sequence

from matplotlib import figure

from aeent_jax import figures
from aeent_jax.results import published, tables
from aeent_jax.results.groups import DATA, LATENT, METHOD, Group, deviation

# Fewer sizes make no curve.
_LEAST_SIZES = 3
# Kind of image, the split left out -> name, colour and look of its curve.
_KINDS = {
    "train_normal": ("normal, training", figures.NORMAL, "dashed"),
    "normal": ("normal, test", figures.NORMAL, "band"),
    "abnormal": ("abnormal, test", figures.ABNORMAL, "band"),
}

Points = list[tuple[float, float, float]]


@dataclasses.dataclass(frozen=True)
class Family:
    """Groups that differ by their latent size alone.

    Attributes:
      data: name of the data set.
      name: the settings in which it differs from other families on the same
        data; the method where there is no other.
      groups: at least three, by ascending size.
    """

    data: str
    name: str
    groups: list[Group]

    def points(self, *path: str) -> Points:
        """(size, mean, standard deviation) of a number in the records."""
        return [
            (group.config[LATENT], values.mean(), deviation(values))
            for group in self.groups
            if len(values := group.values(*path))
        ]


def families(found: Sequence[Group]) -> list[Family]:
    """Families of at least three latent sizes.

    Args:
      found: the groups of a sweep.

    Returns:
      The families, in the order of the groups; none where the size is always
      the same.
    """
    gathered: dict[str, list[Group]] = {}
    for group in found:
        if LATENT in group.settings:
            others = {k: v for k, v in group.settings.items() if k != LATENT}
            gathered.setdefault(json.dumps(others), []).append(group)
    curves = [g for g in gathered.values() if len(g) >= _LEAST_SIZES]
    return [
        Family(
            members[0].config[DATA],
            _tell_apart(members[0], [other[0] for other in curves]),
            sorted(members, key=lambda group: group.config[LATENT]),
        )
        for members in curves
    ]


def _tell_apart(group: Group, others: Sequence[Group]) -> str:
    """The settings in which a family differs from others on the same data."""
    here = [g for g in others if g.config[DATA] == group.config[DATA]]
    apart = [
        key
        for key in group.settings
        if key != LATENT
        and any(g.config[key] != group.config[key] for g in here)
    ]
    return ", ".join(
        tables.setting(group.config[key]) for key in apart or [METHOD]
    )


def best_sizes(found: Sequence[Group]) -> list[str]:
    """A sentence per family: its best size, which is an oracle's choice."""
    sentences = []
    for family in families(found):
        points = family.points("auroc")
        if not points:
            continue
        size, mean, sd = max(points, key=lambda point: point[1])
        value = tables.percent(mean)
        if sd:
            value += f" ± {tables.percent(sd)}"
        sentences.append(
            f"Of {len(points)} latent sizes of {family.name} on {family.data},"
            f" {size} has the largest AUROC, {value}: chosen with the test"
            " labels, an oracle."
        )
    return sentences


def auroc_against_size(found: Sequence[Group]) -> figure.Figure | None:
    """AUROC against the latent size, one plot per data set.

    Beside the curves stand the published points, as many principal components,
    and runs under control at one size.

    Args:
      found: the groups of a sweep.

    Returns:
      The figure; None without a family of sizes that has an AUROC.
    """
    gathered = families(found)
    names = list(dict.fromkeys(family.name for family in gathered))
    plots: dict[str, list[figures.SizeCurve]] = {}
    for family in gathered:
        curves = _curves(family, _color(names.index(family.name)))
        if curves:
            plots.setdefault(family.data, []).extend(curves)
    if not plots:
        return None
    drawn = [id(group) for family in gathered for group in family.groups]
    for data, curves in plots.items():
        here = [group for group in found if group.config[DATA] == data]
        curves += _principal_components(here)
        curves += _single(
            [g for g in here if g.is_controlled and id(g) not in drawn],
            # The second colour is near that of abnormal images.
            first_color=len(names) + 1,
        )
    return figures.size_curves(plots, y_label="AUROC, percent")


def _color(place: int) -> str:
    return figures.RUNS[place % len(figures.RUNS)]


def _curves(family: Family, color: str) -> list[figures.SizeCurve]:
    """A family's curve, and the points that have been published of it."""
    points = _percent(family.points("auroc"))
    if not points:
        return []
    curves = [figures.SizeCurve(family.name, points, color)]
    numbers = _published_points(family)
    if numbers:
        name = f"{family.name}, published"
        curves.append(
            figures.SizeCurve(name, numbers, figures.INK, "published")
        )
    return curves


def _percent(points: Points) -> Points:
    return [(size, 100 * mean, 100 * sd) for size, mean, sd in points]


def _published_points(family: Family) -> Points:
    numbers = [
        (group.config[LATENT], published.find(group.config).get("auroc"))
        for group in family.groups
    ]
    return _percent([(s, n.mean, n.sd) for s, n in numbers if n])


def _principal_components(found: Sequence[Group]) -> list[figures.SizeCurve]:
    """The baseline that has a latent size too."""
    points = {}
    for group in found:
        entry = group.evaluation.get("baselines", {}).get("pca")
        if entry:
            size = entry["num_components"]
            points[size] = (size, 100 * entry["auroc"], 0.0)
    if not points:
        return []
    name = "principal components"
    return [
        figures.SizeCurve(name, [*points.values()], figures.NORMAL, "quiet")
    ]


def _single(
    found: Sequence[Group], *, first_color: int
) -> list[figures.SizeCurve]:
    """Groups of one size, each in its own colour."""
    curves = []
    for i, group in enumerate(found):
        values = 100 * group.values("auroc")
        if len(values):
            point = (group.config[LATENT], values.mean(), deviation(values))
            name = (
                f"{group.config['entropy.estimator']},"
                f" weight {tables.setting(group.config['entropy.weight'])}"
            )
            color = _color(first_color + i)
            curves.append(figures.SizeCurve(name, [point], color, "single"))
    return curves


def error_against_size(found: Sequence[Group]) -> figure.Figure | None:
    """Reconstruction errors against the latent size, one plot per family.

    Args:
      found: the groups of a sweep.

    Returns:
      The figure; None without a family of sizes.
    """
    gathered = families(found)
    plots = {}
    for family in gathered:
        title = family.data
        if len({f.name for f in gathered}) > 1:
            title += f", {family.name}"
        plots[title] = [
            figures.SizeCurve(name, family.points(*path), color, look)
            for path, (name, color, look) in _errors(family)
        ]
    if not plots:
        return None
    return figures.size_curves(plots, y_label="mean squared error")


def _errors(family: Family):
    """The paths of errors in the records, with how they are drawn."""
    kinds = family.groups[0].evaluation["reconstruction_error"]
    return [
        (
            ("reconstruction_error", kind),
            _KINDS.get(kind) or _KINDS[kind.split("_")[-1]],
        )
        for kind in kinds
    ]


def errors_csv(found: Sequence[Group]) -> str:
    """A row per family, size and kind of image, in full precision.

    Args:
      found: the groups of a sweep.

    Returns:
      The file's text; "" without a family of sizes.
    """
    rows = [
        {
            "data": family.data,
            "family": family.name,
            "kind": path[-1],
            "latent_dim": size,
            "mean": mean,
            "sd": sd,
        }
        for family in families(found)
        for path, _ in _errors(family)
        for size, mean, sd in family.points(*path)
    ]
    return tables.to_csv(rows)
