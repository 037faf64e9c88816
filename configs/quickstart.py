"""The two runs of launch/quickstart.sh, minutes on two cores.

aeent train --config=configs/quickstart.py --workdir=runs/controlled
aeent train --config=configs/quickstart.py:plain --workdir=runs/plain
"""

import ml_collections

from aeent_jax import config


def get_config(variant: str = "controlled") -> ml_collections.ConfigDict:
    """Returns the configuration.

    Args:
      variant: "controlled", or "plain" for no channel and no rate.
    """
    settings = config.apply_variant(config.default(), variant)
    settings.train.epochs = 40
    return settings
