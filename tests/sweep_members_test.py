"""Members are resolved and checked before anything is trained."""

import collections
import pathlib
import runpy

import pytest

from aeent_jax import entropy, sweep
from configs import default, estimators


def base():
    return default.get_config().lock()


def members(*pairs, **kwargs):
    return sweep.make_members(base(), lambda config: iter(pairs), **kwargs)


ONE = ("a", {"entropy.estimator": "none", "train.seed": 1})


def test_overrides_reach_the_members_own_configuration():
    first, second = members(ONE, ("b", {"entropy.weight": 0.5}))
    assert first.config.entropy.estimator == "none"
    assert (first.config.train.seed, second.config.train.seed) == (1, 0)
    assert second.config.entropy.weight == 0.5
    assert second.overrides == {"entropy.weight": 0.5}


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
    path = pathlib.Path(__file__).parents[1] / "configs/estimators.py"
    config = runpy.run_path(str(path))["get_config"]()
    assert (config.data.name, config.train.epochs) == ("kermany_cxr", 60)


def test_the_ablation_has_every_estimator_at_four_weights():
    config = estimators.get_config().lock()
    found = sweep.make_members(config, estimators.get_members)
    weights = collections.defaultdict(set)
    for member in found:
        keys = member.config.entropy
        weights[keys.estimator].add(keys.weight)
    names = {*entropy.ESTIMATORS, *entropy.LEARNED}
    assert weights.pop("none") == {0.0}
    assert set(weights) == names - {"none"}
    assert all(len(values) == 4 for values in weights.values())
