"""Informations of latents: through the channel, and among dimensions."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from aeent_jax.entropy import inputs
from aeent_jax.entropy.diagnostics import channel_diagnostics
from aeent_jax.entropy.estimator import Estimate
from aeent_jax.entropy.inputs import Points
from aeent_jax.entropy.kde import kde_loo
from aeent_jax.entropy.moments import logdet
from aeent_jax.entropy.neighbors import knn


class Bracket(NamedTuple):
    """Two ends that hold a channel's rate between them in expectation.

    Attributes:
      low: scalar, nats; never above log n.
      up: scalar, nats.
    """

    low: jax.Array
    up: jax.Array


def mutual_information(
    z: jax.Array,
    rng: jax.Array,
    sigma: float | jax.Array,
    mask: jax.Array | None = None,
) -> Bracket:
    """Bracket of `I(Z; Z + sigma*eps)`, in nats.

    `rate_low` and `rate_up` of `diagnostics.channel_diagnostics`, which has the
    formulas and says how close the two ends are. Under jit the compiler drops
    what else that function measures.

    Args:
      z: `[n, dim]` clean latents.
      rng: key of the noise.
      sigma: positive standard deviation of the noise, in the unit of `z`.
      mask: `[n]` bool, which rows count; default all.

    Returns:
      The bracket; both depend on n, so compare only at the same n.

    Raises:
      ValueError: fewer than 2 rows, a shape that does not fit, or a sigma that
        is not positive.
    """
    found = channel_diagnostics(z, rng, sigma, mask)
    return Bracket(found["rate_low"], found["rate_up"])


def total_correlation(
    z: jax.Array,
    *,
    method: str = "gaussian",
    mask: jax.Array | None = None,
    **hyper,
) -> jax.Array:
    """How much dimensions tell of one another, `sum_d h(Z_d) - h(Z)`, in nats.

    0 for independent dimensions, else positive. `"gaussian"` is the closed form
    `-1/2 logdet R` for a Gaussian with the samples' correlations R: it
    sees linear dependence only, and from n rows it reads high by about
    `dim^2 / 4n`. The other methods take each entropy from the estimator of that
    name, whose errors differ between one dimension and all of them and do not
    cancel: where the kernel density of all dimensions reads high, this reads
    low, and can be negative.

    Args:
      z: `[n, dim]`.
      method: `"gaussian"`, or the estimator to use.
      mask: `[n]` bool, which rows count; default all.
      **hyper: keywords of the estimator, such as `bandwidth`; the Gaussian
        takes none.

    Returns:
      Scalar. To the Gaussian a dimension without spread tells nothing of
      others: 0; to the other methods its entropy is not finite. Dimensions that
      determine each other give inf with `"gaussian"`; the other methods cannot
      tell, and give a finite number.

    Raises:
      ValueError: an unknown method or keyword, a shape that does not fit, or
        too few rows: dim + 1 for the Gaussian, else as the estimator.

    Reference: Watanabe 1960, Information theoretical analysis of multivariate
    correlation.
    """
    if method not in _METHODS:
        raise ValueError(
            f"method is {method!r}, and one of {', '.join(sorted(_METHODS))} is"
            " needed: check the spelling."
        )
    function, taken = _METHODS[method]
    inputs.refuse_unknown(f"the method {method!r}", hyper, taken)
    return function(inputs.resolve(z, query_mask=mask, min_samples=2), **hyper)


def _of_correlations(points: Points) -> jax.Array:
    z, mask = points.samples, points.sample_mask
    n, dim = z.shape
    if n <= dim:
        raise ValueError(
            f"z has {n} rows of {dim} dimensions, and their correlations need"
            f" at least {dim + 1} rows: pass more latents."
        )
    centred, _ = inputs.centre(z, mask)
    square = jnp.sum(centred**2, 0)
    # A column of zeros keeps its zeros, and a one in the diagonal of R.
    constant = square == 0
    unit = centred / jnp.sqrt(jnp.where(constant, 1, square))
    correlation = jnp.matmul(unit.T, unit, precision=jax.lax.Precision.HIGHEST)
    correlation = jnp.where(jnp.eye(dim, dtype=bool), 1, correlation)
    return -logdet(correlation, n) / 2


def _through(estimator: Callable[..., Estimate]) -> Callable[..., jax.Array]:
    """Makes a method of an estimator of differential entropy."""

    def method(points: Points, **hyper) -> jax.Array:
        def entropy(z: jax.Array) -> jax.Array:
            chosen = points._replace(queries=z, samples=z)
            return estimator(chosen, **hyper).value

        z = points.samples
        alone = jax.vmap(lambda column: entropy(column[:, None]))(z.T)
        return jnp.sum(alone) - entropy(z)

    return method


# The function of each method, and its keywords.
_METHODS: dict[str, tuple[Callable[..., jax.Array], tuple[str, ...]]] = {
    "gaussian": (_of_correlations, ()),
    "kde_loo": (_through(kde_loo), ("bandwidth",)),
    "knn": (_through(knn), ("k",)),
}
