import functools

import jax
import numpy as np
import pytest
import training_support

from aeent_jax import methods
from aeent_jax.evaluation import scoring
from aeent_jax.runtime import parallel

IMAGES = training_support.make_images(11)


@functools.cache
def variables():
    """Variables of a network with other running statistics than initially."""
    network = training_support.make_network()
    drawn = jax.device_get(jax.jit(network.init)(jax.random.key(0)))
    rng = np.random.default_rng(0)
    drawn["batch_stats"] = jax.tree.map(
        lambda x: (x + rng.uniform(0, 0.5, x.shape)).astype(np.float32),
        drawn["batch_stats"],
    )
    return drawn


@functools.cache
def one_by_one():
    """Latents, maps, losses and reconstructions, an image at a time."""
    network = training_support.make_network(axis_name=None)

    @jax.jit
    def of_one(image):
        x = methods.normalise(image[None])
        z, _ = network.apply("encoder", variables(), x, train=False)
        x_hat, _ = network.apply("decoder", variables(), z, train=False)
        return z[0], x[0], x_hat[0]

    found = [jax.device_get(of_one(image)) for image in IMAGES]
    z, x, x_hat = (np.stack(arrays) for arrays in zip(*found, strict=True))
    maps = ((x.astype(np.float64) - x_hat) ** 2).mean(-1)
    return z, maps, maps.mean((1, 2)), (x_hat + 1) / 2


@functools.cache
def scorer(num_devices):
    mapping = parallel.make_parallel(num_devices)
    made = scoring.Scorer(
        mapping,
        training_support.make_method(),
        score=methods.get_score("squared"),
        batch_size=3,  # 4 calls, or 2 of 8, and the last is padded
    )
    return made, mapping.replicate(variables())


@pytest.mark.parametrize("num_devices", [1, 2, 8])
def test_every_image_is_scored_once_and_in_order(num_devices):
    made, placed = scorer(num_devices)
    scored = made.score(placed, IMAGES)
    z, maps, errors, _ = one_by_one()
    close = functools.partial(
        np.testing.assert_allclose, rtol=1e-4, atol=1e-5
    )  # float32, another compilation
    close(scored.z, z)
    close(scored.score_maps, maps)
    close(scored.reconstruction_error, errors)
    close(scored.anomaly_scores, errors)
    assert scored.anomaly_scores.dtype == np.float64
    np.testing.assert_array_equal(
        scored.anomaly_scores,
        scored.score_maps.mean((1, 2), dtype=np.float64),
    )


def test_an_image_scores_the_same_in_any_company():
    made, placed = scorer(2)
    all_of_them = made.score(placed, IMAGES)
    # In another call, at another place in it, and beside the padding.
    few = made.score(placed, IMAGES[[10, 2]])
    np.testing.assert_array_equal(few.z, all_of_them.z[[10, 2]])
    np.testing.assert_array_equal(
        few.anomaly_scores, all_of_them.anomaly_scores[[10, 2]]
    )


def test_speed_leaves_out_the_call_that_compiles():
    made, placed = scorer(2)
    assert made.score(placed, IMAGES[:4]).images_per_second is None
    assert made.score(placed, IMAGES).images_per_second > 0


def test_reconstructions_are_kept_where_they_are_asked_for():
    made, placed = scorer(2)
    assert made.score(placed, IMAGES).reconstructions is None
    found = made.score(placed, IMAGES, keep_reconstructions=True)
    np.testing.assert_allclose(
        (found.reconstructions + 1) / 2,
        one_by_one()[3],
        rtol=1e-4,  # float32, another compilation
        atol=1e-5,
    )
