"""Files that list images: the benchmark's data.json, ISIC's ground truth."""

import collections
import csv
import json
import pathlib

from aeent_jax.data import dataset, files

_NEVUS = "NV"
_LABEL_OF_NEVUS = {
    "1": dataset.NORMAL,
    "1.0": dataset.NORMAL,
    "0": dataset.ABNORMAL,
    "0.0": dataset.ABNORMAL,
}


def read(path: pathlib.Path) -> list[tuple[str, int, str]]:
    """Reads a data.json.

    Args:
        path: a file {"train": {"0": [names], "unlabeled": ...}, "val": {"0":
            [names]}, "test": {"0": [names], "1": [names]}}; all but train may
            be missing, and what is under "unlabeled" is not used.

    Returns:
        Triples (split, label, name); the names are distinct and relative.

    Raises:
        ValueError: the file has another form, or a name is unsafe or repeated.
    """
    try:
        # As bytes, from which JSON tells UTF-8 with a mark and UTF-16 apart.
        content = json.loads(path.read_bytes())
    except OSError as error:
        raise ValueError(
            f"{path} cannot be read ({error.strerror}); it must be a file."
        ) from None
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f"{path} is not valid JSON ({error}); save it as UTF-8."
        ) from None
    form = '{"train": {"0": [names]}, "test": {"0": [names], "1": [names]}}'
    if not isinstance(content, dict):
        raise ValueError(f"{path} must hold {form}.")
    triples = []
    for split, lists in content.items():
        labels = {"test": ("0", "1")}.get(split, ("0",))
        if split not in dataset.SPLITS or not isinstance(lists, dict):
            raise ValueError(f"{path} must hold {form}, found {split!r}.")
        for label, names in lists.items():
            if split == "train" and label == "unlabeled":
                continue
            if label not in labels or not _is_names(names):
                raise ValueError(
                    f"{path} must hold {form}, found {split!r} with {label!r}."
                )
            # Windows writes backslashes.
            triples.extend(
                (split, int(label), name.replace("\\", "/")) for name in names
            )
    _check_names(path, [name for _, _, name in triples])
    return triples


def read_ground_truth(path: pathlib.Path) -> list[tuple[int, str]]:
    """Reads a table of ISIC 2018, Task 3.

    Args:
        path: a CSV file with the columns image and NV, and those of the other
            classes, which are not used.

    Returns:
        Pairs (label, name without extension): nevi are normal. The names are
        distinct and relative.

    Raises:
        ValueError: the file has another form, or a name is unsafe or repeated.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = list(csv.DictReader(file))
    except OSError as error:
        raise ValueError(
            f"{path} cannot be read ({error.strerror}); it must be a file."
        ) from None
    except (ValueError, csv.Error) as error:
        raise ValueError(f"{path} is not valid CSV: {error}.") from None
    pairs = []
    for number, row in enumerate(rows, start=1):
        name, nevus = row.get("image"), row.get(_NEVUS)
        if not name or nevus not in _LABEL_OF_NEVUS:
            raise ValueError(
                f"{path} must have the columns image and {_NEVUS}, the latter "
                f"0.0 or 1.0, found {name!r} and {nevus!r} in row {number}."
            )
        pairs.append((_LABEL_OF_NEVUS[nevus], name))
    _check_names(path, [name for _, name in pairs])
    return pairs


def _is_names(names: object) -> bool:
    return isinstance(names, list) and all(isinstance(n, str) for n in names)


def _check_names(path: pathlib.Path, names: list[str]):
    unsafe = [name for name in names if not is_safe_name(name)]
    if unsafe:
        raise ValueError(
            f"{path} names files outside its folder "
            f"({files.first_names([repr(name) for name in unsafe])}): names "
            "must be relative, without '..'."
        )
    # "a.png" and "./a.png" are the same file.
    paths = [pathlib.PurePosixPath(name) for name in names]
    counts = collections.Counter(paths)
    repeated = [str(path) for path, n in counts.items() if n > 1]
    if repeated:
        raise ValueError(
            f"{path} lists {len(repeated)} names more than once "
            f"({files.first_names(repeated)}): an image belongs to one split "
            "and label."
        )


def is_safe_name(name: str) -> bool:
    """Whether a name from a file stays below the folder it is joined to."""
    if not name or "\0" in name or "\\" in name:
        return False
    path = pathlib.PurePosixPath(name)
    windows = pathlib.PureWindowsPath(name)
    absolute = path.is_absolute() or windows.drive or windows.is_absolute()
    return not absolute and ".." not in path.parts and path.parts != ()
