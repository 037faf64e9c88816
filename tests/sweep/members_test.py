"""Members are resolved and checked before anything is trained."""

import collections
import pathlib
import runpy

import pytest

from aeent_jax import config as config_lib
from aeent_jax import entropy, sweep
from configs import estimators, figure_error, folder, table1, table2, weights


def base():
    return config_lib.default().lock()


def members(*pairs, **kwargs):
    return sweep.make_members(base(), lambda config: iter(pairs), **kwargs)


ONE = ("a", {"entropy.estimator": "none", "train.seed": 1})


def test_overrides_reach_the_members_own_configuration():
    first, second = members(ONE, ("b", {"entropy.weight": 0.5}))
    assert first.config.entropy.estimator == "none"
    assert (first.config.train.seed, second.config.train.seed) == (1, 0)
    assert second.config.entropy.weight == 0.5
    assert second.overrides == {"entropy.weight": 0.5}


def test_notes_reach_the_members():
    first, second = members((*ONE, "oracle"), ("b", {}))
    assert (first.note, second.note) == ("oracle", "")


def test_names_are_found_without_resolving_members():
    wrong = ("b1", {"entropy.estimator": "knm"})
    found = sweep.find_names(base(), lambda config: iter([ONE, wrong]))
    assert found == ["a", "b1"]


def test_only_the_chosen_members_are_made_and_checked():
    wrong = ("b1", {"entropy.estimator": "knm"})
    (found,) = members(ONE, wrong, only="a*")
    assert found.name == "a"


@pytest.mark.parametrize(
    ("pairs", "sentence"),
    [
        ([], "get_members gives no member, so there is nothing to train"),
        ([ONE, ONE], "gives the name 'a' 2 times; give each member a name"),
        ([("../a", {})], "The member name '../a' cannot be that of a folder"),
        ([("records", {})], "The member name 'records' cannot be that of"),
        (
            [("a", {"entropy.wieght": 1.0})],
            "The member a sets entropy.wieght, which is no key of the"
            " configuration; did you mean entropy.weight?",
        ),
        (
            [("a", {"train.epochs": "many"})],
            "The member a sets train.epochs to 'many', which has another type",
        ),
        (
            [("a", {"entropy.estimator": "knm"})],
            "The member a is refused: entropy.estimator is 'knm', and one of",
        ),
        (
            [("a", {}), ("b", {"parallel.num_devices": 1})],
            "The members a and b have the same configuration; leave one",
        ),
        ([("a",)], r"get_members cannot be used \(ValueError: "),
        ([("a", 3)], r"get_members cannot be used \(TypeError: "),
    ],
)
def test_what_cannot_be_trained_is_refused(pairs, sentence):
    with pytest.raises(ValueError, match=sentence.replace("?", r"\?")):
        members(*pairs)


def test_pattern_that_matches_nothing_is_refused():
    with pytest.raises(ValueError, match="--only=b matches none of the 1 mem"):
        members(ONE, only="b")


def test_flag_that_every_member_sets_anyway_is_refused():
    with pytest.raises(ValueError, match=r"--config.train.seed is given, but"):
        members(ONE, given={"train.seed": 3})


def test_configurations_of_sweeps_can_be_run_from_anywhere():
    path = pathlib.Path(__file__).parents[2] / "configs/estimators.py"
    config = runpy.run_path(str(path))["get_config"]()
    assert (config.data.name, config.train.epochs) == ("kermany_cxr", 60)


def test_the_ablation_has_every_estimator_at_four_weights():
    config = estimators.get_config().lock()
    found = sweep.make_members(config, estimators.get_members)
    weights = collections.defaultdict(set)
    for member in found:
        keys = member.config.entropy
        weights[keys.estimator].add(keys.weight)
    names = set(entropy.ESTIMATORS)
    assert weights.pop("none") == {0.0}
    assert set(weights) == names - {"none"}
    assert all(len(values) == 4 for values in weights.values())


def test_table_1_has_eight_sizes_at_three_seeds():
    config = table1.get_config("kermany_cxr").lock()
    found = sweep.make_members(config, table1.get_members)
    assert [member.name for member in found][:4] == [
        "ae4_s0",
        "ae4_s1",
        "ae4_s2",
        "ae16_s0",
    ]
    assert found[-1].name == "ae128_s2"
    sizes = {(m.config.model.latent_dim, m.config.train.seed) for m in found}
    powers = [1, 2, 4, 8, 16, 32, 64, 128]
    assert sizes == {(size, seed) for size in powers for seed in range(3)}
    for member in found:
        assert set(member.overrides) == {"model.latent_dim", "train.seed"}
        assert member.config.channel.sigma == 0
        assert member.config.entropy.weight == 0


def test_the_figure_of_errors_goes_on_with_table_1_to_size_1024():
    config = figure_error.get_config("kermany_cxr")
    found = [*figure_error.get_members(config)]
    shared = [*table1.get_members(config)]
    assert found[: len(shared)] == shared
    assert found[-1] == (
        "ae1024_s2",
        {"model.latent_dim": 1024, "train.seed": 2},
    )


def by_name(variant):
    """Name at seed 0 -> overrides without the seed, and the note."""
    config = table2.get_config(variant).lock()
    found = {}
    for name, overrides, *note in table2.get_members(config):
        del overrides["train.seed"]
        settings = (overrides, *note)
        assert found.setdefault(name[:-1], settings) == settings
    return found


def test_table_2_compares_methods_at_16_with_ours_at_64():
    found = by_name("kermany_cxr")
    assert list(found) == [
        "ae16_s",
        "ae4_s",
        "ours_s",
        "ours_rising_s",
        "vae_s",
        "memae_s",
        "ceae_s",
    ]
    assert found["ae4_s"] == ({"model.latent_dim": 4}, "oracle")
    for method in ("vae", "memae", "ceae"):
        expected = {"method": method, "model.latent_dim": 16}
        assert found[f"{method}_s"] == (expected,)
    rising = {"entropy.controller": "schedule"}
    assert found["ours_rising_s"] == (found["ours_s"][0] | rising,)
    config = table2.get_config("kermany_cxr").lock()
    ours, *_ = sweep.make_members(config, table2.get_members, only="ours_s*")
    assert ours.config.channel.sigma == 1
    assert ours.config.entropy.estimator == "coding_rate"
    assert ours.config.entropy.weight == 1e-3
    assert ours.config.model.latent_dim == 64


def test_best_size_can_be_given_and_is_one_row_where_it_is_16():
    assert by_name("kermany_cxr,8")["ae8_s"] == (
        {"model.latent_dim": 8},
        "oracle",
    )
    assert "ae4_s" not in by_name("kermany_cxr,8")
    assert by_name("brain_mri")["ae16_s"] == ({"model.latent_dim": 16},)


@pytest.mark.parametrize("get_config", [table1.get_config, table2.get_config])
def test_unknown_data_set_of_a_table_is_refused(get_config):
    with pytest.raises(ValueError, match="data set is 'rnsa', but must be one"):
        get_config("rnsa")


@pytest.mark.parametrize("table", [table1, table2, figure_error])
def test_tables_can_be_made_of_ones_own_images(table):
    config = table.get_config("folder").lock()
    found = sweep.make_members(config, table.get_members, only="*_s0")
    assert {member.config.data.name for member in found} == {"folder"}
    # Nothing was published of them, so no size is the best.
    assert {member.note for member in found} == {""}


@pytest.mark.parametrize("data", ["folder", "brain_tumor", "phantom_mri"])
def test_weights_differ_in_their_weight_and_seed_alone(data):
    config = weights.get_config(data).lock()
    found = sweep.make_members(config, weights.get_members)
    assert [m.name for m in found[:3]] == [
        "ours_0.001_s0",
        "ours_0.0003_s0",
        "ours_0.0001_s0",
    ]
    assert len(found) == 12
    for member in found:
        assert set(member.overrides) == {"entropy.weight", "train.seed"}
        assert member.config.model.latent_dim == 64
        assert member.config.entropy.estimator == "coding_rate"
        assert member.config.entropy.controller == "schedule"
        assert member.config.data.validation_fraction == 0.1
    # Verdicts on one's own images need normals that nothing was chosen by.
    held_out = {member.config.data.calibration for member in found}
    assert held_out == {"0.2" if data == "folder" else "auto"}


def test_preset_of_ones_own_images_is_one_of_the_weights():
    one, four = folder.get_config().entropy, weights.WEIGHTS
    assert one.weight in four
    assert one == weights.get_config("folder").entropy


def test_best_size_that_is_no_number_is_refused():
    with pytest.raises(ValueError, match="best latent size is 'x', but must"):
        table2.get_config("kermany_cxr,x")
