"""The noise that the denoising autoencoder adds, and when."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from aeent_jax import config as config_lib
from aeent_jax import methods
from aeent_jax.methods import dae
from configs import dae as config_of_dae

COARSE = dae.Corruption(noise_std=0.2, noise_size=4)
corrupt = jax.jit(dae.corrupt, static_argnums=1)
coarse_noise = jax.jit(dae.coarse_noise, static_argnums=2)


def make_inputs(count=3, size=9, seed=0, x=0.5):
    return methods.Inputs(
        x=np.broadcast_to(np.float32(x), (count, size, size, 2)),
        mask=None,
        positions=np.arange(count),
        rng=jax.random.key(seed),
    )


def added(inputs, corruption=COARSE):
    return np.asarray(corrupt(inputs, corruption)) - inputs.x


def test_noise_is_linear_between_corners_that_lie_on_corners():
    size, grid = 9, 4
    # Both sides sample the same grids: at its own size nothing is enlarged.
    grids = coarse_noise(make_inputs(size=grid), 0.2, grid)
    found = coarse_noise(make_inputs(size=size), 0.2, grid)
    places = np.linspace(0, grid - 1, size)

    def enlarge(signal):
        return np.interp(places, np.arange(grid), signal)

    grids, found = np.asarray(grids), np.asarray(found)
    rows = np.apply_along_axis(enlarge, 1, grids)
    expected = np.apply_along_axis(enlarge, 2, rows)
    # float32, of places in the grid too.
    np.testing.assert_allclose(found, expected, atol=1e-6)
    np.testing.assert_allclose(
        found[:, [0, 0, -1], [0, -1, -1]],
        grids[:, [0, 0, -1], [0, -1, -1]],
        atol=1e-6,
    )


def test_noise_has_mean_zero_and_twice_the_deviation():
    # As fine as the image, so that all its numbers are independent.
    fine = dataclasses.replace(COARSE, noise_size=24)
    noise = added(make_inputs(40, size=24), fine)
    count, std = noise.size, 0.4
    # Four standard errors of each.
    assert abs(noise.mean()) < 4 * std / count**0.5
    assert abs(noise.std() - std) < 4 * std / (2 * count) ** 0.5
    assert len(np.unique(noise)) > 0.9 * count


def test_one_roll_serves_a_batch_and_any_part_of_it():
    inputs = make_inputs()
    plain = 2 * np.asarray(coarse_noise(inputs, 0.2, 4))
    noise = added(inputs)
    # 0.5 is added and taken away again in float32.
    matches = [
        (i, j)
        for i in range(9)
        for j in range(9)
        if np.allclose(noise, np.roll(plain, (i, j), (1, 2)), atol=1e-6)
    ]
    assert len(matches) == 1
    part = inputs._replace(x=inputs.x[1:], positions=inputs.positions[1:])
    np.testing.assert_allclose(added(part), noise[1:], atol=1e-6)


def test_rolls_reach_every_row_and_column():
    def peak(seed):
        """Where the corner pixel of one enlarged grid went."""
        key = jax.random.key(seed)
        inputs = make_inputs(1, size=3)._replace(rng=key)
        plain = 2 * coarse_noise(inputs, 0.2, 3)[0, 0, 0, 0]
        noise = corrupt(inputs, dataclasses.replace(COARSE, noise_size=3))
        return jnp.argmin(jnp.abs(noise - inputs.x - plain)[0, :, :, 0])

    places = np.asarray(jax.jit(jax.vmap(peak))(jnp.arange(900)))
    _, counts = np.unique(places, return_counts=True)
    # Nine places are as likely: four deviations of the count of each.
    assert len(counts) == 9
    assert np.abs(counts - 100).max() < 4 * (900 * 8 / 81) ** 0.5


def test_noise_of_steps_and_images_differs():
    noise, later = added(make_inputs()), added(make_inputs(seed=1))
    assert np.abs(noise - later).min() > 0
    assert np.abs(noise[0] - noise[1]).min() > 0


def test_black_pixels_stay_black_where_the_foreground_alone_gets_noise():
    black = np.random.default_rng(0).random((3, 9, 9, 2)) < 0.5
    inputs = make_inputs(x=np.where(black, -1, 0.5))
    foreground = dataclasses.replace(COARSE, foreground_only=True)
    everywhere, masked = added(inputs), added(inputs, foreground)
    np.testing.assert_array_equal(masked == 0, black)
    compiled_otherwise = {"atol": 1e-6}  # float32
    np.testing.assert_allclose(
        masked[~black], everywhere[~black], **compiled_otherwise
    )
    # An image without any black has no background.
    bright = make_inputs()
    np.testing.assert_allclose(
        added(bright, foreground), added(bright), **compiled_otherwise
    )


@pytest.mark.parametrize("foreground_only", [False, True])
def test_the_quirk_is_one_less_everywhere(foreground_only):
    plain = dataclasses.replace(COARSE, foreground_only=foreground_only)
    inputs = make_inputs(x=np.eye(9)[:, :, None] * 2 - 1)
    quirky = corrupt(inputs, dataclasses.replace(plain, shifted=True))
    np.testing.assert_allclose(
        quirky,
        np.asarray(corrupt(inputs, plain)) - 1,
        atol=1e-6,  # float32
    )


class Identity:
    """Stands for a UNet that gives back what it gets."""

    channels = 2

    def apply(self, variables, x):
        assert variables == {"params": {}}
        return x


def test_training_sees_the_noise_and_evaluation_does_not():
    method = dae.from_network(Identity(), 9, COARSE)
    variables = {"params": {}, "batch_stats": {}}
    inputs = make_inputs()
    forward, noise = method.forward, methods.no_noise
    trained = forward(variables, inputs, noise, train=True)
    np.testing.assert_allclose(
        trained.x_hat,
        corrupt(inputs, COARSE),
        atol=1e-6,  # float32, compiled otherwise
    )
    evaluated = forward(variables, inputs, noise, train=False)
    np.testing.assert_array_equal(evaluated.x_hat, inputs.x)
    # The error is that from the clean image: here the noise itself.
    np.testing.assert_allclose(
        method.losses(inputs.x, trained)["reconstruction"],
        np.square(added(inputs)).mean((1, 2, 3)),
        rtol=1e-6,  # float32
    )


def make_config(**overrides):
    config = config_lib.apply_variant(config_lib.default(), "plain")
    config.method, config.data.image_size = "dae", 32
    config.model.base_width = 4
    overrides = {key.replace("__", "."): v for key, v in overrides.items()}
    config.update_from_flattened_dict(overrides)
    return config


@pytest.mark.parametrize(
    ("overrides", "match"),
    [
        ({"corruption__noise_size": 33}, "noise_size is 33.*which is 32"),
        ({"data__image_size": 16}, "image_size is 16"),
        ({"channel__sigma": 1.0}, "dae has no latent vector"),
    ],
)
def test_refuses_what_it_cannot_do(overrides, match):
    with pytest.raises(ValueError, match=match):
        methods.make_method(make_config(**overrides), None)


def test_brains_get_noise_in_the_foreground():
    for data, expected in (("brats2021", True), ("rsna", False)):
        config = config_of_dae.get_config(data)
        assert config.corruption.foreground_only is expected
        assert methods.make_method(config, None).latent_dim is None
    with pytest.raises(ValueError, match="'brats', but must be one of rsna"):
        config_of_dae.get_config("brats")
