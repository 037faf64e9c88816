import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import optimize

from aeent_jax import theory

# The level .5 codes the first two: R = (log 8 + log 2)/2, D = .5 + .5 + .25.
VARIANCES = np.array([1.0, 4.0, 0.25])
RATE, ERROR = 2 * math.log(2), 1.25


@pytest.fixture(autouse=True)
def x64():
    with jax.enable_x64(True):
        yield


def spectrum(seed, size=40):
    """Variances over six decades, with ties and zeros."""
    rng = np.random.default_rng(seed)
    v = 10 ** rng.uniform(-6, 0, size)
    v[:3] = v[3]
    v[-4:] = 0
    return v


def by_bisection(v, rate):
    """D(R) from the definition of the level."""

    def excess(log_level):
        ratio = np.maximum(v / np.exp(log_level), 1)
        return np.log(ratio).sum() / 2 - rate

    level = math.exp(optimize.brentq(excess, -400, math.log(v.max()) + 1e-9))
    return np.minimum(v, level).sum()


def test_matches_a_spectrum_solved_by_hand():
    error = theory.gaussian_distortion_rate(VARIANCES, RATE)
    assert float(error) == pytest.approx(ERROR, rel=1e-12)
    rate = theory.gaussian_rate_distortion(VARIANCES, ERROR)
    assert float(rate) == pytest.approx(RATE, rel=1e-12)


def test_one_direction_is_the_textbook_formula():
    error = theory.gaussian_distortion_rate([3.0], 0.7)
    assert float(error) == pytest.approx(3 * math.exp(-1.4), rel=1e-12)


@pytest.mark.parametrize("rate", [1e-3, 0.5, 7.0, 60.0, 150.0])
def test_agrees_with_bisection_for_the_level(rate):
    for seed in range(3):
        v = spectrum(seed)
        found = float(theory.gaussian_distortion_rate(v, rate))
        # brentq stops at 2e-12 of a logarithm of up to 400.
        assert found == pytest.approx(by_bisection(v, rate), rel=1e-9)


def test_inverse_undoes_it():
    v = spectrum(0)
    rates = np.array([0.01, 1.0, 20.0, 100.0])
    errors = jax.vmap(theory.gaussian_distortion_rate, (None, 0))(v, rates)
    back = jax.vmap(theory.gaussian_rate_distortion, (None, 0))(v, errors)
    # Sums of 40 terms over six decades, float64.
    np.testing.assert_allclose(back, rates, rtol=1e-8)


def test_ends_are_no_code_and_a_perfect_one():
    v = spectrum(1)
    error = theory.gaussian_distortion_rate
    assert float(error(v, 0.0)) == pytest.approx(v.sum(), rel=1e-12)
    assert float(error(v, jnp.inf)) == 0
    assert float(theory.gaussian_rate_distortion(v, v.sum() * 2)) == 0
    assert float(theory.gaussian_rate_distortion(v, 0.0)) == math.inf
    assert float(error(np.zeros(3), 1.0)) == 0
    assert float(theory.gaussian_rate_distortion(np.zeros(3), 0.0)) == 0


def test_falls_convexly_with_the_slope_of_the_level():
    v = spectrum(2)
    rates = jnp.linspace(0.1, 50, 300)
    errors = jax.vmap(theory.gaussian_distortion_rate, (None, 0))(v, rates)
    slopes = jnp.diff(errors)
    assert jnp.all(slopes < 0)
    assert jnp.all(jnp.diff(slopes) > 0)
    # dD/dR = -2 level; the level at RATE is .5.
    slope = jax.grad(theory.gaussian_distortion_rate, 1)(VARIANCES, RATE)
    assert float(slope) == pytest.approx(-1.0, rel=1e-9)


def test_linear_code_attains_it_at_that_rate():
    v = spectrum(3)
    code = theory.optimal_linear_code(v, 9.0)
    signal = (1 - code.encoder_gain * code.decoder_gain) ** 2 * v
    error = jnp.sum(signal + code.decoder_gain**2)
    rate = jnp.sum(jnp.log1p(code.encoder_gain**2 * v)) / 2
    wanted = theory.gaussian_distortion_rate(v, 9.0)
    assert float(error) == pytest.approx(float(wanted), rel=1e-12)
    assert float(rate) == pytest.approx(9.0, rel=1e-12)


def test_linear_code_passes_less_of_what_is_not_gaussian():
    # X = +-1 has the variance 1, and I(X; aX + eps) by quadrature.
    code = theory.optimal_linear_code([1.0], 1.5)
    y = np.linspace(-60, 60, 400_001)
    normal = np.exp(-0.5 * (y - float(code.encoder_gain[0])) ** 2)
    density = (normal + normal[::-1]) / 2 / math.sqrt(2 * math.pi)
    entropy = -np.sum(density * np.log(np.maximum(density, 1e-300)))
    rate = entropy * (y[1] - y[0]) - 0.5 * math.log(2 * math.pi * math.e)
    assert 0.6 < rate < math.log(2) < 1.5


def test_errors_of_other_images_are_those_of_the_code_run_on_them():
    v, rate = VARIANCES, RATE
    rng = np.random.default_rng(0)
    y = rng.normal(size=(5, 3))
    code = theory.optimal_linear_code(v, rate)
    clean, noisy = theory.linear_code_error(v, rate, y**2)
    found = (code.decoder_gain * code.encoder_gain * y - y) ** 2
    np.testing.assert_allclose(clean, found.sum(1), rtol=1e-12)
    eps = rng.normal(size=(40_000, 1, 3))
    x_hat = code.decoder_gain * (code.encoder_gain * y + eps)
    # Five standard errors of the mean of squares of size 1.
    np.testing.assert_allclose(
        noisy, ((x_hat - y) ** 2).sum(2).mean(0), atol=0.03
    )


def test_excess_of_abnormal_energy_falls_with_every_nat():
    v = np.append(spectrum(4), 0.0)
    more = v * 1.5
    more[-1] = 0.01  # A lesion where normal images do not vary.
    rates = [0.0, 0.5, 2.0, 10.0, 40.0, 200.0]
    excess = []
    for rate in rates:
        clean, noisy = theory.linear_code_error(v, rate, np.stack([v, more]))
        assert float(noisy[1] - noisy[0]) == pytest.approx(
            float(clean[1] - clean[0]), rel=1e-9
        )
        excess.append(float(clean[1] - clean[0]))
    assert excess[0] == pytest.approx((more - v).sum(), rel=1e-12)
    assert all(np.diff(excess) < 0)
    # The rest lies where there is no variance.
    assert excess[-1] == pytest.approx(0.01, rel=1e-6)


def test_abnormal_images_of_less_energy_have_the_smaller_error():
    clean, _ = theory.linear_code_error(
        VARIANCES, RATE, np.stack([VARIANCES, VARIANCES / 2])
    )
    assert clean[1] < clean[0]


@pytest.mark.parametrize(
    "function",
    [theory.gaussian_distortion_rate, theory.gaussian_rate_distortion],
)
def test_nan_and_traced_negatives_give_nan(function):
    assert math.isnan(function([1.0, math.nan], 0.5))
    assert math.isnan(function([1.0, 2.0], math.nan))
    assert math.isnan(jax.jit(function)(jnp.array([1.0, -1.0]), 0.5))


def test_float32_stays_float32_and_close():
    v = spectrum(5)
    found = theory.gaussian_distortion_rate(v.astype(np.float32), np.float32(9))
    assert found.dtype == jnp.float32
    # Sums of 40 logarithms in float32.
    assert float(found) == pytest.approx(by_bisection(v, 9.0), rel=1e-5)


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (
            lambda: theory.gaussian_distortion_rate([1.0, -0.5], 1.0),
            "variances holds -0.5, and no number below 0 is possible",
        ),
        (
            lambda: theory.gaussian_distortion_rate([1.0], -1.0),
            "rate holds -1, and no number below 0",
        ),
        (
            lambda: theory.gaussian_distortion_rate([[1.0]], 1.0),
            r"variances has shape \(1, 1\), and \[directions\] is needed",
        ),
        (
            lambda: theory.gaussian_rate_distortion([1.0], [1.0, 2.0]),
            r"distortion has shape \(2,\), and a scalar is needed",
        ),
        (
            lambda: theory.linear_code_error([1.0], 1.0, np.ones((2, 3))),
            "squares have 3 columns and variances 1 entries, and one number",
        ),
    ],
)
def test_bad_inputs_are_sentences(call, sentence):
    with pytest.raises(ValueError, match=sentence):
        call()
