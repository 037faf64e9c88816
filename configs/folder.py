"""A user's own normal images: latent 64 under control, at 64 pixels.

    aeent train --config=configs/folder.py --config.data.root=DIR \
        --workdir=runs/mine

The weight of the rate is fixed and rises over the first half of the training.
`configs/weights.py` trains four weights instead and takes one without labels.
"""

import ml_collections

from aeent_jax import config as config_lib


def get_config() -> ml_collections.ConfigDict:
    """Returns the configuration."""
    return config_lib.benchmark("folder", "controlled")
