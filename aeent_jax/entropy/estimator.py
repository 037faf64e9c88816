"""The one contract of all estimators: how they are called, what they return.

estimator(queries [m, dim], samples [n, dim], query_index [m], *,
query_mask [m], sample_mask [n], **hyper) -> Estimate
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from aeent_jax.entropy import channel, inputs

KINDS = ("h", "I")


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Estimate:
    """An entropy or an information, in nats; a pytree.

    Attributes:
      value: scalar, nats. A per-query estimator gives 0 where no query is
        valid, as on a device that got nothing but the padding of a batch.
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


@dataclasses.dataclass(frozen=True)
class Estimator:
    """An estimator: a function of latents, and how a trainer calls it.

    Two families. *Per-query* estimators return the masked mean of `per_query`;
    on several devices the caller reduces it as
    `psum(value * count) / psum(count)`, with the count of a device's valid
    queries, so that ragged and empty shards are exact. *Whole-batch* estimators
    are a function of the samples alone: `queries`, `query_mask` and
    `query_index` matter only where `samples` is not given, and every device
    gets the same value. Either way the gradients through all_gather add up over
    devices: a device adds `value * count / psum(count)`, or
    `value / number of devices`, to its own loss.

    A learned estimator has parameters, which `init` draws and which it takes as
    the keyword `params`. It needs no samples. Its value is the cross-entropy of
    the queries under a density: an upper bound in expectation for all
    parameters that were not fitted to the same rows.

    Attributes:
      function: `function(points, **hyper) -> Estimate`, of checked `Points`.
      direction: where the value lies relative to the true one: "upper bound",
        "lower bound", "neither" or "exact", with the condition where there is
        one.
      init: `init(rng, dim, **hyper)` draws a learned estimator's parameters, a
        pytree of float32 arrays; None for the others.
      per_query: the family.
      noisy_queries: whether, to measure the channel, the queries are its output
        `z + sigma*eps` or the clean `z`.
      noisy_samples: the same for the samples.
      includes_self: whether the sum contains the query's own sample, so that
        the rate cannot exceed log n.
      leaves_one_out: whether the sum leaves it out, and so needs `query_index`.
      min_samples: the fewest samples for which it is defined.
      dither: whether the channel's noise is meant to be uniform.
      noise_argument: the keyword that takes the channel's noise: "bandwidth"
        or "sigma", its standard deviation, "width", its width, or None.
      hyper: the other keywords, each a key of the configuration's entropy
        group. A learned estimator's are keywords of `init`.
    """

    function: Callable[..., Estimate]
    direction: str
    init: Callable[..., Any] | None = None
    per_query: bool = False
    noisy_queries: bool = False
    noisy_samples: bool = False
    includes_self: bool = False
    leaves_one_out: bool = False
    min_samples: int = 1
    dither: bool = False
    noise_argument: str | None = None
    hyper: tuple[str, ...] = ()

    def __post_init__(self):
        # So that help(entropy.kde_loo) is about the estimator.
        object.__setattr__(self, "__doc__", self.function.__doc__)

    def __call__(
        self,
        queries: jax.Array,
        samples: jax.Array | None = None,
        query_index: jax.Array | None = None,
        *,
        query_mask: jax.Array | None = None,
        sample_mask: jax.Array | None = None,
        **hyper,
    ) -> Estimate:
        """Estimates, in nats; pure, differentiable and without collectives.

        Args:
          queries: `[m, dim]` latents. Types narrower than float32 are cast up.
          samples: `[n, dim]`, default the queries.
          query_index: `[m]` integers, the row of `samples` that belongs to each
            query; -1 for a query from elsewhere. By default the row number.
            Samples that are given need it where each query's own sample is
            left out, since no default is right for both `z + sigma*eps`
            against `z` and one set of latents against another.
          query_mask: `[m]` bool, which queries count; default all.
          sample_mask: `[n]` bool, which samples count; default all, or the
            queries' where samples are the queries.
          **hyper: the estimator's own keywords.

        Returns:
          The estimate. NaN or inf in a latent gives NaN.

        Raises:
          ValueError: a keyword that the estimator does not take, a shape or a
            type that does not fit, too few samples, samples without an index
            that is needed, or a keyword's value out of its range.
        """
        taken = {self.noise_argument} - {None}
        taken |= {"params"} if self.init else set(self.hyper)
        if not taken >= hyper.keys():
            inputs.refuse_unknown(
                f"the estimator {self.function.__name__}", hyper, taken
            )
        if self.init and "params" not in hyper:
            raise ValueError(
                f"The estimator {self.function.__name__} is called without"
                " params, and its parameters are needed: draw them with its"
                " init, or measure frozen latents with fit_learned."
            )
        points = inputs.resolve(
            queries,
            samples,
            query_index,
            query_mask,
            sample_mask,
            min_samples=self.min_samples,
            leaves_one_out=self.leaves_one_out,
        )
        return self.function(points, **hyper)


def to_rate(
    estimate: Estimate,
    sigma: float | jax.Array,
    dim: int,
    noise: str = "gaussian",
) -> jax.Array:
    """Returns the rate of the channel in nats.

    `I(X; Z + sigma*eps) = h(Z + sigma*eps) - h(sigma*eps)`: the entropy of the
    noise is taken off an estimate of kind `"h"`, and an estimate of kind `"I"`
    is the rate already. The noise has `dim/2 log(2 pi e sigma^2)` nats where it
    is Gaussian, and `dim log(sigma sqrt(12))` where it is uniform.

    Args:
      estimate: what an estimator returned.
      sigma: standard deviation of the channel noise, in the unit of the
        latents.
      dim: size of a latent.
      noise: law of the channel noise, a name of `channel.NOISES`.

    Returns:
      Scalar, nats.

    Raises:
      ValueError: the kind is unknown, or sigma or the noise where they count.
    """
    if estimate.kind not in KINDS:
        raise ValueError(
            f"An estimate has kind {estimate.kind!r}, and a rate is defined for"
            f" {KINDS}: set kind to one of them."
        )
    if estimate.kind == "I":
        return estimate.value
    sigma = inputs.positive("sigma", sigma, estimate.value.dtype)
    return estimate.value - dim * (channel.ENTROPIES[noise] + jnp.log(sigma))


def masked_mean(values: jax.Array, mask: jax.Array) -> jax.Array:
    """Returns the mean of `values [m]` where `mask [m]`; 0 for no rows."""
    count = jnp.maximum(jnp.sum(mask, dtype=values.dtype), 1)
    return jnp.sum(jnp.where(mask, values, 0)) / count
