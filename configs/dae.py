"""The denoising autoencoder as the reference has it: 128 pixels, batches of 16.

    aeent train --config=configs/dae.py:brats2021 --config.data.root=DIR \
        --workdir=runs/brats2021/dae

and another data set after the colon; without one it is generated MRI. Sets of
brains get noise in the foreground alone. Its 31 million parameters want an
accelerator.

Published (arXiv 2404.04518): on brats2021 a pixel AP of 75.5 and an oracle Dice
of 71.1, on rsna an AUROC of 86.1 and an AP of 83.3.
"""

import ml_collections

from aeent_jax import config

_BRAINS = ("brain_mri", "brain_tumor", "brats2021", "phantom_mri")


def get_config(data: str = "phantom_mri") -> ml_collections.ConfigDict:
    """Returns the configuration.

    Args:
      data: the data set, a key of `config.EPOCHS`.

    Raises:
      ValueError: another data set.
    """
    settings = config.benchmark(data, "plain")
    settings.method = "dae"
    settings.data.image_size = 128
    settings.model.base_width = 64
    settings.train.batch_size = 16
    settings.corruption.foreground_only = data in _BRAINS
    return settings
