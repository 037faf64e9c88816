"""Runs that differ only in their seed are summed up."""

import pathlib

import numpy as np
import pytest

from aeent_jax import config
from aeent_jax.evaluation import metrics
from aeent_jax.results import runs as runs_lib
from aeent_jax.results import seeds

_LABELS = np.arange(40) % 2


def _run(name, seed, sigma, gain, ids="a"):
    scores = np.random.default_rng(seed).random(40) + gain * _LABELS
    return runs_lib.Run(
        name=name,
        workdir=pathlib.Path(name),
        config={
            "channel": {"sigma": sigma},
            "train": {"seed": seed, "epochs": 3},
            "log": {"every_epochs": seed + 1},
        },
        environment={},
        history=[],
        evaluation=metrics.image_metrics(scores, _LABELS)
        | {"rate_nats": 9.0 + seed if sigma else None},
        ids=[f"{ids}{i:02d}" for i in range(40)],
        labels=_LABELS,
        scores=scores,
        notes=[],
    )


@pytest.fixture
def runs():
    plain = [_run(f"plain_s{i}", i, 0.0, 0.1) for i in range(3)]
    return [*plain, *(_run(f"ours_s{i}", i, 1.0, 0.8) for i in range(2))]


def test_groups_differ_in_more_than_seed_and_logging(runs):
    found = seeds.groups([runs[3], *runs[:3], runs[4]])
    assert [(g.name, len(g.runs)) for g in found] == [("ours", 2), ("plain", 3)]


def test_keys_that_older_workdirs_lack_make_no_other_group(runs):
    runs[4].config["compute"] = config.complete({})["compute"]
    assert len(seeds.groups(runs)) == 2
    runs[4].config["compute"]["dtype"] = "bfloat16"
    assert len(seeds.groups(runs)) == 3


def test_cache_and_memory_make_no_other_group(runs):
    runs[3].config["data"] = {"memory_budget_mb": 0, "cache_dir": "here"}
    runs[4].config["data"] = {"memory_budget_mb": 1, "cache_dir": "there"}
    assert len(seeds.groups(runs)) == 2


def test_metrics_by_another_score_make_another_group(runs):
    runs[4].evaluation["score"] = "ssim"
    assert len(seeds.groups(runs)) == 3


def test_no_groups_where_each_configuration_has_one_seed(runs):
    assert seeds.groups([runs[0], runs[3]]) == []


def test_rows_hold_mean_spread_and_paired_difference(runs):
    header, (plain, ours) = seeds.table(seeds.groups(runs))
    assert header[:4] == ["runs", "seeds", "AUROC", "AP"]
    values = 100 * np.array([r.evaluation["auroc"] for r in runs[3:]])
    assert ours[2] == f"{values.mean():.1f} ± {values.std(ddof=1):.1f}"
    assert (plain[4], ours[4]) == ("infinite", "9.5 ± 0.7")
    expected = metrics.paired_bootstrap(
        np.stack([r.scores for r in runs[3:]]),
        np.stack([r.scores for r in runs[:3]]),
        _LABELS,
    )["auroc"]
    value, low, high = (f"{100 * part:+.1f}" for part in expected)
    assert (plain[-1], ours[-1]) == ("-", f"{value} [{low}, {high}]")


def test_groups_on_other_images_are_not_paired(runs):
    other = [_run(f"other_s{i}", i, 1.0, 0.8, ids="b") for i in range(2)]
    _, rows = seeds.table(seeds.groups([*runs[:3], *other]))
    assert rows[1][-1] == "other images"
    # Nor are those on other pixels of the same ids.
    for i, run in enumerate(runs):
        run.evaluation["images_sha256"] = str(i // 3)
    _, rows = seeds.table(seeds.groups(runs))
    assert rows[1][-1] == "other images"


def test_a_seed_counts_once(runs):
    again = _run("plain_again", 0, 0.0, 0.1)
    found = seeds.groups([*runs[:3], again])
    assert [run.name for run in found[0].runs] == [r.name for r in runs[:3]]


def test_scores_are_summed_up_over_seeds(runs):
    results = {
        run.workdir: [
            {"score": "squared", "auroc": 0.5 + 0.1 * i},
            {"score": "surprise"},
        ]
        for i, run in enumerate(runs)
    }
    header, rows = seeds.score_table(seeds.groups(runs), results)
    assert header == ["AUROC of score", "plain", "ours"]
    # 0.5, 0.6, 0.7, and 0.8, 0.9; the other is no rank metric of these.
    assert rows == [
        ["squared", "60.0 ± 10.0", "85.0 ± 7.1"],
        ["surprise", "-", "-"],
    ]
