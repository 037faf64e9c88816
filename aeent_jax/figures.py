"""Figures of runs: curves, score histograms, intervals, panels of images.

Every function returns a `matplotlib.figure.Figure` that no global state knows
of; `save` writes it as PNG, `to_svg` returns it for a page. Colours are Okabe
and Ito's, told apart by colour-blind readers; vermilion is kept for what is
abnormal. Metrics are drawn in percent, as in tables for people.
"""

import io
import pathlib
import re
from collections.abc import Mapping, Sequence

import matplotlib as mpl
import numpy as np
from matplotlib import axes as mpl_axes
from matplotlib import figure, lines, ticker

INK = "#1f2328"
MUTED = "#6e7781"
NORMAL = "#8c959f"
ABNORMAL = "#d55e00"
RUNS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#8a6d3b")
_OUTLINE = "#5fd7ff"

# In a page these follow its light or dark scheme.
_CSS_NAMES = {INK: "ink", MUTED: "muted", NORMAL: "normal"}
_STYLE = {
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.6,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "figure.facecolor": "white",
    "axes.facecolor": "none",
    "font.size": 9,
    "legend.frameon": False,
    "text.color": INK,
    # Names of runs are text, never formulas.
    "text.parse_math": False,
    "xtick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.color": MUTED,
    "ytick.labelcolor": INK,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    # Text stays text, so that a page can set it in its own font.
    "svg.fonttype": "none",
    "svg.hashsalt": "aeent",
}
_WIDTH = 8.9  # Inches: the column of a report.
_NUM_BINS = 40
# Of the pooled values; what lies above is drawn at the end of the scale.
_TOP_QUANTILE = 0.995


def save(fig: figure.Figure, path: str | pathlib.Path) -> None:
    """Writes a figure as PNG on white, two pixels a point."""
    with mpl.rc_context(_STYLE):
        fig.savefig(path, format="png", dpi=144)


def to_svg(fig: figure.Figure) -> str:
    """One `<svg>` element on transparent ground, to be put into a page.

    Ink follows the page's CSS variables `--ink`, `--muted` and `--normal`.

    Args:
      fig: The figure.

    Returns:
      The element, without XML declaration, date or external reference.
    """
    buffer = io.StringIO()
    metadata = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    with mpl.rc_context(_STYLE):
        fig.savefig(buffer, format="svg", transparent=True, metadata=metadata)
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    # Running numbers of groups, the same in every figure of a page.
    svg = re.sub(r' id="[A-Za-z0-9]+_\d+"', "", svg)
    for colour, name in _CSS_NAMES.items():
        svg = svg.replace(colour, f"var(--{name}, {colour})")
    return svg.strip()


def curves(
    plots: Sequence[tuple[str, Mapping[str, tuple[np.ndarray, np.ndarray]]]],
    x_label: str,
) -> figure.Figure:
    """Curves of several runs, one plot beside the other.

    Args:
      plots: For each plot the label of its y axis and name of the run ->
        (x `[n]`, y `[n]`). All runs keep their colour in all plots.
      x_label: Label of the x axes.

    Returns:
      The figure, one legend above all plots.
    """
    names = list(dict.fromkeys(name for _, runs in plots for name in runs))
    with mpl.rc_context(_STYLE):
        fig = figure.Figure(figsize=(_WIDTH / 2 * len(plots), 2.9))
        axes = fig.subplots(1, len(plots), squeeze=False)[0]
        for ax, (label, runs) in zip(axes, plots, strict=True):
            for name, (x, y) in runs.items():
                color = _run_color(names.index(name))
                ax.plot(x, y, color=color, linewidth=1.3)
            ax.set_xlabel(x_label)
            ax.set_title(label, loc="left", fontsize=9, color=INK)
            ax.grid(axis="y", color=MUTED, alpha=0.25, linewidth=0.5)
            _fit_y(ax, [y for _, y in runs.values()])
        handles = [
            lines.Line2D([], [], color=_run_color(i), linewidth=1.3)
            for i in range(len(names))
        ]
        fig.legend(handles, names, loc="upper left", ncols=4, fontsize=9)
        legend_rows = -(-len(names) // 4)
        fig.tight_layout(rect=(0, 0, 1, 1 - 0.07 * legend_rows))
    return fig


def score_histograms(
    runs: Mapping[str, tuple[np.ndarray, np.ndarray]],
) -> figure.Figure:
    """Histograms of the anomaly scores of normal and abnormal images.

    Args:
      runs: Name of the run -> (scores `[N]`, labels `[N]`). Each run has its
        own axis of scores: their scales are not comparable between runs. The
        areas of the two classes are equal, whatever their sizes; the last bin
        holds all that lies above the 99.5 % quantile.

    Returns:
      The figure, one row a run.
    """
    with mpl.rc_context(_STYLE):
        fig = figure.Figure(figsize=(_WIDTH, 0.5 + 1.45 * len(runs)))
        axes = fig.subplots(len(runs), 1, squeeze=False)[:, 0]
        for ax, (name, (scores, labels)) in zip(
            axes, runs.items(), strict=True
        ):
            top = np.quantile(scores, _TOP_QUANTILE)
            bins = np.linspace(scores.min(), top, _NUM_BINS + 1)
            if bins[0] == bins[-1]:
                bins = np.linspace(bins[0] - 0.5, bins[0] + 0.5, 2)
            for label, color in ((0, NORMAL), (1, ABNORMAL)):
                values = np.minimum(scores[labels == label], bins[-1])
                if not len(values):
                    continue
                style = {"bins": bins, "color": color, "density": True}
                ax.hist(values, alpha=0.35, **style)
                ax.hist(values, histtype="step", linewidth=1.2, **style)
            ax.set_title(name, loc="left", fontsize=9)
            ax.set_yticks([])
            ax.spines["left"].set_visible(False)
        axes[-1].set_xlabel("anomaly score (mean of the score map)")
        present = np.unique(np.concatenate([y for _, y in runs.values()]))
        for x, label, word, color in (
            (0.82, 0, "normal", NORMAL),
            (0.90, 1, "abnormal", ABNORMAL),
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
    """Dots with whiskers, one row a name, in percent.

    Args:
      rows: (name, value, low, high, colour), fractions, from the top down.
      x_label: Label of the x axis.
      reference: Where the dotted line stands, a fraction: chance, or zero.

    Returns:
      The figure, with each value written at its right.
    """
    with mpl.rc_context(_STYLE):
        fig = figure.Figure(figsize=(_WIDTH, 0.75 + 0.3 * len(rows)))
        ax = fig.subplots()
        sign = "" if reference else "+"
        ax.axvline(100 * reference, color=MUTED, linewidth=0.8, dashes=(2, 3))
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
        ax.grid(axis="x", color=MUTED, alpha=0.25, linewidth=0.5)
        ax.set_xlabel(x_label)
        fig.tight_layout()
        fig.subplots_adjust(right=0.94)
    return fig


def save_panel(directory: str | pathlib.Path, **arrays) -> None:
    """Writes `panel.png` and `panel.npz`, from which reports draw anew.

    Args:
      directory: An existing folder, `eval/<split>` of a workdir.
      **arrays: What `panel` takes.
    """
    directory = pathlib.Path(directory)
    panel(directory / "panel.png", **arrays)
    present = {k: np.asarray(v) for k, v in arrays.items() if v is not None}
    np.savez_compressed(directory / "panel.npz", **present)


def panel(
    path: str | pathlib.Path,
    *,
    images: np.ndarray,
    reconstructions: np.ndarray,
    score_maps: np.ndarray,
    masks: np.ndarray | None,
    labels: np.ndarray,
    ids: Sequence[str],
    scores: np.ndarray,
) -> None:
    """Writes images, reconstructions and score maps of one run as PNG.

    Args:
      path: The file.
      images: `[k, H, W, C]` in [0, 1].
      reconstructions: `[k, H, W, C]`; values outside [0, 1] are clipped.
      score_maps: `[k, H, W]`, drawn on one scale.
      masks: `[k, H, W]`, outlined, or None.
      labels: `[k]`, 0 normal, 1 abnormal.
      ids: `[k]` names of the images.
      scores: `[k]` anomaly scores.
    """
    arrays = {
        "images": images,
        "reconstructions": reconstructions,
        "score_maps": score_maps,
        "labels": labels,
        "ids": ids,
        "scores": scores,
    }
    if masks is not None:
        arrays["masks"] = masks
    save(panels({"": arrays}), path)


def panels(
    runs: Mapping[str, Mapping[str, np.ndarray]], *, common_scale: bool = True
) -> figure.Figure:
    """The same images through several runs, side by side.

    Args:
      runs: Name of the run -> arrays as `panel` takes them (`masks` may be
        absent), of the same images in the same order. A column of images
        comes first, then a reconstruction and a score map for each run.
      common_scale: Whether the score maps of all runs share one scale, from
        zero to the 99.5 % quantile of all their pixels. Without it, each run
        has its own.

    Returns:
      The figure, one row an image.
    """
    first = next(iter(runs.values()))
    num_rows, num_columns = len(first["images"]), 1 + 2 * len(runs)
    tops = {name: _top(arrays["score_maps"]) for name, arrays in runs.items()}
    if common_scale:
        pooled = np.stack([arrays["score_maps"] for arrays in runs.values()])
        tops = dict.fromkeys(tops, _top(pooled))
    with mpl.rc_context(_STYLE):
        fig = figure.Figure(
            figsize=(1.4 + 1.3 * num_columns, 0.55 + 1.43 * num_rows)
        )
        axes = fig.subplots(num_rows, num_columns, squeeze=False)
        for ax in axes.flat:
            ax.set_axis_off()
        for i in range(num_rows):
            _draw_image(axes[i, 0], first["images"][i])
            _outline(axes[i, 0], first, i)
            _label_row(axes[i, 0], first, i)
        axes[0, 0].set_title("image", fontsize=9)
        for column, (name, arrays) in enumerate(runs.items()):
            pair = axes[:, 1 + 2 * column : 3 + 2 * column]
            _draw_run(pair, arrays, tops[name])
            prefix = f"{name}\n" if name else ""
            pair[0, 0].set_title(f"{prefix}reconstruction", fontsize=9)
            pair[0, 1].set_title(f"map, 0 to {tops[name]:.2g}", fontsize=9)
        fig.tight_layout(pad=0.4, h_pad=0.5, w_pad=0.3)
    return fig


def _draw_run(axes, arrays, top):
    """Fills a column of reconstructions and one of score maps."""
    for i, (left, right) in enumerate(axes):
        _draw_image(left, arrays["reconstructions"][i])
        right.imshow(
            arrays["score_maps"][i],
            cmap="magma",
            vmin=0,
            vmax=top,
            interpolation="none",
        )
        _outline(right, arrays, i)
        right.text(
            0.5,
            -0.03,
            f"{arrays['scores'][i]:.3g}",
            transform=right.transAxes,
            ha="center",
            va="top",
            fontsize=7.5,
            color=MUTED,
        )


def _draw_image(ax, image):
    """One image `[H, W, C]`, grey or colour, on the scale [0, 1]."""
    image = np.clip(image, 0, 1)
    grey = image.shape[-1] == 1
    ax.imshow(
        image[..., 0] if grey else image,
        cmap="gray",
        vmin=0,
        vmax=1,
        interpolation="none",
    )


def _outline(ax, arrays, i):
    """The outline of the mask, if there is one for this image."""
    if "masks" not in arrays or not arrays["masks"][i].any():
        return
    mask = np.asarray(arrays["masks"][i], np.float32)
    ax.contour(mask, levels=[0.5], colors=[_OUTLINE], linewidths=0.9)


def _label_row(ax, arrays, i):
    """The image's id and class, left of the row."""
    abnormal = bool(arrays["labels"][i])
    name = str(arrays["ids"][i])
    name = name if len(name) <= 18 else f"…{name[-17:]}"
    for y, text, color, size in (
        (
            0.56,
            "abnormal" if abnormal else "normal",
            ABNORMAL if abnormal else MUTED,
            9,
        ),
        (0.40, name, MUTED, 7.5),
    ):
        ax.text(
            -0.08,
            y,
            text,
            transform=ax.transAxes,
            ha="right",
            va="center",
            color=color,
            fontsize=size,
        )


def _top(score_maps):
    """The upper end of a scale of score maps, above zero."""
    return max(float(np.quantile(score_maps, _TOP_QUANTILE)), 1e-12)


def _run_color(index):
    """The colour of the run at this place; seven and more repeat."""
    return RUNS[index % len(RUNS)]


def _fit_y(ax: mpl_axes.Axes, values: Sequence[np.ndarray]) -> None:
    """A logarithmic axis where positive values span over a decade."""
    pooled = np.concatenate([np.ravel(v) for v in values] or [np.zeros(0)])
    if len(pooled) and pooled.min() > 0 and pooled.max() > 10 * pooled.min():
        ax.set_yscale("log")
        ax.yaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
        ax.yaxis.set_major_formatter(ticker.StrMethodFormatter("{x:g}"))
        ax.yaxis.set_minor_locator(ticker.NullLocator())
