"""Runs that differ only in their seed are summed up."""

import dataclasses
import pathlib

import numpy as np
import pytest

from aeent_jax.evaluation import metrics
from aeent_jax.results import comparison, evaluations, groups, runs

_LABELS = np.arange(40) % 2


def _run(name, seed, sigma, gain, ids="a"):
    scores = np.random.default_rng(seed).random(40) + gain * _LABELS
    return runs.Run(
        name=name,
        workdir=pathlib.Path(name),
        config={
            "channel.sigma": sigma,
            "train.seed": seed,
            "train.epochs": 3,
            "log.every_epochs": seed + 1,
        },
        evaluation=metrics.image_metrics(scores, _LABELS)
        | {"rate_nats": 9.0 + seed if sigma else None},
        trained={},
        images_per_second=None,
        notes=[],
        scores=runs.Scores(
            [f"{ids}{i:02d}" for i in range(40)], _LABELS, scores
        ),
    )


@pytest.fixture
def members():
    plain = [_run(f"plain_s{i}", i, 0.0, 0.1) for i in range(3)]
    return [*plain, *(_run(f"ours_s{i}", i, 1.0, 0.8) for i in range(2))]


def test_groups_differ_in_more_than_seed_and_logging(members):
    found = groups.by_experiment([members[3], *members[:3], members[4]])
    assert [(g.name, len(g.runs)) for g in found] == [("ours", 2), ("plain", 3)]
    assert [g.settings for g in found] == [
        {"channel.sigma": 1.0},
        {"channel.sigma": 0.0},
    ]


@pytest.mark.parametrize(
    ("settings", "count"),
    [
        ({"data.memory_budget_mb": 1, "data.cache_dir": "there"}, 2),
        ({"compute.dtype": "bfloat16"}, 3),
    ],
)
def test_keys_that_decide_make_another_group(members, settings, count):
    members[4].config.update(settings)
    assert len(groups.by_experiment(members)) == count


def test_images_make_another_group_where_they_are_known(members):
    other = [_run(f"other_s{i}", i, 1.0, 0.8, ids="b") for i in range(2)]
    assert len(groups.by_experiment([*members, *other])) == 3
    # A record does not say them, also where the workdir beside it does.
    records = [dataclasses.replace(run, workdir=None) for run in members]
    records[0] = dataclasses.replace(records[0], scores=None)
    assert len(groups.by_experiment(records)) == 2


def test_metrics_by_another_score_make_another_group(members):
    members[4].evaluation["score"] = "ssim"
    assert len(groups.by_experiment(members)) == 3


@pytest.mark.parametrize(
    ("names", "common"),
    [
        (["ae16_s0", "ae16_s1"], "ae16"),
        (["ae16_s10", "ae16_s11"], "ae16"),
        (["ae16_s0"], "ae16"),
        (["a/seed0", "a/seed1"], "a"),
        (["ours_64a", "ours_64b"], "ours_64"),
        (["kde_0.001"], "kde_0.001"),
        (["x", "y"], "x"),
    ],
)
def test_groups_are_named_without_the_seed(names, common):
    found = [_run(name, i, 1.0, 0.5) for i, name in enumerate(names)]
    (group,) = groups.by_experiment(found)
    assert group.name == common


def test_nothing_is_summed_up_where_each_experiment_has_one_seed(members):
    assert comparison.over_seeds([members[0], members[3]]) == []


def test_rows_hold_mean_spread_and_paired_difference(members):
    table = comparison.seed_table(comparison.over_seeds(members))
    plain, ours = table.rows
    assert table.header[:4] == ["runs", "seeds", "AUROC", "AP"]
    values = 100 * np.array([r.evaluation["auroc"] for r in members[3:]])
    assert ours[2] == f"{values.mean():.1f} ± {values.std(ddof=1):.1f}"
    assert (plain[4], ours[4]) == ("infinite", "9.5 ± 0.7")
    value, (low, high) = metrics.paired_bootstrap(
        np.stack([r.scores.values for r in members[3:]]),
        np.stack([r.scores.values for r in members[:3]]),
        _LABELS,
    )["auroc"]
    expected = f"{100 * value:+.1f} [{100 * low:+.1f}, {100 * high:+.1f}]"
    assert (plain[-1], ours[-1]) == ("-", expected)


def test_groups_on_other_images_are_not_paired(members):
    other = [_run(f"other_s{i}", i, 1.0, 0.8, ids="b") for i in range(2)]
    found = comparison.over_seeds([*members[:3], *other])
    assert comparison.seed_table(found).rows[1][-1] == "other images"


def test_a_seed_counts_once(members):
    again = _run("plain_again", 0, 0.0, 0.1)
    (group,) = comparison.over_seeds([*members[:3], again])
    assert [run.name for run in group.runs] == [r.name for r in members[:3]]


def test_scores_are_summed_up_over_seeds(members):
    results = {
        run.workdir: [
            {"score": "squared", "auroc": 0.5 + 0.1 * i},
            {"score": "surprise"},
        ]
        for i, run in enumerate(members)
    }
    found = comparison.over_seeds(members)
    header, rows = evaluations._over_seeds(found, results)
    assert header == ["AUROC of score", "plain", "ours"]
    # 0.5, 0.6, 0.7, and 0.8, 0.9; the other is no rank metric of these.
    assert rows == [
        ["squared", "60.0 ± 10.0", "85.0 ± 7.1"],
        ["surprise", "-", "-"],
    ]
