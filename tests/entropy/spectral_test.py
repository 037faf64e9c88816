import functools
import math

import entropy_reference as reference
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from aeent_jax import entropy

# Streamed, by eigenvalues, and at the limit.
ALPHAS = (2.0, 3.0, 0.7, 1.0)
MEASURES = {
    "renyi2": entropy.renyi2,
    **{
        f"matrix_{alpha}": functools.partial(entropy.matrix_renyi, alpha=alpha)
        for alpha in ALPHAS
    },
}


def normal(n=20, dim=3, seed=0):
    """Float32 values in float64."""
    z = np.random.default_rng(seed).normal(size=(n, dim))
    return np.float64(np.float32(z))


@functools.partial(jax.jit, static_argnames="rule")
def _evaluate(z, mask, bandwidth, rule):
    def value(z, measure):
        found = measure(z, sample_mask=mask, bandwidth=rule or bandwidth)
        return found.value, found

    return {
        name: jax.value_and_grad(value, has_aux=True)(z, measure)
        for name, measure in MEASURES.items()
    }


def evaluate(z, bandwidth=0.8, mask=None):
    """By name: value and gradient; and the whole estimates."""
    mask = np.ones(len(z), bool) if mask is None else mask
    rule = bandwidth if isinstance(bandwidth, str) else None
    found = _evaluate(z, mask, 1.0 if rule else bandwidth, rule)
    return {n: (value, gradient) for n, ((value, _), gradient) in found.items()}


def kernels(z, inv_two_var):
    difference = z[:, None] - z[None]
    return jnp.exp(-inv_two_var * jnp.sum(difference**2, -1))


def dense(name, z, s):
    """The definition, without any care for numbers; float64."""
    n, dim = z.shape
    if name == "renyi2":
        volume = dim / 2 * jnp.log(4 * jnp.pi * s**2)
        return volume - jnp.log(jnp.mean(kernels(z, 0.25 / s**2)))
    a = kernels(z, 0.5 / s**2) / n
    if name == "matrix_2.0":
        return -jnp.log(jnp.trace(a @ a))
    if name == "matrix_3.0":
        return -jnp.log(jnp.trace(a @ a @ a)) / 2
    eigenvalues = jnp.linalg.eigvalsh(a)
    if name == "matrix_1.0":
        return -jnp.sum(eigenvalues * jnp.log(eigenvalues))
    return jnp.log(jnp.sum(eigenvalues**0.7)) / 0.3


def test_values_and_gradients_are_those_of_the_dense_formulas():
    z, s = normal(), 0.8
    narrow = evaluate(np.float32(z), np.float32(s))
    with jax.enable_x64(True):
        for name, (value, gradient) in evaluate(z, s).items():
            expected, slope = jax.jit(
                jax.value_and_grad(functools.partial(dense, name, s=s))
            )(z)
            np.testing.assert_allclose(value, expected, rtol=1e-12)
            # Small eigenvalues, about 1e-3, lose digits below alpha = 1.
            loss = 100 if name in ("matrix_1.0", "matrix_0.7") else 1
            assert reference.relative_error(gradient, slope) < loss * 1e-12
            np.testing.assert_allclose(gradient.sum(0), 0, atol=1e-14)
            np.testing.assert_allclose(narrow[name][0], expected, rtol=5e-6)
            error = reference.relative_error(narrow[name][1], slope)
            assert error < loss * 5e-6, name


def test_renyi2_is_minus_the_log_integral_of_the_squared_density():
    z, s = normal(dim=1), 0.3
    grid = np.linspace(-8, 8, 20001)
    density = scipy.stats.norm.pdf(grid[:, None], z[:, 0], s).mean(1)
    with jax.enable_x64(True):
        got = entropy.renyi2(z, bandwidth=s).value
    expected = -np.log(np.trapezoid(density**2, grid))
    np.testing.assert_allclose(got, expected, rtol=1e-10)


def test_matrix_renyi_of_order_2_is_renyi2_of_half_the_bandwidth():
    z, s = normal(), 0.8
    with jax.enable_x64(True):
        matrix, _ = evaluate(z, s)["matrix_2.0"]
        density, _ = evaluate(z, s / 2)["renyi2"]
        constant = 1.5 * math.log(math.pi * s**2)
        np.testing.assert_allclose(matrix, density - constant, rtol=1e-12)


@pytest.mark.parametrize("s", [0.05, 0.5, 5.0])
def test_order_of_the_values_holds_at_every_bandwidth(s):
    z = normal()
    with jax.enable_x64(True):
        found = evaluate(z, s)
        narrow = float(evaluate(z, s / math.sqrt(2))["renyi2"][0])
        # Equal but for rounding where no two kernels touch.
        resub = entropy.kde_resub(z, bandwidth=s).value
        assert narrow <= float(resub) + 1e-12
    falling = [float(found[f"matrix_{a}"][0]) for a in sorted(ALPHAS)]
    # Up to rounding, where all of them are at an end.
    assert np.all(np.diff([math.log(20), *falling, 0]) < 1e-12)


def test_alpha_1_bounds_the_information_of_the_mixture_and_renyi2_its_entropy():
    rng = np.random.default_rng(0)
    sigma, centres = 0.4, rng.normal(size=(20, 3))
    draws = centres[rng.integers(0, 20, 2000)]
    draws = draws + sigma * rng.normal(size=draws.shape)
    logpdf = scipy.stats.multivariate_normal.logpdf
    density = np.mean([np.exp(logpdf(draws, c, sigma**2)) for c in centres], 0)
    mixture = np.mean(-np.log(density))
    rate = mixture - 1.5 * math.log(2 * math.pi * math.e * sigma**2)
    with jax.enable_x64(True):
        found = evaluate(centres, sigma)
        low, loose = (float(found[n][0]) for n in ("renyi2", "matrix_1.0"))
        tight = float(evaluate(centres, 2 * sigma)["matrix_1.0"][0])
    # 2000 draws scatter the mean by .03; four standard errors.
    assert low < mixture - 0.12
    assert rate - 0.12 < tight < loose


def test_alpha_1_is_the_limit_of_alpha_to_1():
    z = normal()
    with jax.enable_x64(True):
        limit = evaluate(z)["matrix_1.0"][0]
        for alpha in (1 - 1e-6, 1 + 1e-6):
            near = entropy.matrix_renyi(z, bandwidth=0.8, alpha=alpha).value
            # The slope in alpha is below a nat.
            np.testing.assert_allclose(near, limit, atol=1e-6)


def test_gradient_through_repeated_eigenvalues_is_finite_and_right():
    # Corners of a simplex at distance sqrt(2): n - 1 equal eigenvalues.
    n, s = 20, 0.8
    simplex = np.eye(n)

    def closed_form(log_scale, alpha):
        c = jnp.exp(-jnp.exp(2 * log_scale) / s**2)
        large, small = (1 + (n - 1) * c) / n, (1 - c) / n
        if alpha == 1:
            entropies = -large * jnp.log(large)
            return entropies - (n - 1) * small * jnp.log(small)
        total = large**alpha + (n - 1) * small**alpha
        return jnp.log(total) / (1 - alpha)

    with jax.enable_x64(True):
        found = evaluate(simplex, s)
        for alpha in ALPHAS:
            value, gradient = found[f"matrix_{alpha}"]
            expected, slope = jax.value_and_grad(closed_form)(0.0, alpha)
            np.testing.assert_allclose(value, expected, rtol=1e-12)
            np.testing.assert_allclose(
                jnp.sum(simplex * gradient), slope, rtol=1e-10
            )


def test_copies_change_no_value_and_share_the_gradient():
    z = np.repeat(normal(10), 2, axis=0)
    with jax.enable_x64(True):
        twice, once = evaluate(z), evaluate(z, mask=np.arange(20) % 2 == 0)
    for name, (value, gradient) in once.items():
        np.testing.assert_allclose(twice[name][0], value, rtol=1e-9)
        # The ten eigenvalues 0 are dropped, and leave no trace above this.
        for half in (twice[name][1][::2], twice[name][1][1::2]):
            np.testing.assert_allclose(
                2 * np.asarray(half), gradient[::2], atol=1e-9
            )


@pytest.mark.parametrize("alpha", ALPHAS)
def test_one_and_two_rows_match_their_closed_forms(alpha):
    with jax.enable_x64(True):
        one = entropy.matrix_renyi(np.ones((1, 3)), bandwidth=1.0, alpha=alpha)
        assert one.value == 0
        pair = np.array([[0.0, 0.0], [1.0, 1.0]])
        two = entropy.matrix_renyi(pair, bandwidth=1.0, alpha=alpha).value
    p = (1 + np.exp([-1.0]) * [1, -1]) / 2
    expected = scipy.stats.entropy(p)
    if alpha != 1:
        expected = np.log(np.sum(p**alpha)) / (1 - alpha)
    np.testing.assert_allclose(two, expected, rtol=1e-12)


def test_far_latents_have_log_n():
    z = np.float32(1e3 * normal())
    for name, (value, gradient) in evaluate(z).items():
        if name != "renyi2":
            assert float(value) == pytest.approx(math.log(20), abs=1e-5)
        np.testing.assert_array_equal(gradient, 0)


@pytest.mark.parametrize("alpha", [0, -1.0, math.inf, math.nan, "2"])
def test_an_order_that_is_not_positive_is_refused(alpha):
    with pytest.raises(ValueError, match="alpha is .* finite positive number"):
        entropy.matrix_renyi(jnp.ones((4, 2)), bandwidth=1.0, alpha=alpha)


def test_a_traced_order_is_refused():
    z = jnp.ones((4, 2))
    with pytest.raises(ValueError, match="known while tracing"):
        jax.jit(lambda a: entropy.matrix_renyi(z, alpha=a).value)(2.0)


@pytest.mark.parametrize("estimator", [entropy.renyi2, entropy.matrix_renyi])
def test_memory_grows_linearly_and_no_square_buffer_exists(estimator):
    def value(z):
        return estimator(z, bandwidth=1.0).value

    sizes = []
    for n in (8192, 16384):
        z = jax.ShapeDtypeStruct((n, 8), jnp.float32)
        compiled = jax.jit(jax.value_and_grad(value)).lower(z).compile()
        sizes.append(compiled.memory_analysis().temp_size_in_bytes)
        assert f"[{n},{n}]" not in compiled.as_text()
    # Linear, with the constant size of a tile: below a factor of 2.
    assert sizes[1] < 2.2 * sizes[0]
