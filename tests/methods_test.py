import jax
import jax.numpy as jnp
import numpy as np
import pytest

from aeent_jax import methods
from configs import default


def images(seed, channels):
    rng = np.random.default_rng(seed)
    return rng.uniform(-1, 1, (3, 4, 5, channels)).astype(np.float32)


@pytest.mark.parametrize("channels", [1, 3])
def test_loss_is_the_mean_over_pixels_and_the_score_map_over_channels(channels):
    x, x_hat = images(0, channels), images(1, channels)
    squared = (x.astype(np.float64) - x_hat) ** 2
    method = methods.get_method("ae")
    rounding = {"rtol": 1e-6}  # float32
    np.testing.assert_allclose(
        method.reconstruction(jnp.array(x), jnp.array(x_hat)),
        [image.mean() for image in squared],
        **rounding,
    )
    np.testing.assert_allclose(
        method.score_map(jnp.array(x), jnp.array(x_hat)),
        squared.mean(axis=3),
        **rounding,
    )


@pytest.mark.parametrize("name", methods.METHODS)
def test_network_has_the_sizes_of_the_configuration(name):
    config = default.get_config()
    config.data.image_size, config.data.channels = 32, 3
    config.model.latent_dim = 5
    network = methods.get_method(name).make_network(config, None)
    variables = jax.jit(network.init)(jax.random.key(0))
    x = jnp.zeros((2, 32, 32, 3))
    z, _ = network.encode(variables, x, train=False)
    x_hat, _ = network.decode(variables, z, train=False)
    assert (z.shape, x_hat.shape) == ((2, 5), (2, 32, 32, 3))


def test_unknown_name_lists_the_choices():
    with pytest.raises(ValueError, match=r".") as caught:
        methods.get_method("vae")
    assert str(caught.value) == "method is 'vae'; choose one of ae."
