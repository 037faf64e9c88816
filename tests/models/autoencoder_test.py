"""The network equals the reference's, number for number."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import parity_support
import pytest

from aeent_jax.methods import autoencoders

_make = parity_support.make_network


@pytest.fixture(
    params=[("ae", 1), ("ae_depth2", 2)], ids=lambda p: p[0], scope="module"
)
def case(request):
    name, depth = request.param
    method = autoencoders.from_network(_make(depth=depth))
    reference = parity_support.Reference(name, depth)
    return parity_support.make_case(method, reference)


def test_untrained_outputs_match_the_reference(case):
    frozen = {"z": lambda outputs, _: outputs.z}
    parity_support.assert_untrained_matches(case, frozen)


def test_gradients_match_the_reference(case):
    parity_support.assert_gradient_matches(case)


def test_training_matches_the_reference(case):
    parity_support.assert_training_matches(case)


@pytest.mark.parametrize(
    ("name", "count"),
    [(n, c) for n, c in parity_support.COUNTS.items() if n.startswith("ae_")],
)
def test_parameter_count_matches_the_reference(name, count):
    network = _make(**parity_support.full_sizes(name))
    assert parity_support.num_parameters(network.init) == count


def test_initial_values_are_pytorchs_uniform():
    network = _make(image_size=64, base_width=16, hidden_dim=1024)
    params = jax.jit(network.init)(jax.random.key(0))["params"]
    fan_in = {
        ("encoder", "block2_0", "conv"): 4 * 4 * 16,
        ("encoder", "hidden"): 1024,
        ("decoder", "hidden"): 4,
        ("decoder", "up1"): 4 * 4 * 64,
        # Output channels, not input channels, make a transposed fan-in.
        ("decoder", "up3"): 4 * 4 * 16,
    }
    for path, fan in fan_in.items():
        tree = params
        for name in path:
            tree = tree[name]
        kernel = np.asarray(tree["kernel"])
        bound = fan**-0.5
        assert np.abs(kernel).max() <= bound
        # 4096 or more draws: the standard deviation is known to 1 %, and four
        # of its errors make the bound.
        np.testing.assert_allclose(kernel.std(), bound / 3**0.5, rtol=0.05)


@pytest.mark.parametrize("size", [16, 48])
@pytest.mark.parametrize("channels", [1, 3])
def test_other_image_sizes_keep_their_shape(size, channels):
    network = _make(image_size=size, channels=channels, depth=2)
    x = jnp.zeros((2, size, size, channels))
    variables = jax.eval_shape(network.init, jax.random.key(0))
    z, _ = jax.eval_shape(
        lambda v: network.apply("encoder", v, x, train=False), variables
    )
    x_hat, _ = jax.eval_shape(
        lambda v: network.apply("decoder", v, jnp.zeros((2, 4)), train=False),
        variables,
    )
    assert z.shape == (2, 4)
    assert x_hat.shape == x.shape


def test_power_normalisation_adds_one_statistic_and_no_parameter():
    plain, normalised = _make(), _make(normalisation="power")
    x = jax.random.uniform(jax.random.key(1), (4, 32, 32, 1))
    variables, other = (
        jax.jit(network.init)(jax.random.key(0))
        for network in (plain, normalised)
    )
    jax.tree.map(
        np.testing.assert_array_equal, variables["params"], other["params"]
    )
    added = other["batch_stats"]["encoder"].pop("latent_norm")
    assert added == {"power": 1}
    assert jax.tree.structure(other) == jax.tree.structure(variables)
    other["batch_stats"]["encoder"]["latent_norm"] = added
    encode = jax.jit(functools.partial(normalised.apply, "encoder", train=True))
    z, stats = encode(other, x)
    np.testing.assert_allclose(np.mean(z**2), 1.0, rtol=1e-5)  # float32
    assert stats["latent_norm"]["power"] != 1
