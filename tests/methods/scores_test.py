import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from aeent_jax import methods
from aeent_jax.methods import scores

X = np.random.default_rng(0).normal(size=(2, 12, 16, 3)).astype(np.float32)
X_HAT = np.random.default_rng(1).normal(size=X.shape).astype(np.float32)


def of(name):
    inputs = methods.Inputs(jnp.array(X), None, jnp.arange(2), None)
    outputs = methods.Outputs(jnp.array(X_HAT), None, None, None, {})
    return methods.get_score(name)(None, None, inputs, outputs)


def test_absolute_error_is_a_mean_over_channels():
    wanted = np.abs(X.astype(np.float64) - X_HAT).mean(3)
    np.testing.assert_allclose(of("absolute").map, wanted, rtol=1e-5)


def box(image):
    return ndimage.uniform_filter(image, 5, mode="constant")


def gaussian(image):
    # To 20 deviations: all of the image.
    return ndimage.gaussian_filter(image, 1.5, mode="constant", truncate=20)


@pytest.mark.parametrize(
    ("name", "smooth"),
    [("smoothed_box5", box), ("smoothed_gaussian1.5", gaussian)],
)
def test_residual_is_averaged_over_what_lies_in_the_image(name, smooth):
    residual = X.astype(np.float64) - X_HAT
    inside = smooth(np.ones(X.shape[1:3]))
    smoothed = np.stack(
        [[smooth(i[..., c]) / inside for c in range(3)] for i in residual]
    )
    np.testing.assert_allclose(
        of(name).map,
        (smoothed**2).mean(1),
        rtol=1e-3,  # float32 of sums that partly cancel
        atol=1e-6,
    )


def test_a_box_of_one_pixel_smooths_nothing():
    np.testing.assert_allclose(
        of("smoothed_box1").map, of("squared").map, rtol=1e-6
    )


def test_a_wide_kernel_leaves_the_mean_residual():
    mean = (X.astype(np.float64) - X_HAT).mean((1, 2))
    wanted = np.broadcast_to((mean**2).mean(1)[:, None, None], (2, 12, 16))
    for name in ("smoothed_box99", "smoothed_gaussian1000"):
        # float32 of a mean that nearly cancels
        np.testing.assert_allclose(of(name).map, wanted, rtol=1e-2)


def test_rows_of_a_smoothing_matrix_sum_to_one():
    for kind in scores.KERNELS:
        matrix = scores.smoothing_matrix(kind, 3.0, 8)
        np.testing.assert_allclose(matrix.sum(1), 1)


@pytest.mark.parametrize("name", ["", "squard", "smoothed_box", "smoothed_9"])
def test_unknown_score_lists_the_choices(name):
    with pytest.raises(ValueError, match="choose one of squared, absolute"):
        methods.get_score(name)


def test_a_width_of_zero_is_refused():
    with pytest.raises(ValueError, match="width must be above 0 pixels"):
        methods.get_score("smoothed_box0")
