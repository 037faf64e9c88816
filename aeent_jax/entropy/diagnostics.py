"""Diagnostics of latents and their channel at every evaluation, in nats.

Promises. The two ends of the bracket hold the channel's true rate
between them in expectation, at every n; they lie within 0.3 nat of it for dim 2
to 64 once it is below log n - 3, and `rate_low` can never exceed log n. In one
dimension `rate_up` is heavy-tailed. All of these depend on n: compare splits
only at the same n. `coding_rate` on at least 1000 training normals is the one
number to put on an axis.
"""

import jax
import jax.numpy as jnp

from aeent_jax.entropy import inputs, pairwise
from aeent_jax.entropy.moments import coding_rate

# Share of log n above which an estimator that includes the self term is called
# saturated. On Gaussian latents in 16 dimensions the radial gradient of kde_kl,
# over the true rate's, was .87 at a saturation of .85 (n = 256), .38 at .93
# (n = 64), .16 at .98 (n = 1024) and .01 at .998 (n = 64).
SATURATED = 0.9


def channel_diagnostics(
    z: jax.Array,
    rng: jax.Array,
    sigma: float | jax.Array,
    mask: jax.Array | None = None,
) -> dict[str, jax.Array]:
    """Measures clean latents and the channel `z~_i = z_i + sigma*eps_i`.

    With `L_i = log sum_j exp(-|z~_i - z_j|^2 / 2 sigma^2)` over all samples and
    `L'_i` over all but the query's own, `w_ij` the terms of `L_i` over their
    sum, eps_i standard normal, n the number of valid rows and C the covariance
    of the clean latents, divided by n:

      rate_low: `mean_i[-|eps_i|^2/2 - L_i] + log n`, in nats, the InfoNCE
        plug-in with the optimal critic; a lower bound, at most log n.
      rate_up: `mean_i[-|eps_i|^2/2 - L'_i] + log(n-1)`, in nats, leave-one-out;
        an upper bound, at least `rate_low` up to rounding.
      rho: `mean_i sum_j w_ij |z_j - zbar_i|^2 / sigma^2`, the posterior
        variance of the latent in units of the noise's: the effective number of
        active latent dimensions, at least 0 (I-MMSE; Guo, Shamai and Verdu
        2005).
      saturation: `I_kl / log n` in [0, 1], the share of its ceiling that the
        pairwise-KL information of the clean latents has reached; that of
        `kde_kl(z, bandwidth=sigma)` as a rate.
      coding_rate: `1/2 logdet(I + C/sigma^2)`, in nats.
      effective_rank: exp of the entropy of C's normalised eigenvalues (Roy and
        Vetterli 2007); a number of dimensions from 1 to dim, 0 for constant
        latents.
      variance: `[dim]`, the diagonal of C, in the squared unit of the latents.

    Args:
      z: `[n, dim]` clean latents.
      rng: key of the noise; keep it fixed so that evaluations are comparable.
      sigma: positive standard deviation of the noise, in the unit of `z`.
      mask: `[n]` bool, which rows count; default all.

    Returns:
      Flat dictionary with the keys above, scalars but for `variance`, of the
      type of `z` (float32 at least). All are NaN where a valid row has one, and
      mean nothing where fewer than 2 rows are valid.

    Raises:
      ValueError: fewer than 2 rows, a shape that does not fit, or a sigma that
        is not positive.
    """
    points = inputs.resolve(z, query_mask=mask, min_samples=2)
    if not isinstance(sigma, jax.core.Tracer) and sigma == 0:
        raise ValueError(
            "sigma is 0, and the channel's diagnostics need noise: without it"
            " the rate is infinite, so log it as null."
        )
    sigma = inputs.positive("sigma", sigma, points.samples.dtype)
    return _measure(points, rng, sigma)


@jax.jit
def _measure(points, rng, sigma) -> dict[str, jax.Array]:
    z, mask = points.samples, points.sample_mask
    count = jnp.sum(mask, dtype=z.dtype)
    noise = jax.random.normal(rng, z.shape, z.dtype)
    noisy = z + sigma * noise

    def pairs(queries, **options):
        chosen = points._replace(queries=queries)
        return pairwise.weighted_lse(chosen, 0.5 / sigma**2, **options)[1:]

    def mean(values: jax.Array) -> jax.Array:
        return jnp.sum(jnp.where(mask, values, 0)) / count

    (lse, distance), pull_back = jax.vjp(pairs, noisy)
    (slope,) = pull_back((jnp.ones_like(lse), jnp.zeros_like(lse)))
    others, _ = pairs(noisy, exclude_self=True)
    clean, _ = pairs(z)
    own = -0.5 * jnp.sum(noise**2, 1)
    # zbar_i - z~_i = sigma^2 dL_i/dz~_i, and the variance about the posterior
    # mean is the one about the query less the squared distance of the two.
    rho = distance / sigma**2 - sigma**2 * jnp.sum(slope**2, 1)
    centred, _ = inputs.centre(z, mask)
    return {
        "rate_low": mean(own - lse) + jnp.log(count),
        "rate_up": mean(own - others) + jnp.log(count - 1),
        "rho": mean(jnp.maximum(rho, 0)),
        "saturation": 1 - mean(clean) / jnp.log(count),
        "coding_rate": coding_rate(points, sigma=sigma).value,
        "effective_rank": _effective_rank(centred),
        "variance": jnp.sum(centred**2, 0) / count,
    }


def _effective_rank(centred: jax.Array) -> jax.Array:
    scatter = jnp.matmul(
        centred.T, centred, precision=jax.lax.Precision.HIGHEST
    )
    eigenvalues = jnp.maximum(jnp.linalg.eigvalsh(scatter), 0)
    total = jnp.sum(eigenvalues)
    constant = total == 0
    share = eigenvalues / jnp.where(constant, 1, total)
    return jnp.where(
        constant, 0, jnp.exp(jnp.sum(jax.scipy.special.entr(share)))
    )


def saturation_warning(
    name: str, includes_self: bool, saturation: float, n: int
) -> str | None:
    """Returns a sentence where a training estimator is near its ceiling.

    From `SATURATED`, 90 % of log n, up the gradient has begun to vanish.

    Args:
      name: the training estimator's name, for the sentence.
      includes_self: its entry in the table says so; without the self term
        nothing saturates and there is nothing to warn of.
      saturation: of `channel_diagnostics`, on `n` latents.
      n: how many latents the estimator sees in training, its global batch. The
        ceiling is log n, so a diagnostic of more latents says too little.

    Returns:
      The warning, or None.
    """
    if not includes_self or not saturation >= SATURATED:
        return None
    return (
        f"{name} is saturated: it reads {saturation:.0%} of the largest value"
        f" it can give for {n} latents (log n), where its gradient vanishes and"
        " the weight controls nothing. Train with kde_loo or coding_rate, or"
        " with a larger batch."
    )
