import functools

import jax
import numpy as np
import parity_support
import pytest

from aeent_jax import config as config_lib
from aeent_jax import methods
from aeent_jax.training import adversary

WIDTH, HIDDEN, LATENT, ROWS = 4, 8, 3, 5
VALID = np.arange(ROWS) < 4
# float32 against float64 through a few layers; values are of order one.
ROUNDING = {"rtol": 1e-4, "atol": 1e-5}


def make_config(**overrides):
    config = config_lib.apply_variant(config_lib.default(), "plain")
    config.update_from_flattened_dict(
        {
            "method": "ganomaly",
            "data.image_size": 32,
            "model.latent_dim": LATENT,
            "model.base_width": WIDTH,
            "model.hidden_dim": HIDDEN,
            "loss.feature_weight": 2.0,
            "loss.image_weight": 30.0,
            "loss.latent_weight": 3.0,
        }
        | {key.replace("__", "."): v for key, v in overrides.items()}
    )
    return config


def make(**overrides):
    return methods.make_method(make_config(**overrides), None)


def draw(init, seed):
    """Any variables there may be, without compiling `init`."""
    rng = np.random.default_rng(seed)
    low = {"params": -0.3, "batch_stats": 0.1}  # a variance is above 0
    return {
        name: jax.tree.map(
            lambda leaf, low=low[name]: rng.uniform(
                low, 0.5, leaf.shape
            ).astype(np.float32),
            tree,
        )
        for name, tree in jax.eval_shape(init, jax.random.key(0)).items()
    }


def make_inputs(seed=0):
    x = np.random.default_rng(seed).uniform(-1, 1, (ROWS, 32, 32, 1))
    x, places = x.astype(np.float32), np.arange(ROWS)
    return methods.Inputs(x, VALID, places, jax.random.key(1))


def shift(z):
    return z + 0.5


@functools.cache
def passes():
    """A training pass, and both kinds of evaluation."""
    method, compatible = make(), make(compat="medianomaly")
    variables = draw(method.init, 0)
    opponent = draw(method.adversary.init, 1)
    inputs = make_inputs()

    @jax.jit
    def run(variables, opponent, inputs):
        state = adversary.State(opt_state=(), **opponent)
        facing = variables | {"adversary": state}
        trained = method.forward(facing, inputs, shift, train=True)
        losses = method.losses(inputs.x, trained)
        own = method.adversary.loss(opponent, inputs, trained)
        evaluated = [
            made.forward(variables, inputs, methods.no_noise, train=False)
            for made in (method, compatible)
        ]
        return trained, losses, own, evaluated

    return method, variables, opponent, run(variables, opponent, inputs)


def discriminate(params, x):
    """Logits, features and the blocks' means, in plain numpy and float64."""
    x, means = np.asarray(x, np.float64), {}
    for i in range(1, 5):
        block = params[f"block{i}_0"]
        padded = np.pad(x, [(0, 0), (1, 1), (1, 1), (0, 0)])
        half = x.shape[1] // 2
        x = np.zeros((len(x), half, half, block["conv"]["kernel"].shape[-1]))
        for row, column in np.ndindex(half, half):
            patch = padded[
                :, 2 * row : 2 * row + 4, 2 * column : 2 * column + 4
            ]
            x[:, row, column] = np.einsum(
                "bhwi,hwio->bo", patch, block["conv"]["kernel"]
            )
        mean, variance = x.mean((0, 1, 2)), x.var((0, 1, 2))
        means[f"block{i}_0"] = mean
        x = (x - mean) / np.sqrt(variance + 1e-5)
        x = x * block["norm"]["scale"] + block["norm"]["bias"]
        x = np.maximum(x, 0)
    hidden, logit = params["hidden"], params["logit"]
    flat = x.reshape(len(x), -1)
    features = np.maximum(flat @ hidden["kernel"] + hidden["bias"], 0)
    return (features @ logit["kernel"] + logit["bias"])[:, 0], features, means


def test_losses_are_those_of_a_plain_computation():
    _, _, opponent, (trained, losses, (own, stats), _) = passes()
    x, x_hat = make_inputs().x[VALID], np.asarray(trained.x_hat)[VALID]
    real_logit, real, real_means = discriminate(opponent["params"], x)
    fake_logit, fake, fake_means = discriminate(opponent["params"], x_hat)
    change = trained.z - trained.extra["z_again"]
    expected = {
        "reconstruction": 30 * np.mean((x - x_hat) ** 2, axis=(1, 2, 3)),
        "latent": 3 * np.mean(change[VALID] ** 2, axis=1),
        "feature": 2 * np.mean((real - fake) ** 2, axis=1),
    }
    assert losses.keys() == expected.keys()
    for name, loss in expected.items():
        np.testing.assert_allclose(losses[name][VALID], loss, **ROUNDING)
        assert loss.min() > 1e-3
    real_p, fake_p = (1 / (1 + np.exp(-a)) for a in (real_logit, fake_logit))
    np.testing.assert_allclose(
        own[VALID], -(np.log(real_p) + np.log(1 - fake_p)) / 2, **ROUNDING
    )
    # Running statistics take a tenth of images, then of reconstructions.
    for name, old in opponent["batch_stats"].items():
        wanted = 0.81 * old["norm"]["mean"]
        wanted += 0.09 * real_means[name] + 0.1 * fake_means[name]
        found = stats[name]["norm"]["mean"]
        np.testing.assert_allclose(found, wanted, **ROUNDING)


def test_the_second_encoder_is_another_one():
    method, variables, _, (trained, *_) = passes()
    swapped = {
        name: tree
        | {
            "encoder": tree["encoder_again"],
            "encoder_again": tree["encoder"],
        }
        for name, tree in variables.items()
    }
    inputs = make_inputs()._replace(x=trained.x_hat)
    again = jax.jit(functools.partial(method.forward, noise=shift, train=True))(
        swapped, inputs
    )
    # Padding as well: the statistics are those of the same rows.
    np.testing.assert_allclose(again.z, trained.extra["z_again"], **ROUNDING)
    np.testing.assert_array_equal(trained.z_noisy, trained.z + 0.5)
    assert np.abs(trained.z - trained.extra["z_again"]).min() > 1e-4


def test_initial_encoders_differ():
    params = jax.jit(make().init)(jax.random.key(0))["params"]
    one, other = (
        params[name]["hidden"]["kernel"]
        for name in ("encoder", "encoder_again")
    )
    assert (one != other).all()


def test_layers_are_those_of_ae_without_norms_behind_linear_ones():
    # 64 pixels, widths 16, 32, 64, 64 and 1024 features, as the reference.
    method = make(
        data__image_size=64,
        model__base_width=16,
        model__hidden_dim=1024,
        model__latent_dim=16,
    )
    convolutions = 16 * (1 * 16 + 16 * 32 + 32 * 64 + 64 * 64)
    features = convolutions + 2 * (16 + 32 + 64 + 64) + 1024 * 1025
    encoder = features + 16 * 1025
    decoder = 1024 * 17 + 1024 * 1025 + convolutions + 2 * (64 + 32 + 16)
    # As its authors count, a norm of 1024 features fewer in each half of `ae`.
    assert encoder + decoder == parity_support.COUNTS["ae_c1_d16"] - 2 * 2048
    found = parity_support.num_parameters(method.init)
    assert found == 2 * encoder + decoder
    found = parity_support.num_parameters(method.adversary.init)
    assert found == features + 1025


def test_scored_by_the_latents_of_a_whole_image():
    method, variables, _, (*_, (evaluated, _)) = passes()
    score = methods.get_score(method.score)
    found = score(method, variables, make_inputs(), evaluated)
    change = np.asarray(evaluated.z) - evaluated.extra["z_again"]
    assert found.map is None
    np.testing.assert_allclose(
        found.value, np.mean(change**2, axis=1), rtol=1e-6
    )
    for name in ("ganomaly", "constrained_ae"):
        methods.check_score("latent_distance", name, make(method=name).extra)
    with pytest.raises(ValueError, match="but ae has no z_again; choose"):
        methods.check_score("latent_distance", "ae", make(method="ae").extra)


def test_compatible_evaluation_is_of_each_image_alone():
    method, variables, _, (*_, (evaluated, compatible)) = passes()
    x = make_inputs().x
    forward = jax.jit(
        functools.partial(method.forward, noise=methods.no_noise, train=True)
    )
    for i in (0, 4):  # Also of padding, of which evaluation knows nothing.
        row = methods.Inputs(
            x[i : i + 1], None, np.arange(1), make_inputs().rng
        )
        alone = forward(variables, row)
        for one, other in (
            (compatible.x_hat[i], alone.x_hat[0]),
            (compatible.z[i], alone.z[0]),
            (compatible.extra["z_again"][i], alone.extra["z_again"][0]),
        ):
            np.testing.assert_allclose(one, other, **ROUNDING)
    assert np.abs(compatible.z - evaluated.z).min() > 1e-4
    for outputs in (evaluated, compatible):
        jax.tree.map(
            np.testing.assert_array_equal,
            outputs.batch_stats,
            variables["batch_stats"],
        )


def test_compatible_evaluation_refuses_images_of_a_single_place():
    make(data__image_size=16)
    with pytest.raises(ValueError, match=r".") as caught:
        make(data__image_size=16, compat="medianomaly")
    assert str(caught.value) == (
        "data.image_size is 16, but with compat=medianomaly ganomaly normalises"
        " each image by its own statistics, which a single place does not have;"
        " use 32 or more, or leave compat empty."
    )


def test_a_discriminator_that_has_won_is_drawn_anew():
    method = make(model__base_width=16)
    params = draw(method.adversary.init, 0)["params"]
    renew = jax.jit(method.adversary.renew)
    inputs = make_inputs()
    for loss in (1.1e-5, np.nan):
        jax.tree.map(
            np.testing.assert_array_equal, renew(params, loss, inputs), params
        )
    renewed = renew(params, 0.9e-5, inputs)
    for name in ("hidden", "logit"):
        jax.tree.map(np.testing.assert_array_equal, renewed[name], params[name])
    kernel = renewed["block4_0"]["conv"]["kernel"]
    # 65536 draws: their deviation is known to 0.3 %, and the bound is five of
    # its errors; so is that of the mean.
    np.testing.assert_allclose(kernel.std(), 0.02, rtol=0.015)
    assert abs(kernel.mean()) < 5 * 0.02 / 256
    for i in range(1, 5):
        norm = renewed[f"block{i}_0"]["norm"]
        np.testing.assert_array_equal(norm["bias"], 0)
        assert 0 < np.abs(norm["scale"] - 1).max() < 0.1
    # The same on every device, and another at another step.
    moved = inputs._replace(positions=inputs.positions + 3)
    again = renew(params, 0.9e-5, moved)
    np.testing.assert_array_equal(again["block4_0"]["conv"]["kernel"], kernel)
    later = renew(params, 0.9e-5, inputs._replace(rng=jax.random.key(2)))
    assert (later["block4_0"]["conv"]["kernel"] != kernel).any()
