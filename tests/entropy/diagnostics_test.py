import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from aeent_jax import entropy
from aeent_jax.entropy import diagnostics

# A key of no latents below, whose noise would repeat them.
KEY = jax.random.key(20240607)


def normal(n, dim, seed=0):
    return jax.random.normal(jax.random.key(seed), (n, dim))


def measure(z, sigma=1.0, mask=None, rng=KEY):
    return diagnostics.channel_diagnostics(z, rng, sigma, mask)


def test_matches_the_definitions_on_the_valid_rows():
    n, dim, sigma = 40, 16, 1.7
    with jax.enable_x64(True):
        full = np.random.default_rng(0).normal(size=(64, dim))
        full[n:] = np.nan
        got = measure(full, sigma, np.arange(64) < n)
        noise = np.asarray(jax.random.normal(KEY, full.shape, jnp.float64))
    z, noise = full[:n], noise[:n]
    noisy = z + sigma * noise
    kernel = np.exp(-((noisy[:, None] - z[None]) ** 2).sum(-1) / (2 * sigma**2))
    own = -0.5 * (noise**2).sum(1)
    weight = kernel / kernel.sum(1, keepdims=True)
    mean = weight @ z
    spread = ((z[None] - mean[:, None]) ** 2).sum(-1)
    clean = np.exp(-((z[:, None] - z[None]) ** 2).sum(-1) / (2 * sigma**2))
    others = kernel.sum(1) - np.diag(kernel)
    covariance = np.cov(z.T, ddof=0)
    share = np.linalg.eigvalsh(covariance) / np.trace(covariance)
    _, logdet = np.linalg.slogdet(np.eye(dim) + covariance / sigma**2)
    expected = {
        "rate_low": np.mean(own - np.log(kernel.sum(1))) + np.log(n),
        "rate_up": np.mean(own - np.log(others)) + np.log(n - 1),
        "rho": np.mean((weight * spread).sum(1)) / sigma**2,
        "saturation": 1 - np.mean(np.log(clean.sum(1))) / np.log(n),
        "coding_rate": 0.5 * logdet,
        "effective_rank": np.exp(-np.sum(share * np.log(share))),
        "variance": np.diag(covariance),
    }
    assert set(got) == set(expected)
    for name, value in expected.items():
        # float64 against float64.
        np.testing.assert_allclose(got[name], value, rtol=1e-11, err_msg=name)


@jax.jit
def measure_sets(z, sigma):
    """The means over eight sets `[8, n, dim]`, each with noise of its own."""
    keys = jax.random.split(KEY, 8)
    found = jax.vmap(measure, (0, None, None, 0))(z, sigma, None, keys)
    return jax.tree.map(lambda v: jnp.mean(v, 0), found)


@pytest.mark.parametrize(
    ("n", "dim"),
    [
        (256, 8),
        (1024, 64),
        pytest.param(256, 64, marks=pytest.mark.slow),
        pytest.param(1024, 2, marks=pytest.mark.slow),
        pytest.param(4096, 16, marks=pytest.mark.slow),
    ],
)
def test_bracket_is_within_its_promise_of_the_true_rate(n, dim):
    # The largest rate for which 0.3 nat are promised at this n.
    rate = math.log(n) - 3
    sigma = 1 / math.sqrt(math.exp(2 * rate / dim) - 1)
    found = measure_sets(normal(8 * n, dim).reshape(8, n, dim), sigma)
    # Four standard errors of the mean of eight sets; one scatters by .13 at
    # n = 256 and less above.
    slack = 4 * 0.13 * math.sqrt(256 / n / 8)
    assert rate - 0.3 - slack < found["rate_low"] < rate + slack
    assert rate - slack < found["rate_up"] < rate + 0.3 + slack


def test_rho_counts_the_active_dimensions():
    # Three dimensions with variance 9 among silent ones: 3 * 9/10.
    active = jnp.where(jnp.arange(64) < 3, 3.0, 0.0)
    z = normal(8 * 1024, 64).reshape(8, 1024, 64) * active
    found = measure_sets(z, 1.0)
    # The samples' own posterior is narrower than the population's.
    assert 2.5 < found["rho"] < 2.7
    assert found["effective_rank"] == pytest.approx(3, abs=0.01)


def test_low_end_never_exceeds_log_n_and_high_end_does():
    found = measure(100 * normal(64, 16))
    # float32 of terms of about 4 nats.
    assert found["rate_low"] <= math.log(64) + 1e-5
    assert found["rate_up"] > 10 * math.log(64)
    assert found["saturation"] == pytest.approx(1, abs=1e-6)


def test_equal_latents_carry_nothing():
    found = measure(jnp.ones((64, 16)))
    for name in ("rate_low", "rho", "saturation", "coding_rate"):
        assert found[name] == pytest.approx(0, abs=1e-6)
    assert found["effective_rank"] == 0


def test_nan_in_any_latent_makes_everything_nan():
    found = measure(normal(64, 16).at[2].set(jnp.nan))
    for name, value in found.items():
        assert jnp.all(jnp.isnan(value)), name


@pytest.mark.parametrize(
    ("z", "sigma", "sentence"),
    [
        (np.ones((4, 2)), 0.0, "sigma is 0, .*infinite, so log it as null"),
        (np.ones((4, 2)), -1.0, "sigma is -1.0, and a positive number"),
        (np.ones((4, 2)), None, "sigma is None, and a positive number"),
        (np.ones((1, 2)), 1.0, "has 1 rows, .* at least 2"),
        (np.ones(4), 1.0, r"has shape \(4,\)"),
    ],
)
def test_unusable_input_is_refused(z, sigma, sentence):
    with pytest.raises(ValueError, match=sentence):
        measure(z, sigma)


def test_warning_fires_for_a_saturated_estimator_with_the_self_term():
    # T4: n = 64, dim = 16, noise half of the latents' rms.
    z = normal(64, 16)
    saturation = measure(z, 0.5)["saturation"]
    for name, entry in entropy.ESTIMATORS.items():
        sentence = diagnostics.saturation_warning(
            name, entry.includes_self, saturation, 64
        )
        if entry.includes_self:
            assert sentence is not None
            assert sentence.startswith(f"{name} is saturated: it reads 100% of")
            assert "64 latents" in sentence
            assert "Train with kde_loo or coding_rate" in sentence
        else:
            assert sentence is None


@pytest.mark.parametrize("saturation", [0.5, math.nan])
def test_no_warning_below_the_threshold_or_without_a_number(saturation):
    assert (
        diagnostics.saturation_warning("kde_kl", True, saturation, 64) is None
    )


def test_bracket_of_few_latents_holds_the_rate_in_expectation():
    draws = normal(256 * 12, 2).reshape(256, 12, 2)
    found = jax.jit(jax.vmap(measure, (0, None, None, 0)))(
        draws, 1.0, None, jax.random.split(KEY, 256)
    )
    low, up = jnp.mean(found["rate_low"]), jnp.mean(found["rate_up"])
    assert low < math.log(2) < up  # By .07 and .15, four and six errors.


def test_bracket_of_far_clusters_is_counted():
    clusters = 20.0 * (jnp.arange(64)[:, None] % 4) * jnp.eye(1, 3)
    found = measure(clusters, 0.5)
    # No cluster is taken for another; at 100 sigma exponents round by 1e-3.
    assert found["rate_low"] == pytest.approx(math.log(4), abs=1e-3)
    # Of 63 others, 15 are in the query's cluster.
    assert found["rate_up"] == pytest.approx(math.log(63 / 15), abs=1e-3)
