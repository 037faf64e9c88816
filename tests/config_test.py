"""The one table of keys, and what it refuses."""

import copy
import json
import pathlib

import pytest

from aeent_jax import config
from aeent_jax.data import images
from aeent_jax.entropy import channel, mixture
from aeent_jax.models import autoencoder
from aeent_jax.results import runs
from aeent_jax.training import controller, optimizer

ROOT = pathlib.Path(__file__).parents[1]


def make_config(**overrides):
    made = config.default()
    made.update_from_flattened_dict(overrides)
    return made.to_dict()


def fault_of(tree):
    with pytest.raises(ValueError, match=r".") as caught:
        config.check(tree, "It")
    return str(caught.value)


def test_every_default_holds_and_has_a_meaning():
    config.check(config.default().to_dict(), "The default")
    assert all(key.meaning for key in config.table().values())


def test_choices_are_those_of_the_tables_that_they_name():
    table = config.table()
    for name, choices in {
        "channel.noise": channel.NOISES,
        "channel.normalisation": autoencoder.NORMALISATIONS,
        "compute.dtype": autoencoder.DTYPES,
        "compute.matmul_precision": autoencoder.MATMUL_PRECISIONS,
        "data.resize": images.RESIZES,
        "entropy.controller": controller.CONTROLLERS,
        "entropy.covariance": mixture.COVARIANCES,
        "optimizer.schedule": optimizer.SCHEDULES,
    }.items():
        assert table[name].choices == tuple(choices), name


@pytest.mark.parametrize(
    ("key", "value", "kind"),
    [
        ("train.batch_size", 1, "a whole number of at least 2"),
        ("train.epochs", 1.0, "a whole number of at least 1"),
        ("train.epochs", True, "a whole number of at least 1"),
        ("train.epochs", None, "a whole number of at least 1"),
        ("entropy.group", 5, "a whole number of at least 1 and at most 4"),
        ("log.tensorboard", 1, "true or false"),
        ("data.root", 3, "a string"),
        ("data.image_size", 72, "a multiple of 16 of at least 16"),
        ("data.image_size", 0, "a multiple of 16 of at least 16"),
        ("data.channels", 2, "one of 1, 3"),
        (
            "data.validation_fraction",
            1.0,
            "a finite number of at least 0 and below 1",
        ),
        ("channel.sigma", float("nan"), "a finite number of at least 0"),
        ("channel.sigma", float("inf"), "a finite number of at least 0"),
        ("channel.sigma", -0.1, "a finite number of at least 0"),
        ("channel.noise", "laplace", "one of gaussian, uniform"),
        ("compat", "other", "one of empty, medianomaly"),
        ("optimizer.learning_rate", 0.0, "a finite number above 0"),
        ("optimizer.clip_norm", -1.0, "a finite number of at least 0"),
        ("optimizer.warmup_steps", -1, "a whole number of at least 0"),
        ("entropy.weight", float("inf"), "a finite number of at least 0"),
        ("entropy.learning_rate", 0.0, "a finite number above 0"),
        ("loss.kl_weight", -1.0, "a finite number of at least 0"),
        ("loss.image_weight", float("nan"), "a finite number of at least 0"),
        ("corruption.noise_size", 1, "a whole number of at least 2"),
        ("corruption.square_size", 0, "a whole number of at least 1"),
        ("model.latent_dim", 0, "a whole number of at least 1"),
        ("model.memory_slots", 0, "a whole number of at least 1"),
        ("model.shrink_threshold", -0.1, "a finite number of at least 0"),
        ("compute.dtype", "float16", "one of float32, bfloat16"),
        ("optimizer.schedule", "step", "one of constant, cosine, linear"),
    ],
)
def test_value_out_of_its_range_is_refused(key, value, kind):
    tree = config.default().to_dict()
    *group, last = key.split(".")
    (tree[group[0]] if group else tree)[last] = value
    assert fault_of(tree) == f"It has {key} = {value!r}, but it must be {kind}."


def test_values_at_the_ends_of_their_ranges_are_taken():
    ends = {"entropy.group": 4, "train.seed": 2**31 - 1, "channel.sigma": 0}
    tree = config.default().to_dict()
    for key, value in ends.items():
        group, last = key.split(".")
        tree[group][last] = value
    config.check(tree, "It")


def test_missing_and_unknown_keys_are_refused():
    tree = config.default().to_dict()
    del tree["model"]["depth"]
    assert fault_of(tree).startswith("It has no model.depth, so it is of")
    tree = config.default().to_dict() | {"modle": {}}
    assert fault_of(tree).startswith("It has modle, which is no key of")
    tree = config.default().to_dict() | {"model": 3}
    assert fault_of(tree).startswith("It has model = 3, but it must be a group")


def test_what_was_filled_in_can_be_changed_alone():
    config.complete({})["compute"]["dtype"] = "bfloat16"
    assert config.complete({})["compute"]["dtype"] == "float32"


def test_only_what_came_later_is_filled_in():
    found = config.complete({"train": {"epochs": 3}})
    assert found["train"] == {"epochs": 3, "microbatches": 1}
    assert "channel" not in found
    assert {"compute", "corruption", "loss"} <= set(found)


@pytest.fixture
def gone(monkeypatch):
    """A key that this version does not have."""
    sentence = "steps are mapped in one way alone; remove it"
    monkeypatch.setitem(config.REMOVED, "parallel.way", ("old", sentence))


def test_removed_key_is_taken_at_its_old_default_alone(gone):
    tree = config.default().to_dict()
    tree["parallel"]["way"] = "old"
    assert config.complete(tree) == config.default().to_dict()
    tree["parallel"]["way"] = "new"
    assert fault_of(config.complete(tree)) == (
        "It has parallel.way = 'new', but steps are mapped in one way alone;"
        " remove it."
    )


def test_epochs_of_a_rising_weight_become_a_fraction_of_the_training():
    tree = config.default().to_dict()
    tree["train"]["epochs"] = 200
    for epochs, fraction in ((100, 0.5), (50, 0.25), (0, 0.5)):
        earlier = copy.deepcopy(tree)
        del earlier["entropy"]["warmup_fraction"]
        earlier["entropy"]["warmup_epochs"] = epochs
        tree["entropy"]["warmup_fraction"] = fraction
        assert config.complete(earlier) == tree
    # It is no key of this version that could be set.
    tree["entropy"]["warmup_epochs"] = 100
    assert "warmup_fraction, a fraction of the training" in fault_of(tree)


def test_removed_keys_are_no_keys():
    assert not set(config.REMOVED) & set(config.table())


@pytest.mark.parametrize(
    ("key", "decides"),
    [
        ("train.seed", True),
        ("data.window", True),
        ("method", True),
        ("data.root", False),
        ("eval.score", False),
        ("loss.vgg_weights", False),
        ("train.steps_per_call", False),
    ],
)
def test_keys_that_make_another_experiment(key, decides):
    assert config.decides(key) is decides
    assert (key in config.decisive(config.default())) is decides


def test_records_in_the_repository_have_keys_of_this_version():
    table = config.table()
    for path in (ROOT / "configs" / "results").rglob("*.json"):
        found = runs.from_record(json.loads(path.read_text())).config
        for key, value in found.items():
            assert table[key].holds(value), f"{path}: {key}"
