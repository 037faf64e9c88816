"""The paper's Table 1: the plain autoencoder at eight latent sizes, 3 seeds.

    aeent sweep --config=configs/table1.py:kermany_cxr \
        --config.data.root=DIR --out=runs/tables/kermany_cxr

trains 24 members and writes, beside each number that has been published, the
published one and whether they agree. Table 2 and the figure of reconstruction
errors share members with this table: given the same --out, none is trained
twice.
"""

import itertools
from collections.abc import Iterator
from typing import Any

import ml_collections

from aeent_jax import config as config_lib

# A sweep that is stopped early has those where the curve bends.
LATENT_SIZES = (4, 16, 64, 2, 8, 32, 1, 128)
SEEDS = (0, 1, 2)


def get_config(data: str = "rsna") -> ml_collections.ConfigDict:
    """Returns the configuration that all members share.

    Args:
      data: the data set, a key of `config.EPOCHS`.

    Raises:
      ValueError: another data set.
    """
    config = config_lib.benchmark(data, "plain")
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
    for size, seed in itertools.product(LATENT_SIZES, SEEDS):
        keys = {"model.latent_dim": size, "train.seed": seed}
        yield f"ae{size}_s{seed}", keys
