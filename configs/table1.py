"""The paper's Table 1: the plain autoencoder at eight latent sizes, 3 seeds.

    aeent sweep --config=configs/table1.py:kermany_cxr \
        --config.data.root=DIR --out=runs/tables/kermany_cxr

trains 24 members and writes, beside each number that has been published, the
published one and whether they agree. Table 2 and the figure of reconstruction
errors share members with this table: given the same --out, none is trained
twice.
"""

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import ml_collections

from configs import (
    brain_mri,
    brain_tumor,
    brats2021,
    camelyon16,
    isic2018,
    kermany_cxr,
    lag,
    phantom_cxr,
    phantom_mri,
    rsna,
    vindr_cxr,
)

# The data sets of all tables: each has its own epochs.
DATASETS = {
    "rsna": rsna,
    "vindr_cxr": vindr_cxr,
    "brain_tumor": brain_tumor,
    "brats2021": brats2021,
    "lag": lag,
    "isic2018": isic2018,
    "camelyon16": camelyon16,
    "kermany_cxr": kermany_cxr,
    "brain_mri": brain_mri,
    "phantom_cxr": phantom_cxr,
    "phantom_mri": phantom_mri,
}
# A sweep that is stopped early has those where the curve bends.
LATENT_SIZES = (4, 16, 64, 2, 8, 32, 1, 128)
SEEDS = (0, 1, 2)


def get_config(data: str = "rsna") -> ml_collections.ConfigDict:
    """Returns the configuration that all members share.

    Args:
      data: the data set, a key of `DATASETS`.

    Raises:
      ValueError: another data set.
    """
    if data not in DATASETS:
        raise ValueError(
            f"the data set is {data!r}, but must be one of"
            f" {', '.join(DATASETS)}."
        )
    config = DATASETS[data].get_config("plain")
    config.checkpoint.keep = 1
    config.checkpoint.every_steps = 0
    return config


def get_members(
    config: ml_collections.ConfigDict,
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields the name of each member and the keys that it sets.

    Args:
      config: the shared configuration, with what the command line changed.
    """
    del config
    yield from plain_members(LATENT_SIZES)


def plain_members(
    sizes: Sequence[int],
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields plain autoencoders of these latent sizes, all seeds of each.

    Args:
      sizes: latent sizes, in the order of training.
    """
    for size, seed in itertools.product(sizes, SEEDS):
        yield (
            f"ae{size}_s{seed}",
            {"model.latent_dim": size, "train.seed": seed},
        )
