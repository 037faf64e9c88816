"""A learned code length of quantised latents: a Shannon entropy, in nats.

Latents that are rounded to a grid of the given width need `H(round(Z))` nats.
Rounding after a random shift of the grid that both ends know (a dither) gives
`z~ = z + u` with u uniform over one width, and
`H(quantised Z given the shift) = h(Z~) - dim*log(width) = I(Z; Z~)`.

The density of z~ is learned, and factorises. Each dimension has a cumulative
`c = sigmoid(f)` with f a small monotone network, and the density of the
dithered value, in units of the width, is `p(z~) = c(z~ + 1/2) - c(z~ - 1/2)`:
what any law with cumulative c becomes under unit dither. `mean_i -log p(z~_i)`
is the length of a code that is built on p, hence an upper bound of that
entropy.

Reference: Balle, Minnen, Singh, Hwang and Johnston 2018, Variational image
compression with a scale hyperprior, appendix 6.1. Deviation: the difference of
the two sigmoids is taken in log space, where it does not vanish in the tails,
instead of being clipped from below.
"""

import itertools
import math

import jax
import jax.numpy as jnp

from aeent_jax.entropy import inputs
from aeent_jax.entropy.estimator import Estimate, masked_mean
from aeent_jax.entropy.inputs import Points

# Sizes of a dimension's layers, and the scale of its first, logistic density in
# widths of the dither: those of the paper's code.
_SIZES = (1, 3, 3, 3, 1)
_INITIAL_SCALE = 10.0

Params = tuple[dict[str, jax.Array], ...]


def init(rng: jax.Array, dim: int) -> Params:
    """Draws networks that start near a logistic density ten widths wide.

    Args:
      rng: key of the biases, which set the units of a layer apart.
      dim: size of a latent.

    Returns:
      For each layer float32 arrays by name: `matrix [dim, outputs, inputs]`
      before the softplus that keeps it positive, `bias [dim, outputs]` and,
      for all layers but the last, `gate [dim, outputs]` before its tanh.
    """
    shapes = list(itertools.pairwise(_SIZES))
    gain = _INITIAL_SCALE ** (-1 / len(shapes))
    layers = []
    for layer_rng, (fan_in, fan_out) in zip(
        jax.random.split(rng, len(shapes)), shapes, strict=True
    ):
        # softplus of this is gain / fan_out.
        matrix = math.log(math.expm1(gain / fan_out))
        layers.append(
            {
                "matrix": jnp.full((dim, fan_out, fan_in), matrix, jnp.float32),
                "bias": jax.random.uniform(
                    layer_rng, (dim, fan_out), jnp.float32, -0.5, 0.5
                ),
                "gate": jnp.zeros((dim, fan_out), jnp.float32),
            }
        )
    del layers[-1]["gate"]
    return tuple(layers)


def quantised(
    points: Points, *, params: Params, width: float | jax.Array = 1.0
) -> Estimate:
    """Cross-entropy of dithered latents under the density; per query.

    `mean_i sum_d -log p_d(z~_id / width) + dim*log(width)` in nats. The first
    term is the code length, an upper bound in expectation of the Shannon
    entropy of the quantised latents; the second turns it into an entropy of z~
    in the unit of the latents. Where rounding leaves nothing of a width (beyond
    1e7 widths in float32), p is read as that of the narrowest step that float
    arithmetic can tell, and the gradient stays finite.

    Args:
      points: as `Estimator`: the queries are the output of a channel whose
        noise is uniform on `[-width/2, width/2]`; the samples are not used.
      params: as `init` returns them.
      width: positive width of the dither, in the unit of the latents; its
        standard deviation is `width / sqrt(12)`.

    Returns:
      Estimate of kind "h".

    Raises:
      ValueError: parameters for another size of latent, or a width that is not
        positive.
    """
    z, mask = points.queries, points.query_mask
    dim = params[0]["matrix"].shape[0]
    inputs.check_params(z, dim)
    width = inputs.positive("width", width, z.dtype)
    code_length = -jnp.sum(_log_density(params, z / width), 1)
    per_query = jnp.where(mask, code_length + dim * jnp.log(width), 0)
    return Estimate(masked_mean(per_query, mask), "h", per_query)


def _log_density(params: Params, v: jax.Array) -> jax.Array:
    """Returns `log(c(v + 1/2) - c(v - 1/2))`, `[m, dim]`, of `v [m, dim]`.

    `sigmoid(u) - sigmoid(l) = sigmoid(u) sigmoid(-l) (1 - exp(l - u))`, exactly
    and without cancellation in either tail.
    """
    lower = _logit(params, v - 0.5)
    upper = _logit(params, v + 0.5)
    # Logits that rounding made equal have no logarithm; the sigmoids still
    # tell the gradient which way the density lies.
    step = jnp.maximum(upper - lower, jnp.finfo(v.dtype).eps)
    tails = jax.nn.log_sigmoid(upper) + jax.nn.log_sigmoid(-lower)
    return tails + jnp.log(-jnp.expm1(-step))


def _logit(params: Params, v: jax.Array) -> jax.Array:
    """Returns the increasing f with `c = sigmoid(f)`, `[m, dim]`."""
    x = v[..., None]
    for layer in params:
        x = layer["bias"] + jnp.einsum(
            "doi,mdi->mdo",
            jax.nn.softplus(layer["matrix"]),
            x,
            precision=jax.lax.Precision.HIGHEST,
        )
        if "gate" in layer:
            x += jnp.tanh(layer["gate"]) * jnp.tanh(x)
    return x[..., 0]
