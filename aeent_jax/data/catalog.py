"""The catalog of data sets: where they come from, what they must hold."""

import dataclasses

GENERATED = "generated"
FOLDER = "folder"
DATA_JSON = "data_json"
BRATS = "brats2021"
CAMELYON = "camelyon16"
ISIC = "isic2018_task3"
ORIGINAL = "originals"


@dataclasses.dataclass(frozen=True)
class Entry:
    """One data set of the catalog.

    Attributes:
        source: `GENERATED` (from a seed), `FOLDER` (any layout), `ORIGINAL` (a
            download of the public originals, cut by a split list of this
            package, or data.json), or a layout of the benchmark: `DATA_JSON`,
            `BRATS`, `CAMELYON` or `ISIC`.
        modality: what the images show.
        counts: images of (train normal, test normal, test abnormal), or None
            where they depend on the user's files.
        channels: 1 gray, 3 RGB: what the published protocol uses.
        terms: license or terms of use.
        obtain: how a user gets it.
        folder: of the benchmark: its folder there, and the name of its
            archive; else empty.
        md5: of the benchmark's archive; empty where there is none.
    """

    source: str
    modality: str
    counts: tuple[int, int, int] | None
    channels: int
    terms: str
    obtain: str
    folder: str = ""
    md5: str = ""


SOURCES = {
    GENERATED: "generated from a seed",
    FOLDER: "a flat folder, train/normal and its companions, or data.json",
    DATA_JSON: "data.json beside images/",
    BRATS: "train, test/normal, test/tumor and test/annotation",
    CAMELYON: "train/good, test/good and test/Ungood",
    ISIC: (
        "ISIC2018_Task3_Training_Input, ISIC2018_Task3_Training_GroundTruth, "
        "ISIC2018_Task3_Test_Input and ISIC2018_Task3_Test_GroundTruth"
    ),
    ORIGINAL: "the publisher's folders, or data.json beside images/",
}
_COLORS = {1: "gray", 3: "RGB"}
_BENCHMARK_URL = "https://zenodo.org/records/12677223"


def _benchmark(
    modality: str,
    counts: tuple[int, int, int],
    folder: str,
    md5: str,
    *,
    source: str = DATA_JSON,
    channels: int = 1,
) -> Entry:
    return Entry(
        source=source,
        modality=modality,
        counts=counts,
        channels=channels,
        terms="those of the original data set; see the record",
        obtain=f"{folder}.tar.gz of {_BENCHMARK_URL} (md5 {md5})",
        folder=folder,
        md5=md5,
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
    "brats2021": _benchmark(
        "brain MR slices (FLAIR, gliomas) with tumor masks",
        (4211, 828, 1948),
        "BraTS2021",
        "237f2aee77e099f7483808ddec49a57c",
        source=BRATS,
    ),
    "lag": _benchmark(
        "retinal fundus (LAG, glaucoma)",
        (1500, 811, 811),
        "LAG",
        "0b4034ae8d5275f7723a512adb218f86",
    ),
    "isic2018": Entry(
        source=ISIC,
        modality="dermatoscopy (ISIC 2018, nevi against other lesions)",
        counts=(6705, 909, 603),
        channels=1,
        terms="CC BY-NC 4.0 (ISIC 2018 challenge)",
        obtain=(
            "Task 3 of https://challenge.isic-archive.com/data/#2018: training "
            "and test data, with their ground truth"
        ),
        folder="ISIC2018_Task3",
    ),
    "camelyon16": _benchmark(
        "histopathology patches (Camelyon16, metastases)",
        (5088, 1120, 1113),
        "Camelyon16",
        "c26c026d1c315deb52720d4c195e874f",
        source=CAMELYON,
        channels=3,
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
