"""Latent 64 under `coding_rate` at four weights that rise, 3 seeds.

    aeent sweep --config=configs/weights.py --config.data.root=DIR \
        --only='*_s0' --select=description_length --out=runs/weights

trains the four weights on a user's own normal images and takes one by a rule
that sees no label; `configs/weights.py:kermany_cxr` does so on another data
set. A tenth of the training normals is held out to choose by. Another
part of a user's own images calibrates verdicts.
"""

from collections.abc import Iterator
from typing import Any

import ml_collections

from aeent_jax import config as config_lib

# A sweep that is stopped early has the middle weights of the first seed.
WEIGHTS = (1e-3, 3e-4, 1e-4, 3e-3)
SEEDS = (0, 1, 2)


def get_config(data: str = "folder") -> ml_collections.ConfigDict:
    """Returns the configuration that all members share.

    Args:
      data: the data set, a key of `config.EPOCHS`.

    Raises:
      ValueError: another data set.
    """
    config = config_lib.benchmark(data, "controlled")
    config.data.validation_fraction = 0.1
    if data == "folder":
        # "auto" would hold out none beside those that are chosen by.
        config.data.calibration = "0.2"
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
    for seed in SEEDS:
        for weight in WEIGHTS:
            keys = {"entropy.weight": weight, "train.seed": seed}
            yield f"ours_{weight:g}_s{seed}", keys
