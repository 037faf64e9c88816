"""Paired differences, of made workdirs beside their records."""

import json

import numpy as np
import pytest
from sweep_support import LABELS, record, write_workdir

from aeent_jax.evaluation import metrics
from aeent_jax.results import groups, runs
from aeent_jax.sweep import records, tables


@pytest.fixture
def members():
    """Ours at seeds 0, 1 and 3; the plain ones at 0, 1 and 2."""
    ours = [record(size=64, seed=s, controlled=True) for s in (0, 1, 3)]
    return ours + [record(seed=s) for s in (0, 1, 2)]


def table(members, folder):
    for one in members:
        records.write_record(folder, one)
    loaded = runs.read_records(folder)
    found = groups.in_order(groups.by_experiment(loaded))
    text = tables.differences(found)
    return [
        [cell.strip() for cell in line.split("|")[1:-1]]
        for line in text.splitlines()
        if line.startswith("|")
    ]


def test_differences_are_of_means_over_the_seeds_of_both(members, tmp_path):
    scores = [write_workdir(tmp_path, one) for one in members]
    header, _, row = table(members, tmp_path / "records")
    assert header == ["data", "difference", "seeds", "AUROC", "AP"]
    assert row[:3] == ["kermany_cxr", "ours - ae4", "2"]
    expected = metrics.paired_bootstrap(
        np.stack(scores[:2]), np.stack(scores[3:5]), LABELS
    )
    for cell, key in zip(row[3:], ("auroc", "ap"), strict=True):
        ends = (expected[key].value, *expected[key].interval)
        value, low, high = (f"{100 * x:+.1f}" for x in ends)
        assert cell == f"{value} [{low}, {high}]"


def test_workdir_of_an_older_version_is_that_of_its_record(members, tmp_path):
    for one in members:
        write_workdir(tmp_path, one)
        path = tmp_path / one["member"] / "config.json"
        config = json.loads(path.read_text())
        # Its default is what older versions did.
        config["train"].pop("microbatches", None)
        path.write_text(json.dumps(config))
        one["config"]["train.microbatches"] = 1
    assert len(table(members, tmp_path / "records")) == 3


def test_records_alone_have_no_differences(members, tmp_path):
    assert table(members, tmp_path / "records") == []


def test_workdirs_of_other_runs_are_passed_over(members, tmp_path):
    for one in members:
        write_workdir(tmp_path, one)
    members[0]["config"]["train.epochs"] = 99
    members[1]["evaluation"]["auroc"] += 0.01
    assert table(members, tmp_path / "records") == []


def test_runs_on_different_images_have_no_difference(members, tmp_path):
    for one in members:
        images = "image" if one["config"]["entropy.weight"] else "other"
        write_workdir(tmp_path, one, images=images)
    assert table(members, tmp_path / "records") == []


def test_uncontrolled_sweeps_have_no_differences(members, tmp_path):
    for one in members[3:]:
        write_workdir(tmp_path, one)
    assert table(members[3:], tmp_path / "records") == []
