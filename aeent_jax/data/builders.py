"""The TFDS builder of all data sets, and reading back what it wrote.

The builder writes ArrayRecord files of uint8 arrays. TFDS does this without
TensorFlow as long as images are plain tensors, which is why they are not
`tfds.features.Image`, and as long as it shuffles no split larger than a
gigabyte, which is why examples are written in order:

    <data_dir>/<name>/<version>/
        features.json, dataset_info.json     what TFDS needs to read it alone
        <name>-<split>.array_record-00000    records of one split:
            id       text, unique over all splits
            label    0 normal, 1 abnormal
            image    [S, S, C] uint8, as raw bytes
            mask     [S, S] uint8, 0 or 1; zeros where has_mask is false
            has_mask whether the split has masks
            group    equal for images of one patient or volume; -1: none
            original [3] int64, width and height before it was made square and
                     bytes of its file; zeros without files

Each record carries its id, and `read` sorts by it, in whatever order records
come.
"""

import contextlib
import io
import itertools
import logging as py_logging
import math
import pathlib
from collections.abc import Iterator

import numpy as np
import tensorflow_datasets as tfds
from absl import logging

from aeent_jax.data import catalog, dataset, sources, stored

# Bytes of pixels in one file.
_BYTES_OF_FILE = 2**28

# Examples that are held before they are written.
_BLOCK = 256

# The group of images that each stand alone.
_NO_GROUP = stored.NO_GROUP


class ImageBuilder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """Writes and describes one data set of the catalog.

    Args:
        name: a name of the catalog.
        spec: how the images are made.
        data_dir: the folder to write to or read from.
    """

    VERSION = tfds.core.Version("1.2.0")
    # Nothing is downloaded. TFDS would look for checksums beside this file,
    # with a package that it does not declare.
    url_infos = None

    def __init__(self, name: str, spec: sources.Spec, data_dir: pathlib.Path):
        catalog.get_entry(name)  # Refuses a name that is not there.
        self.name = name
        self.spec = spec
        super().__init__(data_dir=data_dir, file_format="array_record")

    def _info(self) -> tfds.core.DatasetInfo:
        size = self.spec.image_size
        features = {
            "id": tfds.features.Text(),
            "label": tfds.features.ClassLabel(names=["normal", "abnormal"]),
            "image": _pixels((size, size, self.spec.channels)),
            "mask": _pixels((size, size)),
            "has_mask": np.bool_,
            "group": np.int64,
            "original": tfds.features.Tensor(shape=(3,), dtype=np.int64),
        }
        return tfds.core.DatasetInfo(
            builder=self,
            description=catalog.get_entry(self.name).modality,
            features=tfds.features.FeaturesDict(features),
        )

    def splits(self, root: str | pathlib.Path) -> dict[str, dataset.Split]:
        """Makes all splits, once the files are known to be complete.

        Args:
            root: the user's folder; not used by generated data sets.
        """
        if catalog.get_entry(self.name).source == catalog.GENERATED:
            return sources.draw_phantoms(self.name, self.spec)
        listing = sources.list_files(self.name, root)
        sources.check_counts(self.name, listing)
        return sources.read_files(
            listing, self.spec, scratch=pathlib.Path(self.data_dir)
        )

    def _split_generators(self, dl_manager) -> dict[str, Iterator]:
        splits = self.splits(dl_manager.manual_dir)
        return {k: self._generate_examples(v) for k, v in splits.items()}

    def _generate_examples(self, split: dataset.Split) -> Iterator:
        images = np.asarray(split.images)
        no_mask = np.zeros(images.shape[1:3], np.uint8)
        for i, id_ in enumerate(split.ids):
            mask = no_mask if split.masks is None else split.masks[i]
            yield (
                id_,
                {
                    "id": id_,
                    "label": int(split.labels[i]),
                    "image": images[i],
                    "mask": mask.astype(np.uint8),
                    "has_mask": split.masks is not None,
                    "group": _NO_GROUP
                    if split.groups is None
                    else int(split.groups[i]),
                    "original": np.zeros(3, np.int64)
                    if split.originals is None
                    else split.originals[i],
                },
            )


def _pixels(shape: tuple[int, ...]) -> tfds.features.Tensor:
    # Their file is compressed already; zlib within would double the time that
    # reading takes, and save nothing.
    return tfds.features.Tensor(shape=shape, dtype=np.uint8, encoding="bytes")


def write(
    name: str,
    spec: sources.Spec,
    *,
    root: str | pathlib.Path,
    data_dir: pathlib.Path,
):
    """Makes a data set and writes it as ArrayRecord.

    Args:
        name: a name of the catalog.
        spec: how the images are made.
        root: the user's folder; not used by generated data sets.
        data_dir: an empty folder to write to.

    Raises:
        ValueError: the folder or its images cannot be used; see `sources`.
        FileNotFoundError: the folder, or some of its files, are missing.
    """
    write_splits(ImageBuilder(name, spec, data_dir), root=root)


def write_splits(builder: ImageBuilder, *, root: str | pathlib.Path = ""):
    """Writes what a builder makes, in its order and a few examples at a time.

    TFDS's own `download_and_prepare` shuffles, in memory up to a gigabyte of a
    split and beyond that with TensorFlow.

    Args:
        builder: made for an empty folder.
        root: the user's folder, where the builder reads one.
    """
    info = builder.info
    side, channels = builder.spec.image_size, builder.spec.channels
    most = max(1, _BYTES_OF_FILE // (side * side * (channels + 1)))
    with _quiet():
        pathlib.Path(info.data_dir).mkdir(parents=True)
        writer = tfds.core.SequentialWriter(
            info, max_examples_per_shard=most, file_format="array_record"
        )
        for split, content in builder.splits(root).items():
            writer.initialize_splits([split])
            examples = (
                example for _, example in builder._generate_examples(content)
            )
            while block := list(itertools.islice(examples, _BLOCK)):
                writer.add_examples({split: block})
        writer.close_all()


def read(
    name: str,
    spec: sources.Spec,
    *,
    data_dir: pathlib.Path,
    memory_budget: float = math.inf,
) -> dict[str, dataset.Split]:
    """Reads all that `write` wrote, sorted by id.

    Args:
        name: as in `write`.
        spec: as in `write`.
        data_dir: as in `write`.
        memory_budget: bytes that the images of all splits may take; if they
            take more, they are `stored.StoredImages`.

    Returns:
        The splits by name.

    Raises:
        ValueError: a file is missing, cut off, or of other contents.
    """
    with _quiet():
        infos = ImageBuilder(name, spec, data_dir).info.splits
    shape = (spec.image_size, spec.image_size, spec.channels)
    found = {
        split: stored.find(info.filepaths, info.shard_lengths, shape)
        for split, info in infos.items()
    }
    if sum(f.images.nbytes for f in found.values()) > memory_budget:
        return {split: dataset.Split(*f) for split, f in found.items()}
    return {
        split: dataset.Split(f.images[:], *f[1:]) for split, f in found.items()
    }


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keeps back what TFDS says about where it writes: a temporary folder."""

    def is_ours(record: py_logging.LogRecord) -> bool:
        warns = record.levelno >= py_logging.WARNING
        return warns or "tensorflow_datasets" not in record.pathname

    tfds.disable_progress_bar()
    logger = logging.get_absl_logger()
    logger.addFilter(is_ours)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logger.removeFilter(is_ours)
