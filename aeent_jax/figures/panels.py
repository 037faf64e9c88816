"""Panels of images, reconstructions and score maps."""

import pathlib
from collections.abc import Mapping, Sequence

import matplotlib as mpl
import numpy as np
from matplotlib import figure

from aeent_jax.figures import style
from aeent_jax.runtime import storage

_OUTLINE = "#5fd7ff"
_ID_LENGTH = 15  # Longer ids show their end.


def save_panel(directory: str | pathlib.Path, **arrays) -> None:
    """Writes `panel.png`, and its arrays as `panel.npz` for reports.

    Args:
      directory: an existing folder, `eval/<split>` of a workdir.
      **arrays: arguments of `panel`.
    """
    directory = storage.to_path(directory)
    panel(directory / "panel.png", **arrays)
    present = {k: np.asarray(v) for k, v in arrays.items() if v is not None}
    with (directory / "panel.npz").open("wb") as file:
        np.savez_compressed(file, allow_pickle=False, **present)


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
      path: the file.
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
    style.save(panels({"": arrays}), path)


def panels(
    runs: Mapping[str, Mapping[str, np.ndarray]], *, common_scale: bool = True
) -> figure.Figure:
    """Draws the same images through several runs, side by side.

    Args:
      runs: name of the run -> arrays as `panel` takes them (`masks` may be
        absent), of the same images in the same order. A column of images
        comes first, then a reconstruction and a score map for each run.
      common_scale: whether the score maps of all runs share one scale, from
        zero to the 99.5 % quantile of all their pixels. Without it, each run
        has its own.

    Returns:
      The figure, one row per image.
    """
    first = next(iter(runs.values()))
    num_rows, num_columns = len(first["images"]), 1 + 2 * len(runs)
    tops = {name: _top(arrays["score_maps"]) for name, arrays in runs.items()}
    if common_scale:
        pooled = np.stack([arrays["score_maps"] for arrays in runs.values()])
        tops = dict.fromkeys(tops, _top(pooled))
    with mpl.rc_context(style.RC):
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
            color=style.MUTED,
        )


def _draw_image(ax, image):
    """Draws one image `[H, W, C]`, grey or colour, on the scale [0, 1]."""
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
    """Draws the outline of the mask, if this image has one."""
    if "masks" not in arrays or not arrays["masks"][i].any():
        return
    mask = np.asarray(arrays["masks"][i], np.float32)
    ax.contour(mask, levels=[0.5], colors=[_OUTLINE], linewidths=0.9)


def _label_row(ax, arrays, i):
    """Writes the id and the class of an image at the left of its row."""
    abnormal = bool(arrays["labels"][i])
    name = str(arrays["ids"][i])
    name = name if len(name) <= _ID_LENGTH else f"…{name[1 - _ID_LENGTH :]}"
    for y, text, color, size in (
        (
            0.56,
            "abnormal" if abnormal else "normal",
            style.ABNORMAL if abnormal else style.MUTED,
            9,
        ),
        (0.40, style.drawable(name), style.MUTED, 7.5),
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
    """Returns the upper end of a scale of score maps, above zero."""
    return max(float(np.quantile(score_maps, style.TOP_QUANTILE)), 1e-12)
