"""NIfTI files to frames: axial slices in canonical orientation.

Rows go from anterior to posterior and columns from right to left of the
patient, as in axial DICOM images. All slices of a volume have one window: the
stated one, the one of the header (`cal_min`, `cal_max`), or the range of the
volume without the outermost 0.1 % of its values. Slices of one value are left
out.
"""

import functools
import logging
import math
import pathlib
from collections.abc import Iterator
from typing import NamedTuple

import nibabel
import numpy as np
import PIL.Image
from nibabel import orientations

from aeent_jax.data import files, frame, gray

_MAX_BYTES = 2**34
_MAX_RATIO = 1100  # gzip cannot compress more than 1032 times.
_MAX_VOLUMES = 10_000

logging.getLogger("nibabel.global").setLevel(logging.CRITICAL + 1)


class _Scan(NamedTuple):
    """An opened file.

    Attributes:
        values: `[R, A, S, T]` stored values, or with a last axis of 3 colors.
        slope: of the rescaling.
        intercept: of the rescaling.
        window: of the header, or None.
        bits: per value.
        has_orientation: whether the file states one.
    """

    values: np.ndarray
    slope: float
    intercept: float
    window: gray.Window | None
    bits: int
    has_orientation: bool


def names(path: pathlib.Path) -> list[str]:
    """Names the slices of a file from its header; see `images.names`."""
    image = _open(path)
    shape = _shape(image, path)
    axes = _orientation(image)[0]
    slices = shape[int(np.flatnonzero(axes[:, 0] == 2)[0])]
    return [
        _name(volume, k, shape[3])
        for volume in range(shape[3])
        for k in range(slices)
    ]


def _name(volume: int, k: int, volumes: int) -> str:
    return f"v{volume:04d}s{k:04d}" if volumes > 1 else f"{k:04d}"


def frames(path: pathlib.Path, window: gray.Window | None) -> Iterator:
    """Reads the slices of a file; see `images.frames`."""
    scan = _load(path)
    volumes, slices = scan.values.shape[3], scan.values.shape[2]
    yielded = False
    for volume in range(volumes):
        parts = [scan.values[:, :, k, volume] for k in range(slices)]
        for k, shown in _slices(scan, parts, window):
            yielded = True
            yield frame.Frame(
                index=volume * slices + k,
                name=_name(volume, k, volumes),
                group=f"file:{path}",
                volume=f"file:{path}:{volume}",
                kind="nifti",
                **shown,
            )
    if not yielded:
        raise files.UnreadableFileError(f"{path}: has empty slices alone")


def _slices(
    scan: _Scan, parts: list[np.ndarray], window: gray.Window | None
) -> Iterator[tuple[int, dict]]:
    """Yields number and contents of the slices that are not empty."""
    notes = () if scan.has_orientation else ("states no orientation",)
    if parts[0].ndim == 3:
        for k, part in enumerate(parts):
            if part.min() < part.max():
                image = PIL.Image.fromarray(_display(part))
                yield k, {"image": image, "size": image.size, "mode": "RGB"}
        return
    rescale = _rescale(scan)
    counted = gray.histogram(lambda: map(_native, parts)).mapped(rescale)
    used, source, note = _find_window(scan, counted, window)
    curve = gray.Linear(*used)
    few = frame.few_levels(gray.levels(counted, curve), used)
    is_problem = bool(few) and source == "volume"
    notes += tuple(n for n in (note, "" if is_problem else few) if n)
    for k, part in enumerate(parts):
        values = _native(_display(part))
        if _is_empty(values):
            continue
        size = values.shape[::-1]
        image = gray.to_uint8(
            gray.array_strips(values), size, lambda v: curve(rescale(v))
        )
        yield (
            k,
            {
                "image": image,
                "size": size,
                "mode": str(values.dtype),
                "bits": scan.bits,
                "window": used,
                "window_source": source,
                "extrema": counted.extrema,
                "bulk": counted.bulk(),
                "notes": notes,
                "problem": few if is_problem else "",
                "needs_window": is_problem,
            },
        )


def _display(part: np.ndarray) -> np.ndarray:
    """Turns `[R, A]` so that rows go to posterior and columns to left."""
    return np.swapaxes(part[::-1, ::-1], 0, 1)


def _native(part: np.ndarray) -> np.ndarray:
    return part.astype(part.dtype.newbyteorder("="), copy=False)


def _is_empty(values: np.ndarray) -> bool:
    finite = values[np.isfinite(values)]
    return not finite.size or finite.min() == finite.max()


def _rescale(scan: _Scan) -> gray.Curve:
    if (scan.slope, scan.intercept) == (1.0, 0.0):
        return lambda values: values
    return lambda values: (
        values.astype(np.float64) * scan.slope + scan.intercept
    )


def _find_window(
    scan: _Scan, counted: gray.Histogram, window: gray.Window | None
) -> tuple[gray.Window, str, str]:
    """The window of a volume, where it comes from, and a note."""
    if window:
        return window, "stated", ""
    if scan.window:
        return scan.window, "file", ""
    low, high = counted.bulk()
    note = (
        "is shown in the range of its volume without the outermost 0.1 % of "
        "the values"
    )
    return (low, high), "volume", note


def _open(path: pathlib.Path) -> nibabel.spatialimages.SpatialImage:
    try:
        return nibabel.load(path)
    except PermissionError:
        raise files.UnreadableFileError(f"{path}: permission denied") from None
    except Exception:
        raise files.UnreadableFileError(
            f"{path}: is no readable NIfTI file; it is cut off, damaged or of "
            "another format"
        ) from None


def _shape(
    image: nibabel.spatialimages.SpatialImage, path: pathlib.Path
) -> tuple[int, int, int, int]:
    """The sides of a file's volumes and their number, once they are sound."""
    shape = list(image.shape)
    while len(shape) > 4 and shape[-1] == 1:
        shape.pop()
    if not 2 <= len(shape) <= 4:
        raise files.UnreadableFileError(
            f"{path}: has {len(shape)} dimensions, and 2 to 4 are needed"
        )
    shape += [1] * (4 - len(shape))
    if min(shape) < 1:
        raise files.UnreadableFileError(f"{path}: states an image of no pixels")
    axes, _ = _orientation(image)
    sides = [n for n, (axis, _) in zip(shape, axes, strict=False) if axis != 2]
    stated = math.prod(shape) * image.get_data_dtype().itemsize
    held = path.stat().st_size
    held *= _MAX_RATIO if path.name.lower().endswith(".gz") else 1
    if math.prod(sides) > frame.MAX_PIXELS or shape[3] > _MAX_VOLUMES:
        size = " x ".join(map(str, shape))
        reason = frame.too_large(f"{size} voxels, in a slice more")
    elif stated > held:
        reason = "is cut off: it states more voxels than it holds"
    elif stated > _MAX_BYTES:
        reason = f"has {stated} bytes of voxels; at most {_MAX_BYTES} are read"
    elif image.get_data_dtype().kind == "c":
        reason = "has complex values"
    else:
        return shape[0], shape[1], shape[2], shape[3]
    raise files.UnreadableFileError(f"{path}: {reason}")


def _orientation(
    image: nibabel.spatialimages.SpatialImage,
) -> tuple[np.ndarray, bool]:
    """(axis, flip) of each of three axes, and whether the file states them."""
    header = image.header
    stated = bool(int(header["qform_code"]) or int(header["sform_code"]))
    try:
        axes = orientations.io_orientation(image.affine)
    except Exception:
        axes = np.full((3, 2), np.nan)
    if not np.isfinite(axes).all() or len(axes) != 3:
        return np.array([[0, 1], [1, 1], [2, 1]]), False
    return axes, stated


@functools.lru_cache(maxsize=1)
def _load_latest(path: pathlib.Path, state: tuple[int, int]) -> _Scan:
    del state
    image = _open(path)
    shape = _shape(image, path)
    axes, has_orientation = _orientation(image)
    proxy = image.dataobj
    try:
        values = np.asanyarray(proxy.get_unscaled())
    except Exception:
        raise files.UnreadableFileError(
            f"{path}: has voxels that cannot be read: it is cut off or damaged"
        ) from None
    values = values.reshape(shape)
    if values.dtype.fields:
        colors = [values[name] for name in "RGB"]
        values = np.stack(colors, axis=-1)
    low, high = (float(image.header[k]) for k in ("cal_min", "cal_max"))
    return _Scan(
        values=orientations.apply_orientation(values, axes),
        slope=float(proxy.slope),
        intercept=float(proxy.inter),
        window=(low, high) if -math.inf < low < high < math.inf else None,
        bits=8 * image.get_data_dtype().itemsize,
        has_orientation=has_orientation,
    )


def _load(path: pathlib.Path) -> _Scan:
    status = path.stat()
    return _load_latest(path, (status.st_size, status.st_mtime_ns))


def read_slice(path: pathlib.Path, name: str) -> np.ndarray:
    """Reads the values of one slice, as a mask of the slice of that name.

    Args:
        path: the file; the latest one is kept for the slices that follow.
        name: of the slice, as in `names`; empty for the only one.

    Returns:
        `[H, W]` of stored values.

    Raises:
        files.UnreadableFileError: the file cannot be read or has no such
            slice.
    """
    known = names(path)
    if not name and len(known) == 1:
        name = known[0]
    if name not in known:
        raise files.UnreadableFileError(
            f"{path}: is a mask of {len(known)} slices without one that fits "
            "its image"
        )
    volume, k = divmod(known.index(name), _load(path).values.shape[2])
    return _native(_display(_load(path).values[:, :, k, volume]))
