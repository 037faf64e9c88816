"""Training passes that keep less, and have the same gradient."""

import collections

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import training_support
from jax.extend.core import jaxprs_in_params

from aeent_jax import channel, methods, parallel
from configs import default

# More than the parameters of a layer, so that activations outweigh them.
COUNT = 64
IMAGES = training_support.make_images(COUNT)


def make_method(name="ae", axis_name=None, *, remat):
    config = default.apply_variant(default.get_config(), "plain")
    config.method = name
    config.data.image_size = training_support.IMAGE_SIZE
    config.model.latent_dim = training_support.LATENT_DIM
    config.model.base_width, config.model.hidden_dim = 4, 32
    config.compute.remat = remat
    return methods.make_method(config, axis_name)


def make_loss(method):
    """From parameters, statistics and a key to the loss of a batch."""
    x = jnp.asarray(IMAGES / 127.5 - 1, jnp.float32)

    def loss(params, batch_stats, rng):
        mask, places = jnp.arange(COUNT) < COUNT - 3, jnp.arange(COUNT)
        inputs = methods.Inputs(x, mask, places, rng)

        def noise(z):
            return channel.add_noise(z, 0.5, rng, places)

        variables = {"params": params, "batch_stats": batch_stats}
        outputs = method.forward(variables, inputs, noise, train=True)
        terms = method.losses(x, outputs).values()
        mean = jnp.sum(jnp.where(mask, sum(terms), 0)) / jnp.sum(mask)
        return mean + jnp.sum(outputs.z**2) / COUNT, outputs.batch_stats

    return loss


def shapes(method):
    variables = jax.eval_shape(method.init, jax.random.key(0))
    rng = jax.eval_shape(jax.random.key, 1)
    return variables["params"], variables["batch_stats"], rng


def arguments(method):
    """Any there may be, without compiling `init`."""
    rng = np.random.default_rng(0)
    variables = jax.tree.map(
        lambda leaf: rng.uniform(-0.3, 0.5, leaf.shape).astype(leaf.dtype),
        shapes(method)[:2],
    )
    return *variables, jax.random.key(1)


def residual_bytes(method):
    """What a forward pass leaves for the backward pass."""

    def forward(params, *rest):
        return jax.vjp(
            lambda params: make_loss(method)(params, *rest)[0], params
        )[1]

    kept = jax.eval_shape(forward, *shapes(method))
    return sum(
        leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(kept)
    )


def count_primitives(jaxpr):
    """How often each primitive stands in it, at any depth."""
    found = collections.Counter()
    for equation in jaxpr.eqns:
        found[equation.primitive.name] += 1
        for sub in jaxprs_in_params(equation.params):
            found += count_primitives(sub)
    return found


def test_gradient_and_statistics_are_the_same():
    results = []
    for remat in (False, True):
        method = make_method(remat=remat)
        step = jax.jit(jax.value_and_grad(make_loss(method), has_aux=True))
        results.append(step(*arguments(method)))
    # float32, where a compiler may fuse the second computation otherwise.
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6),
        *results,
    )


@pytest.mark.parametrize("name", ["ae", "vae", "memae", "constrained_ae"])
def test_less_than_half_is_kept(name):
    plain, kept = (
        residual_bytes(make_method(name, remat=remat))
        for remat in (False, True)
    )
    assert kept < 0.5 * plain


def test_no_product_and_no_exchange_is_done_twice():
    counts = []
    for remat in (False, True):
        method = make_method(axis_name=parallel.AXIS, remat=remat)
        gradient = jax.grad(make_loss(method), has_aux=True)
        traced = jax.make_jaxpr(gradient, axis_env=[(parallel.AXIS, 8)])
        counts.append(count_primitives(traced(*shapes(method)).jaxpr))
    plain, recomputed = counts
    for name in ("conv_general_dilated", "dot_general", "all_gather"):
        assert recomputed[name] == plain[name] > 0
    # BatchNorm is.
    assert recomputed["rsqrt"] > plain["rsqrt"]


def test_evaluation_is_as_it_was():
    method = make_method(remat=True)
    variables = jax.eval_shape(method.init, jax.random.key(0))
    inputs = methods.Inputs(
        jnp.zeros((2, *IMAGES.shape[1:])), None, jnp.arange(2), None
    )
    traced = jax.make_jaxpr(
        lambda variables: method.forward(
            variables, inputs, methods.no_noise, train=False
        )
    )(variables)
    assert not {"checkpoint", "remat"} & set(count_primitives(traced.jaxpr))
