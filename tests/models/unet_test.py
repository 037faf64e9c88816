"""The UNet, layer by layer, against sums written out in numpy."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from aeent_jax import models
from aeent_jax.models import unet

SIZE, WIDTH = 32, 4


def convolve(x, kernel):
    """Valid correlation of `[H, W, I]`, one output at a time."""
    height, width = x.shape[0] - 2, x.shape[1] - 2
    return sum(
        x[i : i + height, j : j + width] @ kernel[i, j]
        for i in range(3)
        for j in range(3)
    )


def standardised(kernel):
    flat = kernel.reshape(-1, kernel.shape[-1])
    return (kernel - flat.mean(0)) / (flat.std(0, ddof=1) + 1e-5)


def normalised(x, groups):
    """GroupNorm of one image, without its affine map."""
    split = x.reshape(-1, groups, x.shape[-1] // groups)
    mean = split.mean((0, 2), keepdims=True)
    var = split.var((0, 2), keepdims=True)
    return ((split - mean) / np.sqrt(var + 1e-5)).reshape(x.shape)


def plain_block(params, x, groups):
    for i in range(2):
        conv, norm = params[f"conv{i}"], params[f"norm{i}"]
        padded = np.pad(x, [(1, 1), (1, 1), (0, 0)], mode="reflect")
        x = convolve(padded, standardised(conv["kernel"])) + conv["bias"]
        x = normalised(x / (1 + np.exp(-x)), groups)
        x = x * norm["scale"] + norm["bias"]
    return x


def plain_up(params, x):
    """Every pixel becomes a square of two by two."""
    kernel = params["kernel"]  # [2, 2, O, I]
    height, width = x.shape[:2]
    enlarged = np.einsum("abou,hwu->hawbo", kernel, x)
    return enlarged.reshape(2 * height, 2 * width, -1) + params["bias"]


def plain_unet(params, x):
    """One image `[H, W, C]` in float64."""
    groups = [2, 4, 4, 8, 8]  # of 4, 8, 16, 32 and 64 channels
    skips = []
    for level in range(5):
        if level:
            skips.append(x)
            half = x.reshape(x.shape[0] // 2, 2, x.shape[1] // 2, 2, -1)
            x = half.mean((1, 3))
        x = plain_block(params[f"down{level}"], x, groups[level])
    for level in (3, 2, 1, 0):
        up = plain_up(params[f"up{level}"], x)
        x = np.concatenate([up, skips[level]], axis=2)
        x = plain_block(params[f"up{level}_block"], x, groups[level])
    return x @ params["last"]["kernel"][0, 0] + params["last"]["bias"]


@functools.cache
def make_case():
    """The network, any parameters there may be, and two images."""
    network = models.make_unet(image_size=SIZE, channels=3, base_width=WIDTH)
    rng = np.random.default_rng(0)
    x = rng.uniform(-1, 1, (2, SIZE, SIZE, 3)).astype(np.float32)
    shapes = jax.eval_shape(network.init, jax.random.key(0), x)
    params = jax.tree.map(
        lambda leaf: rng.uniform(-0.5, 1, leaf.shape).astype(np.float32),
        shapes["params"],
    )
    return network, params, x


def test_matches_plain_sums_for_each_image_alone():
    network, params, x = make_case()
    found = jax.jit(network.apply)({"params": params}, x)
    double = jax.tree.map(np.float64, params)
    expected = [plain_unet(double, np.float64(image)) for image in x]
    # float32 through 18 convolutions; outputs are of order one to ten.
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_scale_and_mean_of_the_weights_of_a_channel_have_no_influence():
    kernel = np.random.default_rng(0).normal(size=(3, 3, 5, 4))
    standardise = jax.jit(unet.standardise)
    found = np.asarray(standardise(kernel.astype(np.float32)))
    np.testing.assert_allclose(
        found.reshape(-1, 4).std(0, ddof=1),
        1,
        rtol=3e-5,  # the reference divides by the deviation plus 1e-5
    )
    np.testing.assert_allclose(found.sum((0, 1, 2)), 0, atol=1e-4)
    moved = (kernel * [1, 2, 3, 4] + 7).astype(np.float32)
    np.testing.assert_allclose(
        found,
        standardise(moved),
        atol=1e-4,  # float32 numbers near 7
    )


def test_full_network_has_the_channels_of_the_reference():
    network = models.make_unet(image_size=128, channels=1, base_width=64)
    x = jnp.zeros((1, 128, 128, 1))
    shapes = jax.eval_shape(network.init, jax.random.key(0), x)["params"]
    widths = [64, 128, 256, 512, 1024]

    def block(inputs, outputs):
        # Two convolutions with bias, and scale and bias of two norms.
        return 9 * outputs * (inputs + outputs) + 6 * outputs

    down = sum(map(block, [1, *widths], widths))
    up = sum(
        4 * large * small + small + block(large, small)
        for small, large in zip(widths, widths[1:], strict=False)
    )
    expected = down + up + 64 + 1
    assert sum(a.size for a in jax.tree.leaves(shapes)) == expected


@pytest.mark.parametrize(
    ("channels", "groups"), [(64, 8), (128, 16), (256, 16), (512, 32), (7, 7)]
)
def test_groups_are_about_as_many_as_large(channels, groups):
    assert unet.num_groups(channels) == groups


@pytest.mark.parametrize(
    ("sizes", "match"),
    [
        ({"image_size": 16}, "image_size is 16.*multiple of 16 from 32"),
        ({"image_size": 40}, "image_size is 40.*multiple of 16 from 32"),
    ],
)
def test_refuses_sizes_that_cannot_be_built(sizes, match):
    valid = {"image_size": 32, "channels": 1, "base_width": 4}
    with pytest.raises(ValueError, match=match):
        models.make_unet(**(valid | sizes))
