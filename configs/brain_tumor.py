"""Brain Tumor MR slices: the reference's protocol, 600 epochs at 64 pixels.

    aeent train --config=configs/brain_tumor.py --config.data.root=DIR \
        --workdir=runs/brain_tumor/controlled

trains latent 64 under `coding_rate` at weight 1e-3, and
`--config=configs/brain_tumor.py:plain` the plain autoencoder. DIR holds
BrainTumor.tar.gz, or its folder BrainTumor.

Published for the plain autoencoder (arXiv 2403.09303, Table 1), AUROC and AP:
86.8 and 77.2 at latent 64, 85.9 and 76.9 at latent 16.
"""

import ml_collections

from configs import default


def get_config(variant: str = "controlled") -> ml_collections.ConfigDict:
    """Returns the configuration.

    Args:
      variant: "controlled", or "plain" for no channel and no rate.
    """
    return default.get_experiment("brain_tumor", variant, epochs=600)
