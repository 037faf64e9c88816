"""`aeent screen` and `aeent export`: exit status, sentences and one file."""

import csv

import process_support
import pytest
import screening_support
import training_support


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run, its model file, and images to screen."""
    run = screening_support.train(tmp_path_factory)
    folder = run.parent
    screening_support.load(run).save(folder / "model.aeent")
    new = training_support.make_images(3, seed=7)[..., 0]
    screening_support.write(folder / "new", new)
    screening_support.write(folder / "new", screening_support.abnormal(1), "x")
    return folder


@pytest.fixture(scope="module")
def aeent(trained, tmp_path_factory):
    """Runs `aeent ARGS`, with FOLDER replaced; (status, stdout, stderr)."""
    home = training_support.cache_home(tmp_path_factory)

    def call(*args):
        args = [arg.replace("FOLDER", str(trained)) for arg in args]
        return process_support.run(trained / "process", home, *args)

    return call


def test_a_file_screens_where_the_run_is_not(aeent, trained):
    status, out, _ = aeent(
        "export", "--workdir=FOLDER/run", "--out=FOLDER/m.aeent"
    )
    assert (status, "Written: " in out) == (0, True)
    tables = []
    for model in ("run", "m.aeent"):
        status, out, _ = aeent(
            *("screen", f"--model=FOLDER/{model}", "--images=FOLDER/new"),
            f"--out=FOLDER/out_{model}",
        )
        assert status == 0
        assert "below 14.6 % for 95 % of calibration sets" in out
        assert "4 screened: " in out
        assert " 0 refused. Open " in out
        with (trained / f"out_{model}" / "screening.csv").open() as file:
            tables.append(list(csv.DictReader(file)))
        suspicious = tables[-1][0]
        assert suspicious["path"].endswith("x000.png")
        assert suspicious["verdict"] == "flagged"
    assert tables[0] == tables[1]


def test_refused_files_show_in_the_exit_status(aeent, trained):
    (trained / "damaged.png").write_bytes(b"\x89PNG")
    status, out, _ = aeent(
        *("screen", "--model=FOLDER/model.aeent", "--out=FOLDER/refused"),
        *("--images=FOLDER/new/000.png", "--images=FOLDER/damaged.png"),
    )
    assert status == 3
    assert "1 refused" in out


def test_other_normals_can_calibrate(aeent, trained):
    normals = training_support.make_images(30, seed=3)[..., 0]
    screening_support.write(trained / "other", normals)
    status, out, _ = aeent(
        *("screen", "--model=FOLDER/model.aeent", "--images=FOLDER/new"),
        *("--calibration=FOLDER/other", "--out=FOLDER/calibrated"),
    )
    assert status == 0
    assert "If the 30 calibration normals" in out


@pytest.mark.parametrize(
    ("args", "sentence"),
    [
        ([], "give --model=RUN"),
        (["--model=FOLDER/model.aeent"], "give --out=DIR"),
        (
            ["--model=FOLDER/model.aeent", "--out=FOLDER/o"],
            "give the images with --images=PATH",
        ),
        (
            [
                *("--model=FOLDER/none", "--out=FOLDER/o"),
                "--images=FOLDER/new",
            ],
            "the model FOLDER/none does not exist",
        ),
        (
            [
                *("--model=FOLDER/model.aeent", "--out=FOLDER/o"),
                *("--images=FOLDER/new", "--alpha=0.01"),
            ],
            "99 are needed",
        ),
        (
            [
                *("--model=FOLDER/model.aeent", "--out=FOLDER/o"),
                *("--images=FOLDER/new", "--alpha=0.1", "--fdr=0.1"),
            ],
            "give --alpha or --fdr, and not both",
        ),
        (
            [
                *("--model=FOLDER/model.aeent", "--out=FOLDER/o"),
                *("--images=FOLDER/new", "--best"),
            ],
            "is no workdir; leave out best and root",
        ),
        (
            [
                *("--model=FOLDER/damaged", "--out=FOLDER/o"),
                "--images=FOLDER/new",
            ],
            "is no model file",
        ),
    ],
)
def test_what_cannot_work_is_one_sentence(aeent, trained, args, sentence):
    (trained / "damaged").write_text("text")
    status, out, err = aeent("screen", *args)
    assert status == 1
    assert out == ""
    line = err.splitlines()[-1]
    assert line.startswith("error: ")
    assert sentence.replace("FOLDER", str(trained)) in line
