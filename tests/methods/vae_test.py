import functools

import jax
import jax.numpy as jnp
import numpy as np
import parity_support
import pytest

from aeent_jax import config as config_lib
from aeent_jax import methods
from aeent_jax.methods import vae


def make_network(**overrides):
    return parity_support.make_network(encoded_vectors=2, **overrides)


@pytest.fixture(scope="module")
def case():
    """With the reference's `eps` as the only one there is."""
    reference = parity_support.Reference("vae")
    eps = jnp.asarray(reference.arrays["eps"])
    method = vae.from_network(
        make_network(),
        kl_weight=0.005,
        samples_in_evaluation=True,
        draw=lambda inputs, dim: eps[inputs.positions],
    )
    return parity_support.make_case(method, reference)


def test_untrained_outputs_match_the_reference(case):
    frozen = {
        "mu": lambda outputs, _: outputs.z,
        "log_var": lambda outputs, _: outputs.extra["log_var"],
    }
    parity_support.assert_untrained_matches(case, frozen)


def test_gradients_match_the_reference(case):
    parity_support.assert_gradient_matches(case)


def test_training_matches_the_reference(case):
    parity_support.assert_training_matches(case)


def test_gradient_scores_match_the_reference(case):
    names = {
        "elbo": "gradient",
        "rec": "gradient_reconstruction",
        "kl": "gradient_kl",
        "combi": "gradient_combined",
    }
    found = parity_support.score_untrained(case.method, case.reference, names)
    for frozen, ours in found.items():
        theirs = case.reference.images(f"gradscore/{frozen}")[..., 0]
        # Float32 through 14 layers and back, of the largest entry.
        np.testing.assert_allclose(
            ours, theirs, rtol=1e-4, atol=1e-4 * theirs.max(), err_msg=frozen
        )


@pytest.mark.parametrize("name", ["vae_c1_d16", "vae_c3_d16"])
def test_parameter_count_matches_the_reference(name):
    network = make_network(**parity_support.full_sizes(name))
    count = parity_support.num_parameters(network.init)
    assert count == parity_support.COUNTS[name]


def test_kl_matches_numerical_integration():
    mu, log_var = np.array([0.3, -1.2]), np.array([-0.7, 0.4])
    z = np.linspace(-12, 12, 20001)[:, None]

    def log_density(mean, log_variance):
        scaled = (z - mean) ** 2 / np.exp(log_variance)
        return -0.5 * (scaled + log_variance + np.log(2 * np.pi))

    own, prior = log_density(mu, log_var), log_density(0.0, 0.0)
    expected = np.trapezoid(np.exp(own) * (own - prior), z, axis=0).mean()
    found = vae.kl_divergence(jnp.array([mu]), jnp.array([log_var]))
    # Float32; the rule's own error is far below.
    np.testing.assert_allclose(found, [expected], rtol=1e-6)


def make_config(**overrides):
    config = config_lib.apply_variant(config_lib.default(), "plain")
    config.update_from_flattened_dict(
        {
            "method": "vae",
            "data.image_size": 32,
            "model.latent_dim": 4,
            "model.base_width": 4,
            "model.hidden_dim": 32,
        }
        | {key.replace("__", "."): v for key, v in overrides.items()}
    )
    return config


def make(**overrides):
    return methods.make_method(make_config(**overrides), None)


@functools.cache
def passes():
    """Trained, evaluated, evaluated compatibly: twice, and at other places."""
    reference = parity_support.Reference("vae")
    plain, compatible = make(), make(compat="medianomaly")

    def shift(z):
        return z + 3.0

    @jax.jit
    def run(inputs):
        variables = reference.variables("init")
        return [
            plain.forward(variables, inputs, shift, train=True),
            plain.forward(variables, inputs, shift, train=False),
            compatible.forward(variables, inputs, shift, train=False),
        ]

    inputs = reference.inputs()
    moved = inputs._replace(positions=inputs.positions + 1)
    return run(inputs), run(inputs), run(moved)


def test_evaluation_is_of_the_mean_and_training_of_a_sample():
    (trained, evaluated, _), *_ = passes()
    np.testing.assert_array_equal(evaluated.extra["sample"], evaluated.z_noisy)
    deviation = jnp.exp(0.5 * trained.extra["log_var"])
    eps = (trained.extra["sample"] - trained.z_noisy) / deviation
    # 44 standard normal numbers: four errors of their mean and their square.
    assert abs(np.mean(eps)) < 4 / 44**0.5
    assert abs(np.mean(eps**2) - 1) < 4 * (2 / 44) ** 0.5
    assert len(np.unique(eps)) == eps.size


def test_noisy_latent_has_the_noise_of_the_channel_alone():
    # Noise that no estimator knows of would count as information.
    (trained, *_), *_ = passes()
    np.testing.assert_array_equal(trained.z_noisy, trained.z + 3.0)


def test_compatible_evaluation_repeats_its_sample_of_each_image():
    once, again, moved = (outputs.extra["sample"] for *_, outputs in passes())
    (*_, compatible), *_ = passes()
    assert np.abs(once - compatible.z_noisy).min() > 0
    np.testing.assert_array_equal(again, once)
    assert np.abs(moved - once).min() > 0


def test_refuses_values_that_it_cannot_use():
    with pytest.raises(ValueError, match="normalisation is power.*to none"):
        make(channel__normalisation="power")
