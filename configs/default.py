"""All defaults: the reference's protocol on generated X-rays.

An entropy-controlled autoencoder of latent size 64. Run it with

    aeent train --config=configs/default.py --workdir=runs/default

and change any key on the command line: --config.entropy.estimator=coding_rate.
`aeent train --help` lists the keys; aeent_jax/config.py is their table.
"""

import ml_collections

from aeent_jax import config


def get_config() -> ml_collections.ConfigDict:
    """Returns the default configuration."""
    return config.default()
