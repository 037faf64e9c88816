import math

import jax
import numpy as np
import pytest
import scipy.special
import scipy.stats

from aeent_jax import entropy

# 2048 rows fit, 2048 measure, and the means have standard errors of
# sqrt(dim / 2 / 2048) nats, 0.016 in one dimension and 0.031 in four.
FITTED = 4096


def normal_rows(n, dim):
    return np.float32(np.random.default_rng(0).normal(size=(n, dim)))


def gaussian_entropy(scale, dim=1):
    return dim * (0.5 * math.log(2 * math.pi * math.e) + math.log(scale))


def two_gaussians(x):
    return 0.5 * (
        scipy.stats.norm.pdf(x, -3, 1) + scipy.stats.norm.pdf(x, 3, 0.5)
    )


def dithered(z, width=1.0, seed=7):
    u = np.random.default_rng(seed).uniform(-0.5, 0.5, size=z.shape)
    return np.float32(z + width * u)


def fit(name, z, **arguments):
    return entropy.fit_learned(name, jax.random.key(0), z, **arguments)


@pytest.mark.parametrize("dim", [1, 4])
def test_fitted_mixture_comes_near_the_entropy_of_a_gaussian(dim):
    # Far from where the parameters start, in place and in scale.
    z = 1e4 + 1e3 * normal_rows(FITTED, dim)
    found = fit("mixture", z)
    assert found.kind == "h"
    assert found.per_query.shape == (FITTED // 2,)
    # Three standard errors, and above them what 16 Gaussians overfit.
    error = found.value - gaussian_entropy(1e3, dim)
    assert -0.05 * math.sqrt(dim) < error < 0.05 * math.sqrt(dim) + 0.03 * dim


def test_fitted_mixture_comes_near_the_entropy_of_two_gaussians():
    z = normal_rows(FITTED, 1)
    # One after the other: the rows to fit must be drawn from both.
    right = np.arange(FITTED)[:, None] >= FITTED // 2
    z = np.where(right, 3 + 0.5 * z, -3 + z)
    density = two_gaussians(np.arange(-12, 12, 0.01))
    truth = np.sum(scipy.special.entr(density)) * 0.01
    # Three standard errors, and what 16 Gaussians overfit.
    assert -0.06 < fit("mixture", z).value - truth < 0.08


def test_full_covariance_sees_a_correlation_that_the_diagonal_cannot():
    covariance = np.array([[4, 1.8], [1.8, 1]])
    z = normal_rows(FITTED, 2) @ np.float32(np.linalg.cholesky(covariance)).T
    full, diagonal = (
        fit("mixture", z, components=1, covariance=name).value
        for name in ("full", "diagonal")
    )
    truth = scipy.stats.multivariate_normal(cov=covariance).entropy()
    # Three standard errors of 2048 rows in two dimensions.
    assert full == pytest.approx(truth, abs=0.07)
    # One Gaussian without correlation pays the mutual information.
    assert diagonal - full == pytest.approx(-0.5 * math.log(1 - 0.81), abs=0.07)


def test_fitted_code_has_the_length_of_the_shannon_entropy():
    # A Gaussian rounded to integers.
    z = np.round(3 * normal_rows(FITTED, 1))
    edges = np.arange(-40.5, 41)
    cells = np.diff(scipy.stats.norm.cdf(edges, scale=3))
    shannon = np.sum(scipy.special.entr(cells))
    found = fit("quantised", dithered(z))
    # Three standard errors; 9 free numbers a layer overfit little.
    assert -0.05 < found.value - shannon < 0.08


def test_fitted_code_needs_log_n_nats_for_n_equal_integers():
    z = np.random.default_rng(0).integers(0, 10, size=(FITTED, 1))
    found = fit("quantised", dithered(z))
    # A smooth density rounds the two edges off; an upper bound all the same.
    assert 0 < found.value - math.log(10) < 0.2


def test_fitted_code_of_a_wide_gaussian_is_its_entropy_in_widths():
    width = 0.25
    z = dithered(25 * normal_rows(FITTED, 1), width)
    found = fit("quantised", z, width=width)
    # 100 widths wide, the law is the Gaussian's own; three standard errors.
    assert -0.05 < found.value - gaussian_entropy(25) < 0.08


def test_fit_is_decided_by_the_key():
    z = dithered(3 * normal_rows(FITTED, 1))
    first, again = fit("quantised", z), fit("quantised", z)
    assert first.value == again.value
    other = entropy.fit_learned("quantised", jax.random.key(1), z)
    assert first.value != other.value


def test_estimate_is_of_rows_that_were_not_fitted():
    # 16 Gaussians learn 16 rows by heart, which tells nothing of the others.
    z = normal_rows(32, 4)
    found = fit("mixture", z, batch_size=16)
    assert found.value > 1.5 * gaussian_entropy(1, 4)


def test_constant_dimension_has_a_finite_bound_wherever_it_is():
    # The mean of 16 times 7.3 is not 7.3 in float32.
    z = normal_rows(32, 4)
    found = []
    for constant in (0, 7.3):
        z[:, 1] = constant
        found.append(fit("mixture", z, batch_size=16).value)
    assert np.isfinite(found[0])
    assert found[1] == found[0]


def test_bad_latents_give_nan_after_fitting():
    z = normal_rows(32, 4)
    z[5] = np.nan
    assert np.isnan(fit("mixture", z, batch_size=16).value)


@pytest.mark.parametrize(
    ("name", "rows", "arguments", "message"),
    [
        ("mix", 8, {}, "is 'mix', and one of .*spelling"),
        ("mixture", 3, {}, "has 3 rows, .*at least 4: pass more latents"),
        ("mixture", 8, {"steps": 0}, "steps is 0, and an integer"),
        ("mixture", 8, {"batch_size": 0}, "batch_size is 0, and an integer"),
        ("mixture", 8, {"width": 2.0}, "width is 2.0, .*'mixture' takes none"),
        ("quantised", 8, {"width": -1.0}, "width is -1.0, and a positive"),
        ("quantised", 8, {"width": "a"}, "width is 'a', and a positive"),
        ("mixture", 8, {"learning_rate": 0}, "learning_rate is 0, and a pos"),
        (
            "mixture",
            8,
            {"component": 2},
            "component is given to the estimator 'mixture', and one of"
            r" components, covariance is needed",
        ),
        ("quantised", 8, {"k": 2}, "k is given to .*'quantised', and none is"),
    ],
)
def test_bad_fit_is_refused(name, rows, arguments, message):
    with pytest.raises(ValueError, match=message):
        fit(name, normal_rows(rows, 2), **arguments)


@pytest.mark.parametrize("name", ["mixture", "quantised"])
def test_fit_follows_the_unit_of_the_latents(name):
    z = normal_rows(11, 2)
    widths = ({}, {}) if name == "mixture" else ({"width": 1}, {"width": 3})
    one, three = (
        float(fit(name, rows, steps=20, **width).value)
        for rows, width in zip((z, 3 * z + 5), widths, strict=True)
    )
    # float32, whose rounding 20 steps of Adam amplify.
    assert three == pytest.approx(float(one) + 2 * math.log(3), abs=1e-2)
