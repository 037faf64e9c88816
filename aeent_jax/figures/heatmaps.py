"""Anomaly maps over images; without matplotlib, because there are many."""

import numpy as np
import PIL.Image

# From nothing over yellow to red; the last number is the opacity.
_COLORS = np.array(
    [
        (255, 255, 160, 0.0),
        (255, 220, 80, 0.25),
        (255, 140, 30, 0.5),
        (225, 30, 30, 0.65),
        (130, 0, 60, 0.75),
    ]
)
_STEPS = np.linspace(0, 255, len(_COLORS))
_TABLE = np.stack(
    [np.interp(np.arange(256), _STEPS, c) for c in _COLORS.T], axis=1
)


def overlay(
    image: PIL.Image.Image, score_map: np.ndarray, scale: float
) -> PIL.Image.Image:
    """Lays an anomaly map over its image.

    Args:
      image: of any mode of 8 bits, `[H, W]`.
      score_map: `[H, W]`, at least 0.
      scale: the value that gets the strongest colour; values above it too.

    Returns:
      An RGB image of the same size.
    """
    levels = score_map * (255 / max(scale, 1e-12))
    np.clip(levels, 0, 255, out=levels)
    # A palette keeps large images at one byte per pixel.
    drawn = PIL.Image.fromarray(levels.astype(np.uint8), "P")
    drawn.putpalette(_TABLE[:, :3].astype(np.uint8).tobytes())
    opacity = PIL.Image.fromarray(levels.astype(np.uint8)).point(
        [int(255 * a) for a in _TABLE[:, 3]]
    )
    return PIL.Image.composite(
        drawn.convert("RGB"), image.convert("RGB"), opacity
    )


def strip(
    pixels: np.ndarray,
    reconstruction: np.ndarray,
    score_map: np.ndarray | None,
    scale: float,
) -> PIL.Image.Image:
    """Sets image, reconstruction and overlay side by side.

    Args:
      pixels: `[S, S, C]` uint8.
      reconstruction: `[S, S, C]` float in [-1, 1]; clipped.
      score_map: `[S, S]`, or None for an image without an overlay.
      scale: as in `overlay`.

    Returns:
      An RGB image of S rows and 3 S columns.
    """
    size = pixels.shape[0]
    shown = np.rint((np.clip(reconstruction, -1, 1) + 1) * 127.5)
    image, again = (
        PIL.Image.fromarray(a[:, :, 0] if a.shape[2] == 1 else a)
        for a in (pixels, shown.astype(np.uint8))
    )
    joined = PIL.Image.new("RGB", (3 * size, size))
    joined.paste(image.convert("RGB"), (0, 0))
    joined.paste(again.convert("RGB"), (size, 0))
    if score_map is not None:
        joined.paste(overlay(image, score_map, scale), (2 * size, 0))
    return joined
