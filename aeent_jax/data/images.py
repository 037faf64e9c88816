"""Image files to frames of 8 bits, and to what a network sees of them.

PNG, JPEG, TIFF and others are read by PIL, DICOM and NIfTI by `medical`. An
image is turned as its EXIF orientation says, as every viewer does, and
transparent pixels are black. Images of more than 8 bits are scaled linearly
from a window to 0..255 before they are resized; the default window of those
that state none is the full 16-bit range 0..65535. Images that it would leave
few gray levels, or whose values lie beyond it, have a problem, and a folder
with such images is refused until a window is stated.
"""

import hashlib
import os
import pathlib
import struct
import types
import zlib
from collections.abc import Callable, Iterator
from typing import NamedTuple, TypeVar

import numpy as np
import PIL.Image
import PIL.ImageFile
import PIL.ImageOps

from aeent_jax.data import files, frame, gray, medical

Frame = frame.Frame
Facts = frame.Facts
Window = gray.Window
to_network = frame.to_network
from_network = frame.from_network
MAX_PIXELS = frame.MAX_PIXELS
STRETCH, PAD, RESIZES = frame.STRETCH, frame.PAD, frame.RESIZES

FORMATS = ("BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")
EXTENSIONS = frozenset(
    (".bmp", ".dib", ".gif", ".jpg", ".jpeg", ".jpe", ".jfif", ".jp2", ".j2k")
    + (".png", ".pbm", ".pgm", ".ppm", ".pnm", ".tif", ".tiff", ".webp")
)
_WIDE_MODES = ("I", "I;16", "I;16B", "I;16L", "I;16N", "F")
_PHOTOMETRIC = 262  # The TIFF tag; 0 is WhiteIsZero.
_ORIENTATION = 0x112
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
    AttributeError,
    struct.error,
    zlib.error,
    PIL.Image.DecompressionBombError,
)

T = TypeVar("T")


def frames(
    path: str | os.PathLike, *, window: Window | None = None
) -> Iterator[Frame]:
    """Reads the images of one file, one after another.

    Args:
        path: a file in one of `FORMATS`, DICOM or NIfTI; each image has at
            most `MAX_PIXELS` pixels.
        window: values (low, high) of wide images that become 0 and 255, beyond
            which they are clipped; None for the window of the file, or else
            the one that `Frame.window_source` names. 8-bit images in `FORMATS`
            are left as they are.

    Yields:
        The images at their own resolution, at least one. An image with a
        `problem` is read as well as it can be.

    Raises:
        files.UnreadableFileError: the file is no readable image, is too large,
            or holds no image.
        medical.MissingExtraError: it is DICOM or NIfTI, and the extra that
            reads these is not installed.
    """
    path = pathlib.Path(path)
    refuse_irregular(path)
    if reader := _medical_reader(path):
        yield from reader.frames(path, window)
    else:
        yield with_image(path, lambda image: _to_frame(image, path, window))


def _medical_reader(path: pathlib.Path) -> types.ModuleType | None:
    """The module that reads a DICOM or NIfTI file; None for other files."""
    if path.suffix.lower() in EXTENSIONS:
        return None
    kind = medical.sniff(path)
    if not kind:
        return None
    medical.require(kind, path)
    # Their packages are an extra, which not everybody has.
    if kind == medical.DICOM:
        from aeent_jax.data import dicom

        return dicom
    from aeent_jax.data import nifti

    return nifti


def is_image_name(path: pathlib.Path) -> bool:
    """Whether a file is one of images, by its suffix or how it begins."""
    if path.name.upper() == "DICOMDIR":
        return False
    return path.suffix.lower() in EXTENSIONS or bool(medical.sniff(path))


def names(path: str | os.PathLike) -> list[str]:
    """Names the images that a file may hold, without decoding it.

    Returns:
        All values that `Frame.name` of its images can have, in order; [""]
        for a file of one image.

    Raises:
        files.UnreadableFileError: the file is of several images, and its
            header cannot be read.
    """
    path = pathlib.Path(path)
    reader = _medical_reader(path)
    if reader is None:
        return [""]
    refuse_irregular(path)
    return reader.names(path)


class Decoded(NamedTuple):
    """One decoded file of one image.

    Attributes:
        pixels: [S, S, C] uint8.
        size: (width, height) of the file in pixels.
    """

    pixels: np.ndarray
    size: tuple[int, int]


def read_image(
    path: str | os.PathLike,
    *,
    image_size: int,
    channels: int,
    window: Window | None = None,
    resize: str = STRETCH,
) -> Decoded:
    """Reads the only image of a file.

    Args:
        path: as in `frames`.
        image_size: side S of the result in pixels.
        channels: 1 for gray, 3 for RGB.
        window: as in `frames`.
        resize: as in `to_network`.

    Returns:
        The pixels.

    Raises:
        files.UnreadableFileError: as in `frames`; or the file has several
            images, or one with a problem.
    """
    images = frames(path, window=window)
    first = next(images)
    if next(images, None) is not None:
        raise files.UnreadableFileError(f"{path}: has several images")
    if first.problem:
        raise files.UnreadableFileError(f"{path}: {first.problem}")
    pixels = to_network(first, image_size, channels, resize)
    return Decoded(pixels, first.size)


def digest(shown: Frame) -> str:
    """sha256 of an image's size and gray values; equal for equal images."""
    values = np.asarray(shown.image.convert("L"))
    hashed = hashlib.sha256(repr(shown.size).encode())
    hashed.update(np.ascontiguousarray(values).data)
    return hashed.hexdigest()


def _to_frame(
    image: PIL.ImageFile.ImageFile, path: pathlib.Path, window: Window | None
) -> Frame:
    """Reads an opened image."""
    kind, mode = (image.format or "").lower(), image.mode
    photometric = getattr(image, "tag_v2", {}).get(_PHOTOMETRIC)
    turned, notes = load_upright(image)
    about = {"kind": kind, "mode": mode, "group": f"file:{path}"}
    if mode in _WIDE_MODES:
        return _from_wide(turned, photometric == 0, window, about, notes)
    opaque = _without_alpha(turned)
    if opaque is not turned:
        notes.append("has transparent pixels, which are read as black")
    extrema = opaque.convert("L").getextrema()
    return Frame(
        image=opaque,
        size=opaque.size,
        bits=1 if mode == "1" else 8,
        extrema=extrema,
        bulk=extrema,
        notes=tuple(notes),
        **about,
    )


def load_upright(
    image: PIL.ImageFile.ImageFile,
) -> tuple[PIL.Image.Image, list[str]]:
    """Decodes an image and turns it upright; a note says where it was not."""
    # TIFF turns itself when it is loaded, and PNG may state the orientation
    # after the pixels.
    before = image.getexif().get(_ORIENTATION, 1)
    image.load()
    after = image.getexif().get(_ORIENTATION, 1)
    turned = PIL.ImageOps.exif_transpose(image) if after != 1 else image
    is_turned = {before, after} & set(range(2, 9))
    return turned, ["is turned by its EXIF orientation"] if is_turned else []


def _without_alpha(image: PIL.Image.Image) -> PIL.Image.Image:
    """Puts an image before black, unless nothing of it is transparent."""
    if not image.has_transparency_data:
        return image
    bands = image.getbands()
    alpha = image if "A" in bands else image.convert("RGBA")
    alpha = alpha.getchannel("A")
    if alpha.getextrema()[0] == 255:
        return image
    mode = "L" if image.mode in ("L", "LA", "La", "1") else "RGB"
    black = PIL.Image.new(mode, image.size)
    black.paste(image.convert(mode), mask=alpha)
    return black


def _from_wide(
    image: PIL.Image.Image,
    inverted: bool,
    window: Window | None,
    about: dict[str, str],
    notes: list[str],
) -> Frame:
    """Scales an image of more than 8 bits."""
    counted = gray.histogram(lambda: gray.strips(image))
    if not counted.finite:
        raise ValueError("has values that are not finite")
    used = window or gray.FULL_WINDOW
    curve = gray.Linear(*used)
    shown = gray.to_uint8(
        gray.strips(image), image.size, curve, inverted=inverted
    )
    problem = "" if window else _find_problem(image.mode, counted, curve)
    return Frame(
        image=shown,
        size=shown.size,
        bits=32 if image.mode in ("I", "F") else 16,
        window=used,
        window_source="stated" if window else "default",
        extrema=counted.extrema,
        bulk=counted.bulk(),
        notes=tuple(notes),
        problem=problem,
        needs_window=bool(problem),
        **about,
    )


def _find_problem(mode: str, counted: gray.Histogram, curve: gray.Curve) -> str:
    """Why the default window does not fit, or an empty text."""
    low, high = counted.extrema
    if mode == "F":
        return (
            f"has floating-point values from {low:.4g} to {high:.4g}"
            f"{frame.STATE_WINDOW}"
        )
    if low < gray.FULL_WINDOW[0] or high > gray.FULL_WINDOW[1]:
        return (
            f"has values from {low:.0f} to {high:.0f}, outside the default "
            f"window 0,65535{frame.STATE_WINDOW}"
        )
    return frame.few_levels(gray.levels(counted, curve), gray.FULL_WINDOW)


def is_wide(mode: str) -> bool:
    """Whether PIL's mode has more than 8 bits per channel."""
    return mode in _WIDE_MODES


def with_image(
    path: pathlib.Path, convert: Callable[[PIL.ImageFile.ImageFile], T]
) -> T:
    """Opens and checks a file, and turns every failure into one sentence.

    Args:
        path: a file in one of `FORMATS`.
        convert: reads the opened image; what it raises for a damaged one
            becomes a reason too.

    Raises:
        files.UnreadableFileError: the file is no readable image, or is too
            large.
    """
    refuse_irregular(path)
    try:
        # By its name Pillow 13 maps an uncompressed TIFF into memory, with
        # the sides of the turned image for the file's.
        with (
            path.open("rb") as file,
            PIL.Image.open(file, formats=FORMATS) as image,
        ):
            _check_header(image)
            return convert(image)
    except PIL.UnidentifiedImageError:
        raise files.UnreadableFileError(
            f"{path}: not an image in one of {', '.join(FORMATS)}"
        ) from None
    except PIL.Image.DecompressionBombError:
        raise files.UnreadableFileError(
            f"{path}: {frame.too_large('far more')}"
        ) from None
    except PermissionError:
        raise files.UnreadableFileError(f"{path}: permission denied") from None
    except _DECODE_ERRORS as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise files.UnreadableFileError(f"{path}: {reason}") from error


def refuse_irregular(path: pathlib.Path):
    """Refuses what is no file that could be read.

    Raises:
        files.UnreadableFileError: it is missing, or not regular.
    """
    if not path.is_file():
        reason = "is no regular file" if path.exists() else "does not exist"
        raise files.UnreadableFileError(f"{path}: {reason}")


def _check_header(image: PIL.ImageFile.ImageFile):
    """Refuses what would be read wrongly or not at all, before decoding."""
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise ValueError(frame.too_large(f"{width} x {height} pixels, more"))
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
