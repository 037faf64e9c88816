import functools

import jax
import jax.numpy as jnp
import numpy as np
import parity_support
import perceptual_support
import pytest

from aeent_jax import config as config_lib
from aeent_jax import methods
from aeent_jax.methods import autoencoders, streams


def images(seed, channels):
    rng = np.random.default_rng(seed)
    return rng.uniform(-1, 1, (3, 4, 5, channels)).astype(np.float32)


@pytest.mark.parametrize("channels", [1, 3])
def test_loss_is_the_mean_over_pixels_and_the_score_map_over_channels(channels):
    x, x_hat = images(0, channels), images(1, channels)
    squared = (x.astype(np.float64) - x_hat) ** 2
    outputs = methods.Outputs(jnp.array(x_hat), None, None, None, {})
    inputs = methods.Inputs(jnp.array(x), None, jnp.arange(3), None)
    rounding = {"rtol": 1e-6}  # float32
    np.testing.assert_allclose(
        autoencoders.squared_error(inputs.x, outputs)["reconstruction"],
        [image.mean() for image in squared],
        **rounding,
    )
    score = methods.get_score("squared")(None, None, inputs, outputs)
    np.testing.assert_allclose(score.map, squared.mean(axis=3), **rounding)
    assert score.value is None


def make_config(name):
    """Small, with the channel off, which not every method can carry."""
    config = config_lib.apply_variant(config_lib.default(), "plain")
    config.method = name
    config.data.image_size, config.data.channels = 32, 3
    config.model.latent_dim = 5
    config.model.base_width, config.model.hidden_dim = 4, 32
    return config


@pytest.mark.parametrize("name", methods.METHODS)
def test_a_pass_has_the_shapes_of_the_configuration(name, tmp_path):
    config = make_config(name)
    if name == "ae_perceptual":
        perceptual_support.configure(config, tmp_path)
    method = methods.make_method(config, None)
    variables = jax.eval_shape(method.init, jax.random.key(0))
    inputs = methods.Inputs(
        jnp.zeros((2, 32, 32, 3)), None, jnp.arange(2), jax.random.key(1)
    )

    def run(variables, *, train):
        forward = method.forward
        outputs = forward(variables, inputs, methods.no_noise, train=train)
        score = methods.get_score(method.score)
        found = score(method, variables, inputs, outputs)
        return outputs, found, method.losses(inputs.x, outputs)

    for train in (True, False):
        outputs, score, losses = jax.eval_shape(
            functools.partial(run, train=train), variables
        )
        assert outputs.x_hat.shape == (2, 32, 32, 3)
        if method.latent_dim is not None:
            assert outputs.z.shape == (2, method.latent_dim)
            assert outputs.z_noisy.shape == outputs.z.shape
        assert "reconstruction" in losses
        assert all(loss.shape == (2,) for loss in losses.values())
        if score.map is not None:
            assert score.map.shape == (2, 32, 32)
        else:
            assert score.value.shape == (2,)
        assert jax.tree.structure(outputs.batch_stats) == jax.tree.structure(
            variables["batch_stats"]
        )


def test_gradient_score_of_ae_matches_the_reference():
    reference = parity_support.Reference("ae")
    method = autoencoders.from_network(parity_support.make_network())
    name = methods.make_method(make_config("ae_grad"), None).score
    found = parity_support.score_untrained(
        method, reference, {"gradscore": name}
    )
    theirs = reference.images("gradscore")[..., 0]
    # Float32 through 14 layers and back, of the largest entry.
    np.testing.assert_allclose(
        found["gradscore"], theirs, rtol=1e-4, atol=1e-4 * theirs.max()
    )


def test_unknown_name_lists_the_choices():
    with pytest.raises(ValueError, match=r".") as caught:
        methods.make_method(make_config("vea"), None)
    assert str(caught.value) == (
        f"method is 'vea'; choose one of {', '.join(methods.METHODS)}."
    )


def test_unknown_compat_says_which_there_is():
    config = make_config("ae")
    config.compat = "medianomoly"
    with pytest.raises(ValueError, match="compat is 'medianomoly'; leave it"):
        methods.make_method(config, None)


def test_keys_of_images_do_not_depend_on_how_they_are_dealt_out():
    def keys(positions, stream=0):
        inputs = methods.Inputs(None, None, positions, jax.random.key(3))
        return jax.random.key_data(streams.row_keys(inputs, stream))

    whole = keys(jnp.arange(4))
    np.testing.assert_array_equal(whole[2:], keys(jnp.arange(2, 4)))
    assert len(np.unique(np.concatenate([whole, keys(jnp.arange(4), 1)]))) > 8
