"""Training passes of all methods, on one device and on eight."""

import functools

import jax
import numpy as np
import perceptual_support
import pytest
import training_support
from jax import lax

from aeent_jax import config as config_lib
from aeent_jax import methods
from aeent_jax.entropy import channel
from aeent_jax.runtime import parallel

# They are trained as others, and differ in their scores.
SCORED_OTHERWISE = {"ae_grad", "vae_combi", "vae_elbo", "vae_kl", "vae_rec"}
# Pixels are repeated for those that need larger images.
SIZES = {"dae": 32}
# Five images: on eight devices three hold none.
COUNT, PADDED = 5, 8


def make_method(name, folder):
    config = config_lib.apply_variant(config_lib.default(), "plain")
    config.method = name
    config.data.image_size = SIZES.get(name, training_support.IMAGE_SIZE)
    config.model.latent_dim = training_support.LATENT_DIM
    config.model.base_width, config.model.hidden_dim = 4, 32
    if name == "ae_perceptual":
        perceptual_support.configure(config, folder)
    return methods.make_method(config, parallel.AXIS)


def make_variables(method):
    """Any there may be, without compiling `init`."""
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(method.init, jax.random.key(0))
    return jax.tree.map(
        lambda leaf: rng.uniform(-0.3, 0.5, leaf.shape).astype(leaf.dtype),
        shapes,
    )


def training_pass(method, variables, images, mask):
    """The result of each device for its rows."""
    size = len(images)
    inputs = methods.Inputs(
        x=methods.normalise(images),
        mask=mask,
        positions=lax.axis_index(parallel.AXIS) * size + np.arange(size),
        rng=jax.random.key(3),
    )

    def noise(z):
        return channel.add_noise(z, 0.5, inputs.rng, inputs.positions)

    noise = noise if method.latent_dim else methods.no_noise
    outputs = method.forward(variables, inputs, noise, train=True)
    rows = outputs._replace(batch_stats=())
    return rows, method.losses(inputs.x, outputs), outputs.batch_stats


def make_images(name):
    repeats = SIZES.get(name, training_support.IMAGE_SIZE)
    repeats //= training_support.IMAGE_SIZE
    images = training_support.make_images(PADDED)
    return images.repeat(repeats, axis=1).repeat(repeats, axis=2)


def run(method, images, num_devices):
    mapping = parallel.make_parallel(num_devices)
    mapped = mapping.map(
        functools.partial(training_pass, method),
    )
    variables = make_variables(method)
    batch = mapping.shard((images, np.arange(PADDED) < COUNT))
    *rows, stats = mapped(mapping.replicate(variables), *batch)
    rows = mapping.fetch_sharded(tuple(rows))
    valid = jax.tree.map(lambda array: array[:COUNT], rows)
    return valid, mapping.fetch_replicated(stats)


@pytest.mark.parametrize(
    "name",
    [
        # VGG19 takes as long to compile as all the others.
        pytest.param(name, marks=pytest.mark.slow)
        if name == "ae_perceptual"
        else name
        for name in sorted(set(methods.METHODS) - SCORED_OTHERWISE)
    ],
)
def test_a_pass_is_the_same_on_any_number_of_devices(name, tmp_path):
    # Forward alone, with what it draws: the gradient of a sum of shares over
    # devices is the training step's, and tested with it.
    method, images = make_method(name, tmp_path), make_images(name)
    jax.tree.map(
        functools.partial(
            np.testing.assert_allclose,
            rtol=1e-4,  # float32 sums over devices in another order, and
            atol=1e-4,  # divided by the deviations of five rows
        ),
        run(method, images, 8),
        run(method, images, 1),
    )
