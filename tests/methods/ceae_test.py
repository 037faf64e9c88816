import functools

import jax
import jax.numpy as jnp
import numpy as np
import parity_support
import pytest

from aeent_jax import config as config_lib
from aeent_jax import methods
from aeent_jax.methods import autoencoders, ceae


def make_inputs(count, size=6, seed=0):
    return methods.Inputs(
        x=jnp.full((count, size, size, 3), 0.5),
        mask=None,
        positions=jnp.arange(count),
        rng=jax.random.key(seed),
    )


def test_one_square_anywhere_in_the_image_turns_black():
    blacken = jax.jit(ceae.blacken_squares, static_argnums=1)
    x = np.asarray(blacken(make_inputs(4000), 4))
    assert set(np.unique(x)) == {-1.0, 0.5}
    black = (x == -1).all(axis=3)
    corners = [np.argwhere(image).min(axis=0) for image in black]
    for image, (row, column) in zip(black, corners, strict=True):
        assert image.sum() == 16
        assert image[row : row + 4, column : column + 4].all()
    _, counts = np.unique(corners, axis=0, return_counts=True)
    # Nine places are as likely: four deviations of the count of each.
    assert len(counts) == 9
    assert np.abs(counts - 4000 / 9).max() < 4 * (4000 * 8 / 81) ** 0.5


def test_a_square_as_large_as_the_image_leaves_nothing():
    assert (ceae.blacken_squares(make_inputs(2), 6) == -1).all()


@pytest.fixture(scope="module")
def variables():
    return parity_support.Reference("ae").variables("init")


def test_training_sees_the_square_and_evaluation_does_not(variables):
    network = parity_support.make_network()
    plain, method = (
        autoencoders.from_network(network),
        ceae.from_network(network, 10),
    )
    inputs = parity_support.Reference("ae").inputs()
    blackened = inputs._replace(x=ceae.blacken_squares(inputs, 10))

    @jax.jit
    def run(inputs, blackened):
        call = functools.partial(plain.forward, variables)
        own = functools.partial(method.forward, variables)
        noise = methods.no_noise
        return {
            "evaluated": (
                own(inputs, noise, train=False),
                call(inputs, noise, train=False),
            ),
            "trained": (
                own(inputs, noise, train=True),
                call(blackened, noise, train=True),
            ),
        }

    for ours, expected in run(inputs, blackened).values():
        np.testing.assert_allclose(
            ours.x_hat,
            expected.x_hat,
            atol=5e-6,  # float32, fused otherwise
        )
    assert method.losses is plain.losses


def test_refuses_a_square_that_the_image_does_not_hold():
    config = config_lib.apply_variant(config_lib.default(), "plain")
    config.method, config.corruption.square_size = "ceae", 65
    with pytest.raises(ValueError, match="square_size is 65.*which is 64"):
        methods.make_method(config, None)
