import functools

import jax
import jax.numpy as jnp
import numpy as np
import perceptual_support
import pytest

from aeent_jax import config as config_lib
from aeent_jax import methods
from aeent_jax.methods import perceptual
from aeent_jax.models import vgg


@functools.cache
def arrays():
    return perceptual_support.make_arrays()


@functools.cache
def criterion():
    weights = vgg.make_weights(arrays())
    return perceptual.Criterion(weights, **perceptual_support.make_statistics())


@functools.cache
def images():
    rng = np.random.default_rng(2)
    return rng.uniform(-1, 1, (2, 2, 16, 16, 1)).astype(np.float32)


@functools.cache
def ours():
    """The features of both sets of images, their error, and its gradient."""

    @jax.jit
    def run(x, x_hat):
        features = [vgg.features(criterion().weights, y) for y in (x, x_hat)]
        error, pull = jax.vjp(criterion().error, x, x_hat)
        return features, error, pull(jnp.ones_like(error))

    return run(*images())


def features_in_numpy(x):
    """VGG19 from its description, with channels first, in float64."""
    x = np.repeat(x.astype(np.float64).transpose(0, 3, 1, 2), 3, axis=1)
    mean = np.array([0.485, 0.456, 0.406])[:, None, None]
    std = np.array([0.229, 0.224, 0.225])[:, None, None]
    x = (x * 0.5 + 0.5 - mean) / std
    index = 0
    # A number of channels is a convolution, None a maximum.
    group = [256] * 4
    for width in [64, 64, None, 128, 128, None, *group, None, 512, 512]:
        if width is None:
            batch, channels, side, _ = x.shape
            x = x.reshape(batch, channels, side // 2, 2, side // 2, 2)
            x = x.max(axis=(3, 5))
            index += 1
            continue
        padded = np.pad(x, [(0, 0), (0, 0), (1, 1), (1, 1)])
        windows = np.lib.stride_tricks.sliding_window_view(
            padded, (3, 3), axis=(2, 3)
        )
        kernel = arrays()[f"features.{index}.weight"].astype(np.float64)
        assert len(kernel) == width
        x = np.tensordot(windows, kernel, ([1, 4, 5], [1, 2, 3]))
        x = x + arrays()[f"features.{index}.bias"]
        x = np.maximum(x.transpose(0, 3, 1, 2), 0)
        index += 2
    return x


@functools.cache
def theirs():
    return [features_in_numpy(x) for x in images()]


def error_in_numpy(features):
    """The relative error of features, as the method's docstring has it."""
    wanted, found = (
        (f.transpose(0, 2, 3, 1) - criterion().mean) / criterion().std
        for f in features
    )
    size = np.abs(wanted).mean((1, 2, 3))[:, None, None]
    return np.abs(wanted - found).mean(3) / size


def test_features_equal_the_network_written_out_in_numpy():
    for found, expected in zip(ours()[0], theirs(), strict=True):
        assert found.shape == (2, 2, 2, 512)
        # Float32 through ten layers, and features of order one.
        np.testing.assert_allclose(
            found, expected.transpose(0, 2, 3, 1), atol=1e-4
        )


def test_error_is_the_relative_mean_absolute_error_of_normalised_features():
    expected = error_in_numpy(theirs())
    # As of the features.
    np.testing.assert_allclose(ours()[1], expected, rtol=1e-4)


def test_gradient_is_that_of_differences():
    """Along one direction, in float64, of the network in numpy."""
    gradient = np.asarray(ours()[2][1], np.float64)
    step = 1e-5 * np.sign(gradient)

    def total(x_hat):
        found = features_in_numpy(x_hat)
        return np.sum(error_in_numpy((theirs()[0], found)))

    x_hat = images()[1]
    difference = total(x_hat + step) - total(x_hat - step)
    # A few kinks of ReLU, of maxima and of absolute values are in between.
    np.testing.assert_allclose(
        difference / 2, np.sum(gradient * step), rtol=1e-2
    )


def test_score_is_the_mean_over_features_and_has_a_map_of_the_images_size():
    error = jnp.arange(8.0).reshape(2, 2, 2)
    outputs = methods.Outputs(*[None] * 4, {"perceptual_error": error})
    inputs = methods.Inputs(images()[0], None, jnp.arange(2), None)
    score = methods.get_score("perceptual")(None, None, inputs, outputs)
    np.testing.assert_allclose(score.value, [1.5, 5.5])
    assert score.map.shape == (2, 16, 16)
    # A whole factor weighs all places alike.
    np.testing.assert_allclose(score.map.mean((1, 2)), score.value, rtol=1e-6)


def make_config(folder):
    config = config_lib.apply_variant(config_lib.default(), "plain")
    config.method = "ae_perceptual"
    return perceptual_support.configure(config, folder)


def test_files_give_back_what_was_written(tmp_path):
    config = make_config(tmp_path)
    found = perceptual.read_criterion(
        config.loss.vgg_weights, config.loss.vgg_statistics
    )
    jax.tree.map(
        np.testing.assert_array_equal, found.weights, criterion().weights
    )
    np.testing.assert_array_equal(found.std, criterion().std)
    assert methods.make_method(config, None).score == "perceptual"


GOOD = {"mean": np.zeros(512), "std": np.ones(512)}


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (
            {"std": None},
            "has no array std; aeent_jax/methods/perceptual.py says how to make"
            " it.",
        ),
        (
            {"mean": np.zeros((1, 512))},
            "has mean of float64 (1, 512), but floats (512,) are needed;"
            " aeent_jax/methods/perceptual.py says how to make it.",
        ),
        (
            {"mean": np.zeros(512, int)},
            "has mean of int64 (512,), but floats (512,) are needed;"
            " aeent_jax/methods/perceptual.py says how to make it.",
        ),
        (
            {"mean": np.full(512, np.nan)},
            "has numbers in mean that are not finite; make it anew.",
        ),
    ],
)
def test_refuses_a_file_with_other_arrays(changes, sentence, tmp_path):
    path = tmp_path / "statistics.npz"
    wanted = {k: v for k, v in (GOOD | changes).items() if v is not None}
    np.savez(path, **wanted)
    with pytest.raises(ValueError, match=r".") as caught:
        perceptual.read_arrays(
            "key", str(path), {"mean": (512,), "std": (512,)}
        )
    assert str(caught.value) == f"key={path} {sentence}"


def test_refuses_a_std_of_zero(tmp_path):
    config = make_config(tmp_path)
    np.savez(config.loss.vgg_statistics, **GOOD | {"std": np.zeros(512)})
    with pytest.raises(ValueError, match="has a std that is not above 0; make"):
        methods.make_method(config, None)


@pytest.mark.parametrize("content", [None, b"", b"text", b"PK\x03\x04", "npy"])
def test_refuses_what_is_no_npz(content, tmp_path):
    path = tmp_path / "vgg19.npz"
    if content == "npy":
        with path.open("wb") as file:
            np.save(file, np.zeros(3))
    elif content is not None:
        path.write_bytes(content)
    with pytest.raises(ValueError, match=r".") as caught:
        perceptual.read_arrays("key", str(path), {})
    assert str(caught.value).startswith(
        f"key={path} is not a readable .npz file of arrays ("
    )


def test_never_unpickles(tmp_path):
    path = tmp_path / "statistics.npz"
    np.savez(path, mean=np.array([{}], dtype=object))
    with pytest.raises(ValueError, match="allow_pickle=False"):
        perceptual.read_arrays("key", str(path), {"mean": (1,)})


def test_needs_a_path():
    config = config_lib.apply_variant(config_lib.default(), "plain")
    config.method = "ae_perceptual"
    with pytest.raises(ValueError, match=r".") as caught:
        methods.make_method(config, None)
    assert str(caught.value) == (
        "loss.vgg_weights is empty, but ae_perceptual needs the path of an .npz"
        " file; aeent_jax/methods/perceptual.py says how to make it."
    )


def test_paths_do_not_decide_what_is_trained(tmp_path):
    config = make_config(tmp_path)
    assert str(tmp_path) not in str(config_lib.decisive(config))
