import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from sklearn import neighbors

from aeent_jax import entropy

KDES = {
    "kde_loo": entropy.kde_loo,
    "kde_resub": entropy.kde_resub,
    "kde_kl": entropy.kde_kl,
    "kde_bd": entropy.kde_bd,
}


def normal(n, dim, seed=0):
    return jax.random.normal(jax.random.key(seed), (n, dim))


@functools.partial(jax.jit, static_argnames="rule")
def _evaluate(z, mask, bandwidth, rule):
    def value(z, estimator):
        hyper = {"bandwidth": rule or bandwidth}
        found = estimator(z, query_mask=mask, **hyper)
        return found.value, found

    results = {}
    for name, estimator in KDES.items():
        (_, found), gradient = jax.value_and_grad(value, has_aux=True)(
            z, estimator
        )
        results[name] = found, gradient
    return results


def evaluate(z, bandwidth, mask=None):
    """By name: the estimate of clean latents, and its value's gradient."""
    mask = np.ones(len(z), bool) if mask is None else mask
    if isinstance(bandwidth, str):
        return _evaluate(z, mask, 1.0, bandwidth)
    return _evaluate(z, mask, bandwidth, None)


def rates(z, sigma):
    return {
        name: float(entropy.to_rate(found, sigma, z.shape[1]))
        for name, (found, _) in evaluate(z, sigma).items()
    }


@pytest.mark.parametrize("dim", [1, 5])
def test_resub_is_minus_the_mean_score_of_scikit_learn(dim):
    with jax.enable_x64(True):
        z = np.random.default_rng(0).normal(size=(200, dim))
        # The tree's own tolerance off: its default is good to 1e-8 only.
        tree = neighbors.KernelDensity(bandwidth=0.4, rtol=0, atol=0).fit(z)
        got = entropy.kde_resub(z, bandwidth=0.4)
        np.testing.assert_allclose(got.value, -tree.score(z) / 200, rtol=1e-12)
        np.testing.assert_allclose(
            got.per_query, -tree.score_samples(z), rtol=1e-12
        )


def test_loo_is_scikit_learn_without_the_query():
    with jax.enable_x64(True):
        z = np.random.default_rng(0).normal(size=(20, 3))
        expected = [
            -neighbors.KernelDensity(bandwidth=0.4, rtol=0, atol=0)
            .fit(np.delete(z, i, 0))
            .score(z[i : i + 1])
            for i in range(20)
        ]
        got = entropy.kde_loo(z, bandwidth=0.4).per_query
        np.testing.assert_allclose(got, expected, rtol=1e-12)


@pytest.mark.parametrize("rule", ["scott", "silverman"])
def test_resub_matches_scipy_in_one_dimension(rule):
    with jax.enable_x64(True):
        z = np.random.default_rng(0).normal(size=(100, 1)) * 3
        density = scipy.stats.gaussian_kde(z.T, bw_method=rule)
        got = entropy.kde_resub(z, bandwidth=rule).value
        np.testing.assert_allclose(
            got, -np.mean(density.logpdf(z.T)), rtol=1e-12
        )


def _gaussian(condition):
    def draw(rng, n, dim):
        scale = np.sqrt(np.geomspace(1, 1 / condition, dim))
        return rng.normal(size=(n, dim)) * scale

    def true(dim):
        variance = np.geomspace(1, 1 / condition, dim)
        return 0.5 * np.sum(np.log(2 * np.pi * np.e * variance))

    return draw, true


# Law: how to draw [n, dim], and its entropy in dim dimensions.
LAWS = {
    "gaussian": _gaussian(1),
    "gaussian_1e2": _gaussian(1e2),
    "gaussian_1e4": _gaussian(1e4),
    "cube": (lambda rng, n, d: rng.random((n, d)), lambda d: 0.0),
    "laplace": (
        lambda rng, n, d: rng.laplace(size=(n, d)),
        lambda d: d * scipy.stats.laplace.entropy(),
    ),
    "student_t": (
        lambda rng, n, d: rng.standard_t(5, size=(n, d)),
        lambda d: d * scipy.stats.t(5).entropy(),
    ),
}


@jax.jit
def _loo_of_sets(z):
    """By bandwidth: the values of many sets `[sets, n, dim]`."""
    return {
        str(bandwidth): jax.vmap(
            lambda z, b=bandwidth: entropy.kde_loo(z, bandwidth=b).value
        )(z)
        for bandwidth in ("scott", 0.1, 1.0)
    }


@pytest.mark.parametrize("law", list(LAWS))
@pytest.mark.parametrize("dim", [1, 2, 8])
def test_loo_is_an_upper_bound_in_expectation(law, dim):
    draw, true = LAWS[law]
    rng = np.random.default_rng(0)
    z = np.stack([draw(rng, 128, dim) for _ in range(16)])
    for bandwidth, values in _loo_of_sets(jnp.float32(z)).items():
        error = np.asarray(values) - true(dim)
        # Four standard errors of the mean over the sets.
        slack = 4 * np.std(error, ddof=1) / math.sqrt(16)
        assert np.mean(error) > -slack, bandwidth


@pytest.mark.parametrize(
    ("law", "tolerance"),
    # The bias that n = 4096 leaves in one dimension, by the sharpness of the
    # law (a step, a cusp, tails), and four standard errors of about 0.012.
    [
        ("gaussian", 0.06),
        ("cube", 0.10),
        ("laplace", 0.07),
        ("student_t", 0.07),
    ],
)
def test_loo_finds_the_entropy_in_one_dimension(law, tolerance):
    draw, true = LAWS[law]
    z = jnp.float32(draw(np.random.default_rng(0), 4096, 1))
    assert abs(float(entropy.kde_loo(z).value) - true(1)) < tolerance


def test_channel_of_a_gaussian_mixture_matches_quadrature():
    centres, scale, sigma = np.array([-4.0, 0.0, 3.0]), 0.5, 0.5
    rng = np.random.default_rng(0)
    z = rng.choice(centres, 4096) + scale * rng.normal(size=4096)
    noisy = z + sigma * rng.normal(size=4096)
    grid = np.linspace(-12, 12, 20001)
    deviation = math.hypot(scale, sigma)
    density = np.mean(
        [scipy.stats.norm.pdf(grid, c, deviation) for c in centres], 0
    )
    true = np.trapezoid(-density * np.log(density + 1e-300), grid)
    for estimator in (entropy.kde_loo, entropy.kde_resub):
        got = estimator(
            jnp.float32(noisy)[:, None],
            jnp.float32(z)[:, None],
            jnp.arange(4096),
            bandwidth=sigma,
        )
        # Four standard errors: log-density scatters by 0.9 over 4096 draws.
        assert abs(float(got.value) - true) < 4 * 0.9 / 64


@pytest.mark.parametrize("sigma", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("dim", [1, 4])
def test_channel_of_a_gaussian_matches_its_capacity(dim, sigma):
    z = normal(4096, dim)
    noisy = z + sigma * normal(4096, dim, seed=1)
    got = entropy.kde_loo(noisy, z, jnp.arange(4096), bandwidth=sigma)
    true = dim / 2 * math.log(1 + 1 / sigma**2)
    # Four standard errors of the entropy of 4096 outputs, sqrt(dim / 2n), and
    # the bias of the kernels' mixture, measured at most .02 (dim 4, sigma .5).
    tolerance = 4 * math.sqrt(dim / 8192) + 0.02
    assert abs(entropy.to_rate(got, sigma, dim) - true) < tolerance


def test_far_point_masses_carry_log_k():
    with jax.enable_x64(True):
        centres = 1e3 * np.random.default_rng(0).normal(size=(8, 3))
        found = rates(np.repeat(centres, 5, axis=0), 1.0)
    # Rounding of squared distances of 1e7.
    assert found["kde_kl"] == pytest.approx(math.log(8), abs=1e-8)
    assert found["kde_bd"] == pytest.approx(math.log(8), abs=1e-8)
    assert found["kde_resub"] == pytest.approx(math.log(8) - 1.5, abs=1e-8)
    # 4 of the 39 others are at the query.
    loo = math.log(39 / 4) - 1.5
    assert found["kde_loo"] == pytest.approx(loo, abs=1e-8)


def test_bd_is_kl_at_twice_the_bandwidth_less_dim_log_2():
    with jax.enable_x64(True):
        z = np.random.default_rng(0).normal(size=(40, 3))
        kl = evaluate(z, 1.0)["kde_kl"][0].per_query
        bd = evaluate(z, 0.5)["kde_bd"][0].per_query
        np.testing.assert_allclose(bd, kl - 3 * math.log(2), rtol=1e-12)


def test_kl_and_bd_hold_the_mixture_entropy_and_resub_of_noise_finds_it():
    rng = np.random.default_rng(0)
    sigma, centres = 0.4, rng.normal(size=(40, 3))
    draws = centres[rng.integers(0, 40, 2000)]
    draws = draws + sigma * rng.normal(size=draws.shape)
    logpdf = scipy.stats.multivariate_normal.logpdf
    density = np.mean([np.exp(logpdf(draws, c, sigma**2)) for c in centres], 0)
    with jax.enable_x64(True):
        bounds = evaluate(centres, sigma)
        low = float(bounds["kde_bd"][0].value)
        high = float(bounds["kde_kl"][0].value)
        found = entropy.kde_resub(
            draws, centres, np.full(2000, -1), bandwidth=sigma
        )
        np.testing.assert_allclose(found.per_query, -np.log(density))
    # They are .3 nat and more apart; 2000 draws scatter the mean by .03.
    assert low + 0.12 < np.mean(-np.log(density)) < high - 0.12


@pytest.mark.parametrize("sigma", [0.05, 0.5, 5.0])
def test_order_of_the_estimates_holds_at_every_bandwidth(sigma):
    found = rates(normal(40, 3), sigma)
    assert found["kde_resub"] <= found["kde_loo"]
    # float32 rounding of terms of about 10 nats.
    assert found["kde_kl"] == pytest.approx(found["kde_resub"] + 1.5, abs=1e-5)
    assert -1e-5 <= found["kde_bd"] <= found["kde_kl"] + 1e-5
    assert found["kde_kl"] <= math.log(40) + 1e-5


def test_a_clean_self_term_kills_the_radial_gradient_and_loo_keeps_it():
    z = normal(64, 16)
    sigma = 0.5 * float(jnp.sqrt(jnp.mean(z**2)))
    noisy = z + sigma * normal(64, 16, seed=1)

    def radial(estimator, queries):
        found = estimator(queries, z, jnp.arange(64), bandwidth=sigma)
        return float(found.diagnostics["scale_gradient"])

    # For a Gaussian: dim * snr / (1 + snr) = 12.8.
    assert radial(entropy.kde_kl, z) < 5e-4
    assert radial(entropy.kde_loo, noisy) > 12.8


@pytest.mark.parametrize("estimator", [entropy.kde_loo, entropy.kde_kl])
def test_scale_gradient_is_the_derivative_by_the_logarithm_of_scale(estimator):
    with jax.enable_x64(True):
        z = np.random.default_rng(0).normal(size=(12, 2))
        found = estimator(z, bandwidth=0.7)
        assert set(found.diagnostics) == {"bandwidth", "scale_gradient"}
        step = 1e-6
        up, down = (
            float(estimator(np.exp(s) * z, bandwidth=0.7).value)
            for s in (step, -step)
        )
        # Central differences of a value of order 1: 1e-16 / 1e-6.
        np.testing.assert_allclose(
            found.diagnostics["scale_gradient"],
            (up - down) / (2 * step),
            rtol=1e-8,
        )


def test_a_query_from_elsewhere_sees_every_sample():
    queries, samples = normal(9, 2), normal(20, 2, seed=1)
    outside = entropy.kde_loo(queries, samples, jnp.full(9, -1), bandwidth=0.5)
    resub = entropy.kde_resub(queries, samples, bandwidth=0.5)
    # The same sums in float32.
    np.testing.assert_allclose(outside.per_query, resub.per_query, rtol=1e-5)


@pytest.mark.parametrize(
    ("n", "dim"), [(2, 32), (17, 128), (257, 1), (1024, 16)]
)
def test_float32_agrees_with_float64(n, dim):
    z = np.random.default_rng(0).normal(size=(n, dim))
    value = jax.jit(lambda z: entropy.kde_loo(z, bandwidth=1.5).value)
    narrow = value(np.float32(z))
    with jax.enable_x64(True):
        wide = value(np.float64(np.float32(z)))
    # Squared distances of about 2*dim in float32, and sums of dim terms.
    np.testing.assert_allclose(narrow, wide, rtol=2e-6, atol=2e-6 * dim)


def test_one_sample_has_the_kernels_entropy():
    got = entropy.kde_resub(normal(1, 3), bandwidth=2.0).value
    # float32
    assert got == pytest.approx(1.5 * math.log(8 * math.pi), rel=1e-6)
