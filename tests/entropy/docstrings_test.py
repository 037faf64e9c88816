"""The entropy library against what its docstrings promise, and only that."""

import itertools
import math

import jax
import numpy as np
import pytest
from scipy import special, stats

from aeent_jax import entropy

# float32 sums of a few hundred terms of order 1 to 10.
_ROUNDING = 2e-5
_LOG_2PI = math.log(2 * math.pi)
_NUM_ROWS, _DIM = 64, 3
_SIGMA = 0.5
_KERNELS = ("kde_loo", "kde_resub", "kde_kl", "kde_bd", "renyi2")
_ALL = (*_KERNELS, "kde_marginal", "knn", "gaussian", "vasicek", "histogram")


def _near(expected, error=_ROUNDING):
    return pytest.approx(expected, abs=error)


def _normal(seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(_NUM_ROWS, _DIM)).astype(np.float32)


def _clusters():
    """Points 40 sigma apart, each taken by a fourth of the rows."""
    rows = np.arange(_NUM_ROWS)[:, None] % 4
    return np.float32(40 * _SIGMA) * rows * np.eye(1, _DIM, dtype=np.float32)


def _measure(name, z, *args, **kwargs):
    if entropy.ESTIMATORS[name].noise_argument == "bandwidth":
        kwargs.setdefault("bandwidth", _SIGMA)
    return entropy.ESTIMATORS[name].function(z, *args, **kwargs)


def _value(name, z, *args, **kwargs):
    return float(_measure(name, z, *args, **kwargs).value)


def _rate(name, z, **kwargs):
    estimate = _measure(name, z, **kwargs)
    return float(entropy.to_rate(estimate, _SIGMA, z.shape[1]))


def test_distant_clusters_have_a_rate_of_the_log_of_their_number():
    for name in ("kde_kl", "kde_bd", "matrix_renyi"):
        assert _rate(name, _clusters()) == _near(math.log(4))
    expected = math.log(4) + _DIM / 2 * (math.log(2) - 1)
    assert _rate("renyi2", _clusters()) == _near(expected)
    # Of n - 1 others, n/4 - 1 are in the query's cluster.
    expected = math.log(63 / 15) - _DIM / 2
    assert _rate("kde_loo", _clusters()) == _near(expected)


def test_bounds_of_the_mixture_are_in_order():
    value = {name: _value(name, _normal()) for name in _KERNELS}
    # Random rows leave gaps of tenths of a nat: no tolerance is needed.
    assert value["kde_bd"] < value["kde_kl"]
    assert value["renyi2"] < value["kde_kl"]
    assert value["kde_resub"] < value["kde_loo"]
    gap = value["kde_kl"] - value["kde_resub"]
    assert gap == _near(_DIM / 2)


@pytest.mark.parametrize("name", ["kde_kl", "kde_bd", "matrix_renyi"])
def test_rates_reach_both_ends_of_their_range_and_never_pass_them(name):
    z = _normal()
    assert _rate(name, 0 * z) == _near(0)
    assert 0 < _rate(name, z) < math.log(_NUM_ROWS)
    apart = np.arange(_NUM_ROWS, dtype=np.float32)[:, None]
    # Neighbours at 20 sigma overlap by less than exp(-50).
    assert _rate(name, 10 * apart) == _near(math.log(_NUM_ROWS))


def test_matrix_renyi_of_order_2_is_renyi2_at_half_the_bandwidth():
    half = _value("renyi2", _normal(), bandwidth=_SIGMA / 2)
    expected = half - _DIM / 2 * math.log(math.pi * _SIGMA**2)
    assert _value("matrix_renyi", _normal(), alpha=2) == _near(expected)


def test_gaussian_and_coding_rate_of_a_box_have_closed_forms():
    # All corners of a box: the covariance is exactly diag(a^2).
    sides = np.array([0.5, 1.0, 3.0], np.float32)
    box = sides * np.array(list(itertools.product((-1, 1), repeat=3)))
    value = _value("gaussian", box, shrinkage="none")
    expected = 1.5 * (_LOG_2PI + 1) + np.log(sides).sum()
    assert value == _near(expected)
    value = _value("coding_rate", box, sigma=_SIGMA)
    expected = 0.5 * np.log1p(sides**2 / _SIGMA**2).sum()
    assert value == _near(expected)


def test_spacings_of_an_even_grid_have_closed_forms():
    n, step, m = 100, 0.25, 5
    grid = np.arange(n, dtype=np.float32)[:, None] * np.float32(step)
    # At j rows from an end the spacing is m + j steps in place of 2m.
    ends = 2 / n * np.log((m + np.arange(m)) / (2 * m)).sum()
    value = _value("vasicek", grid, spacing=m)
    expected = math.log(n * step) + ends
    assert value == _near(expected)
    # The unit ball of one dimension has volume 2; r is one step, and at k = 2
    # it is two steps for the two rows at the ends.
    for k, far in ((1, 0.0), (2, 2 / n * math.log(2))):
        expected = special.digamma(n) - special.digamma(k) + far
        expected += math.log(2 * step)
        value = _value("knn", grid, k=k)
        assert value == _near(expected)


def test_histogram_of_gaussian_quantiles_is_a_gaussians_entropy():
    quantiles = stats.norm.ppf((np.arange(512) + 0.5) / 512)[:, None]
    value = _value("histogram", quantiles.astype(np.float32), num_bins=32)
    # Documented blur of .005; the missing tails cost less than .02.
    assert value == _near(0.5 * (_LOG_2PI + 1), 0.02)


@pytest.mark.parametrize("name", _ALL)
def test_entropy_follows_translation_and_scale(name):
    z = _normal()
    entry = entropy.ESTIMATORS[name]
    scaled = {"bandwidth": 3 * _SIGMA} if entry.noise_argument else {}
    moved = _value(name, 3 * z + 2, **scaled)
    expected = _value(name, z) + _DIM * math.log(3)
    # The shift costs digits of the coordinates, a few eps times 5 spreads.
    assert moved == _near(expected, 1e-4)


@pytest.mark.parametrize("name", [*_ALL, "matrix_renyi", "coding_rate"])
def test_masked_rows_may_hold_nan_and_valid_ones_make_the_value_nan(name):
    z = _normal()
    padded = np.concatenate([z, np.full((8, _DIM), np.nan, np.float32)])
    mask = np.arange(len(padded)) < _NUM_ROWS
    estimate = _measure(name, padded, query_mask=mask)
    assert float(estimate.value) == _near(_value(name, z), 1e-4)
    assert math.isnan(_value(name, padded))


def test_a_query_from_elsewhere_leaves_no_sample_out():
    z, index = _normal(), np.full(_NUM_ROWS, -1)
    outside = _value("kde_loo", z, z, index)
    assert outside == _near(_value("kde_resub", z))
    grid = np.arange(8, dtype=np.float32)[:, None]
    query = np.array([[3.25]], np.float32)
    expected = special.digamma(9) - special.digamma(1) + math.log(0.5)
    assert _value("knn", query, grid, np.array([-1]), k=1) == _near(expected)


@pytest.mark.parametrize("name", ["gaussian", "vasicek", "histogram", "knn"])
def test_equal_rows_have_entropy_minus_infinity(name):
    assert _value(name, np.ones((32, 2), np.float32)) == -math.inf


def test_noise_entropy_is_taken_off_for_a_rate():
    estimate = entropy.Estimate(value=np.float32(5), kind="h")
    gaussian = float(entropy.to_rate(estimate, 2.0, 3))
    expected = 5 - 1.5 * (_LOG_2PI + 1) - 3 * math.log(2)
    assert gaussian == _near(expected)
    # A uniform law of standard deviation 2 is 2 sqrt(12) wide.
    uniform = float(entropy.to_rate(estimate, 2.0, 3, noise="uniform"))
    expected = 5 - 3 * math.log(2 * math.sqrt(12))
    assert uniform == _near(expected)


def test_bracket_of_distant_clusters_is_counted():
    key = jax.random.key(0)
    bracket = entropy.mutual_information(_clusters(), key, _SIGMA)
    # No cluster is taken for another; at 100 sigma exponents round by 1e-3.
    assert float(bracket.low) == _near(math.log(4), 1e-3)
    assert float(bracket.up) == _near(math.log(63 / 15), 1e-3)
    far = entropy.mutual_information(1e3 * _normal(), key, _SIGMA)
    assert float(far.low) <= math.log(_NUM_ROWS) + 1e-3
    assert float(far.up) > float(far.low)


def test_total_correlation_is_that_of_the_sample_correlation():
    z = _normal()[:, :2] @ np.array([[1, 0.8], [0, 0.6]], np.float32)
    r = np.corrcoef(z.T.astype(np.float64))[0, 1]
    value = float(entropy.total_correlation(z))
    assert value == _near(-0.5 * math.log1p(-(r**2)))


@pytest.mark.parametrize("how", ["per_dimension", "whitened"])
def test_rescaling_moves_entropy_into_the_log_determinant(how):
    z = _normal() * np.array([0.1, 1, 10], np.float32)
    scaled, log_det = entropy.rescale(z, how)
    value = _value("gaussian", scaled, shrinkage="none") + float(log_det)
    expected = _value("gaussian", z, shrinkage="none")
    # Variances 1e4 apart cost four digits of the determinant at the most.
    assert value == _near(expected, 1e-3)


def test_sampled_queries_state_their_standard_error():
    entry, z = entropy.ESTIMATORS["kde_loo"], _normal()
    hyper = {"rng": jax.random.key(3), "bandwidth": _SIGMA}
    some = entropy.sample_queries(entry, z, max_queries=32, **hyper)
    deviation = np.std(np.asarray(some.per_query), ddof=1)
    expected = deviation / math.sqrt(32) * math.sqrt(1 - 32 / _NUM_ROWS)
    error = float(some.diagnostics["standard_error"])
    assert error == pytest.approx(expected, rel=1e-4)
    # Five standard errors, for a choice that one key has made.
    assert abs(float(some.value) - _value("kde_loo", z)) < 5 * error


def test_a_fitted_mixture_is_an_upper_bound():
    z = np.random.default_rng(2).normal(size=(512, 2)).astype(np.float32)
    fit = entropy.fit_learned("mixture", jax.random.key(0), z, steps=100)
    assert fit.per_query.shape == (256,)
    # -log p of a Gaussian has variance dim/2 = 1: 256 rows, four deviations.
    excess = float(fit.value) - (_LOG_2PI + 1)
    assert -4 / math.sqrt(256) < excess < 1


@pytest.mark.parametrize(
    ("name", "hyper"),
    [
        ("renyi2", {"bandwidth": "no such rule"}),
        ("kde_loo", {"bandwidth": 0.0}),
        ("knn", {"k": 3}),
        ("gaussian", {"shrinkage": "none"}),
        ("vasicek", {"spacing": 2}),
    ],
)
def test_bad_arguments_are_refused_in_words(name, hyper):
    with pytest.raises(ValueError, match=r"\w+ \w+ \w+"):
        _measure(name, _normal()[:3], **hyper)
