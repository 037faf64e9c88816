"""Sweeps: many runs of one configuration, their tables and their figure.

A member is one run in a workdir of its own. `train_members` has worker
processes train them; whatever trains them, `records` is all that tables and
figures are made of, beside the numbers in `published`. Paired differences alone
need the workdirs too.
"""

from aeent_jax.sweep.conducting import InterruptedSweepError, train_members
from aeent_jax.sweep.members import Member, find_names, make_members
from aeent_jax.sweep.results import write_results

__all__ = [
    "InterruptedSweepError",
    "Member",
    "find_names",
    "make_members",
    "train_members",
    "write_results",
]
