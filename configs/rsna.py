"""RSNA chest X-rays: the reference's protocol, 250 epochs at 64 pixels.

    aeent train --config=configs/rsna.py --config.data.root=DIR \
        --workdir=runs/rsna/controlled

trains latent 64 under `coding_rate` at weight 1e-3, and
`--config=configs/rsna.py:plain` the plain autoencoder. DIR holds
RSNA.tar.gz, or its folder RSNA.

Published for the plain autoencoder (arXiv 2403.09303, Table 1), AUROC and AP:
60.7 and 60.7 at latent 64, 67.5 and 66.7 at latent 16.
"""

import ml_collections

from configs import default


def get_config(variant: str = "controlled") -> ml_collections.ConfigDict:
    """Returns the configuration.

    Args:
      variant: "controlled", or "plain" for no channel and no rate.
    """
    return default.get_experiment("rsna", variant)
