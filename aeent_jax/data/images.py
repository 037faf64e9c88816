"""Image files to uint8 arrays, exactly as the reference reads them.

PIL `convert("L")` or `convert("RGB")` first, then `resize((S, S), BILINEAR)`,
which antialiases and works on uint8; masks are resized with NEAREST. EXIF
orientation is not applied, as in the reference.

Images of more than 8 bits have no counterpart in the reference. They are
scaled linearly from a stated window to 0..255 before they are resized; the
default window is the full 16-bit range 0..65535, and values that it cannot
show are refused rather than truncated.
"""

import hashlib
import os
import pathlib
import struct
import zlib
from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeVar

import numpy as np
import PIL.Image
import PIL.ImageFile

from aeent_jax.data import files

FORMATS = ("BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")
EXTENSIONS = frozenset(
    (".bmp", ".gif", ".jpg", ".jpeg", ".jp2", ".png", ".pgm", ".ppm", ".pnm")
    + (".tif", ".tiff", ".webp")
)
MAX_PIXELS = 2**26  # 67 megapixels; below the size at which PIL warns
FULL_WINDOW = (0, 65535)
_WIDE_MODES = ("I", "I;16", "I;16B", "I;16L", "I;16N", "F")
# What PIL's decoders raise on damaged files.
_DECODE_ERRORS = (
    OSError,
    ValueError,
    SyntaxError,
    EOFError,
    IndexError,
    KeyError,
    TypeError,
    OverflowError,
    struct.error,
    zlib.error,
    PIL.Image.DecompressionBombError,
)

Window = tuple[float, float]
T = TypeVar("T")


class Decoded(NamedTuple):
    """One decoded file.

    Attributes:
        pixels: [S, S, C] uint8.
        wide_max: largest value in the file where it has more than 8 bits a
            channel, else None.
        size: (width, height) of the file in pixels.
    """

    pixels: np.ndarray
    wide_max: float | None
    size: tuple[int, int]


def read_image(
    path: str | os.PathLike,
    *,
    image_size: int,
    channels: int,
    window: Window | None = None,
) -> Decoded:
    """Reads one image file.

    Args:
        path: a file in one of `FORMATS`, with at most `MAX_PIXELS` pixels.
        image_size: side S of the result in pixels.
        channels: 1 for gray, 3 for RGB.
        window: values (low, high) of a wide image that become 0 and 255, beyond
            which it is clipped; None for 0..65535, beyond which it is refused.
            8-bit images are left as they are.

    Returns:
        The pixels, and the largest value of a wide image.

    Raises:
        files.UnreadableFileError: the file is no readable image, or is
            too large.
    """

    def convert(image: PIL.Image.Image) -> Decoded:
        wide_max, own_size = None, image.size
        if image.mode in _WIDE_MODES:
            values = np.asarray(image)
            wide_max = float(values.max())
            image = PIL.Image.fromarray(_apply_window(values, window))
        image = image.convert({1: "L", 3: "RGB"}[channels])
        size = (image_size, image_size)
        image = image.resize(size, PIL.Image.Resampling.BILINEAR)
        pixels = np.array(image).reshape(image_size, image_size, channels)
        return Decoded(pixels, wide_max, own_size)

    return _with_image(path, convert)


def read_mask(
    path: str | os.PathLike,
    *,
    image_size: int,
    like: tuple[int, int] | None = None,
) -> np.ndarray:
    """Reads a mask, True where the file is not 0.

    Args:
        path: an image file.
        image_size: side S of the result in pixels.
        like: (width, height) of the image that it is the mask of. A mask of
            another scale is resized with it; one of another shape, beyond the
            rounding of a pixel, would be stretched onto the wrong places and is
            refused. None checks nothing.

    Returns:
        [S, S] bool.

    Raises:
        files.UnreadableFileError: the file is no readable image, is too large,
            or is of another shape than its image.
    """

    def convert(image: PIL.Image.Image) -> np.ndarray:
        _check_shape(image.size, like or image.size)
        if image.mode not in _WIDE_MODES:
            image = image.convert("L")
        # PIL's conversion of wide images would truncate 0.5 to 0, and 8-bit
        # ones are converted first because the reference does.
        image = PIL.Image.fromarray(np.asarray(image) != 0)
        size = (image_size, image_size)
        return np.array(image.resize(size, PIL.Image.Resampling.NEAREST))

    return _with_image(path, convert)


def _check_shape(size: tuple[int, int], like: tuple[int, int]):
    """Refuses a mask whose sides have another ratio than those of its image."""
    # Zero where the ratios are equal; a pixel more on a side adds the length of
    # the other image's other side.
    difference = abs(size[0] * like[1] - size[1] * like[0])
    if difference > max(*size, *like):
        raise ValueError(
            f"is a mask of {size[0]} x {size[1]} pixels for an image of "
            f"{like[0]} x {like[1]}, another shape"
        )


class Inspection(NamedTuple):
    """What `inspect` finds in one file.

    Attributes:
        mode: PIL's name of the pixel format.
        size: (width, height) in pixels.
        extrema: smallest and largest gray value, before any window.
        digest: sha256 of size and gray values; equal for equal images, even
            in files of another format.
    """

    mode: str
    size: tuple[int, int]
    extrema: tuple[float, float]
    digest: str


def inspect(path: str | os.PathLike) -> Inspection:
    """Decodes a file at its own size.

    Raises:
        files.UnreadableFileError: the file is no readable image, or is too
            large.
    """

    def examine(image: PIL.Image.Image) -> Inspection:
        wide = image.mode in _WIDE_MODES
        values = np.asarray(image if wide else image.convert("L"))
        digest = hashlib.sha256(repr((values.dtype, image.size)).encode())
        digest.update(np.ascontiguousarray(values).data)
        extrema = (float(values.min()), float(values.max()))
        return Inspection(image.mode, image.size, extrema, digest.hexdigest())

    return _with_image(path, examine)


def is_wide(mode: str) -> bool:
    """Whether PIL's mode has more than 8 bits a channel."""
    return mode in _WIDE_MODES


def check_window(wide_max: Sequence[float | None], window: Window | None):
    """Refuses wide images that the default window would leave almost black.

    Args:
        wide_max: `Decoded.wide_max` of all images of a data set.
        window: the window they were read with.

    Raises:
        ValueError: no image uses more than 1/16 of the default window, as with
            12-bit data in 16-bit files.
    """
    found = [value for value in wide_max if value is not None]
    if window is None and found and max(found) < FULL_WINDOW[1] / 16:
        raise ValueError(
            f"the 16-bit images have no value above {max(found):.0f}, so that "
            "the default window 0,65535 leaves at most 16 gray levels; state "
            f"the window of the data, for example 0,{max(found):.0f}."
        )


def _with_image(
    path: str | os.PathLike, convert: Callable[[PIL.Image.Image], T]
) -> T:
    """Opens and checks a file, and turns every failure into one sentence."""
    path = pathlib.Path(path)
    if not path.is_file():
        reason = "is no regular file" if path.exists() else "does not exist"
        raise files.UnreadableFileError(f"{path}: {reason}")
    try:
        with PIL.Image.open(path, formats=FORMATS) as image:
            _check_header(image)
            return convert(image)
    except PIL.UnidentifiedImageError:
        raise files.UnreadableFileError(
            f"{path}: not an image in one of {', '.join(FORMATS)}"
        ) from None
    except PIL.Image.DecompressionBombError:
        raise files.UnreadableFileError(
            f"{path}: {_too_large('far more')}"
        ) from None
    except PermissionError:
        raise files.UnreadableFileError(f"{path}: permission denied") from None
    except _DECODE_ERRORS as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise files.UnreadableFileError(f"{path}: {reason}") from error


def _too_large(found: str) -> str:
    return f"has {found} than the {MAX_PIXELS} pixels allowed; scale it down"


def _check_header(image: PIL.ImageFile.ImageFile):
    """Refuses what would be read wrongly or not at all, before decoding."""
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise ValueError(_too_large(f"{width} x {height} pixels, more"))
    if image.mode not in _WIDE_MODES and ";16" in str(image.tile):
        raise ValueError(
            "has several channels of 16 bits, of which PIL keeps 8 bits; save "
            "it as 16-bit gray or 8-bit color"
        )
    if image.format in ("GIF", "PNG", "TIFF", "WEBP") and _has_frames(image):
        raise ValueError("has several frames, and one image a file is needed")


def _has_frames(image: PIL.Image.Image) -> bool:
    try:
        image.seek(1)
    except EOFError:
        return False
    return True


def _apply_window(values: np.ndarray, window: Window | None) -> np.ndarray:
    """Scales [H, W] of any type from the window to uint8, rounded."""
    if not np.isfinite(values).all():
        raise ValueError("has values that are not finite")
    if window is None and values.dtype.kind == "f":
        raise ValueError("has floating-point values; state their window")
    low, high = window or FULL_WINDOW
    if window is None and (values.min() < low or values.max() > high):
        raise ValueError(
            f"has values from {values.min()} to {values.max()}, outside the "
            f"default window {low},{high}; state the window"
        )
    scaled = (values.astype(np.float64) - low) / (high - low)
    return np.rint(np.clip(scaled, 0, 1) * 255).astype(np.uint8)
