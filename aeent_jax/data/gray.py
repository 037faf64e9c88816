"""Gray levels: values of more than 8 bits to 8 bits through a window.

Images are worked on in strips of rows, so that a large one takes little more
memory than its own pixels and the 8-bit result. A histogram of the values is
kept, which shows whether the window would leave few gray levels of many.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import PIL.Image

Window = tuple[float, float]
FULL_WINDOW = (0, 65535)
# An image that shows fewer levels than these, of more that its file holds, is
# nearly black or nearly flat: 64 of 256 are what a 14-bit image has in 16 bits.
MIN_LEVELS = 64

_STRIP_PIXELS = 2**20
_BINS = 2**16
# Burnt-in letters and markers are a small share of the pixels, and say nothing
# of the range of the image itself.
_MAIN_SHARE = 0.99
_OUTLIERS = 0.001


class Histogram(NamedTuple):
    """How often values occur.

    Attributes:
        values: `[K]` float64, increasing: the values themselves where they are
            integers within 65536, else the middles of as many bins.
        counts: `[K]` int, at least 1.
        finite: whether all values were.
    """

    values: np.ndarray
    counts: np.ndarray
    finite: bool

    @property
    def extrema(self) -> tuple[float, float]:
        """Smallest and largest value; both 0 where there is none."""
        if not len(self.values):
            return 0.0, 0.0
        return float(self.values[0]), float(self.values[-1])

    def mapped(self, rescale: "Curve") -> "Histogram":
        """The histogram of the values that a function makes of these."""
        values, places = np.unique(rescale(self.values), return_inverse=True)
        counts = np.zeros(len(values), np.int64)
        np.add.at(counts, places, self.counts)
        return Histogram(values.astype(np.float64), counts, self.finite)

    def bulk(self) -> Window:
        """The range of all but the 0.1 % smallest and largest values."""
        if not len(self.values):
            return 0.0, 0.0
        cumulative = np.cumsum(self.counts)
        ranks = np.array([_OUTLIERS, 1 - _OUTLIERS]) * cumulative[-1]
        low, high = self.values[np.searchsorted(cumulative, ranks)]
        return float(low), float(high)


def strips(image: PIL.Image.Image) -> Iterator[np.ndarray]:
    """Yields the values `[h, W]` of a one-channel image by some rows."""
    width, height = image.size
    rows = max(1, _STRIP_PIXELS // width)
    for top in range(0, height, rows):
        box = (0, top, width, min(top + rows, height))
        yield np.asarray(image.crop(box))


def array_strips(values: np.ndarray) -> Iterator[np.ndarray]:
    """As `strips`, of an array `[H, W]`."""
    rows = max(1, _STRIP_PIXELS // values.shape[1])
    for top in range(0, values.shape[0], rows):
        yield values[top : top + rows]


def histogram(parts: Callable[[], Iterable[np.ndarray]]) -> Histogram:
    """Counts values.

    Args:
        parts: yields arrays of any shape, the same ones at each call; values
            that are not finite are left out.
    """
    first = next(iter(parts()))
    if first.dtype.kind in "iub" and first.dtype.itemsize <= 2:
        return _histogram_of_16_bits(parts(), first.dtype)
    low, high, finite, whole = np.inf, -np.inf, True, True
    for part in parts():
        chosen, all_finite = _finite(part)
        finite &= all_finite
        if chosen.size:
            low = min(low, float(chosen.min()))
            high = max(high, float(chosen.max()))
            whole &= chosen.dtype.kind in "iub"
    if low > high:
        return Histogram(np.empty(0), np.empty(0, np.int64), finite)
    exact = whole and high - low < _BINS
    scale = 1.0 if exact or high == low else (_BINS - 1) / (high - low)
    counts = np.zeros(_BINS, np.int64)
    for part in parts():
        chosen, _ = _finite(part)
        bins = ((chosen.astype(np.float64) - low) * scale).astype(np.int32)
        counts += np.bincount(bins.ravel(), minlength=_BINS)
    used = np.flatnonzero(counts)
    return Histogram(low + used / scale, counts[used], finite)


def _histogram_of_16_bits(
    parts: Iterable[np.ndarray], dtype: np.dtype
) -> Histogram:
    """Counts in one pass, because all values of the type have a bin."""
    values = _all_values(dtype)
    counts = np.zeros(len(values), np.int64)
    for part in parts:
        places = part.astype(np.int32).ravel() - values[0]
        counts += np.bincount(places, minlength=len(values))
    used = np.flatnonzero(counts)
    return Histogram(values[used].astype(np.float64), counts[used], True)


def _all_values(dtype: np.dtype) -> np.ndarray:
    """All values of a type of at most 16 bits, int32 and increasing."""
    if dtype.kind == "b":
        return np.arange(2, dtype=np.int32)
    info = np.iinfo(dtype)
    return np.arange(info.min, info.max + 1, dtype=np.int32)


def _finite(part: np.ndarray) -> tuple[np.ndarray, bool]:
    if part.dtype.kind != "f":
        return part, True
    finite = np.isfinite(part)
    return (part, True) if finite.all() else (part[finite], False)


class Linear(NamedTuple):
    """Maps values from a window to 0..1, and those beyond it to its ends.

    Attributes:
        low: becomes 0.
        high: becomes 1; at least `low`, where equal the window is a step.
    """

    low: float
    high: float

    def __call__(self, values: np.ndarray) -> np.ndarray:
        """Returns float32 of the same shape."""
        # In float64 only a strip at a time: float32 would round other values
        # of 16 bits up than have ever been.
        scaled = values.astype(np.float64) - self.low
        if self.high > self.low:
            scaled /= self.high - self.low
        else:
            scaled = scaled > 0
        return np.clip(scaled, 0, 1)


Curve = Callable[[np.ndarray], np.ndarray]


def to_uint8(
    parts: Iterable[np.ndarray],
    size: tuple[int, int],
    curve: Curve,
    *,
    inverted: bool = False,
) -> PIL.Image.Image:
    """Makes an 8-bit image of wide values.

    Args:
        parts: strips `[h, W]` of the image from the top to the bottom; values
            that are not finite become 0.
        size: (width, height).
        curve: maps values to 0..1.
        inverted: whether small values are bright.

    Returns:
        An image of mode L; rounded to the nearest of its 256 levels.
    """
    pixels = np.empty((size[1], size[0]), np.uint8)
    top, table = 0, None
    for part in parts:
        is_short = part.dtype.kind in "iub" and part.dtype.itemsize <= 2
        if is_short and pixels.size > _BINS:
            # Each value is mapped once, and not at each of its pixels.
            values = _all_values(part.dtype)
            if table is None:
                table = _shown(values, curve, inverted)
            shown = table[part.astype(np.int32) - values[0]]
        else:
            shown = _shown(part, curve, inverted)
        pixels[top : top + len(part)] = shown
        top += len(part)
    return PIL.Image.fromarray(pixels)


def _shown(values: np.ndarray, curve: Curve, inverted: bool) -> np.ndarray:
    """Maps values to uint8; those that are not finite become 0."""
    shown = curve(values)
    if inverted:
        shown = 1 - shown
    shown = np.nan_to_num(np.rint(shown * 255), nan=0.0).astype(np.uint8)
    if values.dtype.kind == "f":
        shown[~np.isfinite(values)] = 0
    return shown


class Levels(NamedTuple):
    """How many gray levels the main part of an image takes.

    Attributes:
        shown: of the 8-bit result.
        own: of the file.
    """

    shown: int
    own: int

    @property
    def few(self) -> bool:
        """Whether the window leaves few levels of more."""
        return self.shown < MIN_LEVELS and self.own > self.shown


def levels(counted: Histogram, curve: Curve) -> Levels:
    """Counts the levels that 99 % of the pixels need, before and after."""
    shown = np.rint(curve(counted.values) * 255).astype(np.int64)
    counts = np.bincount(shown, weights=counted.counts, minlength=256)
    return Levels(_main(counts), _main(counted.counts))


def _main(counts: np.ndarray) -> int:
    """The smallest number of values that make up the main share."""
    cumulative = np.cumsum(np.sort(counts)[::-1])
    if not len(cumulative) or not cumulative[-1]:
        return 0
    return int(np.searchsorted(cumulative, _MAIN_SHARE * cumulative[-1])) + 1


def advise(ranges: Sequence[Window]) -> str:
    """A window for images whose main values lie in some ranges.

    Args:
        ranges: `Histogram.bulk` of each image.

    Returns:
        "LOW,HIGH", from 0 to the largest value of the bits in use where no
        value is negative.
    """
    low = min(low for low, _ in ranges)
    high = max(high for _, high in ranges)
    if low >= 0 and high >= 2:
        return f"0,{2 ** int(high).bit_length() - 1}"
    if high - low < 2:
        return f"{low:.4g},{max(high, low + 1e-3):.4g}"
    return f"{np.floor(low):.0f},{np.ceil(high):.0f}"
