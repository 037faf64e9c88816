"""The network equals the reference's, number for number."""

import functools
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from aeent_jax import models

_TESTDATA = pathlib.Path(__file__).parent / "testdata"
_COUNTS = json.loads((_TESTDATA / "parameter_counts.json").read_text())


def _make(**overrides):
    sizes = {
        "image_size": 32,
        "channels": 1,
        "latent_dim": 4,
        "base_width": 4,
        "hidden_dim": 32,
    }
    return models.make_autoencoder(**(sizes | overrides))


def _permute_features(array, side, channels, axis):
    """Reorders PyTorch's flattened (C, H, W) features to (H, W, C)."""
    order = np.arange(channels * side * side).reshape(channels, side, side)
    return np.take(array, order.transpose(1, 2, 0).ravel(), axis)


def _norm(source, prefix, stats):
    names = (
        {"mean": "running_mean", "var": "running_var"}
        if stats
        else {"scale": "weight", "bias": "bias"}
    )
    return {ours: source[f"{prefix}.{name}"] for ours, name in names.items()}


def _linear(source, prefix):
    return {
        "kernel": source[f"{prefix}.weight"].T,
        "bias": source[f"{prefix}.bias"],
    }


def _from_pytorch(source, depth, *, stats, side=2, channels=16):
    """Converts PyTorch names and layouts to our `params` or `batch_stats`."""
    encoder, decoder = {}, {}
    for i in range(1, 5):
        for j in range(depth):
            norm = _norm(source, f"en_block{i}.model.{3 * j + 1}", stats)
            block = {"norm": norm}
            if not stats:
                kernel = source[f"en_block{i}.model.{3 * j}.weight"]
                block["conv"] = {"kernel": kernel.transpose(2, 3, 1, 0)}
            encoder[f"block{i}_{j}"] = block
        for j in range(depth - 1):
            norm = _norm(source, f"de_block{i}.model.{3 * j + 1}", stats)
            block = {"norm": norm}
            if not stats:
                kernel = source[f"de_block{i}.model.{3 * j}.weight"]
                block["conv"] = {"kernel": kernel.transpose(2, 3, 1, 0)}
            decoder[f"block{i}_{j}"] = block
        up = 3 * (depth - 1)
        if not stats:
            kernel = source[f"de_block{i}.model.{up}.weight"]
            decoder[f"up{i}"] = {"kernel": kernel.transpose(2, 3, 1, 0)}
        if i < 4:
            prefix = f"de_block{i}.model.{up + 1}"
            decoder[f"up{i}_norm"] = _norm(source, prefix, stats)
    neck = "bottle_neck.linear_"
    encoder["hidden_norm"] = _norm(source, f"{neck}enc.1", stats)
    decoder["hidden_norm"] = _norm(source, f"{neck}dec.1", stats)
    if not stats:
        encoder["hidden"] = _linear(source, f"{neck}enc.0")
        encoder["hidden"]["kernel"] = _permute_features(
            encoder["hidden"]["kernel"], side, channels, 0
        )
        encoder["latent"] = _linear(source, f"{neck}enc.3")
        decoder["hidden"] = _linear(source, f"{neck}dec.0")
        decoder["unflatten"] = {
            name: _permute_features(value, side, channels, -1)
            for name, value in _linear(source, f"{neck}dec.3").items()
        }
    return {"encoder": encoder, "decoder": decoder}


class _Reference:
    """One frozen file of the reference's numbers."""

    def __init__(self, name, depth):
        self.arrays = np.load(_TESTDATA / f"{name}.npz")
        self.depth = depth
        self.network = _make(depth=depth)
        self.x = self.arrays["x_batches"].transpose(0, 1, 3, 4, 2)

    def part(self, prefix):
        start = len(prefix) + 1
        return {
            name[start:]: self.arrays[name]
            for name in self.arrays.files
            if name.startswith(prefix + "/")
        }

    def variables(self, prefix):
        source = self.part(prefix)
        return {
            "params": _from_pytorch(source, self.depth, stats=False),
            "batch_stats": _from_pytorch(source, self.depth, stats=True),
        }

    def images(self, name):
        return self.arrays[name].transpose(0, 2, 3, 1)


@pytest.fixture(params=[("ae", 1), ("ae_depth2", 2)], ids=lambda p: p[0])
def reference(request):
    return _Reference(*request.param)


def _loss(network, params, batch_stats, x):
    variables = {"params": params, "batch_stats": batch_stats}
    z, encoder_stats = network.encode(variables, x, train=True)
    x_hat, decoder_stats = network.decode(variables, z, train=True)
    stats = {"encoder": encoder_stats, "decoder": decoder_stats}
    return jnp.mean(jnp.square(x_hat - x)), stats


def test_untrained_outputs_match_the_reference(reference):
    variables = reference.variables("init")
    z, _ = reference.network.encode(variables, reference.x[0], train=False)
    x_hat, _ = reference.network.decode(variables, z, train=False)
    # Float32 rounding through 14 layers; values are of order one.
    np.testing.assert_allclose(z, reference.arrays["eval0/z"], atol=1e-5)
    np.testing.assert_allclose(
        x_hat, reference.images("eval0/x_hat"), atol=1e-5
    )
    np.testing.assert_allclose(
        np.square(x_hat - reference.x[0]),
        reference.images("eval0/score_map"),
        atol=1e-5,
    )


def test_gradients_match_the_reference(reference):
    variables = reference.variables("init")
    grads = jax.jit(
        jax.grad(lambda p, s, x: _loss(reference.network, p, s, x)[0])
    )(variables["params"], variables["batch_stats"], reference.x[0])
    expected = _from_pytorch(
        reference.part("grad0"), reference.depth, stats=False
    )
    # The bound the reference sets on gradients, relative to the largest entry.
    jax.tree.map(
        lambda ours, theirs: np.testing.assert_allclose(
            ours, theirs, rtol=1e-4, atol=1e-4 * np.abs(theirs).max() + 1e-8
        ),
        grads,
        expected,
    )


def _exempt_biases(tree):
    """Drops the biases before a BatchNorm: their true gradient is zero."""
    return {
        half: {
            name: {"kernel": value["kernel"]}
            if name in ("hidden", "latent")
            else value
            for name, value in layers.items()
        }
        for half, layers in tree.items()
    }


# Adam turns the rounding of tiny gradients into steps of 1e-3. At depth 1 this
# stays below the bounds of the frozen file. At depth 2 it does not: the same
# steps in float64 end 6e-4 from the frozen losses, whose gradients are no
# closer to float64 than ours (8e-6 and 5e-6 of the largest entry), so there
# the bound is three times that distance.
_LOSS_BOUND = {1: 1e-5, 2: 2e-3}
_OUTPUT_BOUND = {1: 1e-4, 2: 2e-3}


def test_training_matches_the_reference(reference):
    variables = reference.variables("init")
    params, stats = variables["params"], variables["batch_stats"]
    optimizer = optax.adam(1e-3)
    opt_state = optimizer.init(params)

    @jax.jit
    def step(params, stats, opt_state, x):
        (loss, stats), grads = jax.value_and_grad(
            lambda p: _loss(reference.network, p, stats, x), has_aux=True
        )(params)
        updates, opt_state = optimizer.update(grads, opt_state)
        return optax.apply_updates(params, updates), stats, opt_state, loss

    losses = []
    for x in reference.x:
        params, stats, opt_state, loss = step(params, stats, opt_state, x)
        losses.append(loss)
    np.testing.assert_allclose(
        losses,
        reference.arrays["train/losses"],
        atol=_LOSS_BOUND[reference.depth],
    )
    np.testing.assert_allclose(
        losses[0], reference.arrays["train/losses"][0], atol=1e-6
    )
    trained = {"params": params, "batch_stats": stats}
    z, _ = reference.network.encode(trained, reference.x[0], train=False)
    x_hat, _ = reference.network.decode(trained, z, train=False)
    np.testing.assert_allclose(
        x_hat,
        reference.images("final/x_hat_of_batch0"),
        atol=_OUTPUT_BOUND[reference.depth],
    )
    final = reference.variables("final")
    # Six steps of 1e-3 move a parameter by up to 6e-3: agree to a hundredth of
    # that in the mean (a few entries follow rounding, as above). At depth 2,
    # where rounding decides more, processors differ: 4e-4 to 6e-4 was seen.
    jax.tree.map(
        lambda ours, theirs: np.testing.assert_array_less(
            np.mean(np.abs(ours - theirs)), 6e-5 * reference.depth**4
        ),
        _exempt_biases(params),
        _exempt_biases(final["params"]),
    )


@pytest.mark.parametrize(
    ("name", "count"),
    [(n, c) for n, c in _COUNTS.items() if n.startswith("ae_")],
)
def test_parameter_count_matches_the_reference(name, count):
    _, channels, latent = name.split("_")
    network = _make(
        image_size=64,
        base_width=16,
        hidden_dim=1024,
        channels=int(channels[1:]),
        latent_dim=int(latent[1:]),
    )
    shapes = jax.eval_shape(network.init, jax.random.key(0))
    assert sum(a.size for a in jax.tree.leaves(shapes["params"])) == count


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


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        ({"image_size": 40}, "image_size is 40.*multiple of 16"),
        ({"channels": 2}, "channels is 2.*must be 1"),
        ({"latent_dim": 0}, "latent_dim is 0.*at least 1"),
    ],
)
def test_refuses_a_size_that_cannot_be_built(overrides, sentence):
    with pytest.raises(ValueError, match=sentence):
        _make(**overrides)


@pytest.mark.parametrize("size", [16, 48])
@pytest.mark.parametrize("channels", [1, 3])
def test_other_image_sizes_keep_their_shape(size, channels):
    network = _make(image_size=size, channels=channels, depth=2)
    x = jnp.zeros((2, size, size, channels))
    variables = jax.eval_shape(network.init, jax.random.key(0))
    z, _ = jax.eval_shape(
        lambda v: network.encode(v, x, train=False), variables
    )
    x_hat, _ = jax.eval_shape(
        lambda v: network.decode(v, jnp.zeros((2, 4)), train=False), variables
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
    encode = jax.jit(functools.partial(normalised.encode, train=True))
    z, stats = encode(other, x)
    np.testing.assert_allclose(np.mean(z**2), 1.0, rtol=1e-5)  # float32
    assert stats["latent_norm"]["power"] != 1


def test_unknown_normalisation_lists_the_choices():
    with pytest.raises(ValueError, match=r".") as caught:
        _make(normalisation="layer")
    assert str(caught.value) == (
        "channel.normalisation is 'layer'; choose one of none, power."
    )
