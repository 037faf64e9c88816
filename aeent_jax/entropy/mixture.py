"""A learned mixture of Gaussians, whose cross-entropy bounds h(Z) from above.

The density is `q(z) = sum_k pi_k N(z; a_k, S_k)`, and the entropy is read off
as `mean_i -log q(z_i)` in nats. For any parameters that do not depend on the
rows, the expectation is `h(Z) + KL(Z, q)`: an upper bound, which tightens while
the parameters descend it.

A covariance is held as `S_k = (A_k^T A_k)^-1` with A_k lower triangular and
positive on its diagonal, the inverse of S_k's Cholesky factor: neither the
density nor its gradient factors or inverts a matrix.

Reference: Pichler, Colombo, Boudiaf, Koliander and Piantanida 2022, A
differential entropy estimator for training neural networks (KNIFE).
"""

import math

import jax
import jax.numpy as jnp

from aeent_jax.entropy import inputs
from aeent_jax.entropy.estimator import Estimate, masked_mean
from aeent_jax.entropy.inputs import Points

COVARIANCES = ("diagonal", "full")

Params = dict[str, jax.Array]


def init(
    rng: jax.Array,
    dim: int,
    *,
    components: int = 16,
    covariance: str = "diagonal",
) -> Params:
    """Draws a mixture of unit scales and equal weights around the origin.

    Args:
      rng: key of the means, which are drawn from N(0, I).
      dim: size of a latent.
      components: number of Gaussians, at least 1.
      covariance: "diagonal", or "full" for one triangle more to each Gaussian.

    Returns:
      Float32 arrays by name: `log_weights [components]` up to a constant,
      `means [components, dim]`, `log_scales [components, dim]`, in the unit of
      the latents, and for full covariances `triangles [components, dim, dim]`,
      of which what lies strictly below the diagonal is used.

    Raises:
      ValueError: fewer than one component, or an unknown covariance.
    """
    inputs.at_least("components", components, 1, "a number of Gaussians")
    if covariance not in COVARIANCES:
        raise ValueError(
            f"covariance is {covariance!r}, and one of {COVARIANCES} is"
            " needed: check the spelling."
        )
    shape = (components, dim)
    params = {
        "log_weights": jnp.zeros(components, jnp.float32),
        "means": jax.random.normal(rng, shape, jnp.float32),
        "log_scales": jnp.zeros(shape, jnp.float32),
    }
    if covariance == "full":
        params["triangles"] = jnp.zeros((*shape, dim), jnp.float32)
    return params


def mixture(points: Points, *, params: Params) -> Estimate:
    """Cross-entropy of the queries under the mixture, in nats; per query.

    `mean_i -log sum_k pi_k N(z_i; a_k, S_k)`: in expectation an upper bound of
    the entropy of the queries for every value of the parameters, as long as
    these were not fitted to the same rows. For the rate of a channel the
    queries are its output `z + sigma*eps`.

    Args:
      points: as `Estimator`; the samples are not used.
      params: as `init` returns them.

    Returns:
      Estimate of kind "h".

    Raises:
      ValueError: parameters for another size of latent.
    """
    z, mask = points.queries, points.query_mask
    inputs.check_params(z, params["means"].shape[1])
    log_weights = jax.nn.log_softmax(params["log_weights"])
    log_joint = log_weights + _log_gaussians(params, z)
    log_density = jax.scipy.special.logsumexp(log_joint, axis=1)
    per_query = jnp.where(mask, -log_density, 0)
    return Estimate(masked_mean(per_query, mask), "h", per_query)


def _log_gaussians(params: Params, z: jax.Array) -> jax.Array:
    """Returns `log N(z_i; a_k, S_k)`, `[m, components]`, of `z [m, dim]`."""
    log_scales = params["log_scales"]
    offset = z[:, None] - params["means"]
    whitened = offset * jnp.exp(-log_scales)
    if "triangles" in params:
        whitened += jnp.einsum(
            "kij,mkj->mki",
            jnp.tril(params["triangles"], -1),
            offset,
            precision=jax.lax.Precision.HIGHEST,
        )
    log_volume = jnp.sum(log_scales + 0.5 * math.log(2 * math.pi), -1)
    return -0.5 * jnp.sum(whitened**2, -1) - log_volume
