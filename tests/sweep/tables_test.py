"""Tables and the figure of fixed records."""

import csv
import json

import numpy as np
import pytest
import sweep_support
from PIL import Image

from aeent_jax.results import groups, runs
from aeent_jax.results import tables as printer
from aeent_jax.sweep import records as records_lib
from aeent_jax.sweep import results, tables


def record(estimator, weight, auroc, rate, *, seed=0, sigma=1.0, note=""):
    """What `make_record` returns, of few keys."""
    return {
        "member": f"{estimator}_{weight:g}_{sigma:g}_s{seed}",
        "overrides": {},
        "config": {
            "channel.sigma": sigma,
            "entropy.weight": weight,
            "entropy.estimator": estimator,
            "train.seed": seed,
            "train.epochs": 60,
        },
        "evaluation": {
            "split": "test",
            "auroc": auroc,
            "auroc_interval": [auroc - 0.05, auroc + 0.04],
            "ap": auroc,
            "ap_interval": [auroc - 0.05, auroc + 0.04],
            "rate_nats": rate,
            "reconstruction_error": {"train_normal": 0.02},
        },
        "diagnostics": {
            "train_normal": (
                {"rate_low": 4.0, "rate_up": 20.0, "rho": 3.0} if rate else {}
            )
        },
        "train": {"train/loss": 0.5},
        "images_per_second": 500.0,
        "wall_seconds": 60.0,
        "note": note,
    }


RECORDS = [
    record("kde_loo", 1e-3, 0.74, 6.6),
    record("none", 0.0, 0.67, None, sigma=0.0),
    record("none", 0.0, 0.68, 50.0),
    record("coding_rate", 1e-3, 0.78, 11.0),
    record("coding_rate", 1e-3, 0.80, 12.0, seed=1),
    record("coding_rate", 1e-4, 0.72, 34.8),
    record("kde_kl", 1e-3, 0.70, 40.0, note="saturated"),
]


def grouped(records):
    loaded = [runs.from_record(record) for record in records]
    return groups.in_order(groups.by_experiment(loaded))


@pytest.fixture
def folder(tmp_path):
    for one in RECORDS:
        records_lib.write_record(tmp_path / "records", one)
    return tmp_path / "records"


MARKDOWN = """\
| estimator   | sigma | weight | seeds |             AUROC |                AP |  rate, nats | bracket, nats | images/s |      note |
| ----------- | ----: | -----: | ----: | ----------------: | ----------------: | ----------: | ------------: | -------: | --------: |
| coding_rate |     1 | 0.0001 |     1 | 72.0 [67.0, 76.0] | 72.0 [67.0, 76.0] |        34.8 |   4.0 to 20.0 |      500 |           |
| coding_rate |     1 |  0.001 |     2 |        79.0 ± 1.4 |        79.0 ± 1.4 |  11.5 ± 0.7 |   4.0 to 20.0 |      500 |           |
| kde_kl      |     1 |  0.001 |     1 | 70.0 [65.0, 74.0] | 70.0 [65.0, 74.0] |        40.0 |   4.0 to 20.0 |      500 | saturated |
| kde_loo     |     1 |  0.001 |     1 | 74.0 [69.0, 78.0] | 74.0 [69.0, 78.0] |         6.6 |   4.0 to 20.0 |      500 |           |
| none        |     0 |      0 |     1 | 67.0 [62.0, 71.0] | 67.0 [62.0, 71.0] |    infinite |             - |      500 |           |
| none        |     1 |      0 |     1 | 68.0 [63.0, 72.0] | 68.0 [63.0, 72.0] |        50.0 |   4.0 to 20.0 |      500 |           |
"""  # noqa: E501


def cells(text):
    return [[c.strip() for c in row.split("|")] for row in text.splitlines()]


def test_table_is_the_same_whenever_it_is_made_of_the_same_records(
    folder, tmp_path
):
    shown = results.write_results([folder], tmp_path / "out")
    written = (tmp_path / "out/table.md").read_text()
    assert written == shown + "\n"
    rules = 1  # Their length is that of the columns.
    found, wanted = cells(written), cells(MARKDOWN)
    del found[rules], wanted[rules]
    assert found == wanted


def test_csv_has_a_row_a_member_in_full_precision(folder, tmp_path):
    results.write_results([folder], tmp_path / "out")
    with (tmp_path / "out/table.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(RECORDS)
    by_name = {row["member"]: row for row in rows}
    for one in RECORDS:
        row = by_name[one["member"]]
        assert float(row["auroc"]) == one["evaluation"]["auroc"]
        assert float(row["auroc_low"]) == one["evaluation"]["auroc"] - 0.05
        assert row["rate_nats"] == str(one["evaluation"]["rate_nats"] or "")
        assert row["reconstruction_error/train_normal"] == "0.02"


def test_latex_escapes_names():
    text = printer.latex(tables.make_table(grouped(RECORDS)))
    assert text.startswith("\\begin{tabular}{lrrrrrrrrr}\n\\toprule")
    assert "coding\\_rate & 1 & 0.001 & 2 & 79.0 $\\pm$ 1.4 &" in text
    # Each row has the cells of the header.
    assert {row.count("&") for row in text.splitlines() if "&" in row} == {9}


def test_estimators_are_never_pooled():
    found = grouped(RECORDS)
    estimators = [
        {run.config["entropy.estimator"] for run in group.runs}
        for group in found
    ]
    assert all(len(names) == 1 for names in estimators)
    assert [len(group.runs) for group in found] == [1, 2, 1, 1, 1, 1]


def test_key_that_older_records_lack_is_no_difference():
    newer = json.loads(json.dumps(RECORDS[3:5]))
    # Its default is what older versions did.
    newer[1]["config"]["train.microbatches"] = 1
    (group,) = grouped(newer)
    assert len(group.runs) == 2
    newer[1]["config"]["train.microbatches"] = 2
    assert len(grouped(newer)) == 2


def test_same_training_twice_is_refused():
    again = RECORDS[0] | {"member": "again"}
    with pytest.raises(ValueError, match="and again have the same config"):
        groups.refuse_repeated_seeds(
            [runs.from_record(one) for one in [*RECORDS, again]]
        )


def test_same_member_of_two_folders_is_refused(folder, tmp_path):
    with pytest.raises(ValueError, match="have the same configuration and se"):
        results.write_results([folder, folder], tmp_path / "out")


def test_members_that_are_not_asked_for_are_left_out(folder, tmp_path):
    names = [RECORDS[0]["member"], "untrained"]
    shown = results.write_results([folder], tmp_path / "out", names=names)
    assert len(shown.splitlines()) == 3
    with pytest.raises(FileNotFoundError, match="holds no record of a member"):
        results.write_results([folder], tmp_path / "out", names=["untrained"])


PAPER = [
    sweep_support.record(auroc=0.69, seed=0, note="oracle"),
    sweep_support.record(auroc=0.70, seed=1, note="oracle"),
    sweep_support.record(size=16, method="vae", auroc=0.72, ap=0.75),
    sweep_support.record(size=64, controlled=True, auroc=0.79),
    sweep_support.record(data="phantom_cxr", size=4, auroc=0.71),
]
PAPER_MARKDOWN = """\
| data        |         method |   estimator | latent_dim | sigma | weight | seeds |             AUROC | published AUROC |                AP | published AP | rate, nats | images/s |   note |
| ----------- | -------------: | ----------: | ---------: | ----: | -----: | ----: | ----------------: | --------------: | ----------------: | -----------: | ---------: | -------: | -----: |
| kermany_cxr |             ae | coding_rate |         64 |     1 |  0.001 |     1 | 79.0 [74.0, 83.0] |               - | 70.0 [65.0, 74.0] |            - |       12.0 |      500 |        |
| kermany_cxr |             ae |        none |          4 |     0 |      0 |     2 |        69.5 ± 0.7 |       74.1 FAIL |        70.0 ± 0.0 |    71.7 pass |   infinite |      500 | oracle |
| kermany_cxr |            vae |        none |         16 |     0 |      0 |     1 | 72.0 [67.0, 76.0] |       72.1 pass | 75.0 [70.0, 79.0] |    74.0 pass |   infinite |      500 |        |
| kermany_cxr | mean intensity |           - |          - |     - |      - |     - | 40.0 [35.0, 44.0] |               - | 41.0 [36.0, 45.0] |            - |          - |        - |        |
| kermany_cxr |     mean image |           - |          - |     - |      - |     - | 55.0 [50.0, 59.0] |               - | 56.0 [51.0, 60.0] |            - |          - |        - |        |
| kermany_cxr |            PCA |           - |          4 |     - |      - |     - | 60.4 [55.4, 64.4] |               - | 60.0 [55.0, 64.0] |            - |          - |        - |        |
| kermany_cxr |            PCA |           - |         16 |     - |      - |     - | 61.6 [56.6, 65.6] |               - | 60.0 [55.0, 64.0] |            - |          - |        - |        |
| kermany_cxr |            PCA |           - |         64 |     - |      - |     - | 66.4 [61.4, 70.4] |               - | 60.0 [55.0, 64.0] |            - |          - |        - |        |
| phantom_cxr |             ae |        none |          4 |     0 |      0 |     1 | 71.0 [66.0, 75.0] |               - | 70.0 [65.0, 74.0] |            - |   infinite |      500 |        |
| phantom_cxr | mean intensity |           - |          - |     - |      - |     - | 40.0 [35.0, 44.0] |               - | 41.0 [36.0, 45.0] |            - |          - |        - |        |
| phantom_cxr |     mean image |           - |          - |     - |      - |     - | 55.0 [50.0, 59.0] |               - | 56.0 [51.0, 60.0] |            - |          - |        - |        |
| phantom_cxr |            PCA |           - |          4 |     - |      - |     - | 60.4 [55.4, 64.4] |               - | 60.0 [55.0, 64.0] |            - |          - |        - |        |
"""  # noqa: E501


def test_table_shows_published_numbers_baselines_and_oracles():
    found = cells(printer.markdown(tables.make_table(grouped(PAPER))))
    wanted = cells(PAPER_MARKDOWN)
    assert [*found[:1], *found[2:]] == [*wanted[:1], *wanted[2:]]


def test_latex_has_published_numbers_and_baselines_too():
    text = printer.latex(tables.make_table(grouped(PAPER)))
    assert "0 & 2 & 69.5 $\\pm$ 0.7 & 74.1 FAIL & 70.0" in text
    assert "kermany\\_cxr & PCA & - & 64 & - &" in text


def test_all_that_the_records_allow_is_written(tmp_path):
    folders = [tmp_path / "0", tmp_path / "1"]
    for size in (2, 4, 8):
        for seed, folder in enumerate(folders):
            one = sweep_support.record(
                size=size, seed=seed, auroc=0.7 + size / 1000
            )
            records_lib.write_record(folder, one)
    shown = results.write_results(folders, tmp_path / "out")
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "table.md",
        "table.tex",
        "table.csv",
        "published.csv",
        "auroc_against_size.png",
        "error_against_size.csv",
        "error_against_size.png",
    }
    assert "Of 3 latent sizes of ae on kermany_cxr, 8 has the larg" in shown
    assert "Published numbers: 2 of 6 cells pass, and 4 fail." in shown


def test_figure_has_one_curve_an_estimator():
    fig = results.auroc_against_nats(grouped(RECORDS))
    titles = [ax.get_title(loc="left") for ax in fig.axes]
    assert titles == ["coding_rate", "kde_kl", "kde_loo"]
    (curve, *_) = fig.axes[0].containers
    # By ascending rate; the two seeds are one point.
    expected = [[11.5, 79.0], [34.8, 72.0]]
    np.testing.assert_allclose(curve.lines[0].get_xydata(), expected)


def test_figure_shows_what_has_no_penalty_and_no_channel():
    fig = results.auroc_against_nats(grouped(RECORDS))
    for ax in fig.axes:
        drawn = [line.get_xydata().tolist() for line in ax.lines]
        assert [[50.0, 68.0]] in drawn
        assert any(np.allclose(np.array(xy)[:, 1], 67.0) for xy in drawn)


def test_figure_is_written(folder, tmp_path):
    results.write_results([folder], tmp_path / "out")
    with Image.open(tmp_path / "out/auroc_against_nats.png") as picture:
        assert min(picture.size) > 200


def test_without_abnormal_images_there_is_a_table_and_no_figure(tmp_path):
    one = json.loads(json.dumps(RECORDS[0]))
    for key in ("auroc", "auroc_interval", "ap", "ap_interval"):
        del one["evaluation"][key]
    records_lib.write_record(tmp_path / "records", one)
    assert "6.6" in results.write_results([tmp_path / "records"], tmp_path)
    assert not (tmp_path / "auroc_against_nats.png").exists()


def test_a_number_without_an_interval_is_explained(tmp_path):
    one = json.loads(json.dumps(RECORDS[0]))
    del one["evaluation"]["ap_interval"]
    records_lib.write_record(tmp_path / "records", one)
    shown = results.write_results([tmp_path / "records"], tmp_path)
    assert "| 74.0 [69.0, 78.0] | 74.0 |" in shown
    assert "A number without an interval is the same in all" in shown


def test_folder_without_records_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="holds no records of a sweep"):
        results.write_results([tmp_path], tmp_path)


@pytest.mark.parametrize(
    "text",
    [
        "{}",
        "[]",
        '"member config evaluation"',
        '{"member": "a", "config": [], "evaluation": {}}',
        '{"member": "a", "config": {}, "evaluation": null}',
    ],
)
def test_other_files_among_the_records_are_refused(folder, text):
    (folder / "metrics.json").write_text(text)
    with pytest.raises(ValueError, match=r"metrics.json is no record of a sw"):
        runs.read_records(folder)
