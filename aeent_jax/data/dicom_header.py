"""Headers of DICOM files: what is refused, and what may be told of a file.

No value of a header but modality, body part and photometric interpretation,
each from a closed list, leaves this module and `dicom`; reasons for refusing a
file are fixed sentences.
"""

import hmac
import logging
import os
import pathlib
import struct
import warnings

import numpy as np
import pydicom
import pydicom.encaps
import pydicom.pixels
import pydicom.uid
from pydicom.dataset import Dataset

from aeent_jax.data import frame

# Hashes with a key of this process link files, and tell nothing else.
_KEY = os.urandom(32)

# SOP classes that hold no images to look at, though some hold pixels.
_STORAGE = "1.2.840.10008.5.1.4.1.1."
_REFUSED_CLASSES = {
    "1.2.840.10008.1.3.10": "a directory of files (DICOMDIR)",
    _STORAGE + "66.4": "a segmentation (SEG)",
    _STORAGE + "66.7": "a segmentation (label map)",
    _STORAGE + "66.5": "a surface segmentation",
    _STORAGE + "66": "raw data",
    _STORAGE + "66.1": "a spatial registration (REG)",
    _STORAGE + "66.3": "a spatial registration (REG)",
    _STORAGE + "481.2": "a dose (RTDOSE)",
    _STORAGE + "481.3": "a structure set (RTSTRUCT)",
    _STORAGE + "481.4": "a treatment record (RTRECORD)",
    _STORAGE + "481.5": "a plan (RTPLAN)",
    _STORAGE + "481.8": "a plan (RTPLAN)",
    _STORAGE + "104.1": "an encapsulated document (PDF)",
    _STORAGE + "30": "a parametric map",
}
_REFUSED_PREFIXES = {
    _STORAGE + "88.": "a report (SR)",
    _STORAGE + "11.": "a presentation state (PR)",
    _STORAGE + "9.": "a waveform (ECG)",
    _STORAGE + "4.2": "a spectrum (MRS)",
}
_REFUSED_MODALITIES = {
    "SEG": "a segmentation (SEG)",
    "RTDOSE": "a dose (RTDOSE)",
    "RTPLAN": "a plan (RTPLAN)",
    "RTSTRUCT": "a structure set (RTSTRUCT)",
    "RTRECORD": "a treatment record (RTRECORD)",
    "REG": "a registration (REG)",
    "PR": "a presentation state (PR)",
    "SR": "a report (SR)",
    "KO": "a selection of objects (KO)",
    "ECG": "a waveform (ECG)",
    "DOC": "a document (DOC)",
}


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


MODALITIES = _words(
    "AR BMD CR CT DG DX ECHO ES GM HD IO IVOCT IVUS LS MG MR NM OCT OP OPT "
    "OPTENF OPV OSS OT PA POS PT PX RF RG RTIMAGE SC SM TG US XA XC"
)
_SLICES = frozenset(("CT", "MR", "PT", "NM"))
BODY_PARTS = _words(
    "ABDOMEN ANKLE ARM BLADDER BONE BRAIN BREAST CHEST CSPINE ELBOW EYE "
    "FEMUR FINGER FOOT HAND HEAD HEADNECK HEART HIP KIDNEY KNEE LEG LIVER "
    "LSPINE LUNG NECK PELVIS PROSTATE SHOULDER SKULL SPINE TSPINE UTERUS "
    "WHOLEBODY WRIST"
)
_SECONDARY = _STORAGE + "7"
_MAY_BE_BURNT = "may have burnt-in annotations: its header does not say"

_NEEDED = ("Rows", "Columns", "BitsAllocated")
_DEFAULTS = {
    "SamplesPerPixel": 1,
    "PixelRepresentation": 0,
    "PhotometricInterpretation": "MONOCHROME2",
}
GRAY = frozenset(("MONOCHROME1", "MONOCHROME2"))
_COLORS = _words("RGB YBR_FULL YBR_FULL_422 YBR_ICT YBR_RCT YBR_PARTIAL_420")
PALETTE = "PALETTE COLOR"
_MIN_FRAME_BYTES = 8  # An item of a compressed frame cannot be shorter.


def _quiet():
    """Keeps pydicom from repeating values of headers in warnings."""
    warnings.filterwarnings("ignore", module=r"pydicom(\.|$)")
    logging.getLogger("pydicom").setLevel(logging.CRITICAL + 1)
    pydicom.config.settings.reading_validation_mode = pydicom.config.IGNORE


_quiet()


class Unusable(Exception):
    """Why a file is refused, as a sentence that follows its name."""


def read(path: pathlib.Path, *, pixels: bool) -> Dataset:
    """Reads a header and refuses what cannot or should not be decoded.

    Args:
        path: the file.
        pixels: whether to read the pixels too, undecoded; the header is then
            complete for the decoders.

    Raises:
        Unusable: says why.
    """
    try:
        header = pydicom.dcmread(path, stop_before_pixels=True, force=True)
        _refuse_kinds(header)
        _check_sizes(header, path)
        if pixels:
            header = pydicom.dcmread(path, force=True)
    except Unusable:
        raise
    except PermissionError:
        raise Unusable("permission denied") from None
    except Exception:
        raise Unusable(
            "is no readable DICOM file; it is cut off, damaged or of another "
            "format"
        ) from None
    if pixels:
        _check_pixels(header)
    return header


def _refuse_kinds(header: Dataset):
    sop_class = str(header.get("SOPClassUID") or "")
    if not sop_class and "file_meta" in header.__dict__:
        meta = header.file_meta
        sop_class = str(meta.get("MediaStorageSOPClassUID") or "")
    modality = str(header.get("Modality") or "")
    kind = _REFUSED_CLASSES.get(sop_class)
    for prefix, name in _REFUSED_PREFIXES.items():
        if sop_class.startswith(prefix):
            kind = name
    kind = kind or _REFUSED_MODALITIES.get(modality)
    if kind:
        raise Unusable(f"is {kind}, and no DICOM image")


def _check_sizes(header: Dataset, path: pathlib.Path):
    """Refuses missing and impossible sizes, before anything is decoded."""
    missing = [name for name in _NEEDED if header.get(name) is None]
    if len(missing) == len(_NEEDED):
        raise Unusable("holds no DICOM image")
    if missing:
        raise Unusable(f"lacks {', '.join(missing)} in its DICOM header")
    rows, columns = int(header.Rows), int(header.Columns)
    count = count_frames(header)
    if rows < 1 or columns < 1 or count < 1:
        raise Unusable("states an image of no pixels")
    if rows * columns > frame.MAX_PIXELS:
        raise Unusable(frame.too_large(f"{columns} x {rows} pixels, more"))
    size = path.stat().st_size
    syntax = transfer_syntax(header)
    least = _MIN_FRAME_BYTES
    if not syntax.is_encapsulated and not syntax.is_deflated:
        samples = int(header.get("SamplesPerPixel") or 1)
        bits = rows * columns * samples * int(header.BitsAllocated)
        if header.get("PhotometricInterpretation") == "YBR_FULL_422":
            bits = bits * 2 // 3
        least = bits // 8
    if count * least > size:
        raise Unusable("is cut off: it states more pixels than it holds")


def count_frames(header: Dataset) -> int:
    """The number of frames that a header states, by default 1."""
    value = number(header.get("NumberOfFrames"))
    return 1 if value is None else int(value)


def transfer_syntax(header: Dataset) -> pydicom.uid.UID:
    """Returns the transfer syntax, or the one that a file was read in.

    Where the header states none it is set, because the decoders ask for it.
    """
    meta = header.__dict__.get("file_meta")
    if meta is None:
        meta = header.file_meta = pydicom.dataset.FileMetaDataset()
    syntax = meta.get("TransferSyntaxUID")
    if not syntax:
        implicit, little = header.original_encoding
        if implicit or implicit is None:
            syntax = pydicom.uid.ImplicitVRLittleEndian
        elif little:
            syntax = pydicom.uid.ExplicitVRLittleEndian
        else:
            syntax = pydicom.uid.ExplicitVRBigEndian
        meta.TransferSyntaxUID = syntax
    return pydicom.uid.UID(syntax)


def _check_pixels(header: Dataset):
    """Fills in what a header may lack, and looks into compressed frames."""
    if not any(
        name in header
        for name in ("PixelData", "FloatPixelData", "DoubleFloatPixelData")
    ):
        raise Unusable("holds no pixels")
    for name, value in _DEFAULTS.items():
        if header.get(name) in (None, ""):
            setattr(header, name, value)
    if header.get("BitsStored") in (None, "") and "PixelData" in header:
        header.BitsStored = header.BitsAllocated
    if header.get("HighBit") in (None, "") and "PixelData" in header:
        header.HighBit = int(header.BitsStored) - 1
    photometric = header.PhotometricInterpretation
    if photometric not in GRAY | _COLORS | {PALETTE}:
        raise Unusable("has a photometric interpretation that is not known")
    if int(header.SamplesPerPixel) > 1 and "PlanarConfiguration" not in header:
        header.PlanarConfiguration = 0
    syntax = transfer_syntax(header)
    if syntax.is_encapsulated:
        _check_compressed(header, syntax)


def _check_compressed(header: Dataset, syntax: pydicom.uid.UID):
    name = syntax.name if syntax.is_transfer_syntax else "a private syntax"
    try:
        decoder = pydicom.pixels.get_decoder(syntax)
    except NotImplementedError:
        raise Unusable(f"is compressed as {name}, which is not read") from None
    if not decoder.is_available:
        raise Unusable(f"is compressed as {name}, and its decoder is missing")
    try:
        for part in pydicom.encaps.generate_frames(
            header.PixelData, number_of_frames=count_frames(header)
        ):
            size = _stated_size(part)
            if size and size != (header.Columns, header.Rows):
                raise Unusable("has pixels of another size than it states")
    except Unusable:
        raise
    except Exception:
        raise Unusable("has compressed pixels that are damaged") from None


def _stated_size(part: bytes) -> tuple[int, int] | None:
    """(width, height) that a JPEG, JPEG-LS or JPEG 2000 stream states."""
    begin = part[:256].find(b"\xff\x4f\xff\x51")
    if begin >= 0:
        x, y, left, top = struct.unpack_from(">4I", part, begin + 8)
        return x - left, y - top
    if part[:2] != b"\xff\xd8":
        return None
    at = 2
    while at + 9 <= len(part) and part[at] == 0xFF:
        marker = part[at + 1]
        if marker == 0xFF:
            at += 1
            continue
        if marker == 0xF7 or (
            0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC)
        ):
            height, width = struct.unpack_from(">2H", part, at + 5)
            return (width, height) if height else None
        at += 2 + struct.unpack_from(">H", part, at + 2)[0]
    return None


def describe(header: Dataset, path: pathlib.Path) -> frame.Facts:
    """Gathers what may be told of all frames of a file."""
    modality = str(header.get("Modality") or "")
    modality = modality if modality in MODALITIES else "other"
    part = str(header.get("BodyPartExamined") or "").upper().replace(" ", "")
    series = _token(header, "SeriesInstanceUID")
    if count_frames(header) > 1:
        volume = f"file:{path}"
    else:
        volume = series if modality in _SLICES else ""
    return frame.Facts(
        size=(int(header.Columns), int(header.Rows)),
        group=(
            _token(header, "PatientID")
            or _token(header, "StudyInstanceUID")
            or series
            or f"file:{path}"
        ),
        volume=volume,
        kind="dicom",
        mode=header.PhotometricInterpretation,
        bits=int(number(header.get("BitsStored")) or header.BitsAllocated),
        modality=modality,
        body_part=part if part in BODY_PARTS else "",
        notes=_burnt_in(header, modality),
    )


def _token(header: Dataset, name: str) -> str:
    """Hashes a value with the key of the process; empty where it is missing."""
    value = str(header.get(name) or "").strip()
    return _hash(f"{name}:{value}") if value else ""


def _hash(text: str) -> str:
    content = text.encode(errors="surrogateescape")
    return hmac.digest(_KEY, content, "sha256").hex()[:24]


def _burnt_in(header: Dataset, modality: str) -> tuple[str, ...]:
    stated = str(header.get("BurnedInAnnotation") or "").upper()
    if stated == "YES":
        return ("has burnt-in annotations, as its header says",)
    sop_class = str(header.get("SOPClassUID") or "")
    secondary = sop_class == _SECONDARY or sop_class.startswith(
        _SECONDARY + "."
    )
    if not stated and (secondary or modality in ("US", "SC")):
        return (_MAY_BE_BURNT,)
    return ()


def number(value: object) -> float | None:
    """Returns the first of one or several numbers; None without a number."""
    if isinstance(value, str | bytes) or not hasattr(value, "__iter__"):
        values = [value]
    else:
        values = list(value)
    try:
        number = float(values[0])
    except (TypeError, ValueError, IndexError):
        return None
    return number if np.isfinite(number) else None
