"""Curves over the latent size: a band over seeds, published points, peers."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib import axes as mpl_axes
from matplotlib import figure, ticker

from aeent_jax.figures import style

_COLUMNS = 2
_WIDTH = 8.9  # Inches: the column of a report.
_NAMES_PER_ROW = 3

# Looks of lines: measured points have marks, those compared with them have not.
_LOOKS: dict[str, dict[str, Any]] = {
    "band": {"marker": "o", "markersize": 3.5, "linewidth": 1.4},
    "dashed": {
        "marker": "o",
        "markersize": 3.5,
        "linewidth": 1.4,
        "linestyle": "--",
        "markerfacecolor": "white",
    },
    "quiet": {"linewidth": 1.0, "linestyle": ":"},
    "published": {
        "marker": "D",
        "markersize": 4.5,
        "linestyle": "none",
        "markerfacecolor": "none",
        "capsize": 2,
        "elinewidth": 0.8,
    },
    "single": {
        "marker": "s",
        "markersize": 5,
        "linestyle": "none",
        "capsize": 2,
        "elinewidth": 0.8,
    },
}


@dataclasses.dataclass(frozen=True)
class SizeCurve:
    """A line or points under one name.

    Attributes:
      name: name in the legend, shared by all plots.
      points: (latent size, value, spread), the spread 0 where there is none.
      color: its one color.
      look: a key of the looks: "band" and "dashed" draw the spread as a band,
        "published" and "single" as whiskers, "quiet" not at all.
    """

    name: str
    points: Sequence[tuple[float, float, float]]
    color: str
    look: str = "band"


def size_curves(
    plots: Mapping[str, Sequence[SizeCurve]], *, y_label: str
) -> figure.Figure:
    """Draws curves over the latent size, one plot per title.

    Args:
      plots: title -> curves, values in the unit of the label.
      y_label: label of the y axes, which are not shared.

    Returns:
      The figure, sizes on a logarithmic axis, one legend above all plots.
    """
    columns = min(_COLUMNS, len(plots))
    rows = -(-len(plots) // columns)
    # A lone plot has the legend in its own width.
    width = _WIDTH if columns > 1 else 0.62 * _WIDTH
    with mpl.rc_context(style.RC):
        fig = figure.Figure(
            figsize=(width, 0.6 + 2.9 * rows), layout="constrained"
        )
        axes = fig.subplots(rows, columns, squeeze=False)
        for ax in axes.flat[len(plots) :]:
            ax.set_axis_off()
        handles: dict[str, Any] = {}
        for ax, (title, curves) in zip(axes.flat, plots.items(), strict=False):
            for curve in curves:
                handle = _draw(ax, curve)
                handles.setdefault(curve.name, handle)
            _dress(ax, title, curves)
        fig.legend(
            handles.values(),
            handles.keys(),
            loc="outside upper left",
            ncols=_NAMES_PER_ROW,
            fontsize=8.5,
        )
        fig.supxlabel("latent size", fontsize=9)
        fig.supylabel(y_label, fontsize=9)
    return fig


def _draw(ax: mpl_axes.Axes, curve: SizeCurve) -> Any:
    """Draws a curve by ascending size; returns its handle for the legend."""
    x, y, spread = np.array(sorted(curve.points), np.float64).T
    look: Any = _LOOKS[curve.look] | {"color": curve.color}
    if "capsize" in look:
        whiskers = spread if spread.any() else None
        return ax.errorbar(x, y, yerr=whiskers, zorder=3, **look)
    if spread.any() and curve.look != "quiet":
        ax.fill_between(
            x, y - spread, y + spread, color=curve.color, alpha=0.18, lw=0
        )
    return ax.plot(x, y, **look)[0]


def _dress(ax: mpl_axes.Axes, title: str, curves: Sequence[SizeCurve]) -> None:
    sizes = sorted({point[0] for curve in curves for point in curve.points})
    ax.set_title(title, loc="left", fontsize=9, color=style.INK)
    ax.set_xscale("log", base=2)
    ax.set_xticks(sizes)
    ax.xaxis.set_major_formatter(ticker.StrMethodFormatter("{x:g}"))
    ax.xaxis.set_minor_locator(ticker.NullLocator())
    ax.margins(y=0.08)
    ax.grid(axis="y", color=style.MUTED, alpha=0.25, linewidth=0.5)
