"""What every estimator returns, and how either kind becomes a rate."""

import dataclasses
import math

import jax
import jax.numpy as jnp

KINDS = ("h", "I")

# Of one draw with standard deviation 1, in nats.
_STANDARD_ENTROPY = {
    "gaussian": 0.5 * math.log(2 * math.pi * math.e),
    "uniform": 0.5 * math.log(12),
}


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Estimate:
    """An entropy or an information, in nats; a pytree.

    Attributes:
      value: scalar, nats; of a per-query estimator 0 where no query is valid,
        as on a device that got the padding of a batch alone.
      kind: `"h"` for a differential entropy, which depends on the unit of the
        latents, or `"I"` for an information through the channel, which does
        not. Static.
      per_query: `[m]` nats whose masked mean is `value`, 0 at masked queries;
        None for estimators of the whole batch.
      diagnostics: named arrays that cost nothing beside the value. They carry
        no gradient.
    """

    value: jax.Array
    kind: str = dataclasses.field(metadata={"static": True})
    per_query: jax.Array | None = None
    diagnostics: dict[str, jax.Array] = dataclasses.field(default_factory=dict)


def to_rate(
    estimate: Estimate,
    sigma: float | jax.Array,
    dim: int,
    noise: str = "gaussian",
) -> jax.Array:
    """Returns the rate of the channel in nats.

    `I(X; Z + sigma*eps) = h(Z + sigma*eps) - h(sigma*eps)`, so an estimate of
    kind `"h"` has the entropy of the noise taken off and one of kind `"I"` is
    the rate already.

    Args:
      estimate: what an estimator returned.
      sigma: standard deviation of the channel noise, in the unit of the
        latents.
      dim: size of a latent.
      noise: law of the channel noise, "gaussian" or "uniform"; of no account
        for kind `"I"`.

    Returns:
      Scalar, nats.

    Raises:
      ValueError: the kind is unknown, or the noise where it counts.
    """
    if estimate.kind == "I":
        return estimate.value
    if estimate.kind == "h":
        return estimate.value - noise_entropy(sigma, dim, noise)
    raise ValueError(
        f"An estimate has kind {estimate.kind!r}, and a rate is defined for"
        f" {KINDS}: set kind to one of them."
    )


def noise_entropy(
    sigma: float | jax.Array, dim: int, noise: str = "gaussian"
) -> jax.Array:
    """Returns the entropy of `dim` independent draws of the noise, in nats.

    `dim/2 log(2 pi e sigma^2)` for Gaussian noise and `dim log width` for
    uniform noise, whose width is `sigma*sqrt(12)`.

    Args:
      sigma: standard deviation of the noise, in the unit of the latents.
      dim: size of a latent.
      noise: "gaussian" or "uniform".

    Returns:
      Scalar, nats.

    Raises:
      ValueError: the noise is unknown.
    """
    if noise not in _STANDARD_ENTROPY:
        raise ValueError(
            f"The noise is {noise!r}, and one of {sorted(_STANDARD_ENTROPY)} is"
            " needed: check the spelling."
        )
    return dim * (_STANDARD_ENTROPY[noise] + jnp.log(sigma))


def masked_mean(values: jax.Array, mask: jax.Array) -> jax.Array:
    """Returns the mean of `values [m]` where `mask [m]`; 0 of no rows."""
    count = jnp.maximum(jnp.sum(mask, dtype=values.dtype), 1)
    return jnp.sum(jnp.where(mask, values, 0)) / count
