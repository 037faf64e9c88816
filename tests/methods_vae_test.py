import functools

import jax
import jax.numpy as jnp
import numpy as np
import parity_support
import pytest

from aeent_jax import methods
from aeent_jax.methods import vae
from configs import default


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
    config = default.apply_variant(default.get_config(), "plain")
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
    """Of the default and of the compatible method, in evaluation, by positions.

    The decoder's input, `z_noisy`, is what shows whether there was a sample.
    """
    reference = parity_support.Reference("vae")
    plain, compatible = make(), make(compat="medianomaly")

    @jax.jit
    def run(inputs):
        variables = reference.variables("init")
        return [
            method.forward(variables, inputs, methods.no_noise, train=train)
            for method, train in (
                (plain, True),
                (plain, False),
                (compatible, False),
            )
        ]

    inputs = reference.inputs()
    moved = inputs._replace(positions=inputs.positions + 1)
    return run(inputs), run(inputs), run(moved)


def test_evaluation_is_of_the_mean_and_training_of_a_sample():
    (trained, evaluated, _), *_ = passes()
    np.testing.assert_array_equal(evaluated.z_noisy, evaluated.z)
    eps = (trained.z_noisy - trained.z) / jnp.exp(
        0.5 * trained.extra["log_var"]
    )
    # 44 standard normal numbers: four errors of their mean and their square.
    assert abs(np.mean(eps)) < 4 / 44**0.5
    assert abs(np.mean(eps**2) - 1) < 4 * (2 / 44) ** 0.5
    assert len(np.unique(eps)) == eps.size


def test_compatible_evaluation_repeats_its_sample_of_each_image():
    (*_, once), (*_, again), (*_, moved) = passes()
    assert np.abs(once.z_noisy - once.z).min() > 0
    np.testing.assert_array_equal(again.z_noisy, once.z_noisy)
    assert np.abs(moved.z_noisy - once.z_noisy).min() > 0


def test_refuses_values_that_it_cannot_use():
    with pytest.raises(ValueError, match="loss.kl_weight is -1.* at least 0"):
        make(loss__kl_weight=-1.0)
    with pytest.raises(ValueError, match="normalisation is power.*to none"):
        make(channel__normalisation="power")
