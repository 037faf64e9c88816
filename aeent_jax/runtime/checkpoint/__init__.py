"""Checkpoints that survive a kill, a full disk and a flipped bit.

    with checkpoint.Checkpoints(workdir / "checkpoints", keep=3) as checkpoints:
        restored = checkpoints.restore_latest(like=state)
        ...
        checkpoints.save(step, state, metadata={"epoch": 4})

Orbax writes them, asynchronously and atomically: what was being written when
the process died is never mistaken for a checkpoint. On disk a folder is renamed
when it is complete; in a bucket one more object says that it is. But Orbax
loads a flipped byte silently and fails in a different way for each kind of
truncation, so each checkpoint carries a sealed record (`record.py`). That tells
apart two cases which must not be confused: a *damaged* checkpoint, whose bytes
do not match their digests and for which the one before is used, and a *foreign*
one, sound but of another network, which is an error.
"""

from aeent_jax.runtime.checkpoint.reading import (
    Restored,
    complete_steps,
    restore_from,
)
from aeent_jax.runtime.checkpoint.writing import Checkpoints

__all__ = ["Checkpoints", "Restored", "complete_steps", "restore_from"]
