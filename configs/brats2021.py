"""BraTS 2021 with masks: the reference's protocol, 250 epochs at 64 pixels.

    aeent train --config=configs/brats2021.py --config.data.root=DIR \
        --workdir=runs/brats2021/controlled

trains latent 64 under `coding_rate` at weight 1e-3, and
`--config=configs/brats2021.py:plain` the plain autoencoder. DIR holds
BraTS2021.tar.gz, or its folder BraTS2021.

Published for the plain autoencoder (arXiv 2403.09303, Table 1), AUROC, AP,
pixel AP and oracle Dice: 81.3, 91.0, 20.8 and 28.8 at latent 64, 82.6, 92.0,
33.2 and 39.2 at latent 16.
"""

import ml_collections

from configs import default


def get_config(variant: str = "controlled") -> ml_collections.ConfigDict:
    """Returns the configuration.

    Args:
      variant: "controlled", or "plain" for no channel and no rate.
    """
    return default.get_experiment("brats2021", variant)
