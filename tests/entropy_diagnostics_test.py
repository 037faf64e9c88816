import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from aeent_jax import entropy
from aeent_jax.entropy import diagnostics

# Of no latents below: with their key the noise would repeat them.
KEY = jax.random.key(20240607)


def normal(n, dim, seed=0):
    return jax.random.normal(jax.random.key(seed), (n, dim))


def measure(z, sigma=1.0, mask=None, rng=KEY):
    return diagnostics.channel_diagnostics(z, rng, sigma, mask)


def test_matches_the_definitions():
    with jax.enable_x64(True):
        z, sigma = np.random.default_rng(0).normal(size=(40, 3)), 0.7
        got = measure(z, sigma)
        noise = np.asarray(jax.random.normal(KEY, z.shape, jnp.float64))
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
    expected = {
        "rate_low": np.mean(own - np.log(kernel.sum(1))) + np.log(40),
        "rate_up": np.mean(own - np.log(others)) + np.log(39),
        "rho": np.mean((weight * spread).sum(1)) / sigma**2,
        "saturation": 1 - np.mean(np.log(clean.sum(1))) / np.log(40),
        "coding_rate": 0.5
        * np.linalg.slogdet(np.eye(3) + covariance / sigma**2)[1],
        "effective_rank": np.exp(-np.sum(share * np.log(share))),
        "variance": np.diag(covariance),
    }
    assert set(got) == set(expected)
    for name, value in expected.items():
        # float64 against float64.
        np.testing.assert_allclose(got[name], value, rtol=1e-11, err_msg=name)


@pytest.mark.parametrize(("n", "dim"), [(256, 8), (1024, 2), (1024, 64)])
def test_bracket_is_within_its_promise_of_the_true_rate(n, dim):
    # The largest rate for which 0.3 nat are promised at this n.
    rate = math.log(n) - 3
    sigma = 1 / math.sqrt(math.exp(2 * rate / dim) - 1)
    found = jax.jit(jax.vmap(measure, (0, None, None, 0)))(
        normal(8 * n, dim).reshape(8, n, dim),
        sigma,
        None,
        jax.random.split(KEY, 8),
    )
    low, up = jnp.mean(found["rate_low"]), jnp.mean(found["rate_up"])
    # Four standard errors of the mean of eight sets; one scatters by .13 at
    # n = 256 and .06 at n = 1024.
    slack = 4 * (0.13 if n == 256 else 0.06) / math.sqrt(8)
    assert rate - 0.3 - slack < low < rate + slack
    assert rate - slack < up < rate + 0.3 + slack


def test_low_end_never_exceeds_log_n_and_high_end_does():
    found = measure(100 * normal(64, 8))
    # float32 of terms of about 4 nats.
    assert found["rate_low"] <= math.log(64) + 1e-5
    assert found["rate_up"] > 10 * math.log(64)
    assert found["saturation"] == pytest.approx(1, abs=1e-6)


def test_rho_counts_the_active_dimensions():
    # Three dimensions with variance 9, five silent: 3 * 9/10 in the limit.
    z = normal(4096, 8) * jnp.array([3.0] * 3 + [0.0] * 5)
    found = measure(z)
    # Bias from 4096 samples at 3.5 nats, measured .05.
    assert found["rho"] == pytest.approx(2.7, abs=0.15)
    assert found["effective_rank"] == pytest.approx(3, abs=0.01)


def test_padding_changes_nothing():
    z = normal(30, 4)
    full = jnp.concatenate([z, jnp.full((10, 4), jnp.nan)])
    got = measure(full, mask=jnp.arange(40) < 30)
    # The noise of the first rows is another for another shape: compare what
    # does not depend on it.
    expected = measure(z)
    for name in ("saturation", "coding_rate", "effective_rank", "variance"):
        np.testing.assert_allclose(got[name], expected[name], rtol=1e-5)
    assert all(jnp.all(jnp.isfinite(v)) for v in got.values())


def test_equal_latents_carry_nothing():
    found = measure(jnp.ones((16, 3)))
    for name in ("rate_low", "rho", "saturation", "coding_rate"):
        assert found[name] == pytest.approx(0, abs=1e-6)
    assert found["effective_rank"] == 0


def test_nan_in_any_latent_makes_everything_nan():
    found = measure(normal(16, 3).at[2].set(jnp.nan))
    for name, value in found.items():
        assert jnp.all(jnp.isnan(value)), name


@pytest.mark.parametrize(
    ("z", "sigma", "sentence"),
    [
        (np.ones((4, 2)), 0.0, "sigma is 0, .*infinite, so log it as null"),
        (np.ones((4, 2)), -1.0, "sigma is -1.0, and a positive number"),
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
        if name in ("kde_kl", "kde_resub"):
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
