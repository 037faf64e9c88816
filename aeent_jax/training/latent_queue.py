"""Latents of earlier steps, as further samples of an estimator.

The queue is replicated: every device holds the same rows, in the order in
which they came, so that its contents do not depend on the number of devices.
"""

import flax.struct
import jax
import jax.numpy as jnp
from jax import lax


@flax.struct.dataclass
class Queue:
    """The latest latents of earlier steps.

    Attributes:
      latents: `[Q, dim]`, the latest batch first; 0 where there is none yet.
      count: int32 scalar, how many rows from the first on are latents.
    """

    latents: jax.Array
    count: jax.Array

    @property
    def mask(self) -> jax.Array:
        """`[Q]` bool, the rows that are latents."""
        return jnp.arange(len(self.latents)) < self.count


def create(size: int, dim: int) -> Queue:
    """Returns an empty queue of at most `size` rows."""
    return Queue(jnp.zeros((size, dim)), jnp.zeros((), jnp.int32))


def push(queue: Queue, latents: jax.Array, mask: jax.Array) -> Queue:
    """Puts a batch in and drops the oldest rows.

    Args:
      queue: the queue so far.
      latents: `[B, dim]`, the global batch, the same on every device.
      mask: `[B]` bool, the rows that go in.

    Returns:
      The queue after it, without a gradient.
    """
    size = len(queue.latents)
    rows = jnp.concatenate([lax.stop_gradient(latents), queue.latents])
    valid = jnp.concatenate([mask, queue.mask])
    order = jnp.argsort(~valid, stable=True)[:size]
    count = jnp.minimum(jnp.sum(valid, dtype=jnp.int32), size)
    # The rows after these may be padding, with anything in it.
    kept = jnp.where((jnp.arange(size) < count)[:, None], rows[order], 0.0)
    return Queue(kept, count)
