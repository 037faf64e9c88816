"""DICOM files to frames: gray levels as a viewer shows them.

Values are rescaled, and become gray by the first of: the stated window, the
file's first VOI LUT or window, a window for CT, the least to the greatest
value. `dicom_header` decides which values of a header may be told.
"""

import dataclasses
import functools
import pathlib
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import PIL.Image
import pydicom
import pydicom.pixels
import pydicom.uid
from pydicom.dataset import Dataset

from aeent_jax.data import dicom_header, files, frame, gray

# A width of 400 about 40 HU, the usual window of soft tissue.
CT_WINDOW = (-160.0, 240.0)
_GPL_INSTALL = "pip install 'aeent-jax[medical-gpl]'"


def names(path: pathlib.Path) -> list[str]:
    """Names the frames of a file from its header; see `images.names`."""
    return _with_reasons(
        path, lambda: _frame_names(dicom_header.read(path, pixels=False))
    )


def describe(path: pathlib.Path) -> frame.Facts:
    """Reads what the header of a file says, without its pixels.

    Raises:
        files.UnreadableFileError: the file is no readable DICOM file.
    """
    return _with_reasons(
        path,
        lambda: dicom_header.describe(
            dicom_header.read(path, pixels=False), path
        ),
    )


def frames(path: pathlib.Path, window: gray.Window | None) -> Iterator:
    """Reads the frames of a file; see `images.frames`."""
    header = _with_reasons(path, lambda: dicom_header.read(path, pixels=True))
    facts = _with_reasons(path, lambda: dicom_header.describe(header, path))

    def read(index: int, name: str) -> frame.Frame:
        own = dataclasses.replace(facts, index=index, name=name)
        return _to_frame(header, _decode(header, index), own, window)

    for index, name in enumerate(_frame_names(header)):
        yield _with_reasons(path, functools.partial(read, index, name))


def _with_reasons(path: pathlib.Path, read: Callable):
    """Has a file that cannot be used refused by its name."""
    try:
        return read()
    except dicom_header.Unusable as error:
        reason = str(error)
    except Exception:
        reason = "is no readable DICOM file: its header is damaged"
    raise files.UnreadableFileError(f"{path}: {reason}") from None


def _decode(header: Dataset, index: int) -> np.ndarray:
    """Decodes a frame: `[H, W]` of any type, or `[H, W, 3]` RGB."""
    # pydicom 3.0 iterates over frames too, but then fails where JPEG 2000
    # states another sign than the header.
    try:
        pixels = pydicom.pixels.pixel_array(header, index=index)
    except Exception:
        if (
            dicom_header.transfer_syntax(header)
            == pydicom.uid.JPEGExtended12Bit
        ):
            raise dicom_header.Unusable(
                "is compressed as JPEG of 12 bits, whose only decoder is under "
                f"the GPL: {_GPL_INSTALL}"
            ) from None
        raise dicom_header.Unusable(
            "has pixels that cannot be decoded: it is cut off or damaged"
        ) from None
    return pixels.astype(pixels.dtype.newbyteorder("="), copy=False)


def _frame_names(header: Dataset) -> list[str]:
    count = dicom_header.count_frames(header)
    return [f"{i:04d}" for i in range(count)] if count > 1 else [""]


def _to_frame(
    header: Dataset,
    pixels: np.ndarray,
    facts: frame.Facts,
    window: gray.Window | None,
) -> frame.Frame:
    if (
        header.PhotometricInterpretation in dicom_header.GRAY
        and pixels.ndim == 2
    ):
        return _from_gray(header, pixels, facts, window)
    try:
        return _from_color(header, pixels, facts)
    except Exception:
        raise dicom_header.Unusable(
            "has colors that cannot be decoded"
        ) from None


def _from_color(
    header: Dataset, pixels: np.ndarray, facts: frame.Facts
) -> frame.Frame:
    """Makes RGB of 8 bits; pydicom has brought YBR to RGB already."""
    if header.PhotometricInterpretation == dicom_header.PALETTE:
        pixels = pydicom.pixels.apply_color_lut(pixels, header)
        shift = 8 * (pixels.dtype.itemsize - 1)
    else:
        shift = max(0, int(header.BitsStored) - 8)
    image = PIL.Image.fromarray((pixels >> shift).astype(np.uint8)[..., :3])
    extrema = image.convert("L").getextrema()
    return frame.Frame(
        image=image,
        **{**vars(facts), "extrema": extrema, "bulk": extrema},
    )


class _Lut(NamedTuple):
    """A table: values to those of an array, the ends beyond it.

    Attributes:
        first: the value that the first entry is for.
        entries: `[n]`.
        divisor: of the entries, to bring them to 0..1.
    """

    first: int
    entries: np.ndarray
    divisor: float = 1.0

    def __call__(self, values: np.ndarray) -> np.ndarray:
        places = np.rint(values).astype(np.int64) - self.first
        places = np.clip(places, 0, len(self.entries) - 1)
        return self.entries[places] / self.divisor


def _read_lut(item: Dataset, little_endian: bool, signed: bool) -> _Lut:
    count, first, bits = (int(v) for v in item.LUTDescriptor)
    count = count or 2**16
    if signed and first >= 2**15:
        first -= 2**16
    data = item.LUTData
    if isinstance(data, bytes):
        one_byte = len(data) < 2 * count
        order = "<" if little_endian else ">"
        data = np.frombuffer(data, "u1" if one_byte else f"{order}u2")
    entries = np.asarray(data, np.int64)[:count]
    return _Lut(first, entries, 2.0**bits - 1)


class _Sigmoid(NamedTuple):
    """The VOI LUT function SIGMOID (PS3.3 C.11.2.1.3.1)."""

    center: float
    width: float

    def __call__(self, values: np.ndarray) -> np.ndarray:
        # Beyond 50 the result is 0 or 1 in float64, and exp would overflow.
        exponent = -4 * (values - self.center) / self.width
        return 1 / (1 + np.exp(np.clip(exponent, -50, 50)))


class _Shown(NamedTuple):
    """How rescaled values become gray.

    Attributes:
        curve: to 0..1.
        window: what it makes of them: values that become black and white.
        source: as `Facts.window_source`.
        note: a sentence, or empty.
    """

    curve: gray.Curve
    window: gray.Window
    source: str
    note: str = ""


def _from_gray(
    header: Dataset,
    stored: np.ndarray,
    facts: frame.Facts,
    window: gray.Window | None,
) -> frame.Frame:
    """Rescales a frame and shows it through a window, in strips."""
    rescale = _find_rescale(header, facts.index)
    padded = _find_padding(header, stored)

    def parts(values: np.ndarray = stored) -> Iterator[np.ndarray]:
        return gray.array_strips(values)

    def unpadded() -> Iterator[np.ndarray]:
        if padded is None:
            return parts()
        return (v[~p] for v, p in zip(parts(), parts(padded), strict=True))

    counted = gray.histogram(unpadded)
    counted = counted.mapped(rescale)
    shown = _find_curve(header, facts.index, counted, facts.modality, window)
    image = gray.to_uint8(
        parts(),
        facts.size,
        lambda values: shown.curve(rescale(values)),
        inverted=_is_inverted(header),
    )
    if padded is not None:
        black = PIL.Image.new("L", image.size)
        mask = PIL.Image.fromarray(padded)
        image = PIL.Image.composite(black, image, mask)
    few = frame.few_levels(gray.levels(counted, shown.curve), shown.window)
    is_problem = bool(few) and shown.source == "range"
    notes = [*facts.notes, shown.note, "" if is_problem else few]
    return frame.Frame(
        image=image,
        **{
            **vars(facts),
            "window": shown.window,
            "window_source": shown.source,
            "extrema": counted.extrema,
            "bulk": counted.bulk(),
            "notes": tuple(note for note in notes if note),
            "problem": few if is_problem else "",
            "needs_window": is_problem,
        },
    )


def _find_rescale(
    header: Dataset, index: int
) -> Callable[[np.ndarray], np.ndarray]:
    """The modality LUT or rescale slope and intercept of a frame."""
    tables = header.get("ModalityLUTSequence")
    if tables:
        little = dicom_header.transfer_syntax(header).is_little_endian
        try:
            table = _read_lut(tables[0], little, _is_signed(header))
        except Exception:
            raise dicom_header.Unusable(
                "has a modality LUT that is damaged"
            ) from None
        return table._replace(divisor=1.0)
    group = _functional_group(
        header, index, "PixelValueTransformationSequence", "RescaleSlope"
    )
    slope = dicom_header.number(group.get("RescaleSlope")) or 1.0
    intercept = dicom_header.number(group.get("RescaleIntercept")) or 0.0
    if (slope, intercept) == (1.0, 0.0):
        return lambda values: values
    return lambda values: values.astype(np.float64) * slope + intercept


def _functional_group(
    header: Dataset, index: int, sequence: str, key: str
) -> Dataset:
    """Returns the functional group of a frame, or else that of all frames."""
    own = header.get("PerFrameFunctionalGroupsSequence") or []
    shared = header.get("SharedFunctionalGroupsSequence") or []
    for groups in (own[index : index + 1], shared[:1]):
        for group in groups:
            items = group.get(sequence)
            if items and key in items[0]:
                return items[0]
    return header


def _is_signed(header: Dataset) -> bool:
    return header.get("PixelRepresentation") == 1


def _find_padding(header: Dataset, stored: np.ndarray) -> np.ndarray | None:
    """Pixels `[H, W]` that are padding, or None where none is stated."""
    values = [
        dicom_header.number(header.get(name))
        for name in ("PixelPaddingValue", "PixelPaddingRangeLimit")
    ]
    if values[0] is None or stored.dtype.kind == "f":
        return None
    least = np.iinfo(stored.dtype).min
    greatest = np.iinfo(stored.dtype).max
    span = greatest - least + 1
    # Some files state a signed value as if it were unsigned, or the other way.
    stated = [
        int(v) if least <= v <= greatest else (int(v) - least) % span + least
        for v in values
        if v is not None
    ]
    padded = (stored >= min(stated)) & (stored <= max(stated))
    # An image of nothing else would have no values to scale.
    return padded if padded.any() and not padded.all() else None


def _is_inverted(header: Dataset) -> bool:
    return (
        header.PhotometricInterpretation == "MONOCHROME1"
        or header.get("PresentationLUTShape") == "INVERSE"
    )


def _find_curve(
    header: Dataset,
    index: int,
    counted: gray.Histogram,
    modality: str,
    window: gray.Window | None,
) -> _Shown:
    """Chooses how rescaled values become gray; see the module."""
    if window:
        return _Shown(gray.Linear(*window), window, "stated")
    group = _functional_group(
        header, index, "FrameVOILUTSequence", "WindowCenter"
    )
    if shown := _from_table(header) or _from_window(group):
        return shown
    if modality == "CT":
        low, high = CT_WINDOW
        return _Shown(
            gray.Linear(low, high),
            CT_WINDOW,
            "CT",
            f"has no usable window and gets that of CT, {low:g},{high:g}",
        )
    return _Shown(
        gray.Linear(*counted.extrema),
        counted.extrema,
        "range",
        "has no usable window: its least value is black, its greatest white",
    )


def _from_table(header: Dataset) -> _Shown | None:
    tables = header.get("VOILUTSequence")
    if not tables:
        return None
    little = dicom_header.transfer_syntax(header).is_little_endian
    try:
        table = _read_lut(tables[0], little, _is_signed(header))
    except Exception:
        return None
    if not len(table.entries):
        return None
    last = table.first + len(table.entries) - 1
    return _Shown(table, (float(table.first), float(last)), "lut")


def _from_window(group: Dataset) -> _Shown | None:
    center = dicom_header.number(group.get("WindowCenter"))
    width = dicom_header.number(group.get("WindowWidth"))
    if center is None or width is None or width <= 0:
        return None
    function = str(group.get("VOILUTFunction") or "LINEAR").upper()
    low, high = center - width / 2, center + width / 2
    if function == "SIGMOID":
        return _Shown(_Sigmoid(center, width), (low, high), "file")
    if function != "LINEAR_EXACT" and width >= 1:
        # PS3.3 C.11.2.1.2.1 counts whole numbers, and includes both ends.
        high = low + width - 1
    return _Shown(gray.Linear(low, high), (low, high), "file")
