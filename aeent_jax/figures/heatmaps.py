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

_CLEAR = np.float32(1 - _TABLE[:, 3:])
_ADDED = np.float32(_TABLE[:, :3] * _TABLE[:, 3:])


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
      score_map: `[S, S]`, or None for black in place of the overlay.
      scale: as in `overlay`.

    Returns:
      An RGB image of S rows and 3 S columns.
    """
    size = pixels.shape[0]
    shown = np.rint((np.clip(reconstruction, -1, 1) + 1) * 127.5)
    pair = np.concatenate([pixels, shown.astype(np.uint8)], axis=1)
    pair = pair[:, :, 0] if pair.shape[2] == 1 else pair
    joined = PIL.Image.new("RGB", (3 * size, size))
    joined.paste(PIL.Image.fromarray(pair), (0, 0))
    if score_map is not None:
        # Every image that is screened gets a strip; `overlay` takes longer.
        levels = np.clip(score_map * (255 / max(scale, 1e-12)), 0, 255)
        levels = levels.astype(np.uint8)
        blended = pixels * np.take(_CLEAR, levels, axis=0)
        blended = blended + np.take(_ADDED, levels, axis=0)
        blended = PIL.Image.fromarray(np.rint(blended).astype(np.uint8))
        joined.paste(blended, (2 * size, 0))
    return joined
