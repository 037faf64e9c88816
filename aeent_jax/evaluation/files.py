"""Writes the files of an evaluation, `eval/<split>` of a workdir."""

import csv
import io
import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from aeent_jax import data
from aeent_jax.evaluation import scoring
from aeent_jax.runtime import workdir


class Shown(NamedTuple):
    """The images of `panel.png`.

    Attributes:
      chosen: `[k]`, their places in the split.
      reconstructions: `[k, H, W, C]` in [0, 1].
      score_maps: `[k, H, W]`; None where the score has none.
    """

    chosen: np.ndarray
    reconstructions: np.ndarray
    score_maps: np.ndarray | None


def write(
    folder: pathlib.Path,
    results: Mapping[str, Any],
    split: data.Split,
    scored: scoring.Scored,
    shown: Shown,
) -> None:
    """Writes scores, score maps, the panel with its arrays, and metrics.

    Args:
      folder: is made if it is missing.
      results: the content of `metrics.json`.
      split: the evaluated images.
      scored: their scores.
      shown: the images of the panel.

    Raises:
      OSError: it cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # metrics.json says that the evaluation is whole, so the old one goes
        # first and the new one comes last.
        (folder / "metrics.json").unlink(missing_ok=True)
        _write_scores(folder, split, scored)
        _draw_panel(folder, split, scored, shown)
        workdir.write_json(folder / "metrics.json", results)
    except OSError as error:
        raise OSError(
            f"The evaluation cannot be written to {folder}"
            f" ({error.strerror or error}); make room or give access, then"
            " start the same command again, which trains nothing anew."
        ) from error


def _write_scores(folder, split, scored):
    table = io.StringIO(newline="")
    writer = csv.writer(table)
    writer.writerow(["id", "label", "anomaly_score"])
    for row in zip(
        split.ids,
        split.labels.tolist(),
        map(repr, scored.anomaly_scores.tolist()),
        strict=True,
    ):
        writer.writerow(row)
    (folder / "scores.csv").write_bytes(table.getvalue().encode())
    path = folder / "score_maps.npz"
    path.unlink(missing_ok=True)
    if scored.score_maps is None:
        return
    arrays = {"score_maps": scored.score_maps, "ids": np.array(split.ids)}
    if split.masks is not None:
        arrays["masks"] = split.masks
    with path.open("wb") as file:
        np.savez_compressed(file, **arrays)


def _draw_panel(folder, split, scored, panel):
    """Draws the chosen images beside their reconstructions."""
    # matplotlib is imported when used, so that commands start soon.
    from aeent_jax import figures

    chosen, shown, maps = panel
    images = split.images[chosen] / 255.0
    figures.save_panel(
        folder,
        images=images,
        reconstructions=shown,
        # A score without a map shows the map of squared errors.
        score_maps=np.square(2 * (images - shown)).mean(axis=3)
        if maps is None
        else maps,
        masks=None if split.masks is None else split.masks[chosen],
        labels=split.labels[chosen],
        ids=[split.ids[i] for i in chosen],
        scores=scored.anomaly_scores[chosen],
    )
