"""Data sets cut from a download of public originals by a split list.

A split list of this package names files only: our id, the path of the
original in its publisher's archive, its split and its label. Ids are those of
the ready copies with a data.json, so that scores can be compared by id; the
pixels differ slightly, because ready copies were resampled once before.
"""

import json
import pathlib
from collections.abc import Iterator

from aeent_jax.data import files, layouts

ORIGINALS = "originals"
_LISTS = pathlib.Path(__file__).parent / "splits"
_MAX_DEPTH = 3


def read_listing(name: str, root: pathlib.Path) -> layouts.Listing:
    """Finds the originals of a split list below a folder.

    They may lie in a common folder of the download, such as `chest_xray/`.
    Where the publisher's own split is not part of a file's name, because
    copies of the archive split it differently, a file is found by its class
    folder and name.

    Args:
        name: a data set with a split list: "kermany_cxr" or "brain_mri".
        root: the folder of the download.

    Returns:
        The listing, sorted by id.

    Raises:
        FileNotFoundError: some originals are missing; the first are named.
        ValueError: two files fit one original.
    """
    content = json.loads((_LISTS / f"{name}.json").read_text(encoding="utf-8"))
    wanted = {
        id_: (split, int(label), original)
        for split, labels in content["splits"].items()
        for label, ids in labels.items()
        for id_, original in ids.items()
    }
    originals = [original for _, _, original in wanted.values()]
    find = _FINDERS[content["find_by"]]
    found = max(
        (find(base, originals) for base in _bases(root, originals)),
        key=len,
        default={},
    )
    missing = sorted(set(originals) - set(found))
    if missing:
        raise FileNotFoundError(
            f"{len(missing)} of {len(originals)} originals of {name} are not "
            f"below {root} ({files.first_names(missing)}): complete the "
            f"download of {content['source']}."
        )
    records = [
        layouts.Record(id_, split, label, found[original])
        for id_, (split, label, original) in sorted(wanted.items())
    ]
    return layouts.Listing(ORIGINALS, root, tuple(records))


def _bases(root: pathlib.Path, originals: list[str]) -> Iterator[pathlib.Path]:
    """Folders that contain a first folder of the originals, shallow first."""
    tops = {original.split("/")[0] for original in originals}
    level = [root]
    for _ in range(_MAX_DEPTH + 1):
        below = []
        for folder in level:
            folders = sorted(p for p in folder.iterdir() if p.is_dir())
            if any(p.name in tops for p in folders):
                yield folder
            below.extend(p for p in folders if p.name not in tops)
        level = below


def _find_by_path(
    base: pathlib.Path, originals: list[str]
) -> dict[str, pathlib.Path]:
    """Maps each original that lies at its path below `base` to the file."""
    found = {original: base / original for original in originals}
    return {o: path for o, path in found.items() if path.is_file()}


def _find_by_class_and_name(
    base: pathlib.Path, originals: list[str]
) -> dict[str, pathlib.Path]:
    """As `_find_by_path`, whatever the first folder of the path is."""
    tops = {original.split("/")[0] for original in originals}
    classes = {original.split("/")[1] for original in originals}
    places: dict[str, list[pathlib.Path]] = {}
    for top in sorted(tops):
        for name in sorted(classes):
            folder = base / top / name
            for path in folder.iterdir() if folder.is_dir() else ():
                places.setdefault(f"{name}/{path.name}", []).append(path)
    found = {}
    for original in originals:
        candidates = places.get(original.split("/", 1)[1], [])
        if len(candidates) > 1:
            raise ValueError(
                f"{candidates[0]} and {candidates[1]} both fit the original "
                f"{original}: keep one copy of the download below the folder."
            )
        if candidates:
            found[original] = candidates[0]
    return found


_FINDERS = {
    "path": _find_by_path,
    "class_and_name": _find_by_class_and_name,
}
