"""Generated chest X-rays: the reference's protocol, 100 epochs at 64 pixels.

    aeent train --config=configs/phantom_cxr.py \
        --workdir=runs/phantom_cxr/controlled

trains latent 64 under `coding_rate` at weight 1e-3, and
`--config=configs/phantom_cxr.py:plain` the plain autoencoder.
"""

import ml_collections

from configs import default


def get_config(variant: str = "controlled") -> ml_collections.ConfigDict:
    """Returns the configuration.

    Args:
      variant: "controlled", or "plain" for no channel and no rate.
    """
    return default.get_experiment("phantom_cxr", variant, epochs=100)
