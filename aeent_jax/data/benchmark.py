"""The folders of the benchmark (MedIAnomaly, Cai et al. 2025).

Each data set of it has one layout, as its record or the ISIC archive holds it,
and is read as the benchmark's own code reads it: a tumor's mask is found by
its image's name with `flair` replaced by `seg`, normal images have no mask
file, and of ISIC's classes nevi (NV) are normal.
"""

import dataclasses
import pathlib

from aeent_jax.data import catalog, dataset, files, layouts, split_lists

_TRAIN = ("train", dataset.NORMAL)
_TEST_NORMAL = ("test", dataset.NORMAL)
_TEST_ABNORMAL = ("test", dataset.ABNORMAL)
_BRATS = {
    "train": _TRAIN,
    "test/normal": _TEST_NORMAL,
    "test/tumor": _TEST_ABNORMAL,
}
_CAMELYON = {
    "train/good": _TRAIN,
    "test/good": _TEST_NORMAL,
    "test/Ungood": _TEST_ABNORMAL,
}
_KINDS = ("Input", "GroundTruth")
_ISIC = {"train": "ISIC2018_Task3_Training", "test": "ISIC2018_Task3_Test"}


def find_folder(name: str, root: pathlib.Path) -> pathlib.Path | None:
    """Finds the folder of a data set of the benchmark.

    Args:
        name: a name of the catalog whose source is one of the benchmark's.
        root: the folder itself, or the one that holds it, which may hold the
            others of the benchmark too.

    Returns:
        The folder, or None where neither begins to have the layout.
    """
    entry = catalog.get_entry(name)
    mark = _MARKS[entry.source]
    for folder in (root, root / entry.folder):
        if (folder / mark).exists():
            return folder
    return None


def read_listing(name: str, folder: pathlib.Path) -> layouts.Listing:
    """Lists the images of a data set of the benchmark; decodes nothing.

    Args:
        name: as in `find_folder`.
        folder: what that returned.

    Returns:
        The listing.

    Raises:
        FileNotFoundError: some of the folders or files are missing.
        ValueError: a list of names or a file's name cannot be used.
    """
    listing = _READERS[catalog.get_entry(name).source](folder)
    layouts.check_ids(listing)
    return listing


def _list_folders(
    root: pathlib.Path, folders: dict[str, tuple[str, int]]
) -> list[layouts.Record]:
    _refuse_missing_folders(root, list(folders))
    records = [
        layouts.Record(f"{folder}/{path.name}", split, label, path)
        for folder, (split, label) in folders.items()
        for path in layouts.image_files(root / folder, recursive=False)
    ]
    return sorted(records, key=layouts.by_id)


def _refuse_missing_folders(root: pathlib.Path, folders: list[str]):
    missing = [folder for folder in folders if not (root / folder).is_dir()]
    if missing:
        raise FileNotFoundError(
            f"{root} has no folder {', '.join(missing)}: complete the download."
        )


def _read_brats(root: pathlib.Path) -> layouts.Listing:
    """Lists BraTS2021: normal slices, and tumors with their masks."""
    folder = root / "test" / "annotation"
    _refuse_missing_folders(root, ["test/annotation"])
    masks = {
        path.name: path for path in layouts.image_files(folder, recursive=False)
    }
    records, with_image = [], set()
    for record in _list_folders(root, _BRATS):
        name = record.path.name.replace("flair", "seg")
        if record.split == "test":
            with_image.add(name)
        # The benchmark's code gives normal images no mask, and so do we.
        if record.label == dataset.ABNORMAL:
            record = dataclasses.replace(record, mask=masks.get(name))
        records.append(record)
    missing = [r.id for r in records if r.label and r.mask is None]
    if missing:
        raise FileNotFoundError(
            f"{len(missing)} tumor images have no mask in {folder} "
            f"({files.first_names(missing)}): complete the download."
        )
    orphans = sorted(masks[name] for name in masks.keys() - with_image)
    return layouts.Listing(
        catalog.BRATS,
        root,
        tuple(records),
        has_masks=True,
        orphan_masks=tuple(orphans),
    )


def _read_camelyon(root: pathlib.Path) -> layouts.Listing:
    records = _list_folders(root, _CAMELYON)
    return layouts.Listing(catalog.CAMELYON, root, tuple(records))


def _read_isic(root: pathlib.Path) -> layouts.Listing:
    """Lists the nevi to train, and all test images."""
    parts = [f"{p}_{kind}" for p in _ISIC.values() for kind in _KINDS]
    _refuse_missing_folders(root, parts)
    records = []
    for split, part in _ISIC.items():
        truth = root / f"{part}_GroundTruth" / f"{part}_GroundTruth.csv"
        found = [
            layouts.Record(
                f"{part}_Input/{name}.jpg",
                split,
                label,
                root / f"{part}_Input" / f"{name}.jpg",
            )
            for label, name in split_lists.read_ground_truth(truth)
            if split == "test" or label == dataset.NORMAL
        ]
        layouts.refuse_missing(found, truth, root / f"{part}_Input")
        records += found
    records.sort(key=layouts.by_id)
    return layouts.Listing(catalog.ISIC, root, tuple(records))


# Names that show that a folder is meant to have the layout.
_MARKS = {
    catalog.DATA_JSON: "data.json",
    catalog.BRATS: "train",
    catalog.CAMELYON: "train",
    catalog.ISIC: "ISIC2018_Task3_Training_Input",
}
_READERS = {
    catalog.DATA_JSON: layouts.read_listing,
    catalog.BRATS: _read_brats,
    catalog.CAMELYON: _read_camelyon,
    catalog.ISIC: _read_isic,
}
