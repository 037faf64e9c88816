"""ISIC 2018 in gray: the reference's protocol, 250 epochs at 64 pixels.

    aeent train --config=configs/isic2018.py --config.data.root=DIR \
        --workdir=runs/isic2018/controlled

trains latent 64 under `coding_rate` at weight 1e-3, and
`--config=configs/isic2018.py:plain` the plain autoencoder. DIR is the folder
of the archive's four, which `aeent data list` names.
"""

import ml_collections

from configs import default


def get_config(variant: str = "controlled") -> ml_collections.ConfigDict:
    """Returns the configuration.

    Args:
      variant: "controlled", or "plain" for no channel and no rate.
    """
    return default.get_experiment("isic2018", variant)
