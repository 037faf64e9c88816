"""Trivial baselines against closed forms and scikit-learn."""

import tracemalloc

import numpy as np
import pytest
from sklearn import decomposition

from aeent_jax.evaluation import baselines


def _images(count, size=8, seed=0, channels=1):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (count, size, size, channels), np.uint8)


def _sklearn_pca_error(train, test, num_components):
    flat_train, flat_test = (x.reshape(len(x), -1) / 255 for x in (train, test))
    pca = decomposition.PCA(num_components, svd_solver="full").fit(flat_train)
    rebuilt = pca.inverse_transform(pca.transform(flat_test))
    return np.mean((flat_test - rebuilt) ** 2, axis=1)


@pytest.mark.parametrize("num_train", [20, 200])
def test_pca_equals_scikit_learn_with_fewer_and_more_images_than_pixels(
    num_train,
):
    train, test = _images(num_train), _images(7, seed=1)
    scores = baselines.scores(train, test, num_components=5)
    # Both float64; the Gram matrix squares the condition number of 8 bits.
    np.testing.assert_allclose(
        scores["pca"], _sklearn_pca_error(train, test, 5), rtol=1e-10
    )


def test_mean_baselines_match_their_definitions():
    train, test = _images(9, channels=3), _images(4, seed=1, channels=3)
    scores = baselines.scores(train, test, num_components=2)
    mean = (train / 255).mean(axis=0)
    expected = ((test / 255 - mean) ** 2).mean(axis=(1, 2, 3))
    # Sums of 192 float64 terms in another order.
    np.testing.assert_allclose(scores["mean_image"], expected, rtol=1e-12)
    np.testing.assert_allclose(
        scores["mean_intensity"], test.mean(axis=(1, 2, 3)) / 255, rtol=1e-12
    )


def test_nearest_image_is_the_mean_difference_to_the_nearest_one():
    train, test = _images(9, channels=3), _images(4, seed=1, channels=3)
    test[2] = train[5]
    found = baselines.scores(train, test, num_components=2)["nearest_image"]
    difference = np.abs(test[:, None].astype(int) - train.astype(int)) / 255
    expected = difference.mean((2, 3, 4)).min(1)
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    assert found[2] == 0


def test_pca_reconstructs_training_images_at_full_rank():
    train = _images(12)
    scores = baselines.scores(train, train, num_components=11)
    # Against errors of 0.08 without components.
    assert scores["pca"].max() < 1e-24


def test_fewer_images_than_components_use_what_there_is():
    train, test = _images(6), _images(3, seed=1)
    assert baselines.usable_components(train, 64) == 5
    np.testing.assert_array_equal(
        baselines.scores(train, test, num_components=64)["pca"],
        baselines.scores(train, test, num_components=5)["pca"],
    )


def test_repeated_images_add_no_component():
    train, test = np.repeat(_images(6), 4, axis=0), _images(3, seed=1)
    scores = baselines.scores(train, test, num_components=20)
    np.testing.assert_allclose(  # Rounding of the repeated images' Gram.
        scores["pca"], _sklearn_pca_error(train[::4], test, 5), rtol=1e-9
    )


def test_constant_training_images_leave_the_error_to_their_mean():
    train, test = np.full((5, 8, 8, 1), 7, np.uint8), _images(3)
    scores = baselines.scores(train, test, num_components=4)
    np.testing.assert_array_equal(scores["pca"], scores["mean_image"])


@pytest.mark.parametrize("num_train", [20, 200])
def test_blocks_change_nothing_but_rounding(monkeypatch, num_train):
    train, test = _images(num_train), _images(7, seed=1)
    expected = baselines.scores(train, test, num_components=5)
    # A few pixels or images at a time, with a rest.
    monkeypatch.setattr(baselines, "_PIXELS_AT_A_TIME", 300)
    found = baselines.scores(train, test, num_components=5)
    for name, values in expected.items():
        # Float64 sums in another order, of the squared condition number.
        np.testing.assert_allclose(found[name], values, rtol=1e-10)


@pytest.mark.parametrize(("num_train", "size"), [(100, 64), (2000, 14)])
def test_memory_is_that_of_the_small_gram_matrix(monkeypatch, num_train, size):
    train, test = _images(num_train, size), _images(300, size, seed=1)
    monkeypatch.setattr(baselines, "_PIXELS_AT_A_TIME", 2**14)
    # Compiles what looks for the nearest image.
    baselines.scores(train, test, num_components=4)
    tracemalloc.start()
    baselines.scores(train, test, num_components=4)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    # Measured at most 1 MB; the training images in float64 are 3 MB, the test
    # images up to 10 MB.
    assert peak < 1.5e6


def test_is_deterministic():
    train, test = _images(30), _images(9, seed=1)
    first, second = (
        baselines.scores(train, test, num_components=8) for _ in range(2)
    )
    for name, values in first.items():
        np.testing.assert_array_equal(values, second[name])


def test_float_images_are_refused():
    with pytest.raises(
        ValueError,
        match=r"Found float64 images \(2, 8, 8, 1\); baselines need at least "
        r"one uint8 image \[N, H, W, C\]\.",
    ):
        baselines.scores(_images(2) / 255, _images(2), num_components=1)


def test_no_training_image_is_refused():
    with pytest.raises(ValueError, match=r"Found uint8 images \(0, 8, 8, 1\)"):
        baselines.scores(_images(0), _images(2), num_components=1)


def test_two_image_sizes_are_refused():
    with pytest.raises(ValueError, match="they must have one size"):
        baselines.scores(_images(2), _images(2, size=9), num_components=1)
