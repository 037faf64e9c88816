"""Methods equal the reference's, number for number."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import parity_support
import pytest

from aeent_jax import methods
from aeent_jax.methods import autoencoders, memae, vae
from configs import default

_make_network = parity_support.make_network


def _make_vae(reference):
    eps = jnp.asarray(reference.arrays["eps"])
    return vae.from_network(
        _make_network(encoded_vectors=2),
        kl_weight=0.005,
        samples_in_evaluation=True,
        draw=lambda inputs, dim: eps[inputs.positions],
    )


def _make_memae(reference):
    del reference
    return memae.from_network(
        _make_network(), num_slots=25, threshold=0.0025, address_weight=2e-4
    )


def _read_out(outputs, variables):
    slots = variables["params"]["memory"]["slots"]
    return outputs.extra["addresses"] @ slots


class Entry(NamedTuple):
    """How a method is made, and what else is frozen of the untrained one.

    Attributes:
      make: from the reference's numbers to the method in their sizes.
      frozen: from a name under eval0/ to a function of outputs and variables.
    """

    make: Callable
    frozen: dict[str, Callable]


ENTRIES = {
    "vae": Entry(
        _make_vae,
        {
            "mu": lambda outputs, _: outputs.z,
            "log_var": lambda outputs, _: outputs.extra["log_var"],
        },
    ),
    "memae": Entry(
        _make_memae,
        {
            "z": lambda outputs, _: outputs.z,
            "att": lambda outputs, _: outputs.extra["addresses"],
            "z_hat": _read_out,
        },
    ),
}


class Case(NamedTuple):
    name: str
    method: methods.Method
    reference: parity_support.Reference
    trained: parity_support.Trained


@pytest.fixture(params=ENTRIES, scope="module")
def case(request):
    reference = parity_support.Reference(request.param)
    method = ENTRIES[request.param].make(reference)
    trained = parity_support.train(method, reference)
    return Case(request.param, method, reference, trained)


def test_untrained_outputs_match_the_reference(case):
    reference, variables = case.reference, case.reference.variables("init")
    inputs = reference.inputs()
    outputs = parity_support.evaluate(case.method, variables, inputs)
    close = functools.partial(
        np.testing.assert_allclose,
        atol=1e-5,  # float32 through 14 layers
    )
    close(outputs.x_hat, reference.images("eval0/x_hat"))
    for name, value in ENTRIES[case.name].frozen.items():
        close(value(outputs, variables), reference.arrays[f"eval0/{name}"])
    score_of = methods.get_score(case.method.score)
    score = score_of(case.method, variables, inputs, outputs)
    close(score.map, reference.images("eval0/score_map")[..., 0])


def test_gradients_match_the_reference(case):
    parity_support.assert_gradient_matches(case.trained, case.reference)


def test_training_matches_the_reference(case):
    parity_support.assert_training_matches(
        case.trained, case.reference, case.method
    )


_GRADIENT_SCORES = {
    "ae": {"gradscore": "gradient"},
    "vae": {
        "gradscore/elbo": "gradient",
        "gradscore/rec": "gradient_reconstruction",
        "gradscore/kl": "gradient_kl",
        "gradscore/combi": "gradient_combined",
    },
}


@pytest.mark.parametrize("name", _GRADIENT_SCORES)
def test_gradient_scores_match_the_reference(name):
    reference = parity_support.Reference(name)
    if name == "ae":
        method = autoencoders.from_network(_make_network())
    else:
        method = _make_vae(reference)
    names = _GRADIENT_SCORES[name]

    @jax.jit
    def score(variables, inputs):
        evaluated = method.forward(
            variables, inputs, methods.no_noise, train=False
        )
        return {
            frozen: methods.get_score(ours)(
                method, variables, inputs, evaluated
            ).map
            for frozen, ours in names.items()
        }

    found = score(reference.variables("init"), reference.inputs(4))
    for frozen, ours in found.items():
        theirs = reference.images(frozen)[..., 0]
        # Float32 through 14 layers and back, of the largest entry.
        np.testing.assert_allclose(
            ours, theirs, rtol=1e-4, atol=1e-4 * theirs.max(), err_msg=frozen
        )


@pytest.mark.parametrize(
    ("name", "count"),
    [
        (name, count)
        for name, count in parity_support.COUNTS.items()
        if name.split("_")[0] in ENTRIES
    ],
)
def test_parameter_count_matches_the_reference(name, count):
    config = default.apply_variant(default.get_config(), "plain")
    config.method = name.split("_")[0]
    sizes = parity_support.full_sizes(name)
    config.data.channels = sizes["channels"]
    config.model.latent_dim = sizes["latent_dim"]
    method = methods.make_method(config, None)
    assert parity_support.num_parameters(method.init) == count
