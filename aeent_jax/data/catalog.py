"""What data sets exist: where they come from, and what they must hold."""

import dataclasses

GENERATED = "generated"
FOLDER = "folder"
BENCHMARK = "data_json"
ORIGINAL = "originals"


@dataclasses.dataclass(frozen=True)
class Entry:
    """One data set of the catalog.

    Attributes:
        source: `GENERATED` (from a seed), `FOLDER` (any layout), `BENCHMARK`
            (the benchmark's data.json beside images/), or `ORIGINAL` (a
            download of the public originals, cut by a split list of this
            package, or data.json).
        modality: what the images show.
        counts: images of (train normal, test normal, test abnormal), or None
            where they depend on the user's files.
        channels: 1 gray, 3 RGB: what the published protocol uses.
        terms: license or terms of use.
        obtain: how a user gets it.
    """

    source: str
    modality: str
    counts: tuple[int, int, int] | None
    channels: int
    terms: str
    obtain: str


SOURCES = {
    GENERATED: "generated from a seed",
    FOLDER: "a flat folder, train/normal and its companions, or data.json",
    BENCHMARK: "data.json beside images/",
    ORIGINAL: "the publisher's folders, or data.json beside images/",
}
_COLORS = {1: "gray", 3: "RGB"}
_BENCHMARK_URL = "https://zenodo.org/records/12677223"


def _benchmark(
    modality: str, counts: tuple[int, int, int], folder: str, md5: str
) -> Entry:
    return Entry(
        source=BENCHMARK,
        modality=modality,
        counts=counts,
        channels=1,
        terms="those of the original data set; see the record",
        obtain=f"{folder}.tar.gz of {_BENCHMARK_URL} (md5 {md5})",
    )


CATALOG = {
    "phantom_cxr": Entry(
        source=GENERATED,
        modality="chest X-ray phantom with lesion masks",
        counts=(1000, 200, 200),
        channels=1,
        terms="Apache-2.0",
        obtain="nothing to get: generated from a seed",
    ),
    "phantom_mri": Entry(
        source=GENERATED,
        modality="brain MR phantom with lesion masks",
        counts=(600, 150, 150),
        channels=1,
        terms="Apache-2.0",
        obtain="nothing to get: generated from a seed",
    ),
    "folder": Entry(
        source=FOLDER,
        modality="your own images",
        counts=None,
        channels=1,
        terms="yours",
        obtain="point data.root at it",
    ),
    "rsna": _benchmark(
        "chest X-ray (RSNA pneumonia)",
        (3851, 1000, 1000),
        "RSNA",
        "5d6b85ce4b2daad8f1760eb23c050a7d",
    ),
    "vindr_cxr": _benchmark(
        "chest X-ray (VinDr-CXR)",
        (4000, 1000, 1000),
        "VinCXR",
        "45cf848a4eba925062531c5f2d344ddc",
    ),
    "brain_tumor": _benchmark(
        "brain MR slices (tumors)",
        (1000, 600, 600),
        "BrainTumor",
        "ab6482f646262fc4669b0135d80a0482",
    ),
    "kermany_cxr": Entry(
        source=ORIGINAL,
        modality="pediatric chest X-ray (pneumonia)",
        counts=(1000, 200, 200),
        channels=1,
        terms="CC BY 4.0 (Kermany et al. 2018)",
        obtain="ChestXRay2017 of https://data.mendeley.com/datasets/rscbjbr9sj",
    ),
    "brain_mri": Entry(
        source=ORIGINAL,
        modality="brain MR slices (glioma, meningioma)",
        counts=(320, 75, 75),
        channels=1,
        terms="those of Brain Tumor Classification (MRI), Bhuvaji et al.",
        obtain="https://doi.org/10.34740/kaggle/dsv/1183165",
    ),
}


def get_entry(name: str) -> Entry:
    """Returns the entry of a data set.

    Args:
        name: a key of `CATALOG`.

    Raises:
        ValueError: there is no such name; the message lists those there are.
    """
    if name not in CATALOG:
        raise ValueError(
            f"no data set is called {name!r}; choose one of "
            f"{', '.join(CATALOG)}."
        )
    return CATALOG[name]


def format_table() -> str:
    """Returns the catalog as text for a terminal."""
    lines = [f"{'name':<12} {'train':>6} {'test: normal/abnormal':>22}  images"]
    for name, entry in CATALOG.items():
        train, test = "-", "-"
        if entry.counts is not None:
            train = str(entry.counts[0])
            test = f"{entry.counts[1]}/{entry.counts[2]}"
        images = f"{entry.modality}, {_COLORS[entry.channels]}"
        lines.append(f"{name:<12} {train:>6} {test:>22}  {images}")
    lines.append("")
    for name, entry in CATALOG.items():
        lines.append(f"{name:<12} from:  {entry.obtain}")
        lines.append(f"{'':<12} terms: {entry.terms}")
        lines.append(f"{'':<12} form:  {SOURCES[entry.source]}")
    return "\n".join(lines)
