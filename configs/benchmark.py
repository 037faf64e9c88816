"""A data set of the benchmark under the reference's protocol, at 64 pixels.

    aeent train --config=configs/benchmark.py:rsna --config.data.root=DIR \
        --workdir=runs/rsna/controlled

trains latent 64 under `coding_rate` at a weight that rises to 1e-3, and
`--config=configs/benchmark.py:rsna,plain` the plain autoencoder. Each data set
has its own number of epochs. `aeent data list` says how to get it.
"""

import ml_collections

from aeent_jax import config


def get_config(choice: str = "phantom_cxr") -> ml_collections.ConfigDict:
    """Returns the configuration.

    Args:
      choice: a key of `config.EPOCHS`, and after a comma "controlled" or
        "plain"; without one it is controlled.

    Raises:
      ValueError: another data set or variant.
    """
    data, _, variant = choice.partition(",")
    return config.benchmark(data, variant or "controlled")
