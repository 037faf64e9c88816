"""Sweeps: many runs of one configuration, their tables and their figure.

A member is one run in a workdir of its own. `train_members` trains them in
worker processes or as a population. Tables and figures are made of the records
of finished members; only paired differences need the workdirs too.
"""

from aeent_jax.sweep.conducting import InterruptedSweepError, train_members
from aeent_jax.sweep.members import Member, find_names, make_members
from aeent_jax.sweep.results import write_results
from aeent_jax.sweep.selection import RULES, check_rules

__all__ = [
    "RULES",
    "InterruptedSweepError",
    "Member",
    "check_rules",
    "find_names",
    "make_members",
    "train_members",
    "write_results",
]
