"""Networks in bfloat16, and with exact products, inside a float32 step."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import training_support
from jax.extend.core import jaxprs_in_params

from aeent_jax import config as config_lib
from aeent_jax import methods

IMAGES = training_support.make_images(8)


def make_method(name="ae", **compute):
    config = config_lib.apply_variant(config_lib.default(), "plain")
    config.method = name
    config.data.image_size = training_support.IMAGE_SIZE
    config.model.latent_dim = training_support.LATENT_DIM
    config.model.base_width, config.model.hidden_dim = 4, 32
    config.compute.update(compute)
    return methods.make_method(config, None)


def loss_of(method):
    x = jnp.asarray(IMAGES / 127.5 - 1, jnp.float32)
    inputs = methods.Inputs(x, jnp.ones(8, bool), jnp.arange(8), None)

    def loss(params, batch_stats):
        outputs = method.forward(
            {"params": params, "batch_stats": batch_stats},
            inputs,
            lambda z: z,
            train=True,
        )
        return method.losses(x, outputs)["reconstruction"].mean(), outputs

    return loss


def train(method):
    """Loss, outputs and gradients of one batch."""
    variables = make_method().init(jax.random.key(0))
    step = jax.jit(jax.value_and_grad(loss_of(method), has_aux=True))
    (loss, outputs), grads = step(variables["params"], variables["batch_stats"])
    return float(loss), outputs, grads


def products(jaxpr):
    """Dtype and precision of each convolution and matmul, at any depth."""
    for equation in jaxpr.eqns:
        if equation.primitive.name in ("conv_general_dilated", "dot_general"):
            yield (
                equation.invars[0].aval.dtype.name,
                str(equation.params["precision"]),
            )
        for sub in jaxprs_in_params(equation.params):
            yield from products(sub)


def products_of(method):
    variables = jax.eval_shape(make_method().init, jax.random.key(0))
    step = jax.value_and_grad(loss_of(method), has_aux=True)
    traced = jax.make_jaxpr(step)(variables["params"], variables["batch_stats"])
    return set(products(traced.jaxpr))


@pytest.mark.slow
def test_bfloat16_is_inside_the_network_alone():
    loss, outputs, grads = train(make_method(dtype="bfloat16"))
    exact, wanted, exact_grads = train(make_method())
    for leaf in jax.tree.leaves((outputs, grads)):
        assert leaf.dtype == jnp.float32
    # 8 bits of mantissa: errors of 2^-9 a product.
    assert loss == pytest.approx(exact, rel=0.02)
    assert loss != exact
    np.testing.assert_allclose(outputs.z, wanted.z, atol=0.05)
    # Statistics are sums in float32 of activations that were rounded.
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=0.02, atol=0.01),
        outputs.batch_stats,
        wanted.batch_stats,
    )
    flat = [
        np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)])
        for tree in (grads, exact_grads)
    ]
    assert np.corrcoef(*flat)[0, 1] > 0.98
    assert products_of(make_method(dtype="bfloat16")) == {("bfloat16", "None")}


def test_products_have_the_precision_asked_for():
    (found,) = products_of(make_method(matmul_precision="highest"))
    assert found[0] == "float32"
    assert "HIGHEST" in found[1]
    assert products_of(make_method()) == {("float32", "None")}


@pytest.mark.parametrize("name", ["vae", "aeu", "constrained_ae", "memae"])
def test_methods_train_in_bfloat16(name):
    method = make_method(name, dtype="bfloat16")
    variables = jax.eval_shape(method.init, jax.random.key(0))
    x = jnp.zeros((8, *IMAGES.shape[1:]))

    def forward(variables):
        inputs = methods.Inputs(
            x, jnp.ones(8, bool), jnp.arange(8), jax.random.key(0)
        )
        outputs = method.forward(variables, inputs, lambda z: z, train=True)
        return outputs, method.losses(x, outputs)

    for leaf in jax.tree.leaves(jax.eval_shape(forward, variables)):
        assert leaf.dtype == jnp.float32


def test_unet_computes_in_float32_alone():
    config = config_lib.apply_variant(config_lib.default(), "plain")
    config.method = "dae"
    config.compute.dtype = "bfloat16"
    with pytest.raises(ValueError, match="dae has a UNet, which computes"):
        methods.make_method(config, None)
