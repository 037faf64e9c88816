"""Plots of the theory: errors against nats, the shortcut, what kinds share."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import matplotlib as mpl
import numpy as np
from matplotlib import axes as mpl_axes
from matplotlib import axis as mpl_axis
from matplotlib import figure, lines, patches, ticker
from scipy import optimize

from aeent_jax.figures import style

_WIDTH = 8.9  # Inches: the column of a report.
_KINDS = {
    "train_normal": ("training normals", style.RUNS[0]),
    "test_normal": ("test normals", style.INK),
    "test_abnormal": ("test abnormals", style.ABNORMAL),
}
_CODE = "best linear code, no network"


class Points(NamedTuple):
    """Errors of several networks, or of a code at several rates.

    Attributes:
      x: `[n]` nats or latent sizes.
      errors: kind -> `[n]`.
      excess: `[n]`, (abnormal - normal) / normal error, a fraction.
      auroc: `[n]`, a fraction.
    """

    x: np.ndarray
    errors: Mapping[str, np.ndarray]
    excess: np.ndarray
    auroc: np.ndarray


def error_against_rate(
    networks: Mapping[str, tuple[np.ndarray, np.ndarray]],
    code: Mapping[str, tuple[np.ndarray, np.ndarray]],
    is_reference: np.ndarray,
) -> figure.Figure:
    """Error through the channel against the nats that pass it.

    Args:
      networks: kind -> (nats `[n]`, errors `[n]`), a point each.
      code: kind -> (nats, errors), a line each: the best linear code.
      is_reference: `[n]` bool, drawn hollow: runs without a channel of their
        own.

    Returns:
      The figure, both axes logarithmic.
    """
    with mpl.rc_context(style.RC):
        fig = figure.Figure(figsize=(0.72 * _WIDTH, 3.9), layout="constrained")
        ax = fig.subplots()
        for kind, (x, y) in code.items():
            color = _KINDS[kind][1]
            ax.plot(x, y, color=color, linewidth=1.1)
        for kind, (x, y) in networks.items():
            color = _KINDS[kind][1]
            for chosen, face in ((~is_reference, color), (is_reference, "w")):
                ax.plot(
                    np.asarray(x)[chosen],
                    np.asarray(y)[chosen],
                    "o",
                    color=color,
                    markerfacecolor=face,
                    markersize=4.5,
                )
        ax.set_yscale("log")
        _log_ticks(ax.yaxis)
        _log_x(ax, "rate on the training normals, nats")
        ax.set_ylabel("mean squared error through the channel")
        handles = _handles(networks, has_code=True)
        if np.any(is_reference):
            handles.append(_hollow())
        ax.legend(handles=handles, fontsize=8, loc="lower left")
    return fig


def shortcut(
    columns: Mapping[str, tuple[Points, Points | None]],
) -> figure.Figure:
    """Abnormal errors that fall to normal ones: errors, excess, AUROC.

    Args:
      columns: label of the x axis -> networks, drawn as points, and the code,
        drawn as lines, or None. Without a code the networks of one x are
        joined by their mean, and each x is a tick.

    Returns:
      The figure, three rows, a column each.
    """
    with mpl.rc_context(style.RC):
        fig = figure.Figure(
            figsize=(_WIDTH * max(len(columns), 1.3) / 2, 6.6),
            layout="constrained",
        )
        axes = fig.subplots(
            3, len(columns), squeeze=False, sharex="col", sharey="row"
        )
        for column, (label, (found, code)) in zip(
            axes.T, columns.items(), strict=True
        ):
            _draw_column(column, found, code)
            _log_x(column[2], label)
            if code is None:
                _tick_at(column[2], found.x)
        for ax, text in zip(axes[:, 0], _ROWS, strict=True):
            ax.set_title(text, loc="left", fontsize=9, color=style.INK)
        fig.legend(
            handles=_handles(
                next(iter(columns.values()))[0].errors,
                any(code is not None for _, code in columns.values()),
            ),
            loc="outside upper left",
            ncols=4,
            fontsize=8,
        )
    return fig


_ROWS = (
    "squared error, decoded without noise",
    "abnormal error above the normal one, % of that",
    "AUROC of the errors, %",
)


def _draw_column(axes, found: Points, code: Points | None) -> None:
    top, middle, bottom = axes
    for kind, y in found.errors.items():
        line = None if code is None else code.errors.get(kind)
        _series(top, found.x, y, code, line, _KINDS[kind][1])
    for ax, values, line in (
        (middle, found.excess, None if code is None else code.excess),
        (bottom, found.auroc, None if code is None else code.auroc),
    ):
        line = None if line is None else 100 * line
        _series(ax, found.x, 100 * values, code, line, style.RUNS[2])
    top.set_yscale("log")
    _log_ticks(top.yaxis)
    middle.axhline(0, color=style.MUTED, linewidth=0.8)
    bottom.axhline(50, color=style.MUTED, linewidth=0.8, dashes=(2, 3))


def _series(ax, x, y, code, line, color) -> None:
    """Points of networks, and a line: the code's, or through their means."""
    ax.plot(x, y, "o", color=color, markersize=4)
    if line is not None:
        ax.plot(code.x, line, color=color, linewidth=1.1)
    elif code is None:
        places = np.unique(x)
        means = [np.mean(np.asarray(y)[x == place]) for place in places]
        ax.plot(places, means, color=color, linewidth=1.1)


def _hollow() -> lines.Line2D:
    return lines.Line2D(
        [],
        [],
        color=style.MUTED,
        marker="o",
        markerfacecolor="w",
        linestyle="",
        label="without a channel of their own",
    )


def _handles(kinds: Iterable[str], has_code: bool) -> list[lines.Line2D]:
    """What the colours are, and the line where there is a code."""
    handles = [
        lines.Line2D([], [], color=color, marker="o", linestyle="", label=name)
        for name, color in (_KINDS[kind] for kind in kinds)
    ]
    if has_code:
        handles.append(lines.Line2D([], [], color=style.MUTED, label=_CODE))
    return handles


def _log_x(ax: mpl_axes.Axes, label: str) -> None:
    ax.set_xscale("log")
    _log_ticks(ax.xaxis)
    ax.set_xlabel(label)


def _log_ticks(axis: mpl_axis.Axis) -> None:
    axis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter(ticker.StrMethodFormatter("{x:g}"))
    axis.set_minor_locator(ticker.NullLocator())


def _tick_at(ax: mpl_axes.Axes, x: np.ndarray) -> None:
    ax.xaxis.set_major_locator(ticker.FixedLocator(np.unique(x).tolist()))


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
