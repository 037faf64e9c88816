"""The paper's figure: reconstruction errors against the latent size, to 1024.

    aeent sweep --config=configs/figure_error.py:kermany_cxr \
        --config.data.root=DIR --out=runs/tables/kermany_cxr

draws the error of the training normals, of the test normals and of the abnormal
images. With the --out of Table 1 the sizes beyond its 128 alone are trained;
the figure of Table 1's records ends there.
"""

from collections.abc import Iterator
from typing import Any

import ml_collections

from configs import table1

LARGER_SIZES = (256, 512, 1024)


def get_config(data: str = "rsna") -> ml_collections.ConfigDict:
    """Returns the configuration that all members share.

    Args:
      data: the data set, a key of `table1.DATASETS`.
    """
    return table1.get_config(data)


def get_members(
    config: ml_collections.ConfigDict,
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields the name of each member and the keys that it sets.

    Args:
      config: the shared configuration, with what the command line changed.
    """
    del config
    yield from table1.plain_members((*table1.LATENT_SIZES, *LARGER_SIZES))
