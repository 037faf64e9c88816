"""Finished runs as they are read: whole, in part, and damaged."""

import json
import re

import numpy as np
import pytest
from results_support import COUNT, change_json, write_run

from aeent_jax.results import runs


def test_names_are_as_short_as_tells_runs_apart(tmp_path):
    paths = [tmp_path / "a" / "seed0", tmp_path / "b" / "seed0"]
    found = runs.read([write_run(path) for path in paths])
    assert [run.name for run in found] == ["a/seed0", "b/seed0"]
    assert runs.read([str(paths[0])])[0].name == "seed0"


def test_half_a_last_line_is_ignored(tmp_path):
    folder = write_run(tmp_path / "run")
    with (tmp_path / "run/metrics.jsonl").open("a") as file:
        file.write('{"step": 40, "epo')
    (run,) = runs.read([folder])
    assert [line["step"] for line in run.metrics] == [10, 20, 30]


def test_a_step_that_was_logged_again_counts_once(tmp_path):
    folder = write_run(tmp_path / "run")
    with (tmp_path / "run/metrics.jsonl").open("a") as file:
        record = {"step": 20, "epoch": 2.0, "train/reconstruction_loss": 7.0}
        file.write(json.dumps(record) + "\n")
    epochs, losses = runs.read([folder])[0].curve("train/reconstruction_loss")
    np.testing.assert_array_equal(epochs, [1, 2, 3])
    assert losses[1] == 7.0


def _note(folder):
    (run,) = runs.read([folder])
    (note,) = run.notes
    return note


def test_gaps_are_noted(tmp_path):
    half = write_run(tmp_path / "half", evaluated=False)
    assert _note(half) == (
        "half has no evaluation yet (training stands at step 30): let it "
        f"finish, or run aeent evaluate --workdir={half}."
    )
    (tmp_path / "half/metrics.jsonl").unlink()
    assert "(training stands at its start)" in _note(half)
    normal = write_run(tmp_path / "normal", abnormal=False, split="train")
    assert _note(normal) == (
        "normal was tested on normal images only, so no rank metric is defined "
        "for it; its scores and its rate are."
    )
    path = tmp_path / "normal/eval/train/metrics.json"
    change_json(path, num_normal=0, num_abnormal=COUNT)
    assert "normal was tested on abnormal images only" in _note(normal)


def test_scores_without_metrics_are_no_evaluation(tmp_path):
    folder = write_run(tmp_path / "b")
    (tmp_path / "b/eval/test/metrics.json").unlink()
    assert "b has no evaluation yet" in _note(folder)


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("eval/test/metrics.json", b'{"a', r"Expecting|Unterminated"),
        ("eval/test/metrics.json", b"[1]", "it holds no JSON object"),
        ("eval/test/metrics.json", b"\xff\xfe", "codec"),
        ("eval/test/metrics.json", b"{}", "it counts 0 images, and scores.csv"),
        ("eval/test/scores.csv", b"id,label,anomaly_score\na,0\n", "not whole"),
        ("eval/test/scores.csv", b"id,label\na,0\n", "a row is not whole"),
        ("eval/test/score_maps.npz", b"PK\x03\x04 cut off", ""),
        ("eval/test/panel.npz", b"", ""),
        ("config.json", b"{}", "it has no data.name"),
        ("config.json", b'{"data": {"name": "x"}}', "it has no train.seed"),
        (
            "config.json",
            b'{"data": {"name": "x"}, "train": 3}',
            "it has no train.seed",
        ),
    ],
)
def test_damage_is_named(tmp_path, name, content, sentence):
    folder = write_run(tmp_path / "run")
    (tmp_path / "run" / name).write_bytes(content)
    with pytest.raises(
        ValueError,
        match=rf"Found damage in .*{name} \(.*({sentence}).*\); delete it and "
        r"run the command that wrote it again\.",
    ):
        runs.read([folder])[0].arrays(name.split("/")[-1].removesuffix(".npz"))


def test_scores_of_fewer_images_than_were_evaluated_are_damage(tmp_path):
    folder = write_run(tmp_path / "run")
    path = tmp_path / "run/eval/test/scores.csv"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))
    text = f"it counts {COUNT} images, and scores.csv {COUNT - 1})"
    with pytest.raises(ValueError, match=re.escape(text)):
        runs.read([folder])


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ('{"step": 5, "epo\n{"step": 6}\n', r"line 1: .*; delete that line\."),
        ('{"step": 5}\n3\n', "line 2: no record of a step; delete"),
        ('{"epoch": 5}\n', "line 1: no record of a step; delete"),
    ],
)
def test_damaged_lines_are_named(tmp_path, text, sentence):
    folder = write_run(tmp_path / "run")
    (tmp_path / "run/metrics.jsonl").write_text(text)
    with pytest.raises(ValueError, match=rf"metrics\.jsonl, {sentence}"):
        runs.read([folder])


@pytest.mark.parametrize(
    ("names", "error", "sentence"),
    [
        ([], ValueError, r"Found no run to report; pass one or more workdirs"),
        (["run", "run/"], ValueError, r"twice; pass each run once\."),
        (
            ["nothing"],
            FileNotFoundError,
            r"Found no folder .*/nothing; pass the workdir of a run, as it was "
            r"given to aeent train\.",
        ),
        (["."], FileNotFoundError, r"Found no config\.json in .*, so it is no"),
    ],
)
def test_other_folders_are_refused(tmp_path, names, error, sentence):
    write_run(tmp_path / "run")
    with pytest.raises(error, match=sentence):
        runs.read([f"{tmp_path}/{name}" for name in names])
