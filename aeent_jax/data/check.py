"""What a folder holds, and what is wrong with it, without preparing it."""

import collections
import dataclasses
import pathlib
from collections.abc import Sequence

from aeent_jax.data import (
    archives,
    cache,
    dataset,
    files,
    images,
    layouts,
    sources,
)

_LABELS = {dataset.NORMAL: "normal", dataset.ABNORMAL: "abnormal"}


@dataclasses.dataclass(frozen=True)
class Report:
    """What was found.

    Attributes:
        layout: name of the layout.
        counts: images of each (split, label).
        masks: number of mask files that belong to an image.
        sizes: images of each (width, height).
        modes: images of each of PIL's pixel formats.
        problems: sentences; each is a reason not to use the folder as it is.
        notes: sentences about what may be intended.
    """

    layout: str
    counts: dict[tuple[str, int], int]
    masks: int
    sizes: dict[tuple[int, int], int]
    modes: dict[str, int]
    problems: tuple[str, ...]
    notes: tuple[str, ...]


def check(name: str, root: str, *, cache_dir: str = "") -> Report:
    """Reads every file of a data set and looks for what would spoil results.

    Args:
        name: a name of the catalog that is read from a folder.
        root: the folder, or the benchmark's archive; see `archives.unpack`.
        cache_dir: where an archive is unpacked; empty for the user's cache
            folder.

    Returns:
        The report.

    Raises:
        ValueError: the folder has no layout that is known, or contradicts it;
            or the archive is not the published one.
        FileNotFoundError: the folder, or some of its files, are missing.
    """
    root = archives.unpack(name, root, cache.find_dir(cache_dir))
    listing = sources.list_files(name, root)
    records = listing.records
    found, failures = files.read_each(
        images.inspect, [record.path for record in records]
    )
    problems, notes = [], []
    if failures:
        problems.append(files.describe_failures(failures, len(records)))
    try:
        sources.check_counts(name, listing)
        wide = [i.extrema[1] for i in found if i and images.is_wide(i.mode)]
        images.check_window(wide, None)
    except ValueError as error:
        problems.append(str(error))
    leaks, repeats = _find_duplicates(records, found)
    problems += leaks + _check_masks(listing, found)
    notes += repeats + _find_blank(records, found) + _find_unused(listing)
    seen = [inspection for inspection in found if inspection is not None]
    return Report(
        layout=listing.layout,
        counts=sources.count(listing),
        masks=sum(record.mask is not None for record in records),
        sizes=dict(collections.Counter(i.size for i in seen).most_common()),
        modes=dict(collections.Counter(i.mode for i in seen).most_common()),
        problems=tuple(problems),
        notes=tuple(notes),
    )


def _find_duplicates(
    records: Sequence[layouts.Record],
    found: Sequence[images.Inspection | None],
) -> tuple[list[str], list[str]]:
    """Returns sentences on equal images: across splits or labels, and within.

    An image in two splits, or with two labels, makes scores look better or
    worse than they are; a repetition within a split only counts twice.
    """
    groups: dict[str, list[layouts.Record]] = {}
    for record, inspection in zip(records, found, strict=True):
        if inspection is not None:
            groups.setdefault(inspection.digest, []).append(record)
    repeated = [group for group in groups.values() if len(group) > 1]
    leaks = [g for g in repeated if len({r.split for r in g}) > 1]
    mislabelled = [g for g in repeated if len({r.label for r in g}) > 1]
    within = [g for g in repeated if len({(r.split, r.label) for r in g}) == 1]
    problems = []
    if leaks:
        problems.append(
            f"LEAK: {len(leaks)} images are in more than one split "
            f"({_name_groups(leaks)}): remove them from the training split."
        )
    if mislabelled:
        problems.append(
            f"{len(mislabelled)} images are both normal and abnormal "
            f"({_name_groups(mislabelled)}): keep one label."
        )
    notes = []
    if within:
        notes.append(
            f"{len(within)} images occur more than once in their split "
            f"({_name_groups(within)})."
        )
    return problems, notes


def _name_groups(groups: Sequence[Sequence[layouts.Record]]) -> str:
    named = [
        " = ".join(f"{r.split}:{r.id}" for r in group[:3]) for group in groups
    ]
    return files.first_names(named)


def _check_masks(
    listing: layouts.Listing, found: Sequence[images.Inspection | None]
) -> list[str]:
    """Returns sentences on masks that do not fit their images."""
    rows = [
        (record, record.mask, inspection)
        for record, inspection in zip(listing.records, found, strict=True)
        if record.mask is not None
    ]
    paths = [mask for _, mask, _ in rows]
    masks, failures = files.read_each(images.inspect, paths)
    problems = []
    if failures:
        problems.append(files.describe_failures(failures, len(rows)))
    if listing.orphan_masks:
        problems.append(_describe("masks have no image", listing.orphan_masks))
    other_size, marked, empty = [], [], []
    for (record, path, image), mask in zip(rows, masks, strict=True):
        if mask is None:
            continue
        if image is not None and image.size != mask.size:
            other_size.append(path)
        if record.label == dataset.NORMAL and mask.extrema[1] > 0:
            marked.append(path)
        if record.label == dataset.ABNORMAL and mask.extrema[1] == 0:
            empty.append(path)
    for sentence, affected in (
        ("masks have another size than their image", other_size),
        ("masks of normal images are not empty", marked),
        ("masks of abnormal images are empty", empty),
    ):
        if affected:
            problems.append(_describe(sentence, affected))
    return problems


def _describe(sentence: str, paths: Sequence[pathlib.Path]) -> str:
    names = files.first_names([str(path) for path in paths])
    return f"{len(paths)} {sentence} ({names})."


def _find_blank(
    records: Sequence[layouts.Record],
    found: Sequence[images.Inspection | None],
) -> list[str]:
    blank = [
        record.path
        for record, inspection in zip(records, found, strict=True)
        if inspection and inspection.extrema[0] == inspection.extrema[1]
    ]
    return [_describe("images are of one gray value", blank)] if blank else []


def _find_unused(listing: layouts.Listing) -> list[str]:
    used = {record.path for record in listing.records}
    used |= {record.mask for record in listing.records if record.mask}
    used |= set(listing.orphan_masks)
    below = layouts.image_files(listing.root, recursive=True)
    unused = [path for path in below if path not in used]
    return [_describe("image files are not used", unused)] if unused else []


def format_report(report: Report) -> str:
    """Returns the report as text for a terminal."""
    total = sum(report.counts.values())
    lines = [f"layout {report.layout}, {total} images"]
    for (split, label), count in sorted(report.counts.items(), key=_order):
        lines.append(f"  {split:<6} {_LABELS[label]:<9} {count:>7}")
    if report.masks:
        lines.append(f"  masks {report.masks:>18}")
    sizes = [f"{w} x {h} ({n})" for (w, h), n in report.sizes.items()]
    modes = [f"{mode} ({n})" for mode, n in report.modes.items()]
    lines.append(f"sizes  {files.first_names(sizes)}")
    lines.append(f"modes  {files.first_names(modes)}")
    lines += [f"note: {note}" for note in report.notes]
    lines += [f"PROBLEM: {problem}" for problem in report.problems]
    if not report.problems:
        lines.append("no problems found")
    return "\n".join(lines)


def _order(item: tuple[tuple[str, int], int]) -> tuple[int, int]:
    (split, label), _ = item
    return dataset.SPLITS.index(split), label
