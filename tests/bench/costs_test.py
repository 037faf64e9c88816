import json
import math

import numpy as np
import pytest
import training_support

from aeent_jax.bench import peaks, timing
from aeent_jax.bench.costs import (
    analysis,
    collectives,
    hardware,
    programs,
    tables,
)
from aeent_jax.methods import METHODS

# Those of other tests, so that their compiled programs serve here as well.
BATCH, LATENT, IMAGES, EPOCHS = 4, training_support.LATENT_DIM, 14, 3


def make_config(**overrides):
    return training_support.make_config("", "", **overrides)


@pytest.fixture(scope="module")
def cost():
    """Of a tiny run on two devices."""
    return analysis.analyse(
        make_config(), num_devices=2, train_images=IMAGES, members=(1, 1000)
    )


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
    dataset = programs.blank_dataset(config, IMAGES)
    _, lowered = programs.lower_step(config, dataset, 1)
    # Forward, and gradients of kernels and inputs, but of the images none.
    first, others = products_of_network(32, 64, 32, LATENT)
    expected = 2 * 14 * (2 * first + 3 * others)
    flops = lowered.cost_analysis()["flops"]
    # BatchNorm, activations and Adam are about 20 operations a number, where
    # layers have 2 * 16 * 64 and more.
    assert 1.0 < flops / expected < 1.05


def test_parameters_are_counted_exactly(cost):
    # Kernels, then scale and bias of each BatchNorm, then biases of the layers.
    kernels = 16 * (4 + 4 * 8 + 8 * 16 + 16 * 16)
    encoder = kernels + 2 * (4 + 8 + 16 + 16 + 32)
    encoder += (16 * 32 + 32) + (32 * LATENT + LATENT)
    decoder = kernels + 2 * (32 + 16 + 8 + 4)
    decoder += (LATENT * 32 + 32) + (32 * 16 + 16)
    biases = cost["parameters"]["total"] - encoder - decoder
    assert biases == 0, cost["parameters"]
    assert cost["parameters"]["encoder"] == encoder


def test_gradients_are_reduced_at_once(cost):
    reduced = [
        c for c in cost["step"]["collectives"] if c["kind"] == "all-reduce"
    ]
    # Beside them only the number of valid rows, which comes before.
    assert len(reduced) == 2
    count, gradients = sorted(reduced, key=lambda c: c["num_bytes"])
    assert count["num_bytes"] == 4
    parameters = cost["parameters"]["total"]
    # And the losses, in float32 too.
    extra = gradients["num_bytes"] - 4 * parameters
    assert 0 < extra <= 4 * 8
    assert gradients["sent_bytes"] == gradients["num_bytes"]


def test_gathered_are_moments_of_batchnorm_and_latents_alone(cost):
    gathered = [
        c for c in cost["step"]["collectives"] if c["kind"] == "all-gather"
    ]
    of_norms = [c for c in gathered if "norm/" in c["source"]]
    assert len(of_norms) == 9
    others = [c["shapes"] for c in gathered if c not in of_norms]
    # With their mask; no matrix of pairs travels.
    assert sorted(others) == [((BATCH,),), ((BATCH, LATENT),)]


@pytest.mark.slow
def test_no_collective_has_an_entry_for_each_pair_of_latents():
    config = make_config(train__batch_size=52)
    step = programs.compile_step(
        config, programs.blank_dataset(config, 99), num_devices=2
    )
    shapes = [
        shape
        for c in step.collectives
        for shape in c.shapes
        if c.kind != "all-reduce"
    ]
    assert (52, LATENT) in shapes
    # Those of a device among themselves are the fewest pairs there could be.
    assert all(math.prod(shape) < 26**2 for shape in shapes)


def test_devices_share_the_work(cost):
    step = cost["step"]
    assert step["devices"] == 2
    # Each updates all parameters, which is much beside two images.
    updates = 2 * step["flops_per_device"] - step["flops"]
    assert 10 < updates / cost["parameters"]["total"] < 30


def test_memory_holds_parameters_moments_and_images(cost):
    memory = cost["memory"]
    # Adam has two moments.
    assert memory["state"] > 3 * 4 * cost["parameters"]["total"]
    assert memory["images"] == IMAGES * 16 * 16
    assert memory["temporaries"] > 0
    assert memory["total"] == sum(
        memory[part] for part in ("state", "images", "temporaries")
    )


def test_measured_rate_gives_hours_and_a_share_of_the_peak(monkeypatch):
    clock = {"seconds": 0.0}

    def lasting(seconds, result=None):
        def call(*args):
            clock["seconds"] += seconds
            return result

        return call

    config = make_config()
    run, _ = programs.lower_step(
        config, programs.blank_dataset(config, IMAGES), 2
    )
    monkeypatch.setattr(run, "initial_state", lambda: {})
    monkeypatch.setattr(timing.time, "perf_counter", lambda: clock["seconds"])
    peak = peaks.Peak(lasting(0.5), work=1e9, devices=2)
    monkeypatch.setattr(peaks, "prepare", lambda num_devices: {"matmul": peak})
    compiled = lasting(2.0, ({}, np.zeros(1)))
    step = programs.Step(run, compiled, 0.0, 0.0, 0, [])
    # Two seconds a step and half a one for what reaches the peak of 2e9.
    found = analysis.measure(step, flops=1e9)
    assert found["seconds_per_step"] == 2.0
    assert found["images_per_second"] == BATCH / 2.0
    steps = EPOCHS * math.ceil(IMAGES / BATCH)
    assert found["hours"] == pytest.approx(steps * 2.0 / 3600)
    assert found["flops_per_second"] == 5e8
    assert found["share_of_peak"] == pytest.approx(0.25)


def test_result_is_json_and_text(cost):
    assert json.loads(json.dumps(cost))["step"]["batch_size"] == BATCH
    text = tables.format_cost(cost)
    for line in (
        f"Parameters   {cost['parameters']['total']:,} (",
        "12 steps: 3 epochs of 14 images in batches of 4",
        "Spread over 2 devices",
        "  2 all-reduce ",
        "ESTIMATE, not measured",
        "| v5e-256 | 1000 | 4 |",
    ):
        assert line in text
    assert "Measured" not in text


@pytest.mark.slow
def test_steps_are_timed_on_this_machine():
    result = analysis.analyse(
        make_config(), num_devices=2, train_images=IMAGES, measures=True
    )
    assert 0 < result["measured"]["share_of_peak"] <= 1
    assert result["estimates"][0]["hours_at_share"] > 0
    assert "Measured here, on 2 device(s)" in tables.format_cost(result)


def test_estimate_is_bound_by_what_takes_longer():
    device = hardware.HARDWARE["8xh200"]
    # Ten milliseconds of compute and one of memory, and the other way round.
    ten, one = 10e-3, 1e-3
    for compute, memory, bound in ((ten, one, "compute"), (one, ten, "memory")):
        member = hardware.Member(
            flops=compute * device.flops,
            num_bytes=memory * device.bandwidth,
            memory=1e9,
            images=1e9,
            steps=3600,
        )
        found = hardware.estimate("8xh200", member, 17, share=0.5)
        assert found["members_per_device"] == 3
        assert found["most_per_device"] == 140
        assert found["seconds_per_step"] == pytest.approx(3 * ten)
        assert found["bound"] == bound
        assert found["hours"] == pytest.approx(3 * ten)
        assert found["hours_at_share"] == pytest.approx(6 * ten)
        unmeasured = hardware.estimate("8xh200", member, 17, share=None)
        assert unmeasured["hours_at_share"] is None


_TEXT = """
  %a = f32[2,33]{1,0} all-gather(%x), channel_id=1, dimensions={0}
  %b = (f32[64]{0}, /*index=5*/bf16[8,4]{1,0}) all-reduce(%x, %y), \
metadata={op_name="jit(f)/psum" stack_frame_id=3}
  %c = (f32[1,33]{1,0}, f32[4,33]{1,0}) all-gather-start(%x), channel_id=1
  %d = f32[4,33]{1,0} all-gather-done(%c)
  %e = (f32[3]{0}, f32[5]{0}) all-reduce-start(%x, %y), channel_id=1
  ROOT %f = pred[5]{0} reduce-scatter(%x), dimensions={0}
  %g = f32[] add(%all-reduce.1, %all-gather(%h))
"""


def test_collectives_are_read_with_their_bytes():
    found = collectives.parse(_TEXT, num_devices=4)
    assert [(c.kind, c.num_bytes, c.sent_bytes) for c in found] == [
        ("all-gather", 264, 198),
        ("all-reduce", 320, 480),
        ("all-gather", 528, 396),
        ("all-reduce", 32, 48),
        ("reduce-scatter", 20, 15),
    ]
    assert found[1].shapes == ((64,), (8, 4))
    assert found[1].source == "jit(f)/psum"
    assert found[0].source == ""


def test_scalars_count_as_one_number():
    (count,) = collectives.parse("%n = s32[] all-reduce(%x), c=1", 2)
    assert (count.shapes, count.num_bytes) == (((),), 4)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"names": ["h200"]}, "'h200'; choose among v5e-256, 8xh200."),
        ({"members": [0]}, "--members has 0, but a population has at least 1."),
        ({"train_images": -1}, "--train_images is -1, but must be at least 1"),
        ({"num_devices": 99}, "is 99, but this machine shows 8 cpu device"),
    ],
)
def test_wrong_request_is_one_sentence(arguments, sentence, monkeypatch):
    # Refused before anything is compiled for it.
    blank = programs.compile_step

    def compile_step(config, dataset, num_devices):
        return num_devices > 1 and blank(config, dataset, num_devices)

    monkeypatch.setattr(programs, "compile_step", compile_step)
    with pytest.raises(ValueError, match=".") as caught:
        analysis.analyse(make_config(), **({"train_images": 14} | arguments))
    assert sentence in str(caught.value)


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
    step = programs.compile_step(
        config, programs.blank_dataset(config, IMAGES), 1
    )
    assert step.flops > 0
    # XLA leaves them in, but one device has nobody to send to.
    assert sum(c.sent_bytes for c in step.collectives) == 0
