import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from aeent_jax import config as config_lib
from aeent_jax import methods
from aeent_jax.methods import autoencoders


def make_config(name):
    config = config_lib.apply_variant(config_lib.default(), "plain")
    config.method = name
    config.data.image_size, config.model.latent_dim = 32, 3
    config.model.base_width, config.model.hidden_dim = 4, 8
    return config


def test_absolute_error_is_the_mean_over_pixels_and_channels():
    x = jnp.arange(24.0).reshape(2, 2, 2, 3)
    outputs = methods.Outputs(x + jnp.array([1.0, -2.0, 6.0]), *[None] * 4)
    losses = autoencoders.absolute_error(x, outputs)
    np.testing.assert_allclose(losses["reconstruction"], [3.0, 3.0], rtol=1e-6)
    assert methods.make_method(make_config("ae_l1"), None).score == "absolute"


def test_a_spatial_latent_sees_its_surroundings_alone():
    network = autoencoders.make_network(
        make_config("ae_spatial"), None, spatial=True
    )
    variables = jax.jit(network.init)(jax.random.key(0))
    encode = jax.jit(functools.partial(network.apply, "encoder", train=False))
    x = jax.random.uniform(jax.random.key(1), (1, 32, 32, 1), minval=-1)
    z, _ = encode(variables, x)
    assert z.shape == (1, 2, 2, 3)
    # 46 pixels of side meet in a place, and the outermost 15 are padding.
    changed, _ = encode(variables, x.at[:, -1, -1].set(5.0))
    same = np.all(np.asarray(z == changed), axis=3)[0]
    np.testing.assert_array_equal(same, [[True, True], [True, False]])


@pytest.mark.parametrize(
    ("group", "key", "value"),
    [
        ("channel", "sigma", 1.0),
        ("channel", "normalisation", "power"),
        ("entropy", "estimator", "kde_loo"),
    ],
)
def test_without_a_latent_vector_there_is_no_channel_and_no_rate(
    group, key, value
):
    config = make_config("ae_spatial")
    assert methods.make_method(config, None).latent_dim is None
    config[group][key] = value
    with pytest.raises(ValueError, match=r".") as caught:
        methods.make_method(config, None)
    assert str(caught.value) == (
        "ae_spatial has no latent vector, so it carries no channel and no rate;"
        " set channel.sigma=0, channel.normalisation=none,"
        " entropy.estimator=none and entropy.weight=0, or choose another"
        " method."
    )
