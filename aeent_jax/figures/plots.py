"""Plots of numbers: curves, histograms of scores, intervals."""

from collections.abc import Mapping, Sequence

import matplotlib as mpl
import numpy as np
from matplotlib import axes as mpl_axes
from matplotlib import figure, lines, ticker

from aeent_jax.figures import style

_WIDTH = 8.9  # Inches: the column of a report.
_NUM_BINS = 40


def curves(
    plots: Sequence[tuple[str, Mapping[str, tuple[np.ndarray, np.ndarray]]]],
    x_label: str,
) -> figure.Figure:
    """Draws curves of several runs, one plot beside the other.

    Args:
      plots: for each plot the label of its y axis and name of the run ->
        (x `[n]`, y `[n]`). All runs keep their colour in all plots.
      x_label: label of the x axes.

    Returns:
      The figure, one legend above all plots.
    """
    names = list(dict.fromkeys(name for _, runs in plots for name in runs))
    with mpl.rc_context(style.RC):
        fig = figure.Figure(figsize=(_WIDTH / 2 * len(plots), 2.9))
        axes = fig.subplots(1, len(plots), squeeze=False)[0]
        for ax, (label, runs) in zip(axes, plots, strict=True):
            for name, (x, y) in runs.items():
                ax.plot(x, y, **_run_line(names.index(name)))
            ax.set_xlabel(x_label)
            ax.set_title(label, loc="left", fontsize=9, color=style.INK)
            ax.grid(axis="y", color=style.MUTED, alpha=0.25, linewidth=0.5)
            _fit_y(ax, [y for _, y in runs.values()])
        handles = [
            lines.Line2D([], [], **_run_line(i)) for i in range(len(names))
        ]
        shown = [style.drawable(name) for name in names]
        fig.legend(handles, shown, loc="upper left", ncols=4, fontsize=9)
        legend_rows = -(-len(names) // 4)
        fig.tight_layout(rect=(0, 0, 1, 1 - 0.07 * legend_rows))
    return fig


def score_histograms(
    runs: Mapping[str, tuple[np.ndarray, np.ndarray]],
) -> figure.Figure:
    """Draws histograms of the scores of normal and abnormal images.

    Args:
      runs: name of the run -> (scores `[N]`, labels `[N]`). Each run has its
        own axis of scores: their scales are not comparable between runs. The
        areas of the two classes are equal, whatever their sizes; the last bin
        holds all that lies above the 99.5 % quantile.

    Returns:
      The figure, one row per run.
    """
    with mpl.rc_context(style.RC):
        fig = figure.Figure(figsize=(_WIDTH, 0.5 + 1.45 * len(runs)))
        axes = fig.subplots(len(runs), 1, squeeze=False)[:, 0]
        for ax, (name, (scores, labels)) in zip(
            axes, runs.items(), strict=True
        ):
            _draw_histograms(ax, scores, labels)
            ax.set_title(style.drawable(name), loc="left", fontsize=9)
            ax.set_yticks([])
            ax.spines["left"].set_visible(False)
        axes[-1].set_xlabel("anomaly score (mean of the score map)")
        present = np.unique(np.concatenate([y for _, y in runs.values()]))
        for x, label, word, color in (
            (0.82, 0, "normal", style.NORMAL),
            (0.90, 1, "abnormal", style.ABNORMAL),
        ):
            if label in present:
                fig.text(
                    x, 0.985, f"■ {word}", color=color, va="top", fontsize=9
                )
        fig.tight_layout(h_pad=0.6)
    return fig


def intervals(
    rows: Sequence[tuple[str, float, float, float, str]],
    x_label: str,
    reference: float,
) -> figure.Figure:
    """Draws dots with whiskers, one row per name, in percent.

    Args:
      rows: (name, value, low, high, colour), fractions, from the top down.
      x_label: label of the x axis.
      reference: place of the dotted line, a fraction: chance, or zero.

    Returns:
      The figure, with each value written at its right.
    """
    with mpl.rc_context(style.RC):
        fig = figure.Figure(figsize=(_WIDTH, 0.75 + 0.3 * len(rows)))
        ax = fig.subplots()
        sign = "" if reference else "+"
        ax.axvline(
            100 * reference, color=style.MUTED, linewidth=0.8, dashes=(2, 3)
        )
        for y, (_, value, low, high, color) in enumerate(rows):
            ax.plot([100 * low, 100 * high], [y, y], color=color, linewidth=1.6)
            ax.plot(100 * value, y, "o", color=color, markersize=6)
            ax.annotate(
                f"{100 * value:{sign}.1f}",
                (1.01, y),
                xycoords=("axes fraction", "data"),
                va="center",
            )
        ax.set_yticks(range(len(rows)), [name for name, *_ in rows])
        ax.set_ylim(len(rows) - 0.5, -0.5)
        ax.tick_params(axis="y", length=0)
        ax.spines["left"].set_visible(False)
        ax.grid(axis="x", color=style.MUTED, alpha=0.25, linewidth=0.5)
        ax.set_xlabel(x_label)
        fig.tight_layout()
        fig.subplots_adjust(right=0.94)
    return fig


def _draw_histograms(ax, scores, labels):
    """Draws one histogram per class, in the same bins."""
    top = np.quantile(scores, style.TOP_QUANTILE)
    bins = np.linspace(scores.min(), top, _NUM_BINS + 1)
    if bins[0] == bins[-1]:
        bins = np.linspace(bins[0] - 0.5, bins[0] + 0.5, 2)
    for label, color in ((0, style.NORMAL), (1, style.ABNORMAL)):
        values = np.minimum(scores[labels == label], bins[-1])
        if len(values):
            shape = {"bins": bins, "color": color, "density": True}
            ax.hist(values, alpha=0.35, **shape)
            ax.hist(values, histtype="step", linewidth=1.2, **shape)


def _run_line(index):
    """Returns the line style of a run; later runs repeat colours, dashed."""
    repeats, place = divmod(index, len(style.RUNS))
    dashes = ("-", "--", ":")[min(repeats, 2)]
    return {"color": style.RUNS[place], "linestyle": dashes, "linewidth": 1.3}


def _fit_y(ax: mpl_axes.Axes, values: Sequence[np.ndarray]) -> None:
    """Makes the axis logarithmic where positive values span a decade."""
    pooled = np.concatenate([np.ravel(v) for v in values] or [np.zeros(0)])
    if len(pooled) and pooled.min() > 0 and pooled.max() > 10 * pooled.min():
        ax.set_yscale("log")
        ax.yaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
        ax.yaxis.set_major_formatter(ticker.StrMethodFormatter("{x:g}"))
        ax.yaxis.set_minor_locator(ticker.NullLocator())
