"""Anomaly maps over images, and the strip of one image in a worklist."""

import numpy as np
import PIL.Image
import pytest

from aeent_jax.figures import heatmaps

SIZE = 8


def make_image(channels):
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (SIZE, SIZE, channels), np.uint8)


@pytest.mark.parametrize("channels", [1, 3])
def test_a_strip_shows_the_image_its_reconstruction_and_its_map(channels):
    pixels = make_image(channels)
    levels = np.linspace(-1.2, 1.2, SIZE)[:, None, None]
    reconstruction = np.broadcast_to(levels, (SIZE, SIZE, channels))
    score_map = np.zeros((SIZE, SIZE))
    score_map[2, 5] = 3.0
    drawn = np.asarray(heatmaps.strip(pixels, reconstruction, score_map, 2.0))
    image, again, over = np.split(drawn, 3, axis=1)
    np.testing.assert_array_equal(image, np.broadcast_to(pixels, image.shape))
    # From -1 to 1; values outside are clipped.
    assert (again[0] == 0).all()
    assert (again[-1] == 255).all()
    assert (np.diff(again[:, 0, 0].astype(int)) >= 0).all()
    changed = (over != image).any(2)
    assert changed[2, 5]
    assert changed.sum() == 1


def test_a_strip_without_a_map_ends_black():
    pixels = make_image(1)
    drawn = np.asarray(heatmaps.strip(pixels, pixels / 127.5 - 1, None, 1.0))
    image, again, rest = np.split(drawn, 3, axis=1)
    np.testing.assert_array_equal(image, again)
    assert not rest.any()


def test_colours_grow_to_the_scale_and_stay_there():
    gray = PIL.Image.fromarray(np.full((1, 4), 200, np.uint8))
    score_map = np.array([[0.0, 1.0, 2.0, 9.0]])
    row = np.asarray(heatmaps.overlay(gray, score_map, 2.0))[0].astype(int)
    assert (row[0] == 200).all()
    # Red over the image, then dark red at the scale and above it.
    assert row[1, 0] > row[1, 2]
    assert (row[2] == row[3]).all()
    assert row[2].sum() < row[1].sum()
