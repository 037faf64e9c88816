"""The numbers in which a network computes: a matter of speed and memory."""

import dataclasses

import jax
import jax.numpy as jnp

DTYPES = {"float32": None, "bfloat16": jnp.bfloat16}
MATMUL_PRECISIONS = {"default": None, "high": "high", "highest": "highest"}


@dataclasses.dataclass(frozen=True)
class Arithmetic:
    """How encoder and decoder compute; what is around them is in float32.

    Parameters, statistics of BatchNorm, latents, reconstructions, losses and
    the rate stay as they are.

    Attributes:
      dtype: a name of `DTYPES`, of the activations and of the parameters that
        they are multiplied with. With "bfloat16" latents and reconstructions
        are rounded to it once.
      matmul_precision: a name of `MATMUL_PRECISIONS`, of products in float32;
        "default" is the hardware's, which on TPUs rounds factors to bfloat16.
    """

    dtype: str = "float32"
    matmul_precision: str = "default"

    def __post_init__(self):
        """Refuses unknown names."""
        for key, names in (
            ("dtype", DTYPES),
            ("matmul_precision", MATMUL_PRECISIONS),
        ):
            value = getattr(self, key)
            if value not in names:
                raise ValueError(
                    f"compute.{key} is {value!r}; choose one of"
                    f" {', '.join(names)}."
                )

    def apply(self, function, x: jax.Array):
        """Runs `function` of `x` in these numbers.

        Args:
          function: from `x` to an array and anything else.
          x: of any float dtype.

        Returns:
          The same, the array in the dtype of `x`.
        """
        lower = DTYPES[self.dtype]
        with jax.default_matmul_precision(
            MATMUL_PRECISIONS[self.matmul_precision]
        ):
            y, rest = function(x if lower is None else x.astype(lower))
        return y.astype(x.dtype), rest


def matched(array: jax.Array, x: jax.Array) -> jax.Array:
    """An array in bfloat16 where the activations `x` are."""
    return array.astype(x.dtype) if x.dtype == jnp.bfloat16 else array


def raised(x: jax.Array) -> jax.Array:
    """Activations in at least float32, for sums over many of them."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))
