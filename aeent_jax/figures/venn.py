"""Two sets as circles whose areas are true, in nats."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import matplotlib as mpl
from matplotlib import axes as mpl_axes
from matplotlib import figure, patches
from scipy import optimize

from aeent_jax.figures import style


class Venn(NamedTuple):
    """One pair of sets, in nats.

    Attributes:
      title: above the circles.
      normal: area of the normal images' circle.
      abnormal: area of the abnormal images' circle.
      shared: area that they share.
      paid: area of the dashed circle, what training normals pass.
      by_chance: what sampling alone makes each have of its own, or None.
    """

    title: str
    normal: float
    abnormal: float
    shared: float
    paid: float
    by_chance: float | None


def venn(pairs: Sequence[Venn]) -> figure.Figure:
    """Circles whose areas, and that of their overlap, are nats.

    Args:
      pairs: at least one; all are drawn on one scale.

    Returns:
      The figure, one pair beside the other.
    """
    reach = 1.04 * max(_reach(pair) for pair in pairs)
    with mpl.rc_context(style.RC):
        fig = figure.Figure(figsize=(2.25 * max(len(pairs), 2), 3.1))
        axes = fig.subplots(1, len(pairs), squeeze=False)[0]
        for ax, pair in zip(axes, pairs, strict=True):
            _draw_pair(ax, pair)
            ax.set(xlim=(-reach, reach), ylim=(-reach, reach), aspect="equal")
            ax.set_axis_off()
            ax.set_title(pair.title, fontsize=9)
            _write_nats(ax, pair)
        fig.tight_layout(w_pad=0.2)
    return fig


def _circles(pair: Venn) -> tuple[list[float], list[float]]:
    """Places on the x axis and radii: normal, abnormal, and the dashed one.

    The middle of the two stands at 0.
    """
    first, second, paid = (
        math.sqrt(max(area, 0) / math.pi)
        for area in (pair.normal, pair.abnormal, pair.paid)
    )
    distance = centre_distance(first, second, pair.shared)
    left = (first - second - distance) / 2
    return [left, left + distance, left], [first, second, paid]


def _reach(pair: Venn) -> float:
    return max(abs(x) + r for x, r in zip(*_circles(pair), strict=True))


def _draw_pair(ax: mpl_axes.Axes, pair: Venn) -> None:
    looks = (
        (style.INK, "-", 0.22),
        (style.ABNORMAL, "-", 0.22),
        (style.RUNS[0], (0, (3, 3)), 0.0),
    )
    places, radii = _circles(pair)
    for x, radius, (color, dashes, alpha) in zip(
        places, radii, looks, strict=True
    ):
        ax.add_patch(
            patches.Circle((x, 0), radius, color=color, alpha=alpha, lw=0)
        )
        ax.add_patch(
            patches.Circle(
                (x, 0), radius, fill=False, color=color, ls=dashes, lw=1.2
            )
        )


def _write_nats(ax: mpl_axes.Axes, pair: Venn) -> None:
    chance = (
        "" if pair.by_chance is None else f" ({pair.by_chance:.1f} by chance)"
    )
    rows = (
        (f"training normals {pair.paid:.1f}", style.RUNS[0]),
        (f"normal alone {pair.normal - pair.shared:.1f}", style.INK),
        (f"both {pair.shared:.1f}", style.MUTED),
        (
            f"abnormal alone {pair.abnormal - pair.shared:.1f}{chance}",
            style.ABNORMAL,
        ),
    )
    for i, (text, color) in enumerate(rows):
        ax.text(
            0.5,
            -0.02 - 0.085 * i,
            text,
            color=color,
            transform=ax.transAxes,
            ha="center",
            va="top",
            fontsize=8,
        )


def centre_distance(first: float, second: float, shared: float) -> float:
    """Distance of the centres of two circles that share a given area.

    Args:
      first: radius.
      second: radius.
      shared: area; at most that of the smaller circle.

    Returns:
      The distance, from the difference of the radii to their sum.
    """
    near, far = abs(first - second), first + second
    if shared <= 0:
        return far
    if shared >= math.pi * min(first, second) ** 2:
        return near
    return float(
        optimize.brentq(
            lambda d: _lens(first, second, d) - shared, near, far, xtol=1e-9
        )
    )


def _lens(first: float, second: float, distance: float) -> float:
    """Area that two circles share, neither within the other."""
    if distance <= abs(first - second):
        return math.pi * min(first, second) ** 2
    area = 0.0
    for one, other in ((first, second), (second, first)):
        # From the centre to the chord; rounding may put it outside.
        chord = (distance**2 + one**2 - other**2) / (2 * distance)
        cosine = min(max(chord / one, -1.0), 1.0)
        area += one**2 * math.acos(cosine) - chord * one * math.sqrt(
            1 - cosine**2
        )
    return area
