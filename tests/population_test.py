import functools
import shutil

import jax
import numpy as np
import pytest
import training_support
from training_support import Recorder

from aeent_jax import population, train

# Each differs from the first in what members may differ in.
MEMBERS = {
    "first": {},
    "seed": {"train__seed": 1},
    "rate": {"optimizer__learning_rate": 3e-3},
    "weight": {"entropy__weight": 1e-1},
    "narrow": {"model__latent_dim": 2},
}
# These biases have a gradient of rounding noise, which Adam turns into steps.
BEFORE_BATCH_NORM = (
    "['hidden']['bias']",
    "['latent']['bias']",
    "['hidden_norm']['mean']",
)


@pytest.fixture(scope="module", autouse=True)
def compilation_cache(tmp_path_factory):
    yield from training_support.use_compilation_cache(
        training_support.cache_home(tmp_path_factory)
    )


@pytest.fixture(scope="module")
def make_config(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    root = training_support.make_class_folders(folder / "images")
    return functools.partial(
        training_support.make_config,
        root,
        folder / "cache",
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
    say = Recorder()
    assert not population.train_population(configs, folders, say=say)
    return out


def final_state(folder, config):
    return training_support.final_state(folder, config).state


@pytest.mark.parametrize("name", MEMBERS)
def test_a_member_ends_where_its_run_alone_does(
    trained, make_config, tmp_path, name
):
    config = make_config(**MEMBERS[name])
    train.train(config, tmp_path, say=Recorder())
    alone = final_state(tmp_path, config)
    member = final_state(trained / name, config)
    flat = jax.tree_util.tree_leaves_with_path(alone)
    for (path, wanted), found in zip(
        flat, jax.tree.leaves(member), strict=True
    ):
        assert np.shape(found) == np.shape(wanted)
        if jax.tree_util.keystr(path).endswith(BEFORE_BATCH_NORM):
            continue
        np.testing.assert_allclose(
            found,
            wanted,
            rtol=2e-3,  # float32 through 8 steps of Adam, other sums
            atol=2e-4,
            err_msg=jax.tree_util.keystr(path),
        )
    ours, theirs = (
        training_support.read_history(folder)
        for folder in (trained / name, tmp_path)
    )
    assert [r["step"] for r in ours] == [r["step"] for r in theirs]
    for one, other in zip(ours, theirs, strict=True):
        if "train/loss" in one:
            for key in ("loss", "rate_nats", "weight"):
                assert one[f"train/{key}"] == pytest.approx(
                    other[f"train/{key}"], rel=1e-3
                )
    assert ours[-1]["eval/test/auroc"] == pytest.approx(
        theirs[-1]["eval/test/auroc"], abs=0.1
    )


def test_what_was_finished_is_not_trained_again(trained, configs):
    before = final_state(trained / "seed", configs[1])
    say = Recorder()
    folders = [trained / name for name in MEMBERS]
    assert not population.train_population(configs, folders, say=say)
    assert say.shown == []
    training_support.assert_bitwise(
        final_state(trained / "seed", configs[1]), before
    )


def test_a_stopped_population_goes_on_bit_for_bit(trained, configs, tmp_path):
    folders = [tmp_path / name for name in MEMBERS]
    say = Recorder()
    with pytest.raises(train.InterruptedRunError, match="after step 3 of 8"):
        population.train_population(
            configs,
            folders,
            say=say,
            asked_to_stop=lambda: say.shown[-1:] == [3],
        )
    assert not population.train_population(configs, folders, say=Recorder())
    for folder, config in zip(folders, configs, strict=True):
        training_support.assert_bitwise(
            final_state(folder, config),
            final_state(trained / folder.name, config),
        )


def test_a_member_that_diverges_fails_alone(make_config, tmp_path):
    configs = [
        make_config(),
        # Float32 overflows within a few steps.
        make_config(optimizer__learning_rate=1e30),
    ]
    folders = [tmp_path / "good", tmp_path / "bad"]
    failed = population.train_population(configs, folders, say=Recorder())
    assert list(failed) == [1]
    assert "so training stopped" in failed[1]
    assert (folders[0] / "eval/test/metrics.json").exists()
    assert not (folders[1] / "eval").exists()


def test_a_run_alone_goes_on_from_a_member(trained, make_config, tmp_path):
    folder = tmp_path / "narrow"
    shutil.copytree(trained / "narrow", folder)
    config = make_config(model__latent_dim=2, train__epochs=3)
    results = train.train(config, folder, say=Recorder())
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
