import json
import re

import numpy as np
import pytest
import training_support

from aeent_jax.bench import cost
from aeent_jax.methods import METHODS

# Those of other tests, so that their compiled programs serve here as well.
BATCH, LATENT, IMAGES = 4, training_support.LATENT_DIM, 14
_COLLECTIVE = re.compile(
    r"= (.*?) (all-reduce|all-gather|reduce-scatter|all-to-all|"
    r"collective-permute)(?:-start)?\("
)


def make_config(**overrides):
    return training_support.make_config("", "", **overrides)


@pytest.fixture(scope="module")
def result():
    """Cost of a tiny run on two devices."""
    return cost.measure(make_config(), num_devices=2, train_images=IMAGES)


def collectives(batch_size):
    """Type and kind of each collective of a step on two devices."""
    config = make_config(train__batch_size=batch_size)
    dataset = cost.blank_dataset(config, batch_size)
    _, lowered = cost.lower_step(config, dataset, 2)
    return _COLLECTIVE.findall(lowered.compile().as_text())


def convolution_products(side, inputs, outputs):
    """Products of a 4x4 convolution that halves `side`, padding left out."""
    # Each of the side / 2 places has 4 taps, but 3 at either end.
    taps = 4 * (side // 2) - 2
    return taps**2 * inputs * outputs


def products_of_network(side, width, hidden, latent):
    """Products of a forward pass for one image: first layer, all others."""
    widths = [width * m for m in (1, 2, 4, 4)]
    places = (side // 16) ** 2 * widths[-1]
    first = convolution_products(side, 1, width)
    others = sum(
        2 * convolution_products(side >> i, widths[i - 1], widths[i])
        for i in (1, 2, 3)
    )
    # The last layer of the decoder mirrors the first of the encoder.
    others += first + 2 * hidden * (places + latent)
    return first, others


def test_flops_are_those_of_convolutions_and_matrix_products():
    config = make_config(
        train__batch_size=14,
        data__image_size=32,
        model__base_width=64,
        channel__sigma=0.0,
        entropy__estimator="none",
        entropy__weight=0.0,
    )
    dataset = cost.blank_dataset(config, IMAGES)
    _, lowered = cost.lower_step(config, dataset, 1)
    # Forward, and gradients of kernels and inputs, but of the images none.
    first, others = products_of_network(32, 64, 32, LATENT)
    expected = 2 * 14 * (2 * first + 3 * others)
    flops = lowered.cost_analysis()["flops"]
    # BatchNorm, activations and Adam are about 20 operations a number, where
    # layers have 2 * 16 * 64 and more. On a CPU the transposed convolutions
    # multiply zeros too: 9 places of a kernel of 2 x 2 cells hold 4 of weights.
    assert 1.0 < flops / expected < 1.2


def test_parameters_are_counted_exactly(result):
    # Kernels, then scale and bias of each BatchNorm, then biases of the layers.
    kernels = 16 * (4 + 4 * 8 + 8 * 16 + 16 * 16)
    encoder = kernels + 2 * (4 + 8 + 16 + 16 + 32)
    encoder += (16 * 32 + 32) + (32 * LATENT + LATENT)
    decoder = kernels + 2 * (32 + 16 + 8 + 4)
    decoder += (LATENT * 32 + 32) + (32 * 16 + 16)
    biases = result["parameters"]["total"] - encoder - decoder
    assert biases == 0, result["parameters"]
    assert result["parameters"]["encoder"] == encoder


def test_collectives_are_few_and_none_has_an_entry_per_pair_of_latents():
    listed = collectives(52)
    # The number of valid rows comes before the gradients and losses.
    assert [kind for _, kind in listed].count("all-reduce") == 2
    types = [type_ for type_, _ in listed]
    assert any(f"f32[52,{LATENT}]" in type_ for type_ in types)
    sizes = [
        np.prod([int(size) for size in shape.split(",")])
        for type_, kind in listed
        if kind != "all-reduce"
        for shape in re.findall(r"\[([0-9,]+)\]", type_)
    ]
    # The pairs of the latents of a device are the fewest there could be.
    assert max(sizes) < 26**2


def test_devices_share_the_work(result):
    alone = cost.measure(make_config(), train_images=IMAGES)["step"]
    step = result["step"]
    assert (alone["devices"], step["devices"]) == (1, 2)
    # Each updates all parameters, which is much beside two images.
    updates = 2 * step["flops"] - alone["flops"]
    assert 10 < updates / result["parameters"]["total"] < 30


def test_memory_holds_parameters_moments_and_images(result):
    memory = result["memory"]
    # Adam has two moments.
    assert memory["state"] > 3 * 4 * result["parameters"]["total"]
    assert memory["images"] == IMAGES * 16 * 16
    assert memory["temporaries"] > 0
    assert memory["total"] == sum(
        memory[part] for part in ("state", "images", "temporaries")
    )


def test_result_is_json_and_text(result):
    assert json.loads(json.dumps(result))["step"]["batch_size"] == BATCH
    text = cost.format_cost(result)
    for line in (
        f"Parameters   {result['parameters']['total']:,} (",
        "12 steps: 3 epochs of 14 images in batches of 4",
        "on each of 2 device(s)",
        "Memory       ",
    ):
        assert line in text


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"train_images": -1}, "--train_images is -1, but must be at least 1"),
        ({"num_devices": 99}, "is 99, but this machine shows 8 cpu device"),
    ],
)
def test_wrong_request_is_one_sentence(arguments, sentence):
    with pytest.raises(ValueError, match=sentence):
        cost.measure(make_config(), **({"train_images": 14} | arguments))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["vae", "memae"])
def test_any_method_has_a_cost(name):
    config = make_config(
        method=name,
        channel__sigma=0.0,
        entropy__estimator="none",
        entropy__weight=0.0,
    )
    assert name in METHODS
    assert cost.measure(config, train_images=IMAGES)["step"]["flops"] > 0
