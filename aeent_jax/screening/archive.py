"""The model file: a card in JSON and arrays, in one zip without compression.

Nothing in it can run code, and nothing in it is larger than it says: members
are stored as they are, their names and sizes are those that the card lists, and
the sha256 of each is checked before its array is used.
"""

import hashlib
import io
import json
import math
import pathlib
import re
import struct
import zipfile
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np

FORMAT = 1
CARD = "card.json"
MAX_BYTES = 2**31  # of all members together
_MAX_CARD_BYTES = 2**22
_NAME = re.compile(r"[A-Za-z0-9_]+(/[A-Za-z0-9_.]+)*\.npy")
# Errors that a crafted file causes: names that are no text, encrypted
# members (RuntimeError), and JSON that is nested too deep (RecursionError).
_ZIP_ERRORS = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    EOFError,
    RuntimeError,
    UnicodeDecodeError,
)
_DTYPES = ("bool", "float32", "float64", "int32", "int64", "uint8")


def digest(card: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> str:
    """Returns the sha256 that names a model, over its card and its arrays.

    Args:
      card: JSON values.
      arrays: by name, such as `weights/params/encoder/kernel`.
    """
    listed = {name: _describe(array) for name, array in arrays.items()}
    return _digest_of(card, listed)


def write(
    path: pathlib.Path,
    card: Mapping[str, Any],
    arrays: Mapping[str, np.ndarray],
) -> None:
    """Writes a model file in whole: it is renamed into its place at the end.

    Args:
      path: the file; one that is there is replaced.
      card: JSON values.
      arrays: by name, each of a dtype that the format has.
    """
    listed = {name: _describe(array) for name, array in arrays.items()}
    content = dict(card) | {
        "format": FORMAT,
        "digest": _digest_of(card, listed),
        "arrays": listed,
    }
    partial = path.with_name(f"{path.name}.partial")
    with zipfile.ZipFile(partial, "w", zipfile.ZIP_STORED) as file:
        file.writestr(CARD, json.dumps(content, indent=1, sort_keys=True))
        for name, array in arrays.items():
            file.writestr(f"{name}.npy", _to_bytes(array))
    partial.replace(path)


def read(path: pathlib.Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Reads and checks a model file.

    Args:
      path: the file.

    Returns:
      The card, with `format`, `digest` and `arrays`, and the arrays by name.

    Raises:
      FileNotFoundError: there is no file.
      ValueError: it is no model file, is damaged, or of a newer version.
    """
    if not path.is_file():
        raise FileNotFoundError(
            f"the model {path} does not exist; give a workdir of `aeent train`"
            " or a file of `aeent export`."
        )
    try:
        with zipfile.ZipFile(path) as file:
            return _read_members(path, file)
    except _ZIP_ERRORS as error:
        raise ValueError(
            f"{path} is no model file ({error}); export the model again."
        ) from error


def _read_members(path, file):
    members = {member.filename: member for member in file.infolist()}
    if len(members) != len(file.infolist()):
        raise _damaged(path, "a member stands twice")
    for name, member in members.items():
        if member.compress_type != zipfile.ZIP_STORED:
            raise _damaged(path, f"{name} is compressed")
        if name != CARD and not _NAME.fullmatch(name):
            raise _damaged(path, f"{name!r} is no name of an array")
    if sum(member.file_size for member in members.values()) > MAX_BYTES:
        raise _damaged(path, f"it holds more than {MAX_BYTES} bytes")
    card = _read_card(path, file, members)
    arrays = {}
    for name, listed in card["arrays"].items():
        arrays[name] = _read_array(path, file, members, name, listed)
    if len(members) != len(arrays) + 1:
        raise _damaged(path, "it holds members that its card does not list")
    listed = {name: _describe(array) for name, array in arrays.items()}
    own = {k: v for k, v in card.items() if k not in _OWN_KEYS}
    if _digest_of(own, listed) != card["digest"]:
        raise _damaged(path, "its digest is another")
    return card, arrays


_OWN_KEYS = ("format", "digest", "arrays")


def _read_card(path, file, members):
    if CARD not in members or members[CARD].file_size > _MAX_CARD_BYTES:
        raise _damaged(path, f"{CARD} is missing or too large")
    try:
        card = json.loads(file.read(CARD))
        version, listed = card["format"], card["arrays"]
        sound = isinstance(card["digest"], str) and isinstance(listed, dict)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise _damaged(path, f"{CARD} cannot be read") from error
    if not isinstance(version, int) or version < 1 or not sound:
        raise _damaged(path, f"{CARD} cannot be read")
    if version > FORMAT:
        raise ValueError(
            f"{path} has format {version}, and this version of aeent_jax reads"
            f" up to {FORMAT}; install a newer one."
        )
    return card


def _read_array(path, file, members, name, listed):
    """Returns one array, whose size is known before it is read."""
    try:
        dtype, shape = listed["dtype"], tuple(listed["shape"])
        size = math.prod(shape) * np.dtype(dtype).itemsize
        fits = dtype in _DTYPES and all(
            isinstance(n, int) and n >= 0 for n in shape
        )
    except (KeyError, TypeError, ValueError) as error:
        raise _damaged(path, f"{name} is not described") from error
    member = members.get(f"{name}.npy")
    # The header of a .npy file takes 128 bytes for arrays of this kind.
    if not fits or member is None or member.file_size > size + 1024:
        raise _damaged(path, f"{name} is missing or has another size")
    try:
        array = np.lib.format.read_array(
            io.BytesIO(file.read(member)), allow_pickle=False
        )
    except Exception as error:  # The header states any size or text.
        raise _damaged(path, f"{name} cannot be read") from error
    if _describe(array) != listed:
        raise _damaged(path, f"{name} is not what was written")
    return array


def _damaged(path: pathlib.Path, reason: str) -> ValueError:
    return ValueError(
        f"{path} is no sound model file: {reason}; export the model again."
    )


def _describe(array: np.ndarray) -> dict[str, Any]:
    content = np.ascontiguousarray(array)
    return {
        "dtype": str(array.dtype),
        "shape": list(array.shape),
        "sha256": hashlib.sha256(content.tobytes()).hexdigest(),
    }


def _digest_of(card: Mapping[str, Any], listed: Mapping[str, Any]) -> str:
    text = json.dumps([FORMAT, card, listed], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _to_bytes(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.lib.format.write_array(
        buffer, np.ascontiguousarray(array), allow_pickle=False
    )
    return buffer.getvalue()
