"""Reports of small workdirs that the tests write."""

import html.parser
import json
import pathlib
import re
import subprocess
import sys

import numpy as np
import pytest

from aeent_jax import figures
from aeent_jax.evaluation import metrics
from aeent_jax.results import comparison, report
from aeent_jax.results import runs as runs_lib

_COUNT = 40
_INTERVAL_KEYS = ("auroc", "ap", "pixel_ap", "pixel_auroc", "oracle_dice")


def _scored(seed, gain, abnormal=True):
    """Labels, masks and score maps of a run; a larger gain separates more."""
    rng = np.random.default_rng(seed)
    labels = np.arange(_COUNT) % 2 if abnormal else np.zeros(_COUNT, int)
    masks = np.zeros((_COUNT, 8, 8), bool)
    masks[labels == 1, 2:5, 2:5] = True
    maps = rng.random(masks.shape) + gain * masks
    return labels, masks, maps.astype(np.float32)


def _write_run(
    folder,
    *,
    seed=0,
    gain=0.5,
    rate=9.9,
    abnormal=True,
    masks=True,
    ids="test",
    evaluated=True,
    baselines=True,
    split="test",
):
    """Writes a workdir as training and evaluation do."""
    out = folder / "eval" / split
    out.mkdir(parents=True)
    sigma = 0.0 if rate is None else 1.0
    config = {
        "data": {"name": "phantom_cxr", "root": folder.name},
        "channel": {"sigma": sigma},
        "train": {"seed": 0, "epochs": 3},
    }
    (folder / "config.json").write_text(json.dumps(config))
    lines = [
        {
            "step": step,
            "epoch": step / 10,
            "wall_seconds": float(step),
            "train/reconstruction_loss": 1 / step,
            "train/rate_nats": rate,
            "train/images_per_second": 400.0 + step,
        }
        for step in (10, 20, 30)
    ]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (folder / "metrics.jsonl").write_text(text)
    if not evaluated:
        return str(folder)
    labels, lesions, maps = _scored(seed, gain, abnormal)
    scores = maps.mean(axis=(1, 2), dtype=np.float64)
    names = [f"{ids}/{i:03d}" for i in range(_COUNT)]
    rows = zip(names, labels.tolist(), scores.tolist(), strict=True)
    (out / "scores.csv").write_text(
        "id,label,anomaly_score\n"
        + "".join(f"{name},{label},{score!r}\n" for name, label, score in rows)
    )
    arrays = {"score_maps": maps, "ids": np.array(names)}
    if masks and abnormal:
        arrays["masks"] = lesions
    np.savez_compressed(out / "score_maps.npz", **arrays)
    rng = np.random.default_rng(seed)
    figures.save_panel(
        out,
        images=rng.random((2, 8, 8, 1)),
        reconstructions=rng.random((2, 8, 8, 1)),
        score_maps=maps[:2],
        masks=arrays["masks"][:2] if "masks" in arrays else None,
        labels=labels[:2],
        ids=names[:2],
        scores=scores[:2],
    )
    results = _results(labels, scores, maps, arrays.get("masks"), rate)
    if abnormal and baselines:
        results["baselines"] = {
            "mean_intensity": _entry(labels, -scores),
            "pca": _entry(labels, scores / 2) | {"num_components": 16},
        }
    (out / "metrics.json").write_text(json.dumps(results | {"split": split}))
    return str(folder)


def _entry(labels, scores, maps=None, masks=None):
    """Metrics with intervals, as evaluation writes them."""
    found = metrics.image_metrics(scores, labels)
    if masks is not None:
        found |= metrics.pixel_metrics(maps, masks)
    intervals = metrics.bootstrap(
        scores,
        labels,
        None if masks is None else maps,
        masks,
        num_resamples=20,
    )
    return found | {f"{k}_interval": list(v) for k, v in intervals.items()}


def _results(labels, scores, maps, masks, rate):
    groups = ["train_normal", "test_normal"]
    groups += ["test_abnormal"] if labels.any() else []
    diagnostics = {"num_latents": 20, "variance": [1.0, 2.0]}
    if rate is not None:
        diagnostics |= {"coding_rate": rate, "rate_up": 11.5, "rho": 6.0}
    results = {
        "score": "squared_error",
        "step": 30,
        "num_images": _COUNT,
        "num_normal": int((labels == 0).sum()),
        "num_abnormal": int(labels.sum()),
        "rate_nats": rate,
        "reconstruction_error": {g: 0.01 for g in groups},
        "diagnostics": dict.fromkeys(groups, diagnostics),
    }
    if labels.any():
        results |= _entry(labels, scores, maps, masks)
    return results


class _Checker(html.parser.HTMLParser):
    """Collects text and references, and checks that elements are closed."""

    VOID = ("meta", "br", "hr", "img")

    def __init__(self):
        super().__init__()
        self.open, self.words, self.references = [], [], []

    def handle_starttag(self, tag, attrs):
        if tag not in self.VOID:
            self.open.append(tag)
        for name, value in attrs:
            if name in ("src", "href", "xlink:href"):
                self.references.append(value)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in self.VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)


def _read_page(path):
    checker = _Checker()
    source = path.read_text(encoding="utf-8")
    checker.feed(source)
    assert not checker.open
    text = " ".join(" ".join(checker.words).split())
    return source, text, checker.references


def _cells(table, name):
    """The cells of the row that begins with this name."""
    rows = [
        [cell.strip() for cell in line.strip("| ").split(" | ")]
        for line in table.splitlines()
        if line.startswith("|")
    ]
    (found,) = [cells for cells in rows if cells[0] == name]
    return found


def test_table_has_a_row_a_run_and_the_baselines_below(tmp_path):
    plain = _write_run(tmp_path / "plain", gain=0.1, rate=None)
    controlled = _write_run(tmp_path / "controlled", gain=0.9)
    table = report.make_report([plain, controlled], str(tmp_path / "r.html"))
    header, _, *rows = table.split("\n\n")[0].splitlines()
    assert header.strip("| ").split()[:3] == ["run", "|", "AUROC"]
    names = [row.strip("| ").split("  ")[0].split(" |")[0] for row in rows]
    assert names[:2] == ["plain", "controlled"]
    assert set(names[2:4]) == {"mean intensity", "PCA, 16 components"}
    evaluation = runs_lib.read([controlled])[0].evaluation
    low, high = evaluation["auroc_interval"]
    _, auroc, _, _, _, rate, speed = _cells(table, "controlled")
    assert auroc == (
        f"{100 * evaluation['auroc']:.1f} [{100 * low:.1f}, {100 * high:.1f}]"
    )
    assert rate == "9.9"
    assert speed == "420"  # The median of 410, 420 and 430.
    assert _cells(table, "plain")[5] == "infinite"


def test_table_lines_up_as_plain_text(tmp_path):
    run = _write_run(tmp_path / "a_rather_long_name")
    table = report.make_report([run], str(tmp_path / "r.html"))
    lines = table.split("\n\n")[0].splitlines()
    assert len({len(line) for line in lines}) == 1


def test_differences_are_the_paired_bootstrap_to_the_first_run(tmp_path):
    first = _write_run(tmp_path / "plain", gain=0.1)
    second = _write_run(tmp_path / "controlled", gain=0.9, seed=1)
    table = report.make_report([first, second], str(tmp_path / "r.html"))
    a, b = runs_lib.read([first, second])
    maps_a, maps_b = a.arrays("score_maps"), b.arrays("score_maps")
    expected = metrics.paired_bootstrap(
        b.scores,
        a.scores,
        a.labels,
        maps_a=maps_b["score_maps"],
        maps_b=maps_a["score_maps"],
        masks=maps_a["masks"],
    )
    cells = _cells(table, "controlled - plain")[1:]
    for cell, key in zip(cells, comparison.columns([a]).values(), strict=True):
        value, low, high = (100 * part for part in expected[key])
        assert cell == f"{value:+.1f} [{low:+.1f}, {high:+.1f}]"


def test_images_in_another_order_are_paired_by_id(tmp_path):
    first = _write_run(tmp_path / "a", gain=0.2)
    second = _write_run(tmp_path / "b", gain=0.6, seed=1)
    _, straight = report_lines(tmp_path, first, second)
    folder = tmp_path / "b" / "eval" / "test"
    head, *lines = (folder / "scores.csv").read_text().splitlines()
    (folder / "scores.csv").write_text("\n".join([head, *lines[::-1]]))
    with np.load(folder / "score_maps.npz") as arrays:
        turned = {key: values[::-1] for key, values in arrays.items()}
    np.savez(folder / "score_maps.npz", **turned)
    _, reversed_order = report_lines(tmp_path, first, second)
    assert reversed_order == straight


def report_lines(tmp_path, *runs):
    """The main table and the table of differences."""
    parts = report.make_report(list(runs), str(tmp_path / "r.html"))
    parts = parts.split("\n\n")
    return parts[0], parts[2]


def test_page_is_self_contained_well_formed_and_in_plain_words(tmp_path):
    plain = _write_run(tmp_path / "plain", gain=0.05, rate=None)
    controlled = _write_run(tmp_path / "controlled", gain=0.9)
    out = tmp_path / "new" / "report.html"
    report.make_report([plain, controlled], str(out))
    source, text, references = _read_page(out)
    assert all(r.startswith(("#", "data:image/png")) for r in references)
    outside = set(re.findall(r"https?://[^\s\"'<]+", source))
    namespaces = {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}
    assert outside <= namespaces
    assert "@import" not in source
    assert source.count("<svg") == 5
    assert "Anomaly detection on phantom_cxr" in text
    assert "20 normal and 20 abnormal test images" in text
    assert "points above that of plain" in text
    assert "The interval excludes zero" in text
    assert "threshold is chosen with the test masks" in text
    assert "picked among several by its test metrics" in text
    assert "channel.sigma" in text
    assert "infinite" in text


def test_a_difference_within_noise_is_called_one(tmp_path):
    first = _write_run(tmp_path / "a", seed=0)
    second = _write_run(tmp_path / "b", seed=1)
    report.make_report([first, second], str(tmp_path / "r.html"))
    _, text, _ = _read_page(tmp_path / "r.html")
    assert "these test images do not tell the two apart" in text


def test_a_baseline_that_no_run_beats_is_named(tmp_path):
    run = _write_run(tmp_path / "run", gain=-0.5)
    report.make_report([run], str(tmp_path / "r.html"))
    _, text, _ = _read_page(tmp_path / "r.html")
    assert "(mean intensity). No run is above it." in text


def test_a_single_run_has_no_differences(tmp_path):
    run = _write_run(tmp_path / "only")
    table = report.make_report([run], str(tmp_path / "r.html"))
    assert "only -" not in table
    _, text, _ = _read_page(tmp_path / "r.html")
    assert "Differences to" not in text
    assert "All 5 settings" in text


def test_normal_images_only_leave_rank_metrics_out(tmp_path):
    run = _write_run(tmp_path / "screening", abnormal=False)
    table = report.make_report([run], str(tmp_path / "r.html"))
    assert _cells(table, "screening")[1:4] == ["-", "-", "9.9"]
    note = (
        "screening was tested on normal images only, so no rank metric is "
        "defined for it; its scores and its rate are."
    )
    assert note in table
    source, text, _ = _read_page(tmp_path / "r.html")
    assert note in text
    assert "20 normal" not in text
    assert "40 normal and no abnormal test images" in text
    assert source.count("<svg") == 3  # Histogram, panel, curves.


def test_normals_of_training_are_reported_where_there_is_no_test(tmp_path):
    run = _write_run(tmp_path / "small", abnormal=False, split="train")
    table = report.make_report([run], str(tmp_path / "r.html"))
    assert "small was tested on normal images only" in table


def test_images_without_masks_leave_pixel_metrics_out(tmp_path):
    first = _write_run(tmp_path / "a", masks=False)
    second = _write_run(tmp_path / "b", masks=False, seed=1)
    table = report.make_report([first, second], str(tmp_path / "r.html"))
    assert "pixel AP" not in table
    assert "racle" not in table
    assert len(_cells(table, "b - a")) == 3


def test_a_run_without_masks_has_gaps_beside_one_with_masks(tmp_path):
    first = _write_run(tmp_path / "a", masks=False)
    second = _write_run(tmp_path / "b", seed=1)
    table = report.make_report([first, second], str(tmp_path / "r.html"))
    assert _cells(table, "a")[3:5] == ["-", "-"]
    assert "-" not in _cells(table, "b")[3:5]
    assert _cells(table, "b - a")[3:] == ["-", "-"]


def test_runs_on_different_images_are_not_paired(tmp_path):
    first = _write_run(tmp_path / "a")
    second = _write_run(tmp_path / "b", ids="other")
    table = report.make_report([first, second], str(tmp_path / "r.html"))
    assert (
        "b and a were tested on different images (0 ids in common of 40 and "
        "40), so their difference has no paired interval."
    ) in table
    assert "b - a" not in table


def test_runs_that_label_images_differently_are_not_paired(tmp_path):
    first, second = _write_run(tmp_path / "a"), _write_run(tmp_path / "b")
    scores = tmp_path / "b" / "eval" / "test" / "scores.csv"
    scores.write_text(scores.read_text().replace("000,0,", "000,1,"))
    table = report.make_report([first, second], str(tmp_path / "r.html"))
    assert "b and a label the same images differently" in table


@pytest.mark.parametrize(
    ("digests", "sizes", "is_paired"),
    [
        (("a", "a"), (64, 64), True),
        (("a", "b"), (64, 64), False),
        # Runs of an earlier version say nothing of their pixels.
        ((None, "b"), (64, 64), True),
        # The same images at another size are other pixels.
        (("a", "b"), (64, 32), True),
    ],
)
def test_runs_are_paired_on_the_same_pixels_only(
    tmp_path, digests, sizes, is_paired
):
    runs = [_write_run(tmp_path / name) for name in ("a", "b")]
    for run, digest, size in zip(runs, digests, sizes, strict=True):
        for name, key, value in (
            ("eval/test/metrics.json", "images_sha256", digest),
            ("config.json", "data", {"name": "rsna", "image_size": size}),
        ):
            path = pathlib.Path(run) / name
            found = json.loads(path.read_text())
            if value is not None:
                path.write_text(json.dumps(found | {key: value}))
    found, notes = comparison.differences(runs_lib.read(runs))
    assert len(found) == is_paired
    assert (
        notes == []
        if is_paired
        else notes
        == [
            "b and a were tested on other pixels under the same ids, so their "
            "difference means nothing: evaluate both on the same data."
        ]
    )


def test_a_run_in_training_is_reported_as_far_as_it_is(tmp_path):
    first = _write_run(tmp_path / "done")
    second = _write_run(tmp_path / "half", evaluated=False)
    table = report.make_report([first, second], str(tmp_path / "r.html"))
    assert (
        "half has no evaluation yet (training stands at step 30): let it "
        f"finish, or run aeent evaluate --workdir={second}."
    ) in table
    assert _cells(table, "half")[1:] == ["-"] * 5 + ["420"]
    _, text, _ = _read_page(tmp_path / "r.html")
    assert "half has no evaluation yet" in text


def test_a_run_that_has_not_begun_is_reported(tmp_path):
    (tmp_path / "new").mkdir()
    config = {"data": {"name": "x"}, "train": {"seed": 0}}
    (tmp_path / "new" / "config.json").write_text(json.dumps(config))
    table = report.make_report([str(tmp_path / "new")], str(tmp_path / "r"))
    assert "training stands at its start" in table


def test_half_a_last_line_is_ignored_and_other_damage_is_named(tmp_path):
    run = _write_run(tmp_path / "run")
    path = tmp_path / "run" / "metrics.jsonl"
    whole = path.read_text()
    path.write_text(whole + '{"step": 40, "epo')
    assert [r["step"] for r in runs_lib.read([run])[0].history] == [10, 20, 30]
    path.write_text('{"step": 5, "epo\n' + whole)
    with pytest.raises(ValueError, match=r"Found damage in .*jsonl, line 1:"):
        runs_lib.read([run])


def test_a_step_that_was_logged_again_counts_once(tmp_path):
    run = _write_run(tmp_path / "run")
    with (tmp_path / "run" / "metrics.jsonl").open("a") as file:
        record = {"step": 20, "epoch": 2.0, "train/reconstruction_loss": 7.0}
        file.write(json.dumps(record) + "\n")
    epochs, losses = runs_lib.read([run])[0].curve("train/reconstruction_loss")
    np.testing.assert_array_equal(epochs, [1, 2, 3])
    assert losses[1] == 7.0


def test_a_damaged_evaluation_is_refused(tmp_path):
    run = _write_run(tmp_path / "run")
    path = tmp_path / "run" / "eval" / "test" / "metrics.json"
    path.write_text(path.read_text()[:50])
    with pytest.raises(
        ValueError,
        match=r"Found damage in .*metrics\.json .*; delete it and run the "
        r"command that wrote it again\.",
    ):
        report.make_report([run], str(tmp_path / "r.html"))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("metrics.json", b"[1]"),
        ("metrics.json", b"\xff\xfe"),
        ("metrics.json", b"{}"),
        ("scores.csv", b"id,label,anomaly_score\ntest/000,0\n"),
        ("scores.csv", b"id,label\ntest/000,0\n"),
        ("score_maps.npz", b"PK\x03\x04 cut off"),
        ("panel.npz", b""),
    ],
)
def test_each_damaged_file_of_an_evaluation_is_named(tmp_path, name, content):
    runs = [_write_run(tmp_path / name) for name in ("a", "b")]
    (tmp_path / "b" / "eval" / "test" / name).write_bytes(content)
    with pytest.raises(ValueError, match=rf"Found damage in .*b/.*{name} \("):
        report.make_report(runs, str(tmp_path / "r.html"))


def test_scores_of_fewer_images_than_were_evaluated_are_damage(tmp_path):
    run = _write_run(tmp_path / "run")
    path = tmp_path / "run" / "eval" / "test" / "scores.csv"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))
    with pytest.raises(
        ValueError,
        match=rf"it counts {_COUNT} images, and scores.csv {_COUNT - 1}\)",
    ):
        runs_lib.read([run])


@pytest.mark.parametrize(
    ("tree", "key"),
    [
        ({}, "data.name"),
        ({"data": {"name": "rsna"}}, "train.seed"),
        ({"data": {"name": "rsna"}, "train": 3}, "train.seed"),
    ],
)
def test_configuration_of_another_program_is_damage(tmp_path, tree, key):
    run = _write_run(tmp_path / "run")
    (tmp_path / "run" / "config.json").write_text(json.dumps(tree))
    with pytest.raises(ValueError, match=rf"config.json \(it has no {key}\)"):
        runs_lib.read([run])


def test_a_panel_without_metrics_is_passed_over(tmp_path):
    runs = [_write_run(tmp_path / name) for name in ("a", "b")]
    (tmp_path / "b" / "eval" / "test" / "metrics.json").unlink()
    table = report.make_report(runs, str(tmp_path / "r.html"))
    assert "b has no evaluation yet" in table


def test_abnormal_images_alone_are_said_to_be_why_metrics_lack(tmp_path):
    run = _write_run(tmp_path / "run", abnormal=False)
    path = tmp_path / "run" / "eval" / "test" / "metrics.json"
    found = json.loads(path.read_text())
    found["num_normal"], found["num_abnormal"] = 0, found["num_normal"]
    path.write_text(json.dumps(found))
    (note,) = runs_lib.read([run])[0].notes
    assert note.startswith("run was tested on abnormal images only, so no")


def test_a_line_that_is_no_record_is_named(tmp_path):
    run = _write_run(tmp_path / "run")
    with (tmp_path / "run" / "metrics.jsonl").open("a") as file:
        file.write("3\n")
    with pytest.raises(ValueError, match=r"jsonl, line 4: no record of a step"):
        runs_lib.read([run])


def test_a_page_that_cannot_be_written_is_one_sentence(tmp_path):
    run = _write_run(tmp_path / "run")
    with pytest.raises(OSError, match=r"cannot be written to .* \(Is a dir"):
        report.make_report([run], str(tmp_path))


def test_a_missing_folder_is_refused(tmp_path):
    with pytest.raises(
        FileNotFoundError,
        match=r"Found no folder .*/nothing; pass the workdir of a run, as it "
        r"was given to aeent train\.",
    ):
        report.make_report([str(tmp_path / "nothing")], "r.html")


def test_a_folder_that_is_no_workdir_is_refused(tmp_path):
    with pytest.raises(
        FileNotFoundError, match=r"Found no config\.json in .*, so it is not "
    ):
        report.make_report([str(tmp_path)], "r.html")


def test_a_run_given_twice_is_refused(tmp_path):
    run = _write_run(tmp_path / "run")
    with pytest.raises(ValueError, match=r"twice; pass each run once\."):
        report.make_report([run, run + "/"], "r.html")


def test_no_run_is_refused():
    with pytest.raises(ValueError, match=r"Found no run to report; pass one"):
        report.make_report([], "r.html")


def test_names_are_as_short_as_tells_runs_apart(tmp_path):
    paths = [tmp_path / "a" / "seed0", tmp_path / "b" / "seed0"]
    runs = runs_lib.read([_write_run(path) for path in paths])
    assert [run.name for run in runs] == ["a/seed0", "b/seed0"]
    assert runs_lib.read([str(paths[0])])[0].name == "seed0"


def test_names_are_escaped(tmp_path):
    run = _write_run(tmp_path / "<script>alert(1)<")
    report.make_report([run], str(tmp_path / "r.html"))
    source, text, _ = _read_page(tmp_path / "r.html")
    assert "<script" not in source
    assert "<script>alert(1)<" in text


def test_shared_baselines_appear_once_and_others_are_told_apart(tmp_path):
    first = _write_run(tmp_path / "a")
    second = _write_run(tmp_path / "b")
    third = _write_run(tmp_path / "c", seed=1)
    names = list(comparison.baselines(runs_lib.read([first, second, third])))
    assert names == [
        "mean intensity",
        "PCA, 16 components",
        "mean intensity (images of c)",
        "PCA, 16 components (images of c)",
    ]


def test_runs_with_different_panels_are_drawn_below_each_other(tmp_path):
    first = _write_run(tmp_path / "a")
    second = _write_run(tmp_path / "b", ids="other")
    report.make_report([first, second], str(tmp_path / "r.html"))
    source, text, _ = _read_page(tmp_path / "r.html")
    assert source.count("Images, reconstructions and score maps of") == 2
    assert "All maps are on one scale." not in text


def test_many_runs_are_summed_up(tmp_path):
    runs = [
        _write_run(tmp_path / f"run{i}", gain=0.1 * i, seed=i) for i in range(6)
    ]
    report.make_report(runs, str(tmp_path / "r.html"))
    _, text, _ = _read_page(tmp_path / "r.html")
    assert "Between " in text
    assert "The AUROC of run" not in text
    assert "6 runs · 20 normal and 20 abnormal test images" in text
    assert " of 6 runs are above it." in text
    assert "The first 4 of 6 runs." in text


def test_command_prints_the_table_and_names_the_file(tmp_path):
    run, out = _write_run(tmp_path / "run"), tmp_path / "r.html"
    command = [sys.executable, "-m", "aeent_jax.cli.report"]
    done = subprocess.run(
        [*command, f"--runs={run}", f"--out={out}"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.startswith("| run ")
    assert done.stdout.endswith(f"Wrote {out}\n")
    assert out.is_file()
    failed = subprocess.run(
        [*command, f"--runs={tmp_path}/nothing"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert failed.returncode == 1
    assert "Found no folder" in failed.stderr
    assert "Traceback" not in failed.stderr


@pytest.mark.parametrize(("n", "is_told"), [(20, False), (10**7, True)])
def test_active_dimensions_are_told_where_there_are_latents_enough(
    tmp_path, n, is_told
):
    folder = _write_run(tmp_path / "run")  # Its upper bound is 11.5 nats.
    path = tmp_path / "run/eval/test/metrics.json"
    results = json.loads(path.read_text())
    for found in results["diagnostics"].values():
        found["num_latents"] = n
    path.write_text(json.dumps(results))
    report.make_report([folder], str(tmp_path / "report.html"))
    page = (tmp_path / "report.html").read_text()
    assert ("active dimensions</th>" in page) == is_told
