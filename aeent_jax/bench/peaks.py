"""The fastest that CPU devices multiply matrices and take exponentials."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from aeent_jax.runtime import parallel

# Large enough for XLA to give each device all the threads that it would give a
# kernel estimator, small enough for the exponentials to stay in the cache.
_SIDE = 1536
_EXPONENTIALS = 2**18
_REPEATS = 128


class Peak(NamedTuple):
    """A computation that does hardly anything but one kind of work.

    Attributes:
      run: computes it to its end.
      work: FLOP, or exponentials, of one run.
      devices: how many do it at once.
    """

    run: Callable[[], Any]
    work: float
    devices: int


def prepare(num_devices: int) -> dict[str, Peak]:
    """Compiles the two computations, the same on each of the devices at once.

    On an accelerator the loop of exponentials is bound by its launches, so a
    share of that peak says nothing there.

    Args:
      num_devices: how many of the devices work.

    Returns:
      `matmul`, a float32 product of highest precision, and `exp`, of numbers in
      the cache.
    """
    square = np.ones((num_devices * _SIDE, _SIDE), np.float32)
    numbers = np.linspace(-5, 0, num_devices * _EXPONENTIALS, dtype=np.float32)
    return {
        "matmul": Peak(
            _compile(_multiply, square, num_devices),
            2.0 * num_devices * _SIDE**3,
            num_devices,
        ),
        "exp": Peak(
            _compile(_exponentiate, numbers, num_devices),
            1.0 * _REPEATS * numbers.size,
            num_devices,
        ),
    }


def _multiply(a: jax.Array) -> jax.Array:
    return jnp.matmul(a, a, precision=jax.lax.Precision.HIGHEST)


def _exponentiate(a: jax.Array) -> jax.Array:
    def repeat(_, a: jax.Array) -> jax.Array:
        return jnp.exp(-1.0001 * a)

    return jax.lax.fori_loop(0, _REPEATS, repeat, a)


def _compile(step, array: np.ndarray, num_devices: int) -> Callable[[], Any]:
    mapping = parallel.make_parallel(num_devices)
    function = mapping.map(step)
    argument = mapping.shard(array)
    compiled = function.lower(argument).compile()
    return lambda: jax.block_until_ready(compiled(argument))
