import json

import data_support
import numpy as np
import PIL.Image
import pytest
from absl import flags

from aeent_jax.cli import data as data_cli
from aeent_jax.cli import program


@pytest.fixture
def run(capsys):
    """Runs `aeent data ...`; returns exit status, stdout and stderr."""

    def run_command(*args):
        with pytest.raises(SystemExit) as caught:
            program.run(data_cli.main, ["aeent data", *args])
        for flag in flags.FLAGS.flags_by_module_dict()[data_cli.__name__]:
            flag.unparse()
        return caught.value.code, *capsys.readouterr()

    return run_command


def test_list_names_the_data_sets(run):
    status, out, _ = run("list")
    assert status == 0
    assert "\nkermany_cxr" in out


def test_check_and_prepare_and_prepare_again(tmp_path, run):
    root = f"--root={data_support.make_class_folders(tmp_path / 'root')}"
    status, out, _ = run("check", root)
    assert status == 0
    assert "layout class_folders, 10 images" in out
    args = ("prepare", root, "--image_size=16", f"--cache_dir={tmp_path}/c")
    status, out, _ = run(*args)
    assert status == 0
    assert "test         5 images, 3 abnormal" in out
    assert "written in " in out
    _, out, _ = run(*args)
    assert "was already in " in out


def test_archive_is_checked_and_prepared(tmp_path, run, monkeypatch):
    folder = data_support.make_camelyon(tmp_path / "Camelyon16")
    archive = tmp_path / "down/Camelyon16.tar.gz"
    archive.parent.mkdir()
    md5 = data_support.make_archive(archive, folder)
    data_support.change_entry(
        monkeypatch, "camelyon16", md5=md5, counts=(4, 2, 3)
    )
    args = (
        "--name=camelyon16",
        f"--root={archive.parent}",
        f"--cache_dir={tmp_path}/cache",
    )
    status, out, _ = run("check", *args)
    assert status == 0
    assert "layout camelyon16, 9 images" in out
    _, out, _ = run("prepare", *args, "--image_size=16")
    # Without --channels they are those of the protocol, here RGB.
    (features,) = (tmp_path / "cache/prepared").rglob("features.json")
    image = json.loads(features.read_text())["featuresDict"]["features"][
        "image"
    ]
    assert image["tensor"]["shape"]["dimensions"] == ["16", "16", "3"]
    archive.write_bytes(b"")
    status, _, err = run("check", *args)
    assert status == 1
    assert "has the md5 " in err
    assert len(err.splitlines()) == 1


def test_problems_give_status_1(tmp_path, run):
    root = data_support.make_flat(tmp_path / "root")
    (root / "n1.png").write_text("no image")
    status, out, _ = run("check", f"--root={root}")
    assert status == 1
    assert "PROBLEM: 1 of 4 files cannot be read" in out
    status, _, err = run("prepare", f"--root={root}", f"--cache_dir={tmp_path}")
    assert status == 1
    assert err.splitlines()[-1].startswith("error: 1 of 4 files cannot be read")


@pytest.mark.parametrize(
    ("args", "sentence"),
    [
        ((), "needs one of list, prepare, check, found none"),
        (("chekc",), "needs one of list, prepare, check, found chekc"),
        (("check",), "none is given; set data.root"),
        (("prepare", "--name=rsnna"), "choose one of phantom_cxr"),
        (("prepare", "--window=1"), "two numbers, as in 0,4095"),
    ],
)
def test_wrong_use_is_one_sentence(run, args, sentence):
    status, _, err = run(*args)
    assert status == 1
    assert sentence in err
    assert len(err.splitlines()) == 1


def test_check_takes_the_window_that_it_advises(tmp_path, run):
    for i in range(3):
        values = np.arange(64, dtype=np.uint16).reshape(8, 8) * 60 + i
        PIL.Image.fromarray(values).save(tmp_path / f"{i}.png")
    status, out, _ = run("check", f"--root={tmp_path}")
    assert status == 1
    assert "example 0,4095" in out
    status, out, _ = run("check", f"--root={tmp_path}", "--window=0,4095")
    assert status == 0
    assert "windows 0,4095 stated (3)" in out


def test_check_as_json_names_every_file(tmp_path, run):
    data_support.make_flat(tmp_path, 9)
    status, out, _ = run("check", f"--root={tmp_path}", "--json")
    report = json.loads(out)
    assert status == 0
    assert report["counts"] == {"train/normal": 9}
    few, finding = report["findings"]
    assert few["kind"] == "few"
    assert finding["kind"] == "not_square"
    assert finding["severity"] == "note"
    assert finding["names"] == [f"n{i}.png" for i in range(9)]
    _, out, _ = run("check", f"--root={tmp_path}", "--resize=pad")
    assert "images are not square and are padded to a square" in out
