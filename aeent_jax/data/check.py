"""Checks a folder without preparing it: its contents, and what is wrong."""

import collections
import dataclasses
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from aeent_jax.data import (
    archives,
    cache,
    dataset,
    files,
    images,
    layouts,
    masks,
    near_copies,
    nearest,
    sources,
)

_NORMAL_SLICE = "normal_slice"
_LABELS = {dataset.NORMAL: "normal", dataset.ABNORMAL: "abnormal"}


class Finding(NamedTuple):
    """One thing that was found.

    Attributes:
        kind: a short name of it, such as "leak".
        is_problem: whether it is a reason not to use the folder as it is;
            other findings may be intended.
        sentence: what was found, with the first few names.
        names: all names of the images or files it is about.
        lines: what the sentence names the first few of; empty: `names`.
    """

    kind: str
    is_problem: bool
    sentence: str
    names: tuple[str, ...] = ()
    lines: tuple[str, ...] = ()

    def others(self) -> tuple[str, ...]:
        """The names that the sentence has no room for."""
        return (self.lines or self.names)[files.MAX_LISTED :]


@dataclasses.dataclass(frozen=True)
class Report:
    """The contents of a folder and all findings.

    Attributes:
        layout: name of the layout.
        counts: images of each (split, label).
        masks: number of mask files that belong to an image.
        sizes: images of each (width, height).
        modes: images of each pixel format or photometric interpretation.
        bits: images of each number of bits.
        modalities: images of each modality; empty without DICOM.
        windows: images of each window and source of it; empty where all images
            have 8 bits.
        findings: all that is wrong or noteworthy.
    """

    layout: str
    counts: dict[tuple[str, int], int]
    masks: int
    sizes: dict[tuple[int, int], int]
    modes: dict[str, int]
    bits: dict[int, int]
    modalities: dict[str, int]
    windows: dict[str, int]
    findings: tuple[Finding, ...]

    @property
    def problems(self) -> tuple[str, ...]:
        """Sentences; each is a reason not to use the folder as it is."""
        return tuple(f.sentence for f in self.findings if f.is_problem)

    @property
    def notes(self) -> tuple[str, ...]:
        """Sentences about what may be intended."""
        return tuple(f.sentence for f in self.findings if not f.is_problem)


class _Seen(NamedTuple):
    """An image that was read.

    Attributes:
        item: what is known of it.
        digest: `images.digest` of it.
        pixels: `[S, S, C]` uint8, as a network sees it.
    """

    item: sources.Item
    digest: str
    pixels: np.ndarray


def check(
    name: str,
    root: str,
    *,
    cache_dir: str = "",
    spec: sources.Spec | None = None,
    near_levels: float = near_copies.LEVELS,
) -> Report:
    """Reads every file of a data set and looks for what would spoil results.

    Args:
        name: a name of the catalog that is read from a folder.
        root: the folder, or the benchmark's archive; see `archives.unpack`.
        cache_dir: where an archive is unpacked; empty for the user's cache
            folder.
        spec: how the images would be made; None for the defaults.
        near_levels: gray levels within which images are near copies; 0 looks
            for none.

    Returns:
        The report.

    Raises:
        ValueError: the folder has no layout that is known, or contradicts it;
            or the archive is not the published one.
        FileNotFoundError: the folder, or some of its files, are missing.
    """
    spec = spec or sources.Spec()
    root = archives.unpack(name, root, cache.find_dir(cache_dir))
    listing = sources.list_files(name, root)

    def read(record: layouts.Record) -> list[_Seen]:
        return [
            _Seen(
                sources.Item(record, shown.facts),
                images.digest(shown),
                images.to_network(
                    shown, spec.image_size, spec.channels, spec.resize
                ),
            )
            for shown in images.frames(record.path, window=spec.window)
        ]

    per_file, failures = files.read_each(read, listing.records)
    seen = [one for many in per_file if many for one in many]
    items = [one.item for one in seen]
    mask_findings = _check_masks(listing, items)
    findings = [
        *_find_unreadable(failures, len(listing.records)),
        *_find_other_counts(name, listing),
        *_find_few(items),
        *_find_unusable(items),
        *_find_duplicates(seen),
        *_find_near_copies(seen, near_levels),
        *mask_findings,
        *_find_blank(items),
        *_find_unused(listing),
        *_gather_notes(items),
        *_find_squeezed(items, spec),
    ]
    facts = [item.facts for item in items]
    wide = [f for f in facts if f.window]
    return Report(
        layout=listing.layout,
        counts=_count_labels(items, mask_findings),
        masks=sum(r.mask is not None for r in listing.records),
        sizes=_count(f.size for f in facts),
        modes=_count(f.mode for f in facts),
        bits=_count(f.bits for f in facts),
        modalities=_count(f.modality for f in facts if f.modality),
        windows=_count(_name_window(f) for f in wide),
        findings=tuple(sorted(findings, key=lambda f: not f.is_problem)),
    )


def _count_labels(
    items: Sequence[sources.Item], findings: Sequence[Finding]
) -> dict[tuple[str, int], int]:
    """Counts (split, label); slices that their mask leaves out are normal."""
    normal = {
        name for f in findings if f.kind == _NORMAL_SLICE for name in f.names
    }
    return _count(
        (i.record.split, dataset.NORMAL if i.id in normal else i.record.label)
        for i in items
    )


def _count(values: Iterable) -> dict:
    return dict(collections.Counter(values).most_common())


def _name_window(facts: images.Facts) -> str:
    if facts.window_source in ("range", "volume"):
        return f"of the {facts.window_source}"
    low, high = facts.window or (0, 0)
    return f"{low:.6g},{high:.6g} {facts.window_source}"


def _find_unreadable(failures: Sequence[str], total: int) -> list[Finding]:
    if not failures:
        return []
    sentence = files.describe_failures(failures, total)
    return [Finding("unreadable", True, sentence, tuple(failures))]


def _find_other_counts(name: str, listing: layouts.Listing) -> list[Finding]:
    try:
        sources.check_counts(name, listing)
    except ValueError as error:
        return [Finding("counts", True, str(error))]
    return []


def _find_unusable(items: Sequence[sources.Item]) -> list[Finding]:
    sentence = sources.describe_problems(items)
    names = tuple(item.id for item in items if item.facts.problem)
    return [Finding("unusable", True, sentence, names)] if sentence else []


def _find_duplicates(seen: Sequence[_Seen]) -> list[Finding]:
    """Finds equal images: across splits or labels, and within.

    An image in two splits, or with two labels, makes scores look better or
    worse than they are; a repetition within a split only counts twice.
    """
    groups: dict[str, list[sources.Item]] = {}
    for one in seen:
        groups.setdefault(one.digest, []).append(one.item)
    repeated = [group for group in groups.values() if len(group) > 1]
    found = []
    for kind, is_problem, sentence, advice, differ in (
        (
            "leak",
            True,
            "LEAK: {} images are in more than one split",
            ": remove them from the training split.",
            lambda r: r.split,
        ),
        (
            "two_labels",
            True,
            "{} images are both normal and abnormal",
            ": keep one label.",
            lambda r: r.label,
        ),
        (
            "repeated",
            False,
            "{} images occur more than once in their split",
            ".",
            None,
        ),
    ):
        chosen = [
            group
            for group in repeated
            if (
                len({differ(i.record) for i in group}) > 1
                if differ
                else len({(i.record.split, i.record.label) for i in group}) == 1
            )
        ]
        if chosen:
            lines = tuple(_name_group(g) for g in chosen)
            first = files.first_names(lines)
            text = f"{sentence.format(len(chosen))} ({first}){advice}"
            names = tuple(item.id for group in chosen for item in group)
            found.append(Finding(kind, is_problem, text, names, lines))
    return found


def _find_near_copies(seen: Sequence[_Seen], levels: float) -> list[Finding]:
    """Finds test and validation images that are near copies of training ones.

    They are a problem, as equal images are: a network may know them by heart.
    Equal images are `_find_duplicates`'; here they count among the near ones,
    unless all are equal.
    """
    by_split = {
        split: [one for one in seen if one.item.record.split == split]
        for split in dataset.SPLITS
    }
    train = by_split["train"]
    found = []
    for split, own in by_split.items():
        if split == "train" or not own or not train or levels <= 0:
            continue
        near = nearest.find_nearest(
            np.stack([one.pixels for one in own]),
            np.stack([one.pixels for one in train]),
        )
        rows = np.flatnonzero(near.distance <= levels)
        copies = [(own[i], train[near.index[i]]) for i in rows]
        if any(one.digest != other.digest for one, other in copies):
            found.append(_name_near_copies(split, own, copies, levels))
    return found


def _name_near_copies(
    split: str,
    own: Sequence[_Seen],
    copies: Sequence[tuple[_Seen, _Seen]],
    levels: float,
) -> Finding:
    counts = [
        f"{sum(one.item.record.label == label for one, _ in copies)} of "
        f"{sum(one.item.record.label == label for one in own)} {name}"
        for label, name in _LABELS.items()
    ]
    pairs = tuple(f"{one.item.id} ~ {other.item.id}" for one, other in copies)
    sentence = (
        f"NEAR COPIES: {' and '.join(counts)} images of the {split} split are "
        f"within {levels:g} gray levels of a training image "
        f"({files.first_names(pairs)}): scores may measure memory of them; "
        "data.deduplicate=near leaves them out of the test split; where all "
        "images are alike, lower --near_levels."
    )
    names = tuple(one.item.id for one, _ in copies)
    return Finding("near_copies", True, sentence, names, pairs)


def _name_group(group: Sequence[sources.Item]) -> str:
    return " = ".join(f"{i.record.split}:{i.id}" for i in group[:3])


def _check_masks(
    listing: layouts.Listing, items: Sequence[sources.Item]
) -> list[Finding]:
    """Finds masks that do not fit their images."""
    paired = [item for item in items if item.record.mask is not None]
    strict = sources.needs_strict_masks(listing)

    def read(item: sources.Item) -> masks.Mask:
        return masks.read(item.record.mask, item.facts.name, strict=strict)

    found, failures = files.read_each(read, paired)
    findings = _find_unreadable(failures, len(paired))
    orphans = [str(path) for path in listing.orphan_masks]
    groups: dict[str, list[str]] = {name: [] for name in _MASK_FINDINGS}
    for item, mask in zip(paired, found, strict=True):
        if mask is None:
            continue
        label, path = item.record.label, str(item.record.mask)
        height, width = mask.shape
        if item.facts.size != (width, height):
            groups["mask_size"].append(path)
        if label == dataset.NORMAL and mask.any():
            groups["mask_of_normal"].append(path)
        if label == dataset.ABNORMAL and not mask.any():
            if sources.is_volume_mask(item):
                groups[_NORMAL_SLICE].append(item.id)
            else:
                groups["mask_empty"].append(path)
        if mask.all():
            groups["mask_whole"].append(path)
    groups["mask_orphan"] = orphans
    return findings + [
        Finding(
            kind,
            is_problem,
            _describe(sentence, groups[kind]),
            tuple(groups[kind]),
        )
        for kind, (is_problem, sentence) in _MASK_FINDINGS.items()
        if groups[kind]
    ]


_MASK_FINDINGS = {
    "mask_orphan": (True, "masks have no image"),
    "mask_size": (True, "masks have another size than their image"),
    "mask_of_normal": (True, "masks of normal images are not empty"),
    "mask_empty": (True, "masks of abnormal images are empty"),
    _NORMAL_SLICE: (
        False,
        "slices of abnormal volumes are normal by their mask",
    ),
    "mask_whole": (False, "masks cover the whole of their image"),
}


def _describe(sentence: str, names: Sequence[str]) -> str:
    return f"{len(names)} {sentence} ({files.first_names(names)})."


def _find_blank(items: Sequence[sources.Item]) -> list[Finding]:
    blank = [
        item.id
        for item in items
        if item.facts.extrema[0] == item.facts.extrema[1]
    ]
    return _note("blank", "images are of one gray value", blank)


def _find_few(items: Sequence[sources.Item]) -> list[Finding]:
    names = tuple(i.id for i in items if i.record.split == "train")
    sentence = dataset.describe_few(len(names))
    return [Finding("few", False, sentence, names)] if sentence else []


def _note(kind: str, sentence: str, names: Sequence[str]) -> list[Finding]:
    if not names:
        return []
    return [Finding(kind, False, _describe(sentence, names), tuple(names))]


def _find_unused(listing: layouts.Listing) -> list[Finding]:
    used = {record.path for record in listing.records}
    used |= {record.mask for record in listing.records if record.mask}
    used |= set(listing.orphan_masks)
    below = layouts.image_files(listing.root, recursive=True)
    unused = [str(path) for path in below if path not in used]
    others = list(layouts.other_paths(listing.root))
    aside = [str(path) for path in others if path.is_dir()]
    no_images = [str(path) for path in others if not path.is_dir()]
    return [
        *_note("unused", "image files are not used", unused),
        *_note("no_image", "files are no images and are not read", no_images),
        *_note("aside", "folders are left out, as systems make them", aside),
    ]


def _gather_notes(items: Sequence[sources.Item]) -> list[Finding]:
    """Gathers what is noted of single images."""
    groups: dict[str, list[str]] = {}
    for item in items:
        for note in item.facts.notes:
            groups.setdefault(note, []).append(item.id)
    return [
        finding
        for note, names in groups.items()
        for finding in _note("note", f"images: each {note}", names)
    ]


def _find_squeezed(
    items: Sequence[sources.Item], spec: sources.Spec
) -> list[Finding]:
    """Names images that are not square, which are squeezed or padded."""
    names = [i.id for i in items if i.facts.size[0] != i.facts.size[1]]
    how = {
        images.STRETCH: "squeezed to a square; data.resize=pad would keep "
        "their proportions",
        images.PAD: "padded to a square",
    }[spec.resize]
    return _note("not_square", f"images are not square and are {how}", names)


def format_report(report: Report) -> str:
    """Returns the report as text for a terminal."""
    total = sum(report.counts.values())
    lines = [f"layout {report.layout}, {total} images"]
    for (split, label), count in sorted(report.counts.items(), key=_order):
        lines.append(f"  {split:<6} {_LABELS[label]:<9} {count:>7}")
    if report.masks:
        lines.append(f"  masks {report.masks:>18}")
    sizes = {f"{w} x {h}": n for (w, h), n in report.sizes.items()}
    lines += _format_counts("sizes", sizes)
    lines += _format_counts("modes", report.modes)
    if report.modalities:
        lines += _format_counts("modalities", report.modalities)
    if report.windows:
        lines += _format_counts("bits", report.bits)
        lines += _format_counts("windows", report.windows)
    lines += [f"note: {note}" for note in report.notes]
    if any(f.others() for f in report.findings if not f.is_problem):
        lines.append("note: --json names every file of every note.")
    for finding in report.findings:
        if finding.is_problem:
            lines.append(f"PROBLEM: {finding.sentence}")
            lines += [f"  and {other}" for other in finding.others()]
    if not report.problems:
        lines.append("no problems found")
    return "\n".join(lines)


def _format_counts(title: str, counts: dict) -> list[str]:
    named = [f"{value} ({count})" for value, count in counts.items()]
    return [f"{title:<6} {files.first_names(named)}"]


def to_json(report: Report) -> dict[str, object]:
    """Returns all of the report, with every name, as JSON can hold it."""
    return {
        "layout": report.layout,
        "counts": {
            f"{split}/{_LABELS[label]}": count
            for (split, label), count in sorted(
                report.counts.items(), key=_order
            )
        },
        "masks": report.masks,
        "sizes": {f"{w}x{h}": n for (w, h), n in report.sizes.items()},
        "modes": report.modes,
        "bits": {str(bits): n for bits, n in report.bits.items()},
        "modalities": report.modalities,
        "windows": report.windows,
        "findings": [
            {
                "kind": finding.kind,
                "severity": "problem" if finding.is_problem else "note",
                "sentence": finding.sentence,
                "names": list(finding.names),
            }
            for finding in report.findings
        ],
    }


def _order(item: tuple[tuple[str, int], int]) -> tuple[int, int]:
    (split, label), _ = item
    return dataset.SPLITS.index(split), label
