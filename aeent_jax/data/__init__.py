"""Data sets: what exists, reading the user's files, phantoms, batches.

`load` turns a name into uint8 arrays. This package imports none of ours.
"""

from aeent_jax.data.dataset import ABNORMAL, NORMAL, Dataset, Split
from aeent_jax.data.loading import load

__all__ = ["ABNORMAL", "NORMAL", "Dataset", "Split", "load"]
