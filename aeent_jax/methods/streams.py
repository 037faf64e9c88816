"""The random numbers of a run: which key each of its draws has.

    key(seed)
     |-- fold_in(step)                     one training step
     |    |-- fold_in(position)            channel noise of one image
     |    `-- fold_in(2**31 + stream)      a draw for a whole batch
     |         `-- fold_in(position)       the same draw for each image
     `-- fold_in(2**32 - ...)              initial parameters of one part

Steps and positions stay below 2**31, so no draw shares a key with them. Keys
depend on seed, step, position and stream alone, and so every number of devices
draws the same.
"""

import jax

from aeent_jax.methods.method import Inputs

# Folded into the key of the run, whose other children are its steps.
ESTIMATOR_INIT = 2**32 - 1
ADVERSARY_INIT = 2**32 - 2
# The number of ADVERSARY_INIT too. No method has both a memory and an
# adversary, and another number would change the runs of one of them.
MEMORY_INIT = 2**32 - 2

# Folded into the key of a step, one for each purpose.
VAE_SAMPLE = 0
CEAE_SQUARE = 1
DAE_NOISE = 2
DAE_ROLL = 3
GANOMALY_RENEWAL = 4

_FIRST = 2**31


def batch_key(inputs: Inputs, stream: int) -> jax.Array:
    """Returns a key for a whole batch, the same on every device.

    Args:
      inputs: one device's rows.
      stream: a number of the table above.
    """
    return jax.random.fold_in(inputs.rng, _FIRST + stream)


def row_keys(inputs: Inputs, stream: int) -> jax.Array:
    """Returns a key for each image, the same on every number of devices.

    Args:
      inputs: one device's rows.
      stream: a number of the table above.

    Returns:
      `[B]` keys.
    """
    rng = batch_key(inputs, stream)
    return jax.vmap(lambda i: jax.random.fold_in(rng, i))(inputs.positions)
