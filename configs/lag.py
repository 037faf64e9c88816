"""LAG fundus images: the reference's protocol, 250 epochs at 64 pixels.

    aeent train --config=configs/lag.py --config.data.root=DIR \
        --workdir=runs/lag/controlled

trains latent 64 under `coding_rate` at weight 1e-3, and
`--config=configs/lag.py:plain` the plain autoencoder. DIR holds
LAG.tar.gz, or its folder LAG.
"""

import ml_collections

from configs import default


def get_config(variant: str = "controlled") -> ml_collections.ConfigDict:
    """Returns the configuration.

    Args:
      variant: "controlled", or "plain" for no channel and no rate.
    """
    return default.get_experiment("lag", variant)
