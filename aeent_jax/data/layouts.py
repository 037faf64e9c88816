"""Folders of images: which layout a folder has, and what it lists.

Three layouts are told apart:

* `data_json`: the benchmark's `data.json` beside `images/`.
* `class_folders`: `train/normal`, and optionally `val/normal`, `test/normal`,
  `test/abnormal`, and `test/masks/<same stem>.png`, of the same shape as its
  image.
* `flat`: image files directly in the folder, all normal, for training.

Files whose name starts with a dot, what systems and network drives put aside
(`is_aside`), and files that are no images are not listed; an image has a known
suffix or begins as a DICOM file does. Symbolic links are followed, because the
owner of the folder made them; names inside `data.json` may not leave the
folder.
"""

import dataclasses
import os
import pathlib
from collections.abc import Callable, Iterable, Iterator, Sequence

from aeent_jax.data import dataset, files, images, medical, split_lists

FLAT = "flat"
CLASS_FOLDERS = "class_folders"
DATA_JSON = "data_json"
LAYOUTS = (FLAT, CLASS_FOLDERS, DATA_JSON)

NEEDED = (
    "image files directly in the folder (all normal), or train/normal with "
    "optional val/normal, test/normal, test/abnormal and test/masks, or "
    "data.json with images/"
)
_TRAIN_PLACES = {
    FLAT: "the folder itself",
    CLASS_FOLDERS: "train/normal",
    DATA_JSON: 'data.json under "train", "0"',
}
_CLASS_NAMES = {"normal": dataset.NORMAL, "abnormal": dataset.ABNORMAL}
# Lower case: folders that systems keep, and files that say nothing.
_ASIDE = frozenset(
    ("__macosx", "system volume information", "lost+found", "recycler")
    + ("network trash folder", "temporary items", "thumbs", "thumbnails")
)
_IGNORED = frozenset(
    ("thumbs.db", "ehthumbs.db", "desktop.ini", "data.json", "icon\r")
    + ("dicomdir",)
)
_CLASS_FOLDERS = ("train/normal", "val/normal", "test/normal", "test/abnormal")


@dataclasses.dataclass(frozen=True)
class Record:
    """One image file of a data set.

    Attributes:
        id: its name in the data set, unique over all splits.
        split: "train", "val" or "test".
        label: 0 normal, 1 abnormal.
        path: the image file.
        mask: its mask file, or None.
    """

    id: str
    split: str
    label: int
    path: pathlib.Path
    mask: pathlib.Path | None = None


@dataclasses.dataclass(frozen=True)
class Listing:
    """The images that a folder holds.

    Attributes:
        layout: one of `LAYOUTS`, or a source of the catalog with its own.
        root: the folder.
        records: its images, sorted by id.
        has_masks: whether the source has pixel masks for its test images;
            normal ones may then lack a file, and count as empty.
        orphan_masks: mask files without an image.
    """

    layout: str
    root: pathlib.Path
    records: tuple[Record, ...]
    has_masks: bool = False
    orphan_masks: tuple[pathlib.Path, ...] = ()


def read_listing(root: str | os.PathLike) -> Listing:
    """Finds the layout of a folder and lists its images; decodes nothing.

    Args:
        root: the folder.

    Returns:
        Its listing, with at least one training image.

    Raises:
        FileNotFoundError: the folder, or a file that data.json names, is
            missing.
        NotADirectoryError: the path is a file.
        ValueError: the folder has no known layout, or contradicts it.
    """
    root = pathlib.Path(root).expanduser()
    layout = detect_layout(root)
    listing = _READERS[layout](root)
    if not any(record.split == "train" for record in listing.records):
        raise ValueError(
            f"{root} ({layout}) has no training image; training needs normal "
            f"images in {_TRAIN_PLACES[layout]}."
        )
    check_ids(listing)
    return listing


def check_ids(listing: Listing):
    """Refuses names that are no text: on disk they may be any bytes.

    Raises:
        ValueError: a name is not UTF-8.
    """
    try:
        for record in listing.records:
            record.id.encode()
    except UnicodeEncodeError:
        raise ValueError(
            f"a file name in {listing.root} is not UTF-8 ({record.id!r}): "
            "rename it."
        ) from None


def detect_layout(root: pathlib.Path) -> str:
    """Returns the name of the folder's layout; see `read_listing`."""
    if not root.exists():
        raise FileNotFoundError(f"the data folder {root} does not exist.")
    if not root.is_dir():
        raise NotADirectoryError(f"{root} is a file, and a folder is needed.")
    if (root / "data.json").exists():
        return DATA_JSON
    if any((root / folder).is_dir() for folder in ("train", "val", "test")):
        return CLASS_FOLDERS
    if next(image_files(root, recursive=False), None):
        return FLAT
    raise ValueError(
        f"{root} has no layout that is known: {NEEDED}. {_hint(root)}"
    )


def _hint(root: pathlib.Path) -> str:
    """Says what a folder without a known layout holds instead."""
    entries = sorted(e.name for e in root.iterdir() if e.name[0] != ".")
    if not entries:
        return "It is empty."
    more = ", ..." if len(entries) > 5 else ""
    below = next(image_files(root, recursive=True), None)
    advice = " There are images in folders below it." if below else ""
    return f"It holds {', '.join(entries[:5])}{more}.{advice}"


def is_aside(path: pathlib.Path) -> bool:
    """Whether a system or a network drive keeps something in it.

    These are hidden files, thumbnails as in @eaDir, deleted files as in
    #recycle and $RECYCLE.BIN, earlier states as in ~snapshot, and what an
    archive of macOS adds.
    """
    if path.name.startswith("."):
        return True
    named_so = path.name[0] in "@#$~" or path.name.lower() in _ASIDE
    return named_so and path.is_dir()


def image_files(
    folder: pathlib.Path,
    *,
    recursive: bool,
    seen: frozenset[str] = frozenset(),
    on_unreadable: Callable[[pathlib.Path], Iterable[pathlib.Path]]
    | None = None,
) -> Iterator[pathlib.Path]:
    """Yields image files, sorted by their path.

    Args:
        folder: where to look.
        recursive: whether to look into the folders below it too.
        seen: real paths of the folders above, so that loops of symbolic links
            come to an end.
        on_unreadable: gives what to yield in place of a folder that cannot be
            listed; None raises the error.
    """
    real = os.path.realpath(folder)
    if real in seen:
        return
    try:
        paths = [(p, p.is_dir()) for p in sorted(folder.iterdir())]
    except OSError:
        if on_unreadable is None:
            raise
        yield from on_unreadable(folder)
        return
    for path, is_folder in paths:
        if is_aside(path):
            continue
        if is_folder:
            if recursive:
                yield from image_files(
                    path,
                    recursive=True,
                    seen=seen | {real},
                    on_unreadable=on_unreadable,
                )
        elif images.is_image_name(path):
            yield path


def other_paths(
    folder: pathlib.Path, *, seen: frozenset[str] = frozenset()
) -> Iterator[pathlib.Path]:
    """Yields files that are no images, and folders that are put aside."""
    real = os.path.realpath(folder)
    if real in seen:
        return
    for path in sorted(folder.iterdir()):
        if path.name.startswith(".") or path.name.lower() in _IGNORED:
            continue
        if path.is_dir() and not is_aside(path):
            yield from other_paths(path, seen=seen | {real})
        elif path.is_dir() or not images.is_image_name(path):
            yield path


def _read_flat(root: pathlib.Path) -> Listing:
    records = [
        Record(path.name, "train", dataset.NORMAL, path)
        for path in image_files(root, recursive=False)
    ]
    return Listing(FLAT, root, tuple(records))


def _read_class_folders(root: pathlib.Path) -> Listing:
    """Lists train/normal and its companions."""
    _refuse_other_folders(root)
    records = []
    for folder in _CLASS_FOLDERS:
        if not (root / folder).is_dir():
            continue
        split, name = folder.split("/")
        for path in image_files(root / folder, recursive=True):
            id_ = path.relative_to(root).as_posix()
            records.append(Record(id_, split, _CLASS_NAMES[name], path))
    listing = Listing(CLASS_FOLDERS, root, tuple(sorted(records, key=by_id)))
    masks = root / "test" / "masks"
    return _with_masks(listing, masks) if masks.is_dir() else listing


def by_id(record: Record) -> str:
    """The key by which the records of a listing are sorted."""
    return record.id


def _refuse_other_folders(root: pathlib.Path):
    """A misspelt folder must not silently be left out."""
    known = (*_CLASS_FOLDERS, "test/masks")
    found = [
        path.relative_to(root).as_posix()
        for split in dataset.SPLITS
        if (root / split).is_dir()
        for path in sorted((root / split).iterdir())
        if not is_aside(path) and (path.is_dir() or images.is_image_name(path))
    ]
    other = [name for name in found if name not in known]
    if other:
        raise ValueError(
            f"{root} has {', '.join(other[:5])} (of {len(other)} that are not "
            f"expected), where only {', '.join(known)} may stand."
        )


def _with_masks(listing: Listing, folder: pathlib.Path) -> Listing:
    """Pairs test images with the masks of the same stem."""
    masks: dict[str, pathlib.Path] = {}
    for path in image_files(folder, recursive=True):
        other = masks.setdefault(_stem(path, folder), path)
        if other != path:
            raise ValueError(
                f"{other} and {path} are masks of the same image; keep one."
            )
    test = listing.root / "test"
    records, missing = [], []
    used = set()
    for record in listing.records:
        if record.split == "test":
            base = test / ("abnormal" if record.label else "normal")
            stem = _stem(record.path, base)
            if stem in used and stem in masks:
                raise ValueError(
                    f"two test images share the mask {masks[stem]}; give them "
                    "names of their own."
                )
            used.add(stem)
            record = dataclasses.replace(record, mask=masks.get(stem))
            if record.label and record.mask is None:
                missing.append(record.id)
        records.append(record)
    if missing:
        raise ValueError(
            f"{len(missing)} abnormal test images have no mask in {folder} "
            f"({files.first_names(missing)}): add them, or remove the folder "
            "to go without pixel metrics."
        )
    orphans = tuple(masks[stem] for stem in sorted(set(masks) - used))
    return dataclasses.replace(
        listing, records=tuple(records), has_masks=True, orphan_masks=orphans
    )


def _stem(path: pathlib.Path, folder: pathlib.Path) -> str:
    name = path.relative_to(folder).as_posix()
    stem = medical.stem(name)
    is_plain = stem == name and path.suffix.lower() in images.EXTENSIONS
    return name[: -len(path.suffix)] if is_plain else stem


def _read_data_json(root: pathlib.Path) -> Listing:
    """Lists what data.json names under images/."""
    folder = root / "images"
    records = []
    for split, label, name in split_lists.read(root / "data.json"):
        records.append(Record(name, split, label, folder / name))
    refuse_missing(records, root / "data.json", folder)
    return Listing(DATA_JSON, root, tuple(sorted(records, key=by_id)))


def refuse_missing(
    records: Sequence[Record], source: pathlib.Path, folder: pathlib.Path
):
    """Refuses a list that names files which are not there.

    Args:
        records: what is listed.
        source: the file that lists it.
        folder: where the files should be.

    Raises:
        FileNotFoundError: some are missing; the first few are named.
    """
    missing = [r.path for r in records if not r.path.exists()]
    if missing:
        names = [path.relative_to(folder).as_posix() for path in missing]
        raise FileNotFoundError(
            f"{len(missing)} of {len(records)} images that {source} names are "
            f"not in {folder} ({files.first_names(names)}): complete the "
            "download."
        )


_READERS = {
    FLAT: _read_flat,
    CLASS_FOLDERS: _read_class_folders,
    DATA_JSON: _read_data_json,
}
