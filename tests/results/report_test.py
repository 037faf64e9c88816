"""Reports of small workdirs that the tests write."""

import html.parser
import json
import pathlib
import re
import subprocess
import sys

import numpy as np
import pytest
from results_support import change_json, write_run

from aeent_jax.evaluation import metrics
from aeent_jax.results import comparison, evaluations, report, runs


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


@pytest.fixture
def make(tmp_path):
    """Writes the runs and their report; returns its table."""

    def call(**named):
        folders = [write_run(tmp_path / n, **s) for n, s in named.items()]
        return report.make_report(folders, str(tmp_path / "new/r.html"))

    return call


@pytest.fixture
def page(tmp_path):
    """Returns source, text and references of the page."""

    def call():
        checker = _Checker()
        source = (tmp_path / "new/r.html").read_text(encoding="utf-8")
        checker.feed(source)
        assert not checker.open
        text = " ".join(" ".join(checker.words).split())
        return source, text, checker.references

    return call


def _cells(table, name):
    """The cells of the row that begins with this name."""
    rows = [
        [cell.strip() for cell in line.strip("| ").split(" | ")]
        for line in table.splitlines()
        if line.startswith("|")
    ]
    (row,) = [cells for cells in rows if cells[0] == name]
    return row


PLAIN = {"gain": 0.1, "rate": None}
CONTROLLED = {"gain": 0.9}


def test_table_has_a_row_per_run_and_the_baselines_below(make, tmp_path):
    table = make(plain=PLAIN, controlled=CONTROLLED)
    lines = table.split("\n\n")[0].splitlines()
    assert len({len(line) for line in lines}) == 1  # They line up.
    header, _, *rows = lines
    assert header.strip("| ").split()[:3] == ["run", "|", "AUROC"]
    names = [row.strip("| ").split("  ")[0].split(" |")[0] for row in rows]
    assert names[:2] == ["plain", "controlled"]
    assert set(names[2:4]) == {"mean intensity", "PCA, 16 components"}
    evaluation = runs.read([tmp_path / "controlled"])[0].evaluation
    low, high = evaluation["auroc_interval"]
    _, auroc, _, _, _, rate, speed = _cells(table, "controlled")
    assert auroc == (
        f"{100 * evaluation['auroc']:.1f} [{100 * low:.1f}, {100 * high:.1f}]"
    )
    assert rate == "9.9"
    assert speed == "420"  # The median of 410, 420 and 430.
    assert _cells(table, "plain")[5] == "infinite"


def test_differences_are_the_paired_bootstrap_to_the_first_run(make, tmp_path):
    table = make(plain=PLAIN, controlled=CONTROLLED | {"seed": 1})
    a, b = runs.read([tmp_path / name for name in ("plain", "controlled")])
    maps_a, maps_b = a.arrays("score_maps"), b.arrays("score_maps")
    expected = metrics.paired_bootstrap(
        b.scores.values,
        a.scores.values,
        a.scores.labels,
        maps_a=maps_b["score_maps"],
        maps_b=maps_a["score_maps"],
        masks=maps_a["masks"],
    )
    cells = _cells(table, "controlled - plain")[1:]
    for cell, key in zip(cells, comparison.columns([a]).values(), strict=True):
        value, (low, high) = expected[key]
        assert cell == (
            f"{100 * value:+.1f} [{100 * low:+.1f}, {100 * high:+.1f}]"
        )


def test_images_in_another_order_are_paired_by_id(make, tmp_path):
    folders = [str(tmp_path / name) for name in ("a", "b")]
    straight = make(a={"gain": 0.2}, b={"gain": 0.6, "seed": 1})
    folder = tmp_path / "b/eval/test"
    head, *lines = (folder / "scores.csv").read_text().splitlines()
    (folder / "scores.csv").write_text("\n".join([head, *lines[::-1]]))
    with np.load(folder / "score_maps.npz") as arrays:
        turned = {key: values[::-1] for key, values in arrays.items()}
    np.savez(folder / "score_maps.npz", **turned)
    assert report.make_report(folders, str(tmp_path / "r.html")) == straight


def test_page_is_self_contained_well_formed_and_in_plain_words(make, page):
    make(plain=PLAIN, controlled=CONTROLLED)
    source, text, references = page()
    assert all(r.startswith(("#", "data:image/png")) for r in references)
    outside = set(re.findall(r"https?://[^\s\"'<]+", source))
    namespaces = {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}
    assert outside <= namespaces
    assert "@import" not in source
    assert source.count("<svg") == 5
    for words in (
        "Anomaly detection on phantom_cxr",
        "20 normal and 20 abnormal test images",
        "points above that of plain",
        "The interval excludes zero",
        "threshold is chosen with the test masks",
        "picked among several by its test metrics",
        "channel.sigma",
        "infinite",
    ):
        assert words in text


@pytest.mark.parametrize(
    ("named", "sentences"),
    [
        (
            {"a": {}, "b": {"seed": 1}},
            ["these test images do not tell the two apart"],
        ),
        ({"run": {"gain": -0.5}}, ["(mean intensity). No run is above it."]),
        (
            {f"run{i}": {"gain": 0.1 * i, "seed": i} for i in range(6)},
            [
                "Between ",
                "6 runs · 20 normal and 20 abnormal test images",
                " of 6 runs are above it.",
                "The first 4 of 6 runs.",
            ],
        ),
        # Two perfect runs: resampling cannot tell how sure that is.
        (
            {"a": {"gain": 99.0}, "b": {"gain": 99.0, "seed": 1}},
            [
                "A number without an interval is the same in all resamples",
                "All resamples of the images agree, so there is no interval",
            ],
        ),
    ],
)
def test_page_says_what_the_numbers_say(make, page, named, sentences):
    make(**named)
    _, text, _ = page()
    for sentence in sentences:
        assert sentence in text
    assert ("The AUROC of run" in text) is False


@pytest.mark.parametrize(
    ("gain", "answer"),
    [
        (0.9, "Yes: controlled, where 9.9 nats pass, has"),
        (0.1, "These test images cannot tell: controlled"),
        (-0.9, "Not here: controlled"),
    ],
)
def test_page_opens_with_the_question_and_its_answer(
    tmp_path, page, gain, answer
):
    one = write_run(tmp_path / "plain", gain=0.1, rate=None)
    other = write_run(tmp_path / "controlled", gain=gain)
    third = write_run(tmp_path / "narrow", gain=5.0, rate=None)
    for path, size, weight in (
        (one, 64, 0.0),
        (other, 64, 1e-3),
        (third, 4, 0),
    ):
        change_json(
            pathlib.Path(path) / "config.json",
            model={"latent_dim": size},
            entropy={"weight": weight},
        )
    report.make_report([third, one, other], str(tmp_path / "new/r.html"))
    _, text, _ = page()
    _, opening = text.split("test images Does it help to limit the", 1)
    assert opening.startswith(
        " information that passes from an image to its reconstruction?"
        f" {answer}"
    )
    shown = opening.split(" points.")[0]
    assert ", and plain, as wide and without a limit, " in shown
    assert opening.split(" points. ")[1].startswith("Shown a normal and an")


def test_page_says_where_principal_components_win(tmp_path, page):
    folder = write_run(tmp_path / "run", gain=-0.5)
    path = tmp_path / "run/eval/test/metrics.json"
    baselines = json.loads(path.read_text())["baselines"]
    baselines["pca"] |= {"auroc": 0.999, "auroc_interval": [0.95, 1.0]}
    change_json(path, baselines=baselines)
    report.make_report([folder], str(tmp_path / "new/r.html"))
    assert "No run is above it. It is the best linear autoenc" in page()[1]


def test_perfect_order_has_an_interval_of_auroc_alone(make):
    table = make(perfect={"gain": 99.0})
    # 20 + 20 images; Newcombe's interval.
    assert _cells(table, "perfect")[1:3] == ["100.0 [89.9, 100.0]", "100.0"]


def test_a_single_run_has_no_differences(make, page):
    assert "only -" not in make(only={})
    _, text, _ = page()
    assert "Differences to" not in text
    assert re.search(r"All \d+ settings", text)


def test_normal_images_only_leave_rank_metrics_out(make, page):
    table = make(screening={"abnormal": False})
    assert _cells(table, "screening")[1:4] == ["-", "-", "9.9"]
    source, text, _ = page()
    for shown in (table, text):
        assert "screening was tested on normal images only, so no" in shown
    assert "20 normal" not in text
    assert "40 normal and no abnormal test images" in text
    assert source.count("<svg") == 3  # Histogram, panel, curves.


def test_images_without_masks_leave_pixel_metrics_out(make):
    table = make(a={"masks": False}, b={"masks": False, "seed": 1})
    assert "pixel AP" not in table
    assert "racle" not in table
    assert len(_cells(table, "b - a")) == 3


def test_a_run_without_masks_has_gaps_beside_one_with_masks(make):
    table = make(a={"masks": False}, b={"seed": 1})
    assert _cells(table, "a")[3:5] == ["-", "-"]
    assert "-" not in _cells(table, "b")[3:5]
    assert _cells(table, "b - a")[3:] == ["-", "-"]


def test_a_run_in_training_is_reported_as_far_as_it_is(make, page):
    table = make(done={}, half={"evaluated": False})
    assert _cells(table, "half")[1:] == ["-"] * 5 + ["420"]
    for shown in (table, page()[1]):
        assert "half has no evaluation yet" in shown


def test_runs_on_different_images_are_not_paired(make):
    table = make(a={}, b={"ids": "other"})
    assert (
        "b and a were tested on different images (0 ids in common of 40 and "
        "40), so their difference has no paired interval."
    ) in table
    assert "b - a" not in table


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
    folders = [tmp_path / name for name in ("a", "b")]
    for folder, digest, size in zip(folders, digests, sizes, strict=True):
        write_run(folder)
        change_json(
            folder / "config.json", data={"name": "rsna", "image_size": size}
        )
        change_json(folder / "eval/test/metrics.json", images_sha256=digest)
    differences, notes = comparison.to_first(runs.read(folders))
    assert len(differences) == is_paired
    refusal = (
        "b and a were tested on other pixels under the same ids, so their "
        "difference means nothing: evaluate both on the same data."
    )
    assert notes == ([] if is_paired else [refusal])


def test_runs_that_label_images_differently_are_not_paired(tmp_path):
    folders = [write_run(tmp_path / name) for name in ("a", "b")]
    scores = tmp_path / "b/eval/test/scores.csv"
    scores.write_text(scores.read_text().replace("000,0,", "000,1,"))
    _, (note,) = comparison.to_first(runs.read(folders))
    assert "b and a label the same images differently" in note


def test_a_page_that_cannot_be_written_is_one_sentence(tmp_path):
    folder = write_run(tmp_path / "run")
    with pytest.raises(OSError, match=r"cannot be written to .* \(Is a dir"):
        report.make_report([folder], str(tmp_path))


def test_names_are_escaped(make, page):
    make(**{"<script>alert(1)<": {}})
    source, text, _ = page()
    assert "<script" not in source
    assert "<script>alert(1)<" in text


def test_shared_baselines_appear_once_and_others_are_told_apart(tmp_path):
    seeds = {"a": 0, "b": 0, "c": 1}
    folders = [write_run(tmp_path / n, seed=seed) for n, seed in seeds.items()]
    assert list(comparison.baselines(runs.read(folders))) == [
        "mean intensity",
        "PCA, 16 components",
        "mean intensity (images of c)",
        "PCA, 16 components (images of c)",
    ]


def test_oracle_of_the_shortcuts_is_marked_and_warned_of(tmp_path):
    folder = write_run(tmp_path / "run")
    path = tmp_path / "run/eval/test/metrics.json"
    baselines = json.loads(path.read_text())["baselines"]
    best = max(entry["auroc"] for entry in baselines.values())
    baselines["shortcut"] = {
        "auroc": 0.999,
        "auroc_interval": [0.95, 1.0],
        "statistic": "edge energy",
        "direction": "low",
        "warning": "Edge energy alone scores 100 on this set.",
    }
    change_json(path, baselines=baselines)
    text = report.make_report([folder], str(tmp_path / "report.html"))
    assert "edge energy alone (oracle) | 99.9 [95.0, 100.0] |" in " ".join(
        text.split()
    )
    assert "Oracle statistic: chosen with the test labels" in text
    page = (tmp_path / "report.html").read_text()
    assert "Edge energy alone scores 100 on this set." in page
    # The best baseline is one that sees no test label.
    assert f"the best AUROC is {100 * best:.1f} (" in page
    described = evaluations.describe(runs.read([folder])[0].evaluation)
    assert "WARNING: Edge energy alone scores 100 on this set." in described


def test_runs_with_different_panels_are_drawn_below_each_other(make, page):
    make(a={}, b={"ids": "other"})
    source, text, _ = page()
    assert source.count("Images, reconstructions and score maps of") == 2
    assert "All maps are on one scale." not in text


@pytest.mark.parametrize(("n", "is_told"), [(20, False), (10**7, True)])
def test_active_dimensions_are_told_where_there_are_latents_enough(
    tmp_path, n, is_told
):
    folder = write_run(tmp_path / "run")  # Its upper bound is 11.5 nats.
    path = tmp_path / "run/eval/test/metrics.json"
    diagnostics = json.loads(path.read_text())["diagnostics"]
    for group in diagnostics.values():
        group["num_latents"] = n
    change_json(path, diagnostics=diagnostics)
    report.make_report([folder], str(tmp_path / "report.html"))
    page = (tmp_path / "report.html").read_text()
    assert ("active dimensions</th>" in page) == is_told


def test_command_prints_the_table_and_names_the_file(tmp_path):
    folder, out = write_run(tmp_path / "run"), tmp_path / "r.html"
    command = [sys.executable, "-m", "aeent_jax.cli.report"]
    done = subprocess.run(
        [*command, f"--runs={folder}", f"--out={out}"],
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
