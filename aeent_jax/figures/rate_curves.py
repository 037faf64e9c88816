"""A metric against nats: small multiples, one curve each."""

from collections.abc import Mapping, Sequence

import matplotlib as mpl
import numpy as np
from matplotlib import axes as mpl_axes
from matplotlib import figure, ticker

from aeent_jax.figures import style

_COLUMNS = 4
_WIDTH = 8.9  # Inches: the column of a report.
_LEAST_NATS = 0.5  # A logarithmic axis shows smaller rates here.
_OTHERS = "#d0d7de"

# Nats, metric, its spread (0 for one seed), and the text beside the point where
# it is the best of a curve.
Point = tuple[float, float, float, str]


def rate_curves(
    curves: Mapping[str, Sequence[Point]],
    *,
    points: Mapping[str, tuple[float, float]],
    lines: Mapping[str, float],
    y_label: str,
) -> figure.Figure:
    """Draws each curve in a plot of its own, over all others in grey.

    Fourteen curves in one plot cannot be told apart by colour.

    Args:
      curves: name -> points, metrics as fractions; drawn by ascending rate.
      points: name -> (nats, metric) of runs at one rate, in all plots.
      lines: name -> metric of runs with an infinite rate, in all plots.
      y_label: label of the y axes.

    Returns:
      The figure, rates on a logarithmic axis, metrics in percent.
    """
    arranged = {name: sorted(found) for name, found in curves.items()}
    columns = min(_COLUMNS, max(len(arranged), 1))
    rows = max(-(-len(arranged) // columns), 1)
    with mpl.rc_context(style.RC):
        fig = figure.Figure(
            figsize=(_WIDTH * max(columns, 2) / _COLUMNS, 0.7 + 1.75 * rows),
            layout="constrained",
        )
        axes = fig.subplots(
            rows, columns, squeeze=False, sharex=True, sharey=True
        )
        for ax in axes.flat[len(arranged) :]:
            ax.set_axis_off()
        for i, (ax, name) in enumerate(zip(axes.flat, arranged, strict=False)):
            for other in arranged:
                if other != name:
                    ax.plot(*_xy(arranged[other]), color=_OTHERS, linewidth=0.8)
            _draw_references(ax, points, lines, with_names=i == 0)
            _draw_curve(ax, arranged[name])
            shown = style.drawable(name)
            ax.set_title(shown, loc="left", fontsize=9, color=style.INK)
            ax.set_xscale("log")
            ax.xaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
            ax.xaxis.set_major_formatter(ticker.StrMethodFormatter("{x:g}"))
            ax.xaxis.set_minor_locator(ticker.NullLocator())
            # Room for the text at the highest point.
            ax.margins(y=0.12)
            ax.grid(axis="y", color=style.MUTED, alpha=0.25, linewidth=0.5)
            # Where the plot below is missing, this one has the labels.
            is_last = i + columns >= len(arranged)
            ax.tick_params(labelbottom=is_last)
        fig.supxlabel("rate on the training normals, nats", fontsize=9)
        fig.supylabel(y_label, fontsize=9)
    return fig


def _xy(points: Sequence[Point]) -> tuple[np.ndarray, np.ndarray]:
    x, y = np.array([point[:2] for point in points], np.float64).T
    return np.maximum(x, _LEAST_NATS), 100 * y


def _draw_curve(ax: mpl_axes.Axes, points: Sequence[Point]) -> None:
    x, y = _xy(points)
    spread = 100 * np.array([point[2] for point in points])
    color = style.RUNS[0]
    ax.errorbar(
        x,
        y,
        yerr=spread if spread.any() else None,
        color=color,
        marker="o",
        markersize=3.5,
        linewidth=1.4,
    )
    best = int(np.argmax(y))
    # All words would hide the curve.
    ax.annotate(
        points[best][3],
        (x[best], y[best]),
        xytext=(0, 5),
        textcoords="offset points",
        ha="center",
        fontsize=7.5,
    )


def _draw_references(ax, points, lines, *, with_names: bool) -> None:
    """Draws the points and lines that all plots share; the first names them."""
    for name, value in lines.items():
        ax.axhline(100 * value, color=style.MUTED, linewidth=0.8, dashes=(2, 3))
        if with_names:
            ax.annotate(
                name,
                (1, 100 * value),
                xycoords=("axes fraction", "data"),
                xytext=(0, 2),
                textcoords="offset points",
                ha="right",
                fontsize=6.5,
                color=style.MUTED,
            )
    for name, (nats, value) in points.items():
        place = (max(nats, _LEAST_NATS), 100 * value)
        ax.plot(*place, "D", color=style.MUTED, markersize=3.5)
        if with_names:
            ax.annotate(
                name,
                place,
                xytext=(0, 5),
                textcoords="offset points",
                ha="center",
                fontsize=6.5,
                color=style.MUTED,
            )
