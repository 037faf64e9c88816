"""VinDr chest X-rays: the reference's protocol, 250 epochs at 64 pixels.

    aeent train --config=configs/vindr_cxr.py --config.data.root=DIR \
        --workdir=runs/vindr_cxr/controlled

trains latent 64 under `coding_rate` at weight 1e-3, and
`--config=configs/vindr_cxr.py:plain` the plain autoencoder. DIR holds
VinCXR.tar.gz, or its folder VinCXR.

Published for the plain autoencoder (arXiv 2403.09303, Table 1), AUROC and AP:
49.0 and 52.0 at latent 64, 56.4 and 60.2 at latent 16.
"""

import ml_collections

from configs import default


def get_config(variant: str = "controlled") -> ml_collections.ConfigDict:
    """Returns the configuration.

    Args:
      variant: "controlled", or "plain" for no channel and no rate.
    """
    return default.get_experiment("vindr_cxr", variant)
