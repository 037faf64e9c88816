"""The objective: a noisy channel, a reconstruction term, a weighted rate.

    loss = mean (x - x_hat(z + sigma*eps))^2 + weight * rate(z)

The rate is an estimate, in nats, of I(X; Z + sigma*eps), the information that
passes the channel. A penalty on clean latents would be vacuous: the encoder
would shrink them and the decoder would undo it.

Everything called local is the share of one device. Shares add up over devices
to the value of the global batch, and their gradients to its gradient:

    x --encode--> z --channel--> z_noisy --decode--> x_hat
                  |                 |                  |
                  +--- local_rate --+           local_losses
             of all devices' latents            of its own rows
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax

from aeent_jax import entropy, methods, models
from aeent_jax.entropy import channel
from aeent_jax.runtime import parallel

# A value of a keyword of an estimator.
Option = bool | int | float | str


@dataclasses.dataclass(frozen=True)
class Rate:
    """How the rate of the latents is estimated, and its weight in the loss.

    Attributes:
      sigma: standard deviation of the channel noise; 0 means no channel.
      estimator: a name of `entropy.ESTIMATORS`.
      weight: weight of one nat in the loss.
      bandwidth: "channel" for sigma, the name of a bandwidth rule, or a
        positive number in the unit of the latents.
      noise: law of the channel noise, a name of `channel.NOISES`.
      hyper: further keywords of the estimator, as pairs.
    """

    sigma: float
    estimator: str
    weight: float
    bandwidth: str | float = "channel"
    noise: str = "gaussian"
    hyper: tuple[tuple[str, Option], ...] = ()

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
    noise: str = "gaussian",
    options: Mapping[str, Option] | None = None,
) -> Rate:
    """Checks the combination.

    Args:
      sigma: standard deviation of the channel noise, at least 0.
      estimator: a name of `entropy.ESTIMATORS`.
      weight: at least 0.
      bandwidth: "channel", a rule's name, or a number in digits.
      allow_unsound: whether a weight without a channel is allowed, for the
        ablation that shows why it controls nothing.
      noise: a name of `channel.NOISES`.
      options: values by name, of which the estimator takes what its entry's
        `hyper` names; a number in digits becomes a number.

    Returns:
      The checked rate term.

    Raises:
      ValueError: an unknown estimator or bandwidth, or an unsound combination
        that was not allowed.
    """
    entry = entropy.ESTIMATORS[estimator]
    rate = Rate(
        sigma,
        estimator,
        weight,
        _parse_bandwidth(bandwidth),
        noise,
        tuple((name, _parse((options or {})[name])) for name in entry.hyper),
    )
    if rate.bandwidth in entropy.RULES and entry.noise_argument == "sigma":
        raise ValueError(
            f"entropy.bandwidth is {bandwidth!r}, but {estimator} takes the"
            " noise of the channel or a number; set entropy.bandwidth=channel."
        )
    if sigma > 0 or estimator == "none":
        return rate
    if not weight:
        return Rate(sigma, "none", weight, rate.bandwidth, noise)
    _check_without_channel(rate, allow_unsound)
    return rate


def _check_without_channel(rate: Rate, allow_unsound: bool) -> None:
    if not allow_unsound:
        raise ValueError(
            f"entropy.weight is {rate.weight} and channel.sigma is 0, but a"
            " penalty on latents without a noisy channel compresses nothing"
            " (the encoder shrinks them and the decoder undoes it); set"
            " channel.sigma=1, or entropy.weight=0, or"
            " entropy.allow_unsound=True for the ablation."
        )
    takes = entropy.ESTIMATORS[rate.estimator].noise_argument
    if takes == "width":
        raise ValueError(
            f"channel.sigma is 0, but {rate.estimator} needs the width of the"
            " channel's noise; set channel.sigma=1."
        )
    if takes and rate.bandwidth == "channel":
        raise ValueError(
            "channel.sigma is 0, so the estimator has no bandwidth; give one"
            " with entropy.bandwidth=1.0, or a rule's name."
        )


def _parse(value: Option) -> Option:
    """A number for digits, anything else as it is."""
    if not isinstance(value, str):
        return value
    try:
        return float(value)
    except ValueError:
        return value


def _parse_bandwidth(bandwidth: str) -> str | float:
    if bandwidth == "channel" or bandwidth in entropy.RULES:
        return bandwidth
    value = _parse(bandwidth)
    if not isinstance(value, float) or not 0 < value < float("inf"):
        raise ValueError(
            f"entropy.bandwidth is {bandwidth!r}; give a number above 0, or one"
            f" of {', '.join(['channel', *entropy.RULES])}."
        )
    return value


def local_rate(
    rate: Rate,
    z: jax.Array,
    z_noisy: jax.Array,
    *,
    inputs: methods.Inputs,
    estimator_params: optax.Params = None,
) -> jax.Array:
    """This device's share of the rate of the global batch, in nats.

    Without a channel (an ablation) it is a share of the estimator's own value,
    which is an entropy and not a rate.

    Args:
      rate: what is estimated.
      z: this device's clean latents, `[B, D]`.
      z_noisy: these latents behind the channel.
      inputs: this device's rows, of which the mask and the positions count.
      estimator_params: parameters of a learned estimator, replicated.

    Returns:
      Scalar; 0 where the global batch has fewer than two valid rows.
    """
    if rate.estimator == "none":
        return jnp.zeros(())
    estimator = entropy.ESTIMATORS[rate.estimator]
    count = lax.psum(jnp.sum(inputs.mask), parallel.AXIS)
    queries = z_noisy if estimator.noisy_queries else z
    own = z_noisy if estimator.noisy_samples else z
    samples, sample_mask = lax.all_gather(
        (own, inputs.mask), parallel.AXIS, tiled=True
    )
    # The keywords of a learned estimator are those of its `init`.
    options = {"params": estimator_params}
    if estimator.init is None:
        options = dict(rate.hyper)
    if estimator.noise_argument == "width":
        options["width"] = channel.width(rate.sigma)
    elif estimator.noise_argument is not None:
        of_channel = rate.bandwidth == "channel"
        options[estimator.noise_argument] = (
            rate.sigma if of_channel else rate.bandwidth
        )
    estimate = estimator(
        queries,
        samples,
        inputs.positions,
        query_mask=inputs.mask,
        sample_mask=sample_mask,
        **options,
    )
    value = estimate.value
    if rate.sigma > 0:
        value = entropy.to_rate(estimate, rate.sigma, z.shape[1], rate.noise)
    if estimate.per_query is not None:
        # The mean of its own queries: ragged shards weigh what they hold.
        local = value * jnp.sum(inputs.mask) / jnp.maximum(count, 1)
    else:
        local = value / lax.axis_size(parallel.AXIS)
    return jnp.where(count >= 2, local, 0.0)


class Trained(NamedTuple):
    """The parameters that the gradient is taken of.

    Attributes:
      params: parameters of the network.
      estimator_params: parameters of a learned estimator; empty for none.
    """

    params: optax.Params
    estimator_params: optax.Params


class Terms(NamedTuple):
    """The terms that a step minimised, as shares of one device.

    Attributes:
      losses: name of a loss of the method -> scalar.
      rate: scalar, in nats.
      outputs: the network's outputs for this device's rows.
    """

    losses: dict[str, jax.Array]
    rate: jax.Array
    outputs: methods.Outputs


@dataclasses.dataclass(frozen=True)
class Objective:
    """The function that one step minimises, as the share of one device.

    Attributes:
      method: network and losses.
      rate: the rate term.
      weight: scalar, the weight of one nat in this step.
      count: scalar, valid images of the global batch.
      channel: `entropy.channel.add_noise` with the channel's own arguments; it
        takes latents `[B, D]`, and the `rng` and `positions` of their rows.
    """

    method: methods.Method
    rate: Rate
    weight: jax.Array
    count: jax.Array
    channel: Callable[..., jax.Array]

    def __call__(
        self,
        trained: Trained,
        fixed: models.Variables,
        inputs: methods.Inputs,
    ) -> tuple[jax.Array, Terms]:
        """Runs the network and the estimator, and adds up what they lose.

        Args:
          trained: replicated.
          fixed: the network's variables without its parameters.
          inputs: this device's rows, with a mask.

        Returns:
          The minimised scalar, and its terms.
        """
        variables = fixed | {"params": trained.params}
        losses, outputs = self.local_losses(variables, inputs)
        weighted, rate = self.weighted_rate(
            (outputs.z, outputs.z_noisy), trained.estimator_params, inputs
        )
        return sum(losses.values()) + weighted, Terms(losses, rate, outputs)

    def local_losses(
        self, variables: models.Variables, inputs: methods.Inputs
    ) -> tuple[dict[str, jax.Array], methods.Outputs]:
        """Runs the network in training.

        Args:
          variables: the variables of the network.
          inputs: this device's rows, or some of them.

        Returns:
          Shares of the losses by name, and the network's outputs.
        """
        noise = functools.partial(
            self.channel, rng=inputs.rng, positions=inputs.positions
        )
        outputs = self.method.forward(variables, inputs, noise, train=True)
        by_image = self.method.losses(inputs.x, outputs)
        losses = {
            name: jnp.sum(jnp.where(inputs.mask, loss, 0.0)) / self.count
            for name, loss in by_image.items()
        }
        return losses, outputs

    def weighted_rate(
        self,
        latents: tuple[jax.Array | None, jax.Array | None],
        estimator_params: optax.Params,
        inputs: methods.Inputs,
    ) -> tuple[jax.Array, jax.Array]:
        """The weighted rate, which is minimised beside the losses.

        Args:
          latents: `(z, z_noisy)` of this device's rows.
          estimator_params: parameters of a learned estimator.
          inputs: this device's rows.

        Returns:
          This device's shares of the weighted rate and of the rate in nats.
        """
        fixed = lax.stop_gradient
        nats = functools.partial(local_rate, self.rate, inputs=inputs)
        rate = nats(*latents, estimator_params=fixed(estimator_params))
        minimised = self.weight * rate
        if entropy.ESTIMATORS[self.rate.estimator].init is not None:
            # Its own likelihood, unweighted: at weight 0 it learns as well.
            minimised += nats(
                *fixed(latents), estimator_params=estimator_params
            )
        return minimised, rate
