import jax
import jax.numpy as jnp
import numpy as np
import parity_support
import pytest

from aeent_jax import config as config_lib
from aeent_jax import methods
from aeent_jax.methods import memae

SIZES = {"num_slots": 25, "threshold": 0.0025, "address_weight": 2e-4}


@pytest.fixture(scope="module")
def case():
    method = memae.from_network(parity_support.make_network(), **SIZES)
    reference = parity_support.Reference("memae")
    return parity_support.make_case(method, reference)


def read_out(outputs, variables):
    slots = variables["params"]["memory"]["slots"]
    return outputs.extra["addresses"] @ slots


def test_untrained_outputs_match_the_reference(case):
    frozen = {
        "z": lambda outputs, _: outputs.z,
        "att": lambda outputs, _: outputs.extra["addresses"],
        "z_hat": read_out,
    }
    parity_support.assert_untrained_matches(case, frozen)


def test_gradients_match_the_reference(case):
    parity_support.assert_gradient_matches(case)


def test_training_matches_the_reference(case):
    parity_support.assert_training_matches(case)


@pytest.mark.parametrize("name", ["memae_c1_d16", "memae_c3_d16"])
def test_parameter_count_matches_the_reference(name):
    network = parity_support.make_network(**parity_support.full_sizes(name))
    method = memae.from_network(network, **SIZES)
    count = parity_support.num_parameters(method.init)
    assert count == parity_support.COUNTS[name]


def test_initial_slots_are_uniform_as_the_references():
    method = memae.from_network(
        parity_support.make_network(), **SIZES | {"num_slots": 2500}
    )
    draw = jax.jit(lambda rng: method.init(rng)["params"]["memory"]["slots"])
    slots = np.asarray(draw(jax.random.key(0)))
    bound = 4**-0.5
    assert np.abs(slots).max() <= bound
    # 10000 draws: the deviation is known to half a percent; four of that.
    np.testing.assert_allclose(slots.std(), bound / 3**0.5, rtol=0.02)
    theirs = parity_support.Reference("memae").params("init")["memory"]
    assert 0.9 * bound < np.abs(theirs["slots"]).max() <= bound


def test_addresses_below_the_threshold_vanish_and_the_rest_sum_to_1():
    # One dimension and slots log(w): the softmax of z = 1 is w itself.
    weights = np.array([0.6, 0.3, 0.06, 0.04])
    slots = jnp.log(jnp.array(weights))[:, None]
    found = memae.address(jnp.ones((1, 1)), slots, 0.05)
    expected = np.where(weights > 0.05, weights, 0) / 0.96
    np.testing.assert_allclose(found[0], expected, rtol=1e-5)  # float32
    assert found[0, 3] == 0


def test_entropy_of_addresses_is_in_nats_and_has_a_gradient_at_0():
    addresses = jnp.array([[1.0, 0.0], [0.5, 0.5]])
    np.testing.assert_allclose(
        memae.address_entropy(addresses),
        [0, np.log(2)],
        rtol=1e-6,  # float32
        atol=1e-6,
    )

    def entropy(z):
        slots = jnp.log(jnp.array([0.97, 0.03]))[:, None]
        return memae.address_entropy(memae.address(z, slots, 0.05)).sum()

    # Float32 rounding; a logarithm of 0 would make it NaN.
    assert abs(jax.grad(entropy)(jnp.ones((1, 1)))) < 1e-6


def test_decoder_sees_the_memory_at_the_noisy_latent():
    reference = parity_support.Reference("memae")
    method = memae.from_network(parity_support.make_network(), **SIZES)
    variables, inputs = reference.variables("init"), reference.inputs(2)

    @jax.jit
    def run(shift):
        def noise(z):
            return z + shift

        return method.forward(variables, inputs, noise, train=False)

    outputs = run(0.5)
    np.testing.assert_array_equal(outputs.z_noisy, outputs.z + 0.5)
    slots = variables["params"]["memory"]["slots"]
    addresses = memae.address(outputs.z + 0.5, slots, SIZES["threshold"])
    np.testing.assert_allclose(
        outputs.extra["addresses"],
        addresses,
        rtol=1e-5,  # another compilation
    )
    network = parity_support.make_network()
    x_hat, _ = network.apply(
        "decoder", variables, addresses @ slots, train=False
    )
    np.testing.assert_allclose(outputs.x_hat, x_hat, atol=1e-5)


def test_refuses_a_threshold_that_may_leave_no_address():
    config = config_lib.apply_variant(config_lib.default(), "plain")
    config.method, config.model.shrink_threshold = "memae", 0.04
    with pytest.raises(ValueError, match=r"threshold is 0.04.* below 1/25"):
        methods.make_method(config, None)
