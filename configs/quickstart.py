"""The two runs of launch/quickstart.sh, minutes on two cores.

aeent train --config=configs/quickstart.py --workdir=runs/controlled
aeent train --config=configs/quickstart.py:plain --workdir=runs/plain
"""

import ml_collections

from configs import default


def get_config(variant: str = "controlled") -> ml_collections.ConfigDict:
    """Returns the configuration.

    Args:
      variant: "controlled", or "plain" for no channel and no rate.
    """
    config = default.get_config()
    config.train.epochs = 40
    return default.apply_variant(config, variant)
