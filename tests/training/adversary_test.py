"""Steps of a method with an adversary, on ganomaly."""

import dataclasses
import functools

import jax
import numpy as np
import optax
import pytest
import training_support

from aeent_jax import config as config_lib
from aeent_jax import methods
from aeent_jax.data import batches
from aeent_jax.entropy import channel
from aeent_jax.runtime import parallel
from aeent_jax.training import population
from aeent_jax.training import step as train_step

SEED, RATE, BATCH_SIZE, STEPS = 7, 0.05, 5, 3
IMAGES = training_support.make_images(14)


def make_method(axis_name=parallel.AXIS, feature_weight=1.0):
    config = config_lib.default()
    config.method = "ganomaly"
    config.data.image_size = training_support.IMAGE_SIZE
    config.model.latent_dim = training_support.LATENT_DIM
    config.model.base_width, config.model.hidden_dim = 4, 32
    config.loss.image_weight = 1.0
    config.loss.feature_weight = feature_weight
    return methods.make_method(config, axis_name)


@functools.cache
def program(feature_weight=1.0):
    # Plain gradient descent: the parameters show the gradient, times its rate.
    return training_support.make_step_config(
        optax.sgd(RATE),
        {"method": make_method(feature_weight=feature_weight)},
        estimator="coding_rate",
    )


@functools.cache
def initial_state(seed=SEED):
    create = jax.jit(lambda s: train_step.create_state(program(), s))
    return jax.device_get(create(seed))


@functools.cache
def compiled(num_devices, feature_weight=1.0):
    mapping = parallel.make_parallel(num_devices)
    made = program(feature_weight)
    mapped = mapping.map(
        lambda *args: train_step.train_steps(made, *args),
    )
    return mapping, mapped


def make_knobs(scale=1.0, seed=SEED):
    return train_step.Hyper(np.int32(seed), np.float32(1e-2), np.float32(scale))


def batch_of(step, num_devices):
    padded = -(-BATCH_SIZE // num_devices) * num_devices
    pair = batches.train_batch(SEED, step, len(IMAGES), BATCH_SIZE, padded)
    return tuple(array[:, None] for array in pair)


def run(num_devices, steps, *, state=None, feature_weight=1.0, scale=1.0):
    """The state after steps, and the metrics of the last."""
    mapping, mapped = compiled(num_devices, feature_weight)
    constants = mapping.replicate((make_knobs(scale), IMAGES))
    state, metrics = mapping.replicate(state or initial_state()), None
    for step in range(steps):
        batch = mapping.shard(batch_of(step, num_devices))
        state, metrics = mapped(state, *constants, *batch)
    return mapping.fetch_replicated((state, metrics))


def assert_close(found, wanted, **tolerance):
    found, wanted = map(jax.tree_util.tree_leaves_with_path, (found, wanted))
    for (path, one), (other_path, other) in zip(found, wanted, strict=True):
        assert path == other_path
        name = jax.tree_util.keystr(path)
        np.testing.assert_allclose(one, other, err_msg=name, **tolerance)


@pytest.mark.slow
@pytest.mark.parametrize("steps", [1, STEPS])
def test_both_networks_are_the_same_on_any_number_of_devices(steps):
    # The last batch has four images: four devices have none.
    loose = steps > 1
    # Float32 sums in another order; BatchNorm over the single place of the
    # last block of five images divides by small deviations.
    assert_close(
        run(8, steps),
        run(1, steps),
        rtol=1e-3 if loose else 1e-4,
        atol=1e-4 if loose else 1e-5,
    )


def test_the_adversary_follows_the_gradient_of_its_own_loss_alone():
    method, start = make_method(None), initial_state()
    indices, mask = batch_of(0, 8)
    inputs = methods.Inputs(
        methods.normalise(IMAGES[indices[mask]]),
        None,
        np.arange(BATCH_SIZE),
        jax.random.fold_in(jax.random.key(SEED), 0),
    )

    @jax.jit
    def plain_step(state):
        def noise(z):
            return channel.add_noise(
                z, program().rate.sigma, inputs.rng, inputs.positions
            )

        outputs = method.forward(state.variables, inputs, noise, train=True)

        def mean(params):
            variables = state.adversary.variables | {"params": params}
            loss, _ = method.adversary.loss(variables, inputs, outputs)
            return loss.mean()

        return jax.value_and_grad(mean)(state.adversary.params)

    loss, gradient = plain_step(start)
    state, metrics = run(8, 1)
    expected = jax.tree.map(
        lambda p, g: p - RATE * g, start.adversary.params, gradient
    )
    # Another compilation of the same formulas in float32.
    assert_close(state.adversary.params, expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(metrics["adversary_loss"], [loss], rtol=1e-4)
    # An untrained one knows little: about log 2.
    assert metrics["adversary_loss"][0] == pytest.approx(np.log(2), abs=0.3)


@pytest.mark.slow
def test_neither_gradient_reaches_the_other_network():
    other = dataclasses.replace(
        initial_state(), adversary=initial_state(SEED + 1).adversary
    )
    free, _ = run(1, 1, feature_weight=0.0)
    beside_other, _ = run(1, 1, state=other, feature_weight=0.0)
    # Unweighted, the adversary has no influence, whatever it minimises,
    training_support.assert_bitwise(free.params, beside_other.params)
    pulled, metrics = run(1, 1)
    # and weighted it has: what follows is no accident.
    kernels = [s.params["decoder"]["up4"]["kernel"] for s in (free, pulled)]
    assert np.abs(kernels[0] - kernels[1]).max() > 1e-6
    assert metrics["feature_loss"] > 0
    # The adversary moves the same whether or not its features are used.
    assert_close(
        free.adversary,
        pulled.adversary,
        rtol=1e-5,  # two compilations of the same formulas
        atol=1e-6,
    )


def test_updates_of_the_adversary_are_scaled_as_those_of_the_network():
    start = initial_state().adversary.params
    (once, _), (thrice, _) = run(1, 1), run(1, 1, scale=3.0)
    # Differences of float32 numbers of order one.
    assert_close(
        jax.tree.map(lambda a, b: a - b, thrice.adversary.params, start),
        jax.tree.map(lambda a, b: 3 * (a - b), once.adversary.params, start),
        rtol=1e-3,
        atol=1e-6,
    )
    assert_close(
        thrice.adversary.batch_stats, once.adversary.batch_stats, rtol=1e-6
    )


def test_methods_without_an_adversary_carry_none():
    made = training_support.make_step_config(optax.adam(1e-3))
    state = jax.eval_shape(lambda: train_step.create_state(made, 0))
    assert state.adversary == ()
    names = jax.tree_util.tree_leaves_with_path(initial_state())
    found = {jax.tree_util.keystr(path[:2]) for path, _ in names}
    assert {".adversary.params", ".adversary.batch_stats"} <= found


@pytest.mark.slow
def test_members_of_a_population_have_adversaries_of_their_own():
    mapping = parallel.make_parallel(1)
    together = population.map_members(program(), mapping)

    def stacked(*trees):
        return jax.tree.map(lambda *leaves: np.stack(leaves), *trees)

    seeds, mask = (SEED, SEED + 1), np.ones(training_support.LATENT_DIM, bool)
    hyper = [
        dataclasses.replace(make_knobs(scale), latent_mask=mask)
        for scale in (1.0, 2.0)
    ]
    members = mapping.shard(stacked(*map(initial_state, seeds)))
    shards = mapping.shard(stacked(*hyper))
    images = mapping.replicate(IMAGES)
    for step in range(2):
        batch = batch_of(step, 1)
        members, metrics = together(
            members, shards, images, *mapping.shard(stacked(batch, batch))
        )
    members, metrics = mapping.fetch_sharded((members, metrics))
    for i, (seed, scale) in enumerate(zip(seeds, (1.0, 2.0), strict=True)):
        state, wanted = run(1, 2, state=initial_state(seed), scale=scale)
        member = jax.tree.map(lambda a, i=i: a[i], members)
        # Float32 sums in another order, through two steps.
        assert_close(member, state, rtol=1e-3, atol=1e-4)
        np.testing.assert_allclose(
            metrics["adversary_loss"][i], wanted["adversary_loss"], rtol=1e-3
        )
