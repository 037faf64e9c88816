"""Plots of the theory: errors against nats, and the identical shortcut."""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import matplotlib as mpl
import numpy as np
from matplotlib import axes as mpl_axes
from matplotlib import axis as mpl_axis
from matplotlib import figure, lines, ticker

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
      through: excess and AUROC `[n]` of errors decoded through the channel,
        drawn hollow; None where there is no channel.
    """

    x: np.ndarray
    errors: Mapping[str, np.ndarray]
    excess: np.ndarray
    auroc: np.ndarray
    through: tuple[np.ndarray, np.ndarray] | None = None


def error_against_rate(
    networks: Mapping[str, tuple[np.ndarray, np.ndarray]],
    code: Mapping[str, tuple[np.ndarray, np.ndarray]],
    is_reference: np.ndarray,
) -> figure.Figure:
    """Draws the error through the channel against the nats that pass it.

    Args:
      networks: kind -> (nats `[n]`, errors `[n]`), drawn as points.
      code: kind -> (nats, errors) of the best linear code, drawn as lines.
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
            handles.append(_hollow("without a channel of their own"))
        ax.legend(handles=handles, fontsize=8, loc="lower left")
    return fig


def shortcut(
    columns: Mapping[str, tuple[Points, Points | None]],
) -> figure.Figure:
    """Draws how abnormal errors fall to normal ones: errors, excess, AUROC.

    Args:
      columns: label of the x axis -> networks, drawn as points, and the code,
        drawn as lines, or None. Without a code the networks of one x are
        joined by their mean, and each x is a tick.

    Returns:
      The figure, three rows, and one column per entry.
    """
    with mpl.rc_context(style.RC):
        fig = figure.Figure(
            figsize=(_WIDTH * max(len(columns), 1.3) / 2, 6.6),
            layout="constrained",
        )
        axes = fig.subplots(
            3,
            len(columns),
            squeeze=False,
            sharex="col",
            sharey="row",
            width_ratios=[_share(*pair) for pair in columns.values()],
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
        handles = _handles(
            next(iter(columns.values()))[0].errors,
            any(code is not None for _, code in columns.values()),
        )
        if any(found.through is not None for found, _ in columns.values()):
            handles.append(_hollow("with noise"))
        fig.legend(
            handles=handles, loc="outside upper left", ncols=5, fontsize=8
        )
    return fig


_ROWS = (
    "squared error, decoded without noise",
    "abnormal error above the normal one, % of it",
    "AUROC of the errors, %",
)


def _share(found: Points, code: Points | None) -> int:
    """Returns the width of a column; a few sizes need less than nats do."""
    return 4 if code is not None else min(len(np.unique(found.x)), 4)


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
    for ax, values in zip((middle, bottom), found.through or (), strict=False):
        ax.plot(
            found.x,
            100 * values,
            "o",
            color=style.RUNS[2],
            markerfacecolor="w",
            markersize=4,
        )
    top.set_yscale("log")
    _log_ticks(top.yaxis)
    middle.axhline(0, color=style.MUTED, linewidth=0.8)
    bottom.axhline(50, color=style.MUTED, linewidth=0.8, dashes=(2, 3))


def _series(ax, x, y, code, line, color) -> None:
    """Draws networks as points, and the code or their means as a line."""
    ax.plot(x, y, "o", color=color, markersize=4)
    if line is not None:
        ax.plot(code.x, line, color=color, linewidth=1.1)
    elif code is None:
        places = np.unique(x)
        means = [np.mean(np.asarray(y)[x == place]) for place in places]
        ax.plot(places, means, color=color, linewidth=1.1)


def _hollow(label: str) -> lines.Line2D:
    return lines.Line2D(
        [],
        [],
        color=style.MUTED,
        marker="o",
        markerfacecolor="w",
        linestyle="",
        label=label,
    )


def _handles(kinds: Iterable[str], has_code: bool) -> list[lines.Line2D]:
    """Returns the legend: the colours, and the line of a code."""
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
