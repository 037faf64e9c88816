import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from aeent_jax import config as config_lib
from aeent_jax import methods
from aeent_jax.evaluation import score_sums

CONFIG = config_lib.default()  # kde_loo at weight 5e-4


def parse(spec, config=CONFIG):
    return score_sums.parse(spec, config, methods.make_method(config, None))


RNG = np.random.default_rng(0)
Z, SAMPLES = (RNG.normal(size=(n, 3)).astype(np.float32) for n in (5, 40))


def test_terms_have_weights_and_names():
    assert parse("squared") == ((1.0, "squared"),)
    assert parse("2*squared + 1e-3*surprise") == (
        (2.0, "squared"),
        (1e-3, "surprise"),
    )


def test_description_length_has_the_weight_of_the_training():
    assert parse("2*description_length") == (
        (2.0, "reconstruction"),
        (1e-3, "surprise"),
    )


def test_description_length_is_refused_where_the_weight_was_controlled():
    config = config_lib.default()
    config.entropy.controller = "target_rate"
    with pytest.raises(ValueError, match="its controller .target_rate."):
        parse("description_length", config)


@pytest.mark.parametrize(
    ("spec", "sentence"),
    [
        ("squard", "or a sum of them"),
        ("x*squared", "'x' is no number"),
        ("nan*squared", "'nan' is no number"),
        ("squared+", "the score is ''"),
    ],
)
def test_what_is_no_sum_is_refused(spec, sentence):
    with pytest.raises(ValueError, match=sentence):
        parse(spec)


def image_scores(spec):
    x = RNG.normal(size=(2, 4, 4, 1)).astype(np.float32)
    inputs = methods.Inputs(jnp.array(x), None, jnp.arange(2), None)
    outputs = methods.Outputs(jnp.zeros(x.shape), None, None, None, {})
    terms = parse(spec)
    return x, score_sums.of_images(terms)(None, None, inputs, outputs)


def test_maps_add_up():
    x, found = image_scores("2*squared+3*absolute")
    wanted = 2 * x**2 + 3 * np.abs(x)
    np.testing.assert_allclose(found.map, wanted[..., 0], rtol=1e-6)
    assert found.value is None


def test_a_sum_of_latent_terms_alone_is_zero_for_images():
    _, found = image_scores("surprise")
    assert found.map is None
    np.testing.assert_array_equal(found.value, 0)


def test_surprise_is_minus_the_log_of_the_kernel_density():
    sigma, samples = 0.7, SAMPLES.astype(np.float64)
    kernel = stats.multivariate_normal(np.zeros(3), sigma**2)
    wanted = [-np.log(np.mean(kernel.pdf(z - samples))) for z in Z]
    found = score_sums.surprise(Z, SAMPLES, sigma, own=False)
    np.testing.assert_allclose(found, wanted, rtol=1e-5)
    own = score_sums.surprise(SAMPLES, SAMPLES, sigma, own=True)
    others = score_sums.surprise(SAMPLES[:1], SAMPLES[1:], sigma, own=False)
    np.testing.assert_allclose(own[0], others[0], rtol=1e-5)
    terms = parse("squared+2*surprise+1*surprise")
    np.testing.assert_allclose(
        score_sums.of_latents(terms, Z, SAMPLES, sigma, own=False), 3 * found
    )


def test_without_a_channel_the_kernel_fits_the_samples():
    found = score_sums.surprise(SAMPLES, SAMPLES, 0.0, own=True).mean()
    # No other bandwidth has a smaller mean surprise.
    others = [
        score_sums.surprise(SAMPLES, SAMPLES, s, own=True).mean()
        for s in (0.1, 0.3, 0.6, 1.2, 3.0)
    ]
    assert found <= min(others) + 1e-4


@pytest.mark.parametrize(
    ("name", "lacking"),
    [("gradient_kl", "kl"), ("weighted_squared", "log_variance")],
)
def test_a_score_that_the_method_does_not_have_is_refused(name, lacking):
    with pytest.raises(ValueError, match=f"but ae has no {lacking}; choose"):
        parse(f"squared+{name}")
