"""The paper's figure: reconstruction errors against the latent size, to 1024.

    aeent sweep --config=configs/figure_error.py:kermany_cxr \
        --config.data.root=DIR --out=runs/tables/kermany_cxr

draws the error of the training normals, of the test normals and of the abnormal
images. With the --out of Table 1 the sizes beyond its 128 alone are trained;
the figure of Table 1's records ends there.
"""

import itertools
from collections.abc import Iterator
from typing import Any

import ml_collections

from aeent_jax import config as config_lib

# The sizes beyond Table 1 are last.
LATENT_SIZES = (4, 16, 64, 2, 8, 32, 1, 128, 256, 512, 1024)
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
