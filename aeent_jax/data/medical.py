"""DICOM and NIfTI files: telling them apart, and the packages they need."""

import importlib.util
import os
import pathlib

DICOM = "dicom"
NIFTI = "nifti"
_SUFFIXES = {".dcm": DICOM, ".dicom": DICOM, ".ima": DICOM, ".nii": NIFTI}
_GZIPPED = ".nii.gz"
_PACKAGES = {
    DICOM: ("DICOM", "pydicom"),
    NIFTI: ("NIfTI", "nibabel"),
}
INSTALL = "pip install 'aeent-jax[medical]'"
# A DICOM file begins with 128 bytes of any kind, and these.
_PREAMBLE, _MARK = 128, b"DICM"


class MissingExtraError(ValueError):
    """A file needs packages that are not installed."""


def kind(path: str | os.PathLike) -> str:
    """Tells by its name whether a file is `DICOM`, `NIFTI`, or "" neither."""
    name = os.fspath(path).lower()
    if name.endswith(_GZIPPED):
        return NIFTI
    return _SUFFIXES.get(os.path.splitext(name)[1], "")


def sniff(path: pathlib.Path) -> str:
    """As `kind`, and finds DICOM files of other names by how they begin.

    Args:
        path: a file; one that cannot be read is neither.
    """
    if found := kind(path):
        return found
    try:
        if not path.is_file():
            return ""  # Opening a pipe would wait for its other end.
        with path.open("rb") as file:
            begin = file.read(_PREAMBLE + len(_MARK))
    except OSError:
        return ""
    return DICOM if begin[_PREAMBLE:] == _MARK else ""


def stem(name: str) -> str:
    """A file's name without the suffix of a medical format."""
    for suffix in (_GZIPPED, *_SUFFIXES):
        if name.lower().endswith(suffix):
            return name[: -len(suffix)]
    return name


def require(kind_of_file: str, path: pathlib.Path):
    """Refuses a file whose format needs a package that is not installed.

    Raises:
        MissingExtraError: names the file, and the line that installs it.
    """
    format_name, package = _PACKAGES[kind_of_file]
    if importlib.util.find_spec(package) is None:
        raise MissingExtraError(
            f"{path} is a {format_name} file, and the extra that reads these "
            f"is not installed: {INSTALL}"
        )
