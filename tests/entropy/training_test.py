"""A linear autoencoder with a noisy channel, where the optimum is known.

A Gaussian source with variances v, encoder W, channel z + eps, decoder V. At
weight w the best is reverse water-filling at level t = w dim / 2: distortion
sum min(t, v) / dim, rate sum max(0, 1/2 log(v / t)).
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from aeent_jax import entropy

VARIANCE = np.float32([8, 4, 2, 1, 0.5, 0.25, 0.12, 0.06])
DIM = len(VARIANCE)


def make_source(n):
    """`[n, DIM]` whose covariance, divided by n, is exactly diag(VARIANCE)."""
    x = np.random.default_rng(0).normal(size=(n, DIM))
    x -= x.mean(0)
    x = x @ np.linalg.inv(np.linalg.cholesky(x.T @ x / n)).T
    return np.float32(x * np.sqrt(VARIANCE))


def water_filling(weight):
    level = weight * DIM / 2
    rate = np.maximum(0.5 * np.log(VARIANCE / level), 0).sum()
    return np.minimum(VARIANCE, level).mean(), rate


def expected_terms(params):
    """Distortion, rate and rms(z) by their formulas, without sampling."""
    encoder, decoder = params
    lost = np.sqrt(VARIANCE)[:, None] * (jnp.eye(DIM) - encoder @ decoder)
    distortion = (jnp.sum(lost**2) + jnp.sum(decoder**2)) / DIM
    covariance = encoder.T @ (VARIANCE[:, None] * encoder)
    latent = encoder.shape[1]
    rate = 0.5 * jnp.linalg.slogdet(jnp.eye(latent) + covariance)[1]
    return distortion, rate, jnp.sqrt(jnp.trace(covariance) / latent)


def clean_terms(params):
    """Distortion without the channel, and rms(z)."""
    encoder, decoder = params
    lost = np.sqrt(VARIANCE)[:, None] * (jnp.eye(DIM) - encoder @ decoder)
    return jnp.sum(lost**2) / DIM, expected_terms(params)[2]


@functools.partial(
    jax.jit, static_argnames=("name", "channel", "latent", "steps")
)
def train(x, weight, *, name, channel=True, latent=DIM, steps=2000):
    """Returns the parameters at the end and rms(z) of every step."""
    entry = entropy.ESTIMATORS[name]
    rng = jax.random.key(0)
    params = (
        0.3 * jax.random.normal(rng, (DIM, latent)),
        0.3 * jax.random.normal(jax.random.fold_in(rng, 1), (latent, DIM)),
    )
    optimizer = optax.adam(optax.cosine_decay_schedule(0.02, steps))

    def loss(params, step_rng):
        z = x @ params[0]
        noisy = z + channel * jax.random.normal(step_rng, z.shape)
        queries = noisy if entry.noisy_queries else z
        rows = jnp.arange(len(z))
        found = entry(queries, z, rows, **{entry.noise_argument: 1.0})
        rate = entropy.to_rate(found, 1.0, latent)
        return jnp.mean((noisy @ params[1] - x) ** 2) + weight * rate

    def step(state, i):
        params, opt_state = state
        gradient = jax.grad(loss)(params, jax.random.fold_in(rng, i + 2))
        updates, opt_state = optimizer.update(gradient, opt_state)
        params = optax.apply_updates(params, updates)
        return (params, opt_state), expected_terms(params)[2]

    start = params, optimizer.init(params)
    (params, _), scales = jax.lax.scan(step, start, jnp.arange(steps))
    return params, scales


@pytest.mark.parametrize("weight", [0.1, 0.3])
def test_coding_rate_reaches_reverse_water_filling(weight):
    params, _ = train(make_source(512), weight, name="coding_rate")
    distortion, rate, _ = map(float, expected_terms(params))
    best_distortion, best_rate = water_filling(weight)
    # The acceptance of 2 %; the noise of the last steps leaves about 0.3 %.
    assert distortion == pytest.approx(best_distortion, rel=0.02)
    assert rate == pytest.approx(best_rate, rel=0.02)


def test_penalty_on_clean_latents_shrinks_them_and_compresses_nothing():
    x = make_source(128)
    run = functools.partial(train, x, name="kde_loo", channel=False, latent=4)
    (free, _), (penalised, scales) = run(0.0), run(0.3)
    free_distortion, free_scale = clean_terms(free)
    distortion, scale = clean_terms(penalised)
    # Measured: .12 of the scale, falling, at 1.01 of the distortion. With the
    # channel the same weight costs six times the distortion.
    assert scale < 0.15 * free_scale
    assert scale < 0.95 * scales[len(scales) // 2]
    assert distortion < 1.02 * free_distortion
    assert water_filling(0.3)[0] > 5 * free_distortion


def test_leave_one_out_on_the_channel_settles_and_follows_the_weight():
    x = make_source(128)
    rates = []
    for weight in (0.03, 0.1, 0.3, 1.0):
        params, scales = train(x, weight, name="kde_loo")
        # The independent meter is the rate of the Gaussian that z is.
        rates.append(float(expected_terms(params)[1]))
        if weight == 0.3:
            last, half_time = float(scales[-1]), float(scales[1000])
            assert 0.8 < last < 1.3
            assert last == pytest.approx(half_time, rel=0.02)
    assert rates == sorted(rates, reverse=True)
    # Every step down is one of substance.
    assert min(-np.diff(rates)) > 0.5
