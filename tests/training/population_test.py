import dataclasses
import functools
import shutil
import signal

import jax
import numpy as np
import optax
import pytest
import training_support
from training_support import Recorder

from aeent_jax.runtime import parallel, stopping
from aeent_jax.training import experiment, loop, population
from aeent_jax.training import step as train_step

# Each differs from the first in what members may differ in.
MEMBERS = {
    "first": {},
    "seed": {"train__seed": 1},
    "rate": {"optimizer__learning_rate": 3e-3},
    "weight": {"entropy__weight": 1e-1},
    "narrow": {"model__latent_dim": 2},
}
# Their gradient is rounding noise, which Adam turns into steps: they stand
# before a BatchNorm.
NOT_COMPARED = ("['hidden']['bias']", "['latent']['bias']")


def distance(one, other):
    """Root of the summed squares of what differs."""
    squares = jax.tree_util.tree_map_with_path(
        lambda path, a, b: (
            0.0
            if jax.tree_util.keystr(path).endswith(NOT_COMPARED)
            else np.sum((np.asarray(a, np.float64) - b) ** 2)
        ),
        one,
        other,
    )
    return np.sqrt(sum(jax.tree.leaves(squares)))


@pytest.fixture(scope="module", autouse=True)
def compilation_cache(tmp_path_factory):
    yield from training_support.use_compilation_cache(
        training_support.cache_home(tmp_path_factory)
    )


@pytest.fixture(scope="module")
def make_config(tmp_path_factory):
    return functools.partial(
        training_support.config_maker(tmp_path_factory),
        entropy__estimator="coding_rate",
        train__epochs=2,
    )


@pytest.fixture(scope="module")
def configs(make_config):
    return [make_config(**overrides) for overrides in MEMBERS.values()]


@pytest.fixture(scope="module")
def trained(configs, tmp_path_factory):
    """All members, on two devices."""
    out = tmp_path_factory.mktemp("population")
    folders = [out / name for name in MEMBERS]
    log = Recorder()
    assert not population.train_population(configs, folders, log=log)
    return out


def final_state(folder, config):
    return training_support.final_state(folder, config).state


@pytest.mark.parametrize("name", MEMBERS)
def test_a_member_ends_where_its_run_alone_does(
    trained, make_config, tmp_path, name
):
    config = make_config(**MEMBERS[name])
    loop.train(config, tmp_path, log=Recorder())
    alone = final_state(tmp_path, config)
    member = final_state(trained / name, config)
    start = jax.device_get(
        train_step.create_state(
            experiment.make_step_config(config, 8), config.train.seed
        )
    )
    moved = distance(alone.params, start.params)
    # Adam turns the rounding of small gradients into steps of another size: 6 %
    # were seen. A run of another seed is farther away than it moved.
    assert distance(member.params, alone.params) < 0.15 * moved
    ours, theirs = (
        training_support.read_history(folder)
        for folder in (trained / name, tmp_path)
    )
    assert [r["step"] for r in ours] == [r["step"] for r in theirs]
    for one, other in zip(ours, theirs, strict=True):
        if "train/loss" in one:
            for key in ("loss", "rate_nats", "weight"):
                # So do the losses of later steps: by 2e-3 on one processor.
                assert one[f"train/{key}"] == pytest.approx(
                    other[f"train/{key}"], rel=1e-2
                )
    assert ours[-1]["eval/test/auroc"] == pytest.approx(
        theirs[-1]["eval/test/auroc"], abs=0.1
    )


def test_what_was_finished_is_not_trained_again(trained, configs):
    before = final_state(trained / "seed", configs[1])
    log = Recorder()
    folders = [trained / name for name in MEMBERS]
    assert not population.train_population(configs, folders, log=log)
    assert log.shown == []
    training_support.assert_bitwise(
        final_state(trained / "seed", configs[1]), before
    )


def test_a_masked_member_steps_as_the_unpadded_network_does():
    programs = [
        training_support.make_step_config(
            optax.sgd(0.1),
            {"method": training_support.make_method(latent_dim=dim)},
            estimator="coding_rate",
        )
        for dim in (4, 2)
    ]
    states = [
        jax.device_get(train_step.create_state(program, 3))
        for program in programs
    ]
    mapping = parallel.make_parallel(1)
    images = mapping.replicate(training_support.make_images(6))
    batch = np.arange(6, dtype=np.int32)[:, None], np.ones((6, 1), bool)

    alone = mapping.map(
        lambda *args: train_step.train_steps(programs[1], *args),
    )
    hyper = train_step.Hyper(np.int32(3), np.float32(0.1), np.float32(2.0))
    wanted, found = mapping.replicate(states[1]), None
    together = population.map_members(programs[0], mapping)
    members = stacked(states[0], population.pad(states[1], states[0]))
    # The first member is wider, has another seed and another learning rate.
    others = train_step.Hyper(
        np.int32(4), np.float32(0.2), np.float32(1.0), np.ones(4, bool)
    )
    masked = dataclasses.replace(hyper, latent_mask=np.arange(4) < 2)
    both = mapping.shard(stacked(others, masked))
    members = mapping.shard(members)
    for _ in range(3):
        wanted, metrics = alone(
            wanted, mapping.replicate(hyper), images, *mapping.shard(batch)
        )
        members, found = together(
            members, both, images, *mapping.shard(stacked(batch, batch))
        )
    wanted, metrics = mapping.fetch_replicated((wanted, metrics))
    members, found = mapping.fetch_sharded((members, found))
    member = jax.tree.map(lambda a: a[1], members)
    for name, value in metrics.items():
        np.testing.assert_allclose(found[name][1], value, rtol=1e-4)
    for one, other in zip(
        jax.tree.leaves(population.cut(member, states[1])),
        jax.tree.leaves(wanted),
        strict=True,
    ):
        np.testing.assert_allclose(
            one,
            other,
            rtol=1e-4,  # float32 through three steps, other sums
            atol=1e-5,
        )
    # Padding is still zero.
    for one, other in zip(
        jax.tree.leaves(population.pad(population.cut(member, wanted), member)),
        jax.tree.leaves(member),
        strict=True,
    ):
        np.testing.assert_array_equal(one, other)


def stacked(*trees):
    return jax.tree.map(lambda *leaves: np.stack(leaves), *trees)


@pytest.mark.slow
def test_a_stopped_population_goes_on_bit_for_bit(trained, configs, tmp_path):
    folders = [tmp_path / name for name in MEMBERS]
    stop = stopping.Stop()

    def after_step(done):
        if done == 3:
            stop.number = signal.SIGTERM

    with pytest.raises(loop.InterruptedRunError, match="after step 3 of 8"):
        population.train_population(
            configs, folders, log=Recorder(after_step), stop=stop
        )
    assert not population.train_population(configs, folders, log=Recorder())
    for folder, config in zip(folders, configs, strict=True):
        training_support.assert_bitwise(
            final_state(folder, config),
            final_state(trained / folder.name, config),
        )
        # Also the line of the epoch that was begun before the stop.
        records, straight = (
            [
                {k: v for k, v in record.items() if "second" not in k}
                for record in training_support.read_history(path)
            ]
            for path in (folder, trained / folder.name)
        )
        assert records == straight


@pytest.mark.slow
def test_a_member_that_diverges_fails_alone(make_config, tmp_path):
    configs = [
        make_config(),
        # Float32 overflows within a few steps.
        make_config(optimizer__learning_rate=1e30),
    ]
    folders = [tmp_path / "good", tmp_path / "bad"]
    failed = population.train_population(configs, folders, log=Recorder())
    assert list(failed) == [1]
    assert "so training stopped" in failed[1]
    assert (folders[0] / "eval/test/metrics.json").exists()
    assert not (folders[1] / "eval").exists()


def test_a_run_alone_goes_on_from_a_member(trained, make_config, tmp_path):
    folder = tmp_path / "narrow"
    shutil.copytree(trained / "narrow", folder)
    config = make_config(model__latent_dim=2, train__epochs=3)
    results = loop.train(config, folder, log=Recorder())
    assert results["step"] == 12


@pytest.mark.parametrize(
    "overrides",
    [
        {"train__batch_size": 7},
        {"method": "ae_l1"},
        {"entropy__estimator": "gaussian"},
    ],
)
def test_what_is_compiled_differently_is_no_member(
    make_config, tmp_path, overrides
):
    configs = [make_config(), make_config(**overrides)]
    with pytest.raises(ValueError, match="must differ in train.seed"):
        population.train_population(configs, [tmp_path / "a", tmp_path / "b"])


def test_latents_are_padded_only_where_zeros_change_nothing(make_config):
    narrow = {"model__latent_dim": 2}

    def together(**common):
        keys = {
            population.group_key(make_config(**common)),
            population.group_key(make_config(**common, **narrow)),
        }
        return len(keys) == 1

    assert together()
    assert together(
        channel__sigma=0.0, entropy__estimator="none", entropy__weight=0.0
    )
    assert not together(entropy__estimator="kde_loo")
    assert not together(channel__normalisation="power")
