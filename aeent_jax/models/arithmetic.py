"""The number formats of a network, which trade precision for speed."""

import dataclasses

import jax
import jax.numpy as jnp

DTYPES = {"float32": None, "bfloat16": jnp.bfloat16}
MATMUL_PRECISIONS = {"default": None, "high": "high", "highest": "highest"}


@dataclasses.dataclass(frozen=True)
class Arithmetic:
    """Number formats inside of the encoder and the decoder.

    All else stays float32: parameters, BatchNorm's statistics, latents,
    reconstructions, losses and the rate.

    Attributes:
      dtype: format of the activations and of the parameters in products with
        them, one of `DTYPES`. "bfloat16" also rounds latents and
        reconstructions once.
      matmul_precision: precision of products in float32, one of
        `MATMUL_PRECISIONS`. "default" is the hardware's: TPUs round factors to
        bfloat16.
    """

    dtype: str = "float32"
    matmul_precision: str = "default"

    def apply(self, function, x: jax.Array):
        """Runs `function(x)` in these formats.

        Args:
          function: maps `x` to a pair of an array and any tree.
          x: array of any float dtype.

        Returns:
          The pair; its array has the dtype of `x`.
        """
        lower = DTYPES[self.dtype]
        with jax.default_matmul_precision(
            MATMUL_PRECISIONS[self.matmul_precision]
        ):
            y, rest = function(x if lower is None else x.astype(lower))
        return y.astype(x.dtype), rest


def matched(array: jax.Array, x: jax.Array) -> jax.Array:
    """Rounds parameters to bfloat16 if the activations `x` are bfloat16."""
    return array.astype(x.dtype) if x.dtype == jnp.bfloat16 else array


def raised(x: jax.Array) -> jax.Array:
    """Raises activations to at least float32, for sums over many of them."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))
