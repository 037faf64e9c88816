"""One image as a file holds it, and as a network sees it."""

import dataclasses

import numpy as np
import PIL.Image

from aeent_jax.data import gray

MAX_PIXELS = 2**26  # 67 megapixels; below the size at which PIL warns
STATE_WINDOW = "; state the window"
STRETCH = "stretch"
PAD = "pad"
RESIZES = (STRETCH, PAD)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Facts:
    """Facts of an image besides its pixels.

    Attributes:
        size: (width, height) in pixels.
        index: number of the image in its file, from 0.
        name: what tells it from the other images of its file, such as "0003";
            empty where the file holds one image.
        group: equal for images that belong together: of one patient, study,
            series, volume or file. It holds no value of the file's header, and
            changes from process to process.
        volume: equal for the slices of one volume of one file; empty for
            images that are no slices.
        kind: the format's name in lower case, such as "png" or "dicom".
        mode: PIL's name of the pixel format, or the photometric
            interpretation of a DICOM file.
        bits: bits per channel that the file uses.
        modality: of a DICOM file, such as "CT"; else empty.
        body_part: of a DICOM file, such as "CHEST"; else empty.
        window: values that became black and white, or None for 8-bit images.
        window_source: "stated", "file", "lut", "CT", "range", "volume" or
            "default": where the window comes from; empty without one.
        extrema: smallest and largest value of the file, rescaled.
        bulk: the same without the outermost 0.1 % on each side.
        notes: what may not be expected of the image, as sentences that follow
            its name.
        problem: why it should not be used as it is, likewise, or empty.
        needs_window: whether a stated window would solve the problem.
    """

    size: tuple[int, int]
    index: int = 0
    name: str = ""
    group: str = ""
    volume: str = ""
    kind: str = ""
    mode: str = ""
    bits: int = 8
    modality: str = ""
    body_part: str = ""
    window: gray.Window | None = None
    window_source: str = ""
    extrema: tuple[float, float] = (0.0, 255.0)
    bulk: gray.Window = (0.0, 255.0)
    notes: tuple[str, ...] = ()
    problem: str = ""
    needs_window: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class Frame(Facts):
    """One image at its own resolution.

    Attributes:
        image: of 8 bits per channel, upright, without transparency; in any of
            PIL's modes.
    """

    image: PIL.Image.Image

    @property
    def facts(self) -> Facts:
        """The same without the pixels, to be kept of many images."""
        names = [field.name for field in dataclasses.fields(Facts)]
        return Facts(**{name: self.__dict__[name] for name in names})

    @property
    def has_color(self) -> bool:
        """Whether the channels of some pixel differ."""
        if self.image.mode in ("L", "1"):
            return False
        is_rgb = self.image.mode == "RGB"
        image = self.image if is_rgb else self.image.convert("RGB")
        return any((p != p[..., :1]).any() for p in gray.strips(image))


def to_network(
    frame: Frame, image_size: int, channels: int, resize: str = STRETCH
) -> np.ndarray:
    """Returns the pixels that a network sees.

    PIL's `convert` comes first and `resize` with BILINEAR after it, which
    antialiases and works on uint8, as in the reference.

    Args:
        frame: the image.
        image_size: side S of the result in pixels.
        channels: 1 for gray, 3 for RGB.
        resize: "stretch" for the reference's way, which squeezes images that
            are not square; "pad" adds black on both of the shorter sides.

    Returns:
        `[S, S, C]` uint8.
    """
    image = frame.image.convert({1: "L", 3: "RGB"}[channels])
    size = (image_size, image_size)
    if resize == PAD and image.width != image.height:
        image = _pad(image)
    image = image.resize(size, PIL.Image.Resampling.BILINEAR)
    return np.array(image).reshape(image_size, image_size, channels)


def from_network(
    values: np.ndarray, size: tuple[int, int], resize: str = STRETCH
) -> np.ndarray:
    """Brings a map of the network's pixels to the size of its image.

    Args:
        values: `[S, S]` float.
        size: (width, height) of the image.
        resize: as the image was read.

    Returns:
        `[H, W]` float32, interpolated; what was padded is cut off.
    """
    image = PIL.Image.fromarray(np.ascontiguousarray(values, np.float32))
    box = None
    if resize == PAD:
        side = max(size)
        margins = [(side - length) / 2 / side for length in size]
        width, height = image.size
        left, top = margins[0] * width, margins[1] * height
        box = (left, top, width - left, height - top)
    return np.asarray(image.resize(size, PIL.Image.Resampling.BILINEAR, box))


def _pad(image: PIL.Image.Image) -> PIL.Image.Image:
    side = max(image.size)
    square = PIL.Image.new(image.mode, (side, side))
    square.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
    return square


def pad_mask(mask: np.ndarray) -> np.ndarray:
    """Makes a mask `[H, W]` square as `to_network` does with "pad"."""
    height, width = mask.shape
    side = max(mask.shape)
    square = np.zeros((side, side), mask.dtype)
    top, left = (side - height) // 2, (side - width) // 2
    square[top : top + height, left : left + width] = mask
    return square


def too_large(found: str) -> str:
    """The reason for refusing an image of more than `MAX_PIXELS`."""
    return f"has {found} than the {MAX_PIXELS} pixels allowed; scale it down"


def few_levels(counted: gray.Levels, window: gray.Window) -> str:
    """The problem of a window that leaves few levels, or an empty text."""
    if not counted.few:
        return ""
    return (
        f"would show {counted.shown} of its {counted.own} gray levels in the "
        f"window {window[0]:.5g},{window[1]:.5g}{STATE_WINDOW}"
    )
