"""The objective: a noisy channel, a reconstruction term, a weighted rate.

    loss = mean (x - x_hat(z + sigma*eps))^2 + weight * rate(z)

The rate is an estimate, in nats, of I(X; Z + sigma*eps), the information that
passes the channel. A penalty on clean latents would be vacuous: the encoder
would shrink them and the decoder would undo it. Everything here is written per
device, with collectives over `axis_name`, and what it returns adds up over
devices to the value of the global batch.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jax import lax

from aeent_jax import entropy


@dataclasses.dataclass(frozen=True)
class Rate:
    """What is estimated of the latents, and with which weight.

    Attributes:
      sigma: standard deviation of the channel noise; 0 means no channel.
      estimator: a name of `entropy.ESTIMATORS`.
      weight: of one nat in the loss.
      bandwidth: "channel" for sigma, the name of a bandwidth rule, or a
        positive number in the unit of the latents.
    """

    sigma: float
    estimator: str
    weight: float
    bandwidth: str | float = "channel"

    @property
    def is_measured(self) -> bool:
        """Whether the estimate is a rate: a channel and an estimator."""
        return self.sigma > 0 and self.estimator != "none"


def make_rate(
    *,
    sigma: float,
    estimator: str,
    weight: float,
    bandwidth: str,
    allow_unsound: bool,
) -> Rate:
    """Checks the combination.

    Args:
      sigma: standard deviation of the channel noise, at least 0.
      estimator: a name of `entropy.ESTIMATORS`.
      weight: at least 0.
      bandwidth: "channel", a rule's name, or a number in digits.
      allow_unsound: whether a weight without a channel is allowed, for the
        ablation that shows why it controls nothing.

    Returns:
      The checked rate term.

    Raises:
      ValueError: a value out of its range, or an unsound combination that was
        not allowed.
    """
    takes = entropy.ESTIMATORS[estimator].noise_argument
    for name, value in (("channel.sigma", sigma), ("entropy.weight", weight)):
        if not 0 <= value < float("inf"):
            raise ValueError(
                f"{name} is {value}, but must be a finite number of at least 0."
            )
    parsed = _parse_bandwidth(bandwidth)
    if parsed in entropy.RULES and takes == "sigma":
        raise ValueError(
            f"entropy.bandwidth is {bandwidth!r}, but {estimator} takes the"
            " noise of the channel or a number; set entropy.bandwidth=channel."
        )
    if estimator == "none" or sigma > 0:
        return Rate(sigma, estimator, weight, parsed)
    if weight and not allow_unsound:
        raise ValueError(
            f"entropy.weight is {weight} and channel.sigma is 0, but a penalty"
            " on latents without a noisy channel compresses nothing (the"
            " encoder shrinks them and the decoder undoes it); set"
            " channel.sigma=1, or entropy.weight=0, or"
            " entropy.allow_unsound=True for the ablation."
        )
    if weight and parsed == "channel":
        raise ValueError(
            "channel.sigma is 0, so the estimator has no bandwidth; give one"
            " with entropy.bandwidth=1.0, or a rule's name."
        )
    return Rate(sigma, estimator if weight else "none", weight, parsed)


def _parse_bandwidth(bandwidth: str) -> str | float:
    if bandwidth == "channel" or bandwidth in entropy.RULES:
        return bandwidth
    try:
        value = float(bandwidth)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise ValueError(
            f"entropy.bandwidth is {bandwidth!r}; give a number above 0, or one"
            f" of {', '.join(['channel', *entropy.RULES])}."
        )
    return value


def add_channel_noise(
    z: jax.Array, sigma: float, rng: jax.Array, positions: jax.Array
) -> jax.Array:
    """Returns `z + sigma*eps`, with noise that depends on `positions` alone.

    Args:
      z: clean latents, `[B, D]`.
      sigma: standard deviation; 0 returns `z`.
      rng: the key of this step.
      positions: `[B]` int, the rows' places in the global batch, so that
        another number of devices draws the same noise.

    Returns:
      `[B, D]`.
    """
    if sigma == 0:
        return z
    keys = jax.vmap(lambda i: jax.random.fold_in(rng, i))(positions)
    noise = jax.vmap(lambda key: jax.random.normal(key, z.shape[1:]))(keys)
    return z + sigma * noise


def rate_share(
    rate: Rate,
    z: jax.Array,
    z_noisy: jax.Array,
    mask: jax.Array,
    positions: jax.Array,
    axis_name: str,
) -> jax.Array:
    """This device's share of the rate of the global batch, in nats.

    Shares add up over devices to the rate; so do gradients, once they are
    summed over devices. Without a channel (an ablation) it is the estimator's
    own value, an entropy and not a rate.

    Args:
      rate: what is estimated.
      z: this device's clean latents, `[B, D]`.
      z_noisy: the same behind the channel.
      mask: `[B]` bool, the valid rows.
      positions: `[B]` int, places in the global batch.
      axis_name: the mapped axis.

    Returns:
      Scalar; 0 where the global batch has fewer than two valid rows.
    """
    if rate.estimator == "none":
        return jnp.zeros(())
    estimator = entropy.ESTIMATORS[rate.estimator]
    samples = lax.all_gather(
        z_noisy if estimator.noisy_samples else z, axis_name, tiled=True
    )
    sample_mask = lax.all_gather(mask, axis_name, tiled=True)
    count = jnp.sum(sample_mask)
    bandwidth = rate.sigma if rate.bandwidth == "channel" else rate.bandwidth
    noise_argument = estimator.noise_argument
    estimate = estimator(
        z_noisy if estimator.noisy_queries else z,
        samples,
        positions,
        query_mask=mask,
        sample_mask=sample_mask,
        **({noise_argument: bandwidth} if noise_argument else {}),
    )
    if estimator.per_query:
        # Each query's own value, so that ragged shards weigh what they hold.
        estimate = dataclasses.replace(estimate, value=estimate.per_query)
    value = estimate.value
    if rate.sigma > 0:
        value = entropy.to_rate(estimate, rate.sigma, z.shape[1])
    if estimator.per_query:
        share = jnp.sum(jnp.where(mask, value, 0.0)) / jnp.maximum(count, 1)
    else:
        share = value / lax.axis_size(axis_name)
    return jnp.where(count >= 2, share, 0.0)
