"""Camelyon16 in RGB: the reference's protocol, 250 epochs at 64 pixels.

    aeent train --config=configs/camelyon16.py --config.data.root=DIR \
        --workdir=runs/camelyon16/controlled

trains latent 64 under `coding_rate` at weight 1e-3, and
`--config=configs/camelyon16.py:plain` the plain autoencoder. DIR holds
Camelyon16.tar.gz, or its folder Camelyon16.
"""

import ml_collections

from configs import default


def get_config(variant: str = "controlled") -> ml_collections.ConfigDict:
    """Returns the configuration.

    Args:
      variant: "controlled", or "plain" for no channel and no rate.
    """
    config = default.get_experiment("camelyon16", variant)
    config.data.channels = 3
    return config
