"""What the docstrings of `aeent_jax.entropy` promise, each as a test.

Written from `help(entropy)` alone. Expected numbers are derived here, in
float64 NumPy; values are compared to 1e-4, a hundred times float32's rounding
of sums of a dozen terms of order ten.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special

from aeent_jax import entropy

N, DIM, S = 12, 2, 0.5
RNG = np.random.default_rng(7)
Z = RNG.normal(size=(N, DIM)) * [1.0, 1.5] + [0.3, -0.2]
X = jnp.asarray(Z, jnp.float32)
FAR = X.at[:, 0].set(1e3 * jnp.arange(N))
SAME = jnp.ones((N, DIM))
KEY = jax.random.key(0)
FEW = jnp.arange(N) < N - 3
HOLED = jnp.where(FEW[:, None], X, jnp.nan)
TABLE = entropy.ESTIMATORS
MEASURING = [name for name in TABLE if name != "none"]
KERNELS = [n for n in TABLE if TABLE[n].noise_argument == "bandwidth"]
close = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-4)


def _squares(q, z):
    return ((q[:, None] - z[None]) ** 2).sum(-1)


def _kernels(q, z, s):
    log_norm = z.shape[1] / 2 * np.log(2 * np.pi * s**2)
    return -_squares(q, z) / (2 * s**2) - log_norm


def _noise(s, dim=DIM):
    return dim / 2 * np.log(2 * np.pi * np.e * s**2)


def _off_diagonal(a):
    return np.where(np.eye(len(a), dtype=bool), -np.inf, a)


@functools.cache
def _batched(name):
    """Values and gradients of a stack of latents, under jit and vmap."""

    def value(z, mask):
        return TABLE[name](z, query_mask=mask).value

    return jax.jit(jax.vmap(jax.value_and_grad(value)))


@functools.cache
def _stack(name):
    angle = 0.7
    turn = jnp.array(
        [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    )
    bad = X.at[3, 0].set(jnp.nan), X.at[3, 0].set(jnp.inf)
    z = jnp.stack([X, 3 * X + 5, X @ turn, HOLED, *bad])
    mask = jnp.ones((6, N), bool).at[3].set(FEW)
    value, grad = jax.device_get(_batched(name)(z, mask))
    assert value.dtype == np.float32
    return value, grad


def _rate(name, *latents):
    return entropy.to_rate(TABLE[name](*latents, bandwidth=S), S, DIM)


def _sample(entry, z=X, **kwargs):
    return entropy.sample_queries(entry, z, rng=KEY, **kwargs)


def test_bounds_hold_the_entropy_of_the_mixture_of_kernels():
    x = Z[:, :1]
    grid = np.linspace(-8, 8, 8001)[:, None]
    log_p = special.logsumexp(_kernels(grid, x, S), axis=1) - np.log(N)
    mixture = -(np.exp(log_p) * log_p).sum() * (grid[1, 0] - grid[0, 0])

    def value(name, **hyper):
        return float(TABLE[name](jnp.float32(x), bandwidth=S, **hyper).value)

    assert value("kde_bd") < mixture < value("kde_kl")
    assert value("renyi2") < mixture
    rate = mixture - _noise(S, dim=1)
    for alpha in (1, 0.5):
        assert value("matrix_renyi", alpha=alpha) > rate


@pytest.mark.parametrize("name", KERNELS)
def test_rates_run_from_equal_latents_to_distant_ones(name):
    def rate(z):
        estimate = TABLE[name](z, bandwidth=S)
        return entropy.to_rate(estimate, S, DIM)

    floors = {"kde_bd": 0, "kde_kl": 0, "matrix_renyi": 0}
    low = {**floors, "renyi2": DIM / 2 * np.log(2 / np.e)}.get(name, -DIM / 2)
    close(rate(SAME), low)
    if TABLE[name].includes_self:
        close(rate(FAR), low + np.log(N))
    else:  # does not saturate
        assert rate(FAR) > 1e5


def test_a_query_from_elsewhere_sees_every_sample():
    nowhere = jnp.full(N, -1)
    got = entropy.kde_loo(X, X, nowhere, bandwidth=S).per_query
    close(got, entropy.kde_resub(X, bandwidth=S).per_query)
    other = Z + 0.1
    radius = np.sort(np.sqrt(_squares(other, Z)), axis=1)[:, 2]
    want = special.psi(N + 1) - special.psi(3) + np.log(np.pi)
    got = entropy.knn(jnp.float32(other), X, nowhere).per_query
    close(got, want + DIM * np.log(radius))


@pytest.mark.parametrize("k", [1, 3, N - 1])
def test_knn_is_its_formula_and_its_gradient(k):
    distance = np.sqrt(_off_diagonal(-_squares(Z, Z)) * -1)
    nearest = np.argsort(distance, axis=1)[:, k - 1]
    radius = distance[np.arange(N), nearest]
    want = special.psi(N) - special.psi(k) + np.log(np.pi)
    close(entropy.knn(X, k=k).per_query, want + DIM * np.log(radius))
    grad = jax.grad(lambda q: entropy.knn(q, X, jnp.arange(N), k=k).value)(X)
    close(grad, DIM * (Z - Z[nearest]) / radius[:, None] ** 2 / N)


def test_two_bins_read_log_of_eight_deviations_twice():
    # Centres at 4 deviations to either side share every value, and the mean
    # falls between them: p is 1/2 and 1/2 whatever the data are.
    want = np.log(2 * 8 * Z.std(axis=0)).sum()
    close(entropy.histogram(X, num_bins=2).value, want)
    corrected = entropy.histogram(X, num_bins=2, miller_madow=True).value
    close(corrected, want + DIM / (2 * N))
    flat, grad = jax.value_and_grad(lambda z: entropy.histogram(z).value)(SAME)
    assert flat == -np.inf
    assert (grad == 0).all()


def _deviation(z):
    return np.sqrt(z.var(axis=0, ddof=1).mean())


def test_loo_ml_is_least_over_bandwidths_and_its_gradient_that_of_a_number():
    s = entropy.RULES["loo_ml"](X, jnp.ones(N, bool))

    def value(z, b):
        return entropy.kde_loo(z, bandwidth=b).value

    least = value(X, "loo_ml")
    close(least, value(X, s))
    assert least < value(X, 0.95 * s)
    assert least < value(X, 1.05 * s)
    assert s**2 <= 2 * _deviation(Z) ** 2
    close(jax.grad(value)(X, "loo_ml"), jax.grad(value)(X, float(s)))
    twins = jnp.concatenate([X, X])
    low = entropy.RULES["loo_ml"](twins, jnp.ones(2 * N, bool))
    close(low / _deviation(np.asarray(twins)), 1e-3, rtol=1e-2, atol=0)


def test_the_bracket_holds_the_rate_of_gaussian_latents_in_expectation():
    draws = jax.random.normal(KEY, (256, N, DIM))
    keys = jax.random.split(jax.random.key(1), 256)
    measure = jax.vmap(lambda z, key: entropy.mutual_information(z, key, 1.0))
    low, up = (ends.mean() for ends in measure(draws, keys))
    true = DIM / 2 * np.log(2)
    assert low < true < up  # by .07 and .15, four standard errors and six


def test_sampled_queries_are_unbiased_with_the_stated_error():
    def sample(key):
        return entropy.sample_queries(
            TABLE["kde_loo"], X, max_queries=5, rng=key, bandwidth=S
        )

    got = jax.vmap(sample)(jax.random.split(KEY, 500))
    assert got.per_query.shape == (500, 5)
    every = np.asarray(entropy.kde_loo(X, bandwidth=S).per_query)
    error = every.std(ddof=1) / np.sqrt(5) * np.sqrt(1 - 5 / N)
    # Five standard errors of a mean of 500; the variance is unbiased as well.
    assert abs(got.value.mean() - every.mean()) < 5 * error / np.sqrt(500)
    squares = (got.diagnostics["standard_error"] ** 2).mean()
    close(squares, error**2, rtol=0.2)
    assert all(len(np.unique(row)) == 5 for row in np.asarray(got.per_query))


def test_quantised_is_a_density_in_units_of_its_width():
    learned = entropy.LEARNED["quantised"]
    params = learned.init(KEY, 1)
    grid = jnp.linspace(-400, 400, 8001)[:, None]
    log_p = -learned.apply(params, grid, width=1.0).per_query
    close(jnp.exp(log_p).sum() * 0.1, 1, atol=1e-3)
    one = learned.apply(params, X[:, :1], width=1.0).per_query
    three = learned.apply(params, 3 * X[:, :1], width=3.0).per_query
    close(three, one + np.log(3))
    far = jax.grad(lambda z: learned.apply(params, z, width=1.0).value)(
        1e9 * X[:, :1]
    )
    assert jnp.isfinite(far).all()


@pytest.mark.parametrize("name", entropy.LEARNED)
def test_a_fit_holds_out_half_and_follows_the_unit_of_the_latents(name):
    takes_width = entropy.LEARNED[name].noise_argument is not None

    def fit(z, a):
        width = {"width": a} if takes_width else {}
        return entropy.fit_learned(name, KEY, z, steps=20, **width)

    odd = X[: N - 1]
    got = fit(odd, 1.0)
    assert got.kind == "h"
    assert got.per_query.shape == (N - 1 - (N - 1) // 2,)
    assert (fit(odd, 1.0).per_query == got.per_query).all()
    close(fit(3 * odd + 5, 3.0).value, got.value + DIM * np.log(3), atol=1e-2)


@pytest.mark.parametrize("name", MEASURING)
def test_symmetries_masks_and_bad_numbers(name):
    value, grad = _stack(name)
    kind = TABLE[name](X).kind
    close(value[0], TABLE[name](X).value)  # jit and vmap change nothing
    if name != "coding_rate":  # its sigma has the unit of the latents
        close(value[1] - value[0], DIM * np.log(3) if kind == "h" else 0)
    if name not in ("kde_marginal", "histogram", "vasicek"):
        close(value[2], value[0])
    close(value[3], TABLE[name](X[: N - 3]).value)
    assert np.isfinite(grad[3]).all()
    assert (grad[3][N - 3 :] == 0).all()
    assert np.isnan(value[4:]).all()
    close(grad[0].sum(0), 0, atol=1e-3)
    # Euler: an entropy gains dim nats as all latents grow by a factor of e.
    cov = np.cov(Z.T, bias=True)
    degree = {
        "matrix_renyi": 0,
        "coding_rate": np.trace(cov @ np.linalg.inv(np.eye(DIM) + cov)),
    }.get(name, DIM)
    close((grad[0] * Z).sum(), degree, atol=1e-3)


def test_rescaling_keeps_the_entropy_and_follows_the_latents():
    mix = jnp.array([[2.0, 0.5], [-1.0, 1.5]])
    changes = {"per_dimension": jnp.diag(mix.diagonal()), "whitened": mix}
    for how, change in changes.items():
        z, log_det = entropy.rescale(X, how)
        close(z.mean(0), 0)
        close(z.var(0, ddof=1), 1)
        plain = entropy.gaussian(X, shrinkage="none").value
        close(entropy.gaussian(z, shrinkage="none").value + log_det, plain)
        other, other_det = entropy.rescale(X @ change, how)
        gain = entropy.knn(other).value + other_det
        gain -= entropy.knn(z).value + log_det
        close(gain, np.linalg.slogdet(change)[1])


# What the docstrings say and the functions do not: reason, and the statement.
REFUSALS = (
    lambda: entropy.kde_loo(X, X[:, :1]),
    lambda: entropy.kde_loo(X, bandwidth="scot"),
    lambda: entropy.kde_resub(X, bandwidth=0.0),
    lambda: entropy.knn(X[:3], k=3),
    lambda: entropy.gaussian(X[:2], shrinkage="none"),
    lambda: entropy.gaussian(X, bias_correction=True),
    lambda: entropy.vasicek(X, spacing=N // 2),
    lambda: entropy.matrix_renyi(X, alpha=0),
    lambda: entropy.mutual_information(X[:1], KEY, S),
    lambda: entropy.rescale(X[:2], "whitened"),
    lambda: entropy.total_correlation(X, method="pearson"),
    lambda: entropy.total_correlation(X[:2]),
    lambda: _sample(TABLE["gaussian"], max_queries=5),
    lambda: _sample(TABLE["kde_loo"], max_queries=5, noisy=X[:5]),
    lambda: _sample(TABLE["kde_loo"], max_queries=5, sample_mask=FEW),
    lambda: entropy.fit_learned("mixture", KEY, X[:3]),
    lambda: entropy.fit_learned("mixture", KEY, X, width=1.0),
    lambda: entropy.fit_learned("flow", KEY, X),
    lambda: entropy.to_rate(entropy.kde_resub(X, bandwidth=S), S, DIM, "x"),
)


def test_refusals_are_one_sentence():
    for call in REFUSALS:
        with pytest.raises(ValueError, match="^[^\n]+: [^\n]+[.]$"):
            call()
