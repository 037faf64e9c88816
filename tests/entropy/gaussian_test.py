import math

import entropy_reference as reference
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from scipy import special
from sklearn import covariance as sklearn_covariance

from aeent_jax import entropy
from aeent_jax.entropy import moments

SHRINKAGES = {
    "none": "none",
    "oas": "oas",
    "ledoit_wolf": "ledoit_wolf",
    "fixed": 0.3,
}


def skewed(n, dim, seed=0):
    """Float64 rows with correlated dimensions, far from the origin."""
    rng = np.random.default_rng(seed)
    z = rng.normal(size=(n, dim)) @ rng.normal(size=(dim, dim))
    return z + 3 * rng.normal(size=dim)


@jax.jit
def evaluate(z, mask):
    """By shrinkage: value, gradient and coefficient on the masked rows."""
    n, dim = z.shape

    def value(z, shrinkage):
        found = entropy.gaussian(z, sample_mask=mask, shrinkage=shrinkage)
        return found.value, found.diagnostics["shrinkage"]

    results = {}
    for name, shrinkage in SHRINKAGES.items():
        if name == "none" and n <= dim:
            continue
        (found, coefficient), gradient = jax.value_and_grad(
            value, has_aux=True
        )(z, shrinkage)
        results[name] = found, gradient, coefficient
    return results


def everything(z):
    return np.ones(len(z), bool)


def dense(z, shrinkage):
    """The definition, without any care for numbers; float64."""
    n, dim = z.shape
    centred = z - jnp.mean(z, 0)
    c = centred.T @ centred / n
    mu, square = jnp.trace(c) / dim, jnp.trace(c @ c)
    if shrinkage == "oas":
        r = (square + jnp.trace(c) ** 2) / (n + 1)
        r = r / (square - jnp.trace(c) ** 2 / dim)
    elif shrinkage == "ledoit_wolf":
        each = jnp.einsum("ni,nj->nij", centred, centred) - c
        r = jnp.sum(each**2) / n**2 / jnp.sum((c - mu * jnp.eye(dim)) ** 2)
    else:
        r = {"none": 0.0, "fixed": 0.3}[shrinkage]
    r = jnp.minimum(r, 1.0)
    s = (1 - r) * c + r * mu * jnp.eye(dim)
    return 0.5 * jnp.linalg.slogdet(2 * jnp.pi * jnp.e * s)[1]


@pytest.mark.parametrize(("n", "dim"), [(2, 1), (300, 8)])
def test_unshrunk_is_the_entropy_of_the_sample_covariance(n, dim):
    z = skewed(n, dim)
    sample_covariance = np.cov(z.T, ddof=0).reshape(dim, dim)
    expected = scipy.stats.multivariate_normal(cov=sample_covariance).entropy()
    with jax.enable_x64(True):
        got = evaluate(z, everything(z))["none"][0]
        np.testing.assert_allclose(got, expected, rtol=1e-12)
    narrow = evaluate(np.float32(z), everything(z))["none"][0]
    # A condition number of 1e2 in float32.
    np.testing.assert_allclose(narrow, expected, rtol=1e-5)


@pytest.mark.parametrize(("n", "dim"), [(30, 5), (6, 20), (2, 3)])
def test_shrinkage_is_that_of_scikit_learn(n, dim):
    z = skewed(n, dim)
    empirical = sklearn_covariance.empirical_covariance(z)
    expected = {
        "oas": sklearn_covariance.oas(z),
        "fixed": (sklearn_covariance.shrunk_covariance(empirical, 0.3), 0.3),
    }
    if n > 2:  # where it is 0 on two rows, and the covariance singular
        expected["ledoit_wolf"] = sklearn_covariance.ledoit_wolf(z)
    with jax.enable_x64(True):
        found = evaluate(z, everything(z))
    for shrinkage, (matrix, coefficient) in expected.items():
        value, _, got = found[shrinkage]
        np.testing.assert_allclose(got, coefficient, rtol=1e-10)
        _, logdet = np.linalg.slogdet(2 * np.pi * np.e * matrix)
        np.testing.assert_allclose(value, logdet / 2, rtol=1e-10)


def test_ledoit_wolf_leaves_two_rows_in_a_line_singular():
    z = np.float32(skewed(2, 3))
    assert sklearn_covariance.ledoit_wolf(z)[1] < 1e-6
    assert evaluate(z, everything(z))["ledoit_wolf"][0] == -jnp.inf


@jax.jit
def corrected(z, count):
    """The bias-corrected value of the first rows."""
    return entropy.gaussian(
        z,
        sample_mask=jnp.arange(len(z)) < count,
        shrinkage="none",
        bias_correction=True,
    ).value


@pytest.mark.parametrize("dim", [1, 2, 16, 128])
def test_corrected_value_is_within_four_deviations_for_any_more_rows(dim):
    rng = np.random.default_rng(dim)
    scale = np.geomspace(1, 0.1, dim)
    true = 0.5 * np.sum(np.log(2 * np.pi * np.e * scale**2))
    i = np.arange(1, dim + 1)
    z = rng.normal(size=(1024, dim)) * scale
    with jax.enable_x64(True):
        for n in (dim + 1, 2 * dim + 3, 1024):
            variance = np.sum(special.polygamma(1, (n - i) / 2))
            # The entropy is half a log-determinant, hence 4/2.
            assert abs(corrected(z, n) - true) < 2 * math.sqrt(variance)


def test_correction_is_the_mean_error_and_the_deviation_the_promised_one():
    sets, n, dim = 4000, 6, 3
    z = jax.random.normal(jax.random.key(0), (sets, n, dim))

    def value(z):
        return entropy.gaussian(z, shrinkage="none", bias_correction=True).value

    error = jax.jit(jax.vmap(value))(z) - dim / 2 * math.log(
        2 * math.pi * math.e
    )
    deviation = math.sqrt(special.polygamma(1, (n - np.arange(1, 4)) / 2).sum())
    deviation /= 2
    # Four standard errors; uncorrected it is 1.2 nats low.
    assert abs(jnp.mean(error)) < 4 * deviation / math.sqrt(sets)
    # A standard deviation of 4000 draws, of a law with a long lower tail.
    assert jnp.std(error) == pytest.approx(deviation, rel=0.1)
    assert moments.half_logdet_bias(jnp.float32(n), dim) < -1


def test_bounds_the_entropy_of_other_laws():
    rng = np.random.default_rng(0)
    laplace = np.float32(rng.laplace(size=(4096, 3)))
    bound = evaluate(laplace, everything(laplace))["oas"][0]
    # .072 nat in each dimension.
    assert bound > 3 * scipy.stats.laplace.entropy() + 0.1


def test_noisy_latents_carry_the_capacity_of_their_channel():
    entry = entropy.ESTIMATORS["gaussian"]
    assert entry.noisy_samples
    rng = np.random.default_rng(0)
    noisy = math.sqrt(1 + 0.25) * np.float32(rng.normal(size=(4096, 3)))
    rate = entropy.to_rate(entry(noisy), 0.5, 3)
    # Four standard deviations of the entropy, sqrt(dim / 2n).
    assert rate == pytest.approx(1.5 * math.log(5), abs=4 * math.sqrt(3 / 8192))


@pytest.mark.parametrize("shrinkage", SHRINKAGES)
def test_gradient_is_that_of_the_dense_formula(shrinkage):
    z = np.float32(skewed(40, 5))
    _, narrow, _ = evaluate(z, everything(z))[shrinkage]
    with jax.enable_x64(True):
        z = np.float64(z)
        value, gradient, _ = evaluate(z, everything(z))[shrinkage]
        expected, slope = jax.jit(
            jax.value_and_grad(lambda z: dense(z, shrinkage))
        )(z)
        np.testing.assert_allclose(value, expected, rtol=1e-12)
        assert reference.relative_error(gradient, slope) < 1e-12
        # A move changes nothing, and a factor a adds dim log a.
        np.testing.assert_allclose(gradient.sum(0), 0, atol=1e-13)
        np.testing.assert_allclose(jnp.sum(z * gradient), 5, rtol=1e-12)
        # A condition number of 1e2 in float32.
        assert reference.relative_error(narrow, slope) < 5e-5


@pytest.mark.parametrize("scale", [1e-15, 1e15])
def test_no_square_leaves_the_range_of_float32(scale):
    z = np.float32(skewed(40, 5))
    expected = evaluate(z, everything(z))
    for shrinkage, found in evaluate(scale * z, everything(z)).items():
        change = 5 * math.log(scale)
        # float32 of about 170 nats.
        np.testing.assert_allclose(
            found[0], expected[shrinkage][0] + change, rtol=1e-5
        )


@pytest.mark.parametrize("valid", [0, 1, 4, 5])
def test_too_few_valid_rows_give_nan_and_pull_nowhere(valid):
    z = jnp.float32(skewed(40, 5))
    for shrinkage, found in evaluate(z, np.arange(40) < valid).items():
        value, gradient, _ = found
        if valid < 2 or shrinkage == "none":
            assert jnp.isnan(value)
            np.testing.assert_array_equal(gradient, 0)
        else:
            assert jnp.isfinite(value)


@pytest.mark.parametrize("kind", ["constant", "copied", "mixed"])
def test_latents_in_a_hyperplane_have_no_entropy_without_shrinkage(kind):
    z = np.float32(skewed(40, 5))
    if kind == "constant":
        z[:, 2] = 0.1
    elif kind == "copied":
        z[:, 4] = z[:, 1]
    else:
        z[:, 3] = z[:, :3] @ np.float32([0.3, -2.0, 1.0])
    found = evaluate(z, everything(z))
    assert found["none"][0] == -jnp.inf
    np.testing.assert_array_equal(found["none"][1], 0)
    for shrinkage in ("oas", "ledoit_wolf", "fixed"):
        assert jnp.isfinite(found[shrinkage][0])
        assert jnp.all(jnp.isfinite(found[shrinkage][1]))


def test_rounding_gives_no_volume_to_latents_in_a_line():
    rng = np.random.default_rng(0)
    line = rng.normal(size=(32, 300, 1)) * rng.normal(size=(32, 1, 2))

    def value(z):
        return entropy.gaussian(z, shrinkage="none").value

    # In float32, of some of them a Cholesky factor exists.
    np.testing.assert_array_equal(
        jax.jit(jax.vmap(value))(np.float32(line)), -np.inf
    )


@pytest.mark.parametrize(
    ("rows", "options", "sentence"),
    [
        (1, {}, "has 1 rows, .* at least 2: pass"),
        (5, {"shrinkage": "none"}, "5 rows of 5 dimensions.* at least 6"),
        (5, {"shrinkage": 0.0}, "5 rows of 5 dimensions.* at least 6"),
        (9, {"shrinkage": 1.5}, "is 1.5, and a number from 0 to 1 or one of"),
        (9, {"shrinkage": "oa"}, "'oa', .*ledoit_wolf, none, oas"),
        (9, {"bias_correction": True}, "'oas', and the bias is known without"),
    ],
)
def test_unusable_arguments_are_refused(rows, options, sentence):
    with pytest.raises(ValueError, match=sentence):
        entropy.gaussian(jnp.ones((rows, 5)), **options)
