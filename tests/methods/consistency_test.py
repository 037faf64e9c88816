import functools

import jax
import jax.numpy as jnp
import numpy as np

from aeent_jax import config as config_lib
from aeent_jax import methods
from aeent_jax.methods import autoencoders


def make_config(compat="", weight=3.0):
    config = config_lib.apply_variant(config_lib.default(), "plain")
    config.method, config.compat = "constrained_ae", compat
    config.loss.consistency_weight = weight
    config.data.image_size, config.model.latent_dim = 16, 3
    config.model.base_width, config.model.hidden_dim = 4, 8
    return config


X = np.random.default_rng(0).uniform(-1, 1, (5, 16, 16, 1)).astype(np.float32)


@functools.cache
def passes():
    """Outputs of the plain autoencoder, its latents, and both variants."""
    network = autoencoders.make_network(make_config(), None)
    inputs = methods.Inputs(X, None, jnp.arange(5), jax.random.key(1))

    rng = np.random.default_rng(1)
    variables = jax.tree.map(
        lambda leaf: rng.uniform(0.1, 0.3, leaf.shape).astype(np.float32),
        jax.eval_shape(network.init, jax.random.key(0)),
    )

    @jax.jit
    def run():
        def forward(of):
            return of(variables, inputs, methods.no_noise, train=True)

        plain = forward(autoencoders.from_network(network).forward)
        z_again, _ = network.apply(
            "encoder", variables, plain.x_hat, train=True
        )
        variants = {
            compat: forward(
                methods.make_method(make_config(compat), None).forward
            )
            for compat in methods.COMPATS
        }
        return plain, z_again, variants

    return run()


def test_consistency_is_the_squared_change_of_the_latent():
    plain, z_again, variants = passes()
    method = methods.make_method(make_config(), None)
    losses = method.losses(X, variants[""])
    rounding = {"rtol": 1e-5}  # float32
    np.testing.assert_allclose(
        losses["consistency"],
        3.0 * np.mean((plain.z - z_again) ** 2, axis=1),
        **rounding,
    )
    np.testing.assert_allclose(
        losses["reconstruction"],
        np.mean((X - plain.x_hat) ** 2, axis=(1, 2, 3)),
        **rounding,
    )


def _differing(ours, theirs):
    """Names of layers with other running statistics."""
    return {
        f"{half}/{name}"
        for half, layers in ours.items()
        for name, layer in layers.items()
        for a, b in zip(
            jax.tree.leaves(layer),
            jax.tree.leaves(theirs[half][name]),
            strict=True,
        )
        if not np.allclose(a, b, rtol=1e-6)
    }


def test_running_statistics_are_those_of_images_alone():
    plain, _, variants = passes()
    assert not _differing(variants[""].batch_stats, plain.batch_stats)


def test_compat_adds_those_of_reconstructions_up_to_the_decoders_hidden():
    plain, _, variants = passes()
    compat = variants["medianomaly"].batch_stats
    assert _differing(compat, plain.batch_stats) == {
        *(f"encoder/{name}" for name in plain.batch_stats["encoder"]),
        "decoder/hidden_norm",
    }
