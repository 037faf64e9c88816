"""Rules that choose without labels, and their regret."""

import dataclasses
import json
import math
import shutil

import pytest
import sweep_support

from aeent_jax.results import groups, runs
from aeent_jax.sweep import records, results, selection

Candidate = selection.Candidate


def under_control(rates, trained, held_out=None, lengths=None):
    """A candidate per rate, at weights that fall with the rate."""
    held_out = held_out or [None] * len(rates)
    lengths = lengths or [None] * len(rates)
    return [
        Candidate(64, 1e-3 / rate, rate, *errors)
        for rate, *errors in zip(rates, trained, held_out, lengths, strict=True)
    ]


# As plain networks are, which no rule of rates may take.
PLAIN = Candidate(16, 0.0, math.inf, 0.001, 0.001, None)


def test_description_length_is_that_of_a_gaussian_and_the_rate():
    # At e = s^2 it is n times the entropy of a Gaussian.
    entropy = 0.5 * math.log(2 * math.pi * math.e * 0.04)
    found = selection.description_length(7.0, 0.04, 0.04, 100)
    assert found == pytest.approx(100 * entropy + 7.0)
    # A held-out error above it costs n/2 (e/s^2 - 1) more.
    more = selection.description_length(7.0, 0.04, 0.06, 100)
    assert more - found == pytest.approx(25.0)


def test_fewest_nats_are_taken():
    points = under_control(
        [30, 3, 10], [1, 3, 2], [1, 3, 2], [90.0, 95.0, 88.0]
    )
    choice = selection.RULES["description_length"]([PLAIN, *points])
    assert choice.place == 3
    assert "88.0 nats, the fewest of 95.0, 88.0, 90.0" in choice.reason


def test_largest_rate_is_taken_that_held_out_normals_follow_to():
    follows = selection.RULES["follows_training"]
    rates, trained = [30, 3, 10, 60], [1.0, 3.0, 2.0, 0.5]
    for held_out, place in (
        ([1.2, 3.0, 2.1, 0.8], 3),  # to the end
        ([1.2, 3.0, 2.1, 1.1], 0),
        ([1.7, 3.0, 2.1, 0.8], 2),  # Points after a break do not count.
        ([1.2, 3.0, 2.9, 0.8], 1),
    ):
        points = under_control(rates, trained, held_out)
        assert follows([*points, PLAIN]).place == place


def test_elbow_is_where_the_error_bends():
    elbow = selection.RULES["elbow"]
    points = under_control([3, 10, 30, 60], [3.0, 1.2, 1.1, 1.0])
    assert elbow([PLAIN, *points]).place == 2
    # Held-out errors count where there are any.
    points = under_control([3, 10, 30], [3.0, 1.2, 1.0], [3.0, 2.9, 2.0])
    bent = dataclasses.replace(points[1], held_out_error=2.1)
    assert elbow([points[0], bent, points[2]]).place == 1
    assert elbow([*points[:2], PLAIN]).place is None


def test_nearest_rate_is_taken_in_ratio():
    points = under_control([30, 7, 19], [1.0, 3.0, 2.0])
    take = selection.RULES["rate_12"]
    # 12 is nearer to 7 in nats, and to 19 in ratio.
    assert take([PLAIN, *points]).place == 3
    assert (
        take(points).reason == "19.0 of 7.0, 19.0, 30.0 nats is nearest to 12"
    )
    assert take([PLAIN]).place is None


def test_fixed_rules_take_what_was_fixed():
    points = [PLAIN, Candidate(64, 3e-4, 20.0, 1.0), Candidate(64, 0, 1, 1.0)]
    assert selection.RULES["latent_16"](points).place == 0
    assert selection.RULES["latent_64"](points).place == 2
    assert selection.RULES["weight_0.0003"](points).place == 1
    missing = selection.RULES["weight_0.001"](points)
    assert missing == (None, "there is no network at the weight 0.001")


@pytest.mark.parametrize("rule", ["description_length", "follows_training"])
def test_rules_need_normals_that_were_held_out(rule):
    points = under_control([3, 10, 30], [3.0, 2.0, 1.0])
    place, reason = selection.RULES[rule](points)
    assert place is None
    assert reason.startswith("no normals were held out")
    assert selection.RULES[rule]([PLAIN]).place is None


def test_unknown_rule_lists_the_choices():
    with pytest.raises(ValueError, match=r"--select is 'best', but .*elbow"):
        selection.check_rules(["elbow", "best"])


def ours(seed, weight, rate, held_out):
    """A record of a network under a weight that rises."""
    one = sweep_support.record(size=64, seed=seed, controlled=True)
    one["config"] |= {
        "entropy.controller": "schedule",
        "entropy.weight": weight,
        "data.validation_fraction": 0.1,
    }
    one["member"] = f"ours_{weight:g}_s{seed}"
    one["evaluation"] |= {
        "rate_nats": rate,
        "held_out": {
            "num_images": 10,
            "reconstruction_error": held_out,
            "smoothed_error": {"train": 0.01, "val": held_out},
            "num_values": 16.0,
        },
    }
    return one


@pytest.fixture
def folder(tmp_path):
    """Two weights and two sizes at two seeds; a constant weight beside them."""
    members = [
        one
        for seed in (0, 1)
        for one in (
            ours(seed, 1e-3, 10.0, 0.012),
            ours(seed, 3e-4, 20.0, 0.011),
            sweep_support.record(seed=seed),
            sweep_support.record(size=16, seed=seed),
        )
    ]
    members.append(sweep_support.record(size=64, controlled=True))
    for i, one in enumerate(members):
        sweep_support.write_workdir(tmp_path, one, shift=0.1 * (i % 4))
        records.write_record(tmp_path / "records", one)
    return tmp_path / "records"


def test_regret_is_the_oracle_minus_what_is_taken(folder):
    found = groups.by_experiment(runs.read_records(folder))
    pool = [one for one in found if selection._is_candidate(one)]
    assert len(pool) == 4  # A weight that does not rise is no candidate.
    means = [one.values("auroc").mean() for one in pool]
    best = max(means)
    for one, mean in zip(pool, means, strict=True):
        value, interval = selection.regret(pool, one)
        assert value == pytest.approx(best - mean)
        if mean < best:
            assert interval[0] < value < interval[1]
        else:
            assert (value, interval) == (0.0, None)


def test_another_evaluation_of_the_members_decides_the_regret(folder):
    for one in runs.read_records(folder):
        own = folder.parent / one.name / "eval/test"
        shutil.copytree(own, own / "near/smoothed_box5")
        counts = {"num_normal": 20, "num_abnormal": 20}
        text = json.dumps(one.evaluation | counts | {"auroc": 0.25})
        (own / "near/smoothed_box5/metrics.json").write_text(text)
    (run, *_) = runs.read_records(folder, "near/smoothed_box5")
    assert run.evaluation["auroc"] == 0.25
    assert run.scores is not None
    assert run.name == runs.read_records(folder)[0].name
    with pytest.raises(FileNotFoundError, match="no evaluation squared of"):
        runs.read_records(folder, "squared")
    # The workdir of another run has no evaluation of this one.
    config = folder.parent / run.name / "config.json"
    tree = json.loads(config.read_text())
    tree["train"]["seed"] = 7
    config.write_text(json.dumps(tree))
    with pytest.raises(FileNotFoundError, match=run.name):
        runs.read_records(folder, "near/smoothed_box5")


def test_choice_and_regret_are_printed_and_written(folder, tmp_path):
    rules = ["description_length", "latent_16", "weight_0.003"]
    shown = results.write_results([folder], tmp_path / "out", select=rules)
    text = (tmp_path / "out/selection.md").read_text()
    assert shown.endswith(text.rstrip("\n"))
    # 16 values: a little less error costs fewer nats than 10 more of rate.
    assert (
        "description_length takes ours_0.001_s0 on kermany_cxr, because" in text
    )
    assert "weight_0.003 cannot choose on kermany_cxr: there is no net" in text
    rows = [line.split() for line in text.splitlines() if line[:1] == "|"]
    assert [row[1] for row in rows[2:]] == ["description_length", "latent_16"]
    assert rows[0][3::2] == ["kermany_cxr", "worst", "mean"]
    assert rows[2][3].startswith("+")
    results.write_results([folder], tmp_path / "other")
    assert not (tmp_path / "other/selection.md").exists()
