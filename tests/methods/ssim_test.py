import jax
import jax.numpy as jnp
import numpy as np
import pytest

from aeent_jax import config as config_lib
from aeent_jax import methods
from aeent_jax.methods import ssim


def images(seed, shape=(2, 13, 17, 3), low=0.0, high=1.0):
    rng = np.random.default_rng(seed)
    return rng.uniform(low, high, shape).astype(np.float32)


def similarity_by_windows(a, b):
    """The definition, a window at a time, with variances in two passes."""
    bell = np.exp(-((np.arange(11) - 5.0) ** 2) / (2 * 1.5**2))
    window = np.outer(bell, bell) / bell.sum() ** 2

    def windows(image):
        cut = np.lib.stride_tricks.sliding_window_view
        return cut(image.astype(np.float64), (11, 11), axis=(1, 2))

    def mean(values):
        return np.sum(window * values, axis=(-2, -1))

    a, b = windows(a), windows(b)
    mean_a, mean_b = mean(a), mean(b)
    rest_a, rest_b = a - mean_a[..., None, None], b - mean_b[..., None, None]
    spread = mean(rest_a**2) + mean(rest_b**2)
    both = 2 * mean(rest_a * rest_b)
    luminance = (2 * mean_a * mean_b + 1e-4) / (mean_a**2 + mean_b**2 + 1e-4)
    return luminance * (both + 9e-4) / (spread + 9e-4)


def test_separable_moments_equal_a_window_at_a_time():
    a, b = images(0), images(1)
    b = 0.7 * a + 0.3 * b
    found = ssim.similarity(a, b)
    assert found.shape == (2, 3, 7, 3)
    # Moments are rounded at 1e-7, beside variances of 1/12.
    np.testing.assert_allclose(found, similarity_by_windows(a, b), atol=1e-5)


def test_constants_differ_in_luminance_alone():
    a, b = jnp.full((1, 11, 11, 1), 0.25), jnp.full((1, 11, 11, 1), 0.5)
    expected = (2 * 0.25 * 0.5 + 1e-4) / (0.25**2 + 0.5**2 + 1e-4)
    # Variances of 0 come out as 1e-8, beside 9e-4.
    np.testing.assert_allclose(ssim.similarity(a, b), expected, rtol=1e-4)


def test_an_image_is_like_itself_and_nothing_is_more_like_it():
    x = images(0, low=-0.9, high=0.9)
    # The same sums on both sides of each fraction.
    np.testing.assert_allclose(ssim.dissimilarity(x, x), 0, atol=1e-6)
    gradient = jax.grad(lambda y: jnp.mean(ssim.dissimilarity(x, y)))(x)
    # A minimum; away from it they are of 1e-3.
    np.testing.assert_allclose(gradient, 0, atol=1e-7)
    assert np.all(ssim.dissimilarity(x, images(1)) > 0)


def test_reconstructions_outside_the_range_count_as_black_and_white():
    x, x_hat = images(0, low=-1), images(1, low=-2, high=2)
    np.testing.assert_array_equal(
        ssim.dissimilarity(x, x_hat),
        ssim.dissimilarity(x, np.clip(x_hat, -1, 1)),
    )


def test_score_is_the_mean_before_interpolation_unless_asked_otherwise():
    x, x_hat = images(0, low=-1), images(1, low=-1)
    outputs = methods.Outputs(x_hat, None, None, None, {})
    inputs = methods.Inputs(x, None, jnp.arange(2), None)
    score, other = (
        methods.get_score(name)(None, None, inputs, outputs)
        for name in ("ssim", "ssim_interpolated")
    )
    error = np.asarray(ssim.dissimilarity(x, x_hat))
    assert score.map.shape == (2, 13, 17)
    np.testing.assert_allclose(score.value, error.mean((1, 2)), rtol=1e-6)
    np.testing.assert_array_equal(score.map, other.map)
    assert other.value is None
    # The corner of the map is that of the coarse one, as no place is outside.
    np.testing.assert_allclose(score.map[:, 0, 0], error[:, 0, 0], rtol=1e-6)


@pytest.mark.parametrize(
    ("compat", "score"), [("", "ssim"), ("medianomaly", "ssim_interpolated")]
)
def test_compat_takes_the_mean_after_interpolation(compat, score):
    config = config_lib.apply_variant(config_lib.default(), "plain")
    config.method, config.compat = "ae_ssim", compat
    assert methods.make_method(config, None).score == score


def test_refuses_an_image_smaller_than_the_window():
    x = jnp.zeros((1, 10, 12, 1))
    with pytest.raises(ValueError, match=r".") as caught:
        ssim.similarity(x, x)
    assert str(caught.value) == (
        "an image has a side of 10 pixels, but the window of SSIM needs 11; use"
        " larger images or another score."
    )
