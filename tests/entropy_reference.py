"""Naive dense formulas that the streaming code is held against."""

import jax
import jax.numpy as jnp
import numpy as np
import scipy.stats


def dense_lse(x, y, inv_two_var, index=None, mask=None, exclude_self=False):
    """(L, T) by the definition, with all differences and no trick."""
    distance = jnp.sum((x[:, None] - y[None]) ** 2, -1)
    n = y.shape[0]
    valid = jnp.ones((x.shape[0], n), bool)
    if mask is not None:
        valid &= mask[None, :]
    if exclude_self:
        valid &= index[:, None] != jnp.arange(n)[None, :]
    exponent = jnp.where(valid, -inv_two_var * distance, -jnp.inf)
    lse = jax.scipy.special.logsumexp(exponent, axis=1)
    weight = jnp.where(valid, jnp.exp(exponent - lse[:, None]), 0)
    return lse, jnp.sum(weight * distance, 1)


def relative_error(got, expected):
    """Largest difference over the largest expected magnitude."""
    difference = jnp.max(jnp.abs(got - expected))
    return float(difference / jnp.max(jnp.abs(expected)))


# Laws of independent dimensions, by name.
LAWS = {
    "gaussian": scipy.stats.norm(scale=2),
    "uniform": scipy.stats.uniform(scale=3),
    "laplace": scipy.stats.laplace(scale=0.5),
    "student_t": scipy.stats.t(df=5),
}


def draws_and_entropy(name, shape):
    """Float32 draws of a law, and the entropy of one dimension in nats."""
    law = LAWS[name]
    draws = law.rvs(shape, random_state=np.random.default_rng(0))
    return np.float32(draws), float(law.entropy())
