"""Entropy of frozen latents under a density that is fitted to half of them."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import optax

from aeent_jax.entropy import inputs
from aeent_jax.entropy.estimator import Estimate, Estimator
from aeent_jax.entropy.table import ESTIMATORS


def fit_learned(
    name: str,
    rng: jax.Array,
    z: jax.Array,
    *,
    steps: int = 1000,
    learning_rate: float | jax.Array = 1e-2,
    batch_size: int = 256,
    width: float | jax.Array | None = None,
    **hyper,
) -> Estimate:
    """Entropy of frozen latents under a density fitted to half of them.

    Adam descends the cross-entropy of one half of the rows, drawn at random,
    with a learning rate that falls to 0 along a cosine. The estimate is the
    cross-entropy of the other half, in nats and in the unit of z: an upper
    bound in expectation, however well or badly the fit went.

    The mean of the fitting half is taken off beforehand, and for densities
    without a unit of their own each dimension is divided by its standard
    deviation, whose logarithm is added back to the value. A dimension that
    never varies keeps its unit. Its entropy is -inf; the bound of "mixture" is
    finite, as low as it gets in `steps`.

    How far above the truth, in nats, on independent Gaussian dimensions with
    standard deviations from 3 to 0.1 (n = 1000 of dim 16 / 4096 of dim 64):
    "mixture" .88 / .19, with full covariances 5.7 / 6.9, "quantised" under a
    dither of standard deviation 1 .24 / .30. The more parameters there are to a
    row, the looser the bound: full covariances want few components.

    Args:
      name: of an entry of `ESTIMATORS` that has an `init`.
      rng: key that decides everything random.
      z: `[n, dim]`, at least 4 rows; for "quantised" with the dither already
        added, as for any channel.
      steps: number of descents.
      learning_rate: Adam's first, positive.
      batch_size: rows drawn for each step, with replacement.
      width: of the dither, in the unit of z, for estimators that take one;
        default 1.
      **hyper: keywords of the estimator's `init`.

    Returns:
      Estimate of kind "h"; `per_query` `[n - n//2]` belongs to the rows that
      were held out.

    Raises:
      ValueError: an unknown name or keyword, fewer than 4 rows, steps or a
        batch size below 1, a learning rate that is not positive, or a width
        where none is taken.
    """
    entry = ESTIMATORS[name]
    if entry.init is None:
        raise ValueError(
            f"{name!r} has no parameters to fit, and a learned estimator is"
            " needed: call the estimator itself."
        )
    inputs.refuse_unknown(f"the estimator {name!r}", hyper, entry.hyper)
    inputs.at_least("steps", steps, 1, "the number of descents")
    inputs.at_least("batch_size", batch_size, 1, "the rows of a step")
    z = inputs.resolve(z, min_samples=4).queries
    learning_rate = inputs.positive(
        "learning_rate", learning_rate, z.dtype, "Adam's first step"
    )
    noise = {}
    if entry.noise_argument is not None:
        width = 1.0 if width is None else width
        noise[entry.noise_argument] = inputs.positive("width", width, z.dtype)
    elif width is not None:
        raise ValueError(
            f"width is {width}, and the estimator {name!r} takes none: leave"
            " it out."
        )
    init_rng, rng = jax.random.split(rng)
    params = entry.init(init_rng, z.shape[1], **hyper)
    return _fit_and_hold_out(
        entry, steps, batch_size, params, rng, z, learning_rate, noise
    )


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _fit_and_hold_out(
    entry: Estimator,
    steps: int,
    batch_size: int,
    params: Any,
    rng: jax.Array,
    z: jax.Array,
    learning_rate: jax.Array,
    noise: dict[str, jax.Array],
) -> Estimate:
    """Fits to one half of `z` and measures the other, in the unit of `z`."""
    split_rng, fit_rng = jax.random.split(rng)
    z = jax.random.permutation(split_rng, z)
    half = z.shape[0] // 2
    mean, scale = _unit(z[:half], own_unit=entry.noise_argument is not None)
    z = (z - mean) / scale

    def measure(params: Any, rows: jax.Array) -> Estimate:
        return entry(rows, params=params, **noise)

    optimizer = optax.adam(optax.cosine_decay_schedule(learning_rate, steps))

    def step(carry, step_rng):
        params, opt_state = carry
        rows = jax.random.randint(step_rng, (batch_size,), 0, half)
        gradient = jax.grad(lambda p: measure(p, z[rows]).value)(params)
        updates, opt_state = optimizer.update(gradient, opt_state)
        return (optax.apply_updates(params, updates), opt_state), None

    (params, _), _ = jax.lax.scan(
        step, (params, optimizer.init(params)), jax.random.split(fit_rng, steps)
    )
    per_query = measure(params, z[half:]).per_query + jnp.sum(jnp.log(scale))
    return Estimate(jnp.mean(per_query), "h", per_query)


def _unit(z: jax.Array, *, own_unit: bool) -> tuple[jax.Array, jax.Array]:
    """Returns the mean and the scale of each dimension, both `[dim]`."""
    # The rounding of a sum can put the mean of equal numbers beside them.
    mean = jnp.clip(jnp.mean(z, 0), jnp.min(z, 0), jnp.max(z, 0))
    if own_unit:
        return mean, jnp.ones_like(mean)
    scale = jnp.sqrt(jnp.mean((z - mean) ** 2, 0))
    # A dimension that never varies keeps its unit.
    return mean, jnp.where(scale == 0, 1, scale)
