"""Screening of files: tables, verdicts, pictures and going on."""

import csv
import dataclasses
import json
import os
import pathlib
import shutil
import subprocess

import data_support
import numpy as np
import PIL.Image
import pytest
import screening_support
import training_support

from aeent_jax import screening
from aeent_jax.data import dicom_header, frame, medical
from aeent_jax.runtime import progress
from aeent_jax.screening import outputs, reading
from aeent_jax.training import loop

EVIL = "=2+3<img src=x onerror=alert(1)>&.png"


@pytest.fixture(scope="module")
def detector(tmp_path_factory):
    return screening_support.load(screening_support.train(tmp_path_factory))


@pytest.fixture
def images(tmp_path):
    """Six normal and two abnormal files, and one that is damaged."""
    folder = tmp_path / "new"
    normal = training_support.make_images(6, seed=7)[..., 0]
    screening_support.write(folder, normal)
    screening_support.write(folder, screening_support.abnormal(2), "abnormal")
    (folder / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    return folder


def rows_of(out):
    with (out / "screening.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_each_file_is_a_row_the_most_suspicious_first(
    detector, images, tmp_path
):
    summary = screening.screen(detector, [str(images)], tmp_path / "out")
    rows = rows_of(tmp_path / "out")
    assert list(rows[0]) == list(outputs.COLUMNS)
    assert len(rows) == 9
    assert {"abnormal000.png", "abnormal001.png"} == {
        row["path"].rpartition("/")[2] for row in rows[:2]
    }
    assert [row["verdict"] for row in rows[:2]] == ["flagged"] * 2
    assert (rows[-1]["verdict"], rows[-1]["anomaly_score"]) == ("refused", "")
    assert "broken.png" not in rows[-1]["reason"]
    assert rows[-1]["reason"]
    assert summary["counts"]["refused"] == 1
    assert len(list((tmp_path / "out/thumbnails").rglob("*.jpg"))) == 8
    scores = [float(row["anomaly_score"]) for row in rows[:-1]]
    assert scores == sorted(scores, reverse=True)
    paths = [row["path"] for row in rows[:-1]]
    np.testing.assert_allclose(detector.score(paths), scores, rtol=1e-6)


def test_flagged_files_have_heat_maps_at_their_own_size(
    detector, images, tmp_path
):
    large = PIL.Image.open(images / "000.png")
    large.resize((48, 32)).save(images / "large.png")
    for choice, count in (("flagged", 2), ("all", 9), ("none", 0)):
        out = tmp_path / choice
        screening.screen(
            detector,
            [str(images)],
            out,
            screening.Settings(heatmaps=choice),
        )
        drawn = list(out.glob("heatmaps/*.png"))
        assert len(drawn) == count
    sizes = {PIL.Image.open(p).size for p in tmp_path.glob("all/heatmaps/*")}
    assert sizes == {(48, 32), (16, 16)}
    strips = list(tmp_path.glob("all/thumbnails/*/*.jpg"))
    assert {PIL.Image.open(p).size for p in strips} == {(48, 16)}


def test_a_screening_that_was_stopped_goes_on(
    detector, images, tmp_path, monkeypatch
):
    out = tmp_path / "out"
    screening.screen(detector, [str(images)], out)
    before = rows_of(out)
    lines = (out / "progress.jsonl").read_text().splitlines(keepends=True)
    # Killed in the middle of the sixth line.
    (out / "progress.jsonl").write_text("".join(lines[:5]) + lines[5][:20])
    seen = []
    score = screening.Detector.score_pixels

    def counting(self, pixels, **kwargs):
        if "keep_reconstructions" in kwargs:
            seen.append(len(pixels))
        return score(self, pixels, **kwargs)

    monkeypatch.setattr(screening.Detector, "score_pixels", counting)
    screening.screen(detector, [str(images)], out)
    assert rows_of(out) == before
    assert sum(seen) == 8 - 4
    # A new file is scored, and no other.
    seen.clear()
    shutil.copy(images / "000.png", images / "later.png")
    screening.screen(detector, [str(images)], out)
    assert sum(seen) == 1
    assert len(rows_of(out)) == 10


def test_a_refused_file_is_read_again(detector, images, tmp_path, monkeypatch):
    """The reason of a refusal may go without a change of the file."""
    out = tmp_path / "out"
    read = reading.read

    def refusing(path, *args):
        if path.name == "000.png":
            raise medical.MissingExtraError(f"{path} is a DICOM file")
        if path.name == "001.png":
            raise PermissionError(13, "Permission denied", str(path))
        if path.name == "002.png":
            raise RuntimeError("a decoder failed")
        return read(path, *args)

    monkeypatch.setattr(reading, "read", refusing)
    summary = screening.screen(detector, [str(images)], out)
    assert summary["counts"]["refused"] == 4
    reasons = {row["reason"] for row in rows_of(out)}
    assert {"permission denied", "a decoder failed"} < reasons
    monkeypatch.setattr(reading, "read", read)
    summary = screening.screen(detector, [str(images)], out)
    assert summary["counts"]["refused"] == 1


def test_a_file_that_changes_or_goes_does_not_end_a_screening(
    detector, images, tmp_path, monkeypatch
):
    read = reading.read

    def changing(path, *args):
        found = read(path, *args)
        if path.name == "000.png":
            path.unlink()
        if path.name == "abnormal000.png":
            os.utime(path, (1, 1))
        return found

    monkeypatch.setattr(reading, "read", changing)
    summary = screening.screen(
        detector,
        [str(images)],
        tmp_path / "out",
        screening.Settings(heatmaps="all"),
    )
    assert summary["counts"]["refused"] == 1
    gone = [r for r in rows_of(tmp_path / "out") if "was gone" in r["reason"]]
    assert [row["path"][-7:] for row in gone] == ["000.png"]


def test_results_inside_the_images_are_not_screened(detector, images):
    settings = screening.Settings(heatmaps="all")
    for _ in range(2):
        summary = screening.screen(
            detector, [str(images)], images / "out", settings
        )
        assert summary["counts"]["units"] == 9


def test_a_score_that_is_no_number_is_refused(
    detector, images, tmp_path, monkeypatch
):
    score = screening.Detector.score_pixels

    def failing(self, pixels, **kwargs):
        found = score(self, pixels, **kwargs)
        found.anomaly_scores[:2] = np.nan, np.inf
        return found

    monkeypatch.setattr(screening.Detector, "score_pixels", failing)
    summary = screening.screen(detector, [str(images)], tmp_path / "out")
    assert summary["counts"]["refused"] == 3
    reasons = [row["reason"] for row in rows_of(tmp_path / "out")]
    assert reasons.count("has a score that is not finite") == 2


def test_the_time_left_is_shown(detector, images, tmp_path, monkeypatch):
    notes = []
    left = progress.Progress._time_left

    def noting(self, done):
        notes.append(left(self, done))
        return notes[-1]

    monkeypatch.setattr(progress.Progress, "_time_left", noting)
    screening.screen(detector, [str(images)], tmp_path / "out")
    assert notes[0].endswith(" left")


def test_a_folder_that_cannot_be_listed_is_a_row(
    detector, images, tmp_path, monkeypatch
):
    (images / "closed").mkdir()
    list_folder = pathlib.Path.iterdir

    def refusing(self):
        if self.name == "closed":
            raise PermissionError(13, "Permission denied", str(self))
        return list_folder(self)

    monkeypatch.setattr(pathlib.Path, "iterdir", refusing)
    summary = screening.screen(detector, [str(images)], tmp_path / "out")
    assert summary["counts"]["units"] == 10
    reasons = [row["reason"] for row in rows_of(tmp_path / "out")]
    assert "is a folder without access" in reasons


def test_a_list_of_another_encoding_is_refused(detector, tmp_path):
    listing = tmp_path / "list.txt"
    listing.write_text("a.png", encoding="utf-16")
    with pytest.raises(ValueError, match="is no list in UTF-8; save it"):
        screening.screen(detector, [str(listing)], tmp_path / "out")


def test_a_pipe_among_the_images_is_passed_over(detector, images, tmp_path):
    os.mkfifo(images / "pipe")
    summary = screening.screen(detector, [str(images)], tmp_path / "out")
    assert summary["counts"]["units"] == 9


def test_gray_images_of_any_mode_have_no_colour():
    for mode in ("L", "RGB", "P", "RGBA"):
        image = PIL.Image.new("L", (9, 9), 7).convert(mode)
        shown = frame.Frame(image=image, size=image.size)
        assert not shown.has_color
    image = PIL.Image.new("RGB", (2000, 1000), (7, 7, 7))
    image.putpixel((1999, 999), (7, 7, 8))
    assert frame.Frame(image=image, size=image.size).has_color


def write_volumes(folder, count, slices=4, seed=7):
    nibabel = pytest.importorskip("nibabel")
    folder.mkdir(exist_ok=True)
    values = training_support.make_images(count * slices, seed=seed)[..., 0]
    for i, volume in enumerate(np.split(values, count)):
        image = nibabel.Nifti1Image(volume.transpose(2, 1, 0), np.eye(4))
        image.header["cal_max"] = 255
        nibabel.save(image, folder / f"{i:03d}.nii")
    return folder


def test_normal_volumes_are_no_batch_of_another_kind(detector, tmp_path):
    """Their largest scores compare with those of volumes."""
    folder = write_volumes(tmp_path / "volumes", 21)
    normals = write_volumes(tmp_path / "normals", 20, seed=8)
    calibrated = detector.calibrated(str(normals))
    summary = screening.screen(calibrated, [str(folder)], tmp_path / "out")
    assert summary["batch_p_value"] > 0.001
    assert "If the 20 calibration normals" in summary["guarantee"]


def test_too_few_volumes_give_no_verdict(detector, tmp_path):
    folder = write_volumes(tmp_path / "volumes", 2)
    for calibrated, least in (
        (detector, "0.2 "),
        (detector.calibrated(str(write_volumes(tmp_path / "n", 9))), "0.1 "),
    ):
        out = tmp_path / least
        summary = screening.screen(calibrated, [str(folder)], out)
        rows = [row for row in rows_of(out) if row["p_value"]]
        assert [row["verdict"] for row in rows] == ["", ""]
        for row in rows:
            assert f"p-value cannot be below {least}" in row["reason"]
    assert summary["guarantee"].startswith("There are 9 calibration volumes")


def test_other_normals_rank_the_scores_that_are_there(
    detector, images, tmp_path, monkeypatch
):
    out = tmp_path / "out"
    before = screening.screen(detector, [str(images)], out)
    others = training_support.make_images(39, seed=9)[..., 0]
    calibrated = detector.calibrated(others)
    monkeypatch.setattr(reading, "read", None)
    summary = screening.screen(
        calibrated, [str(images)], out, screening.Settings(heatmaps="none")
    )
    assert "If the 39 calibration normals" in summary["guarantee"]
    assert summary["model"] != before["model"]
    assert rows_of(out)[0]["p_value"] == str(1 / 40)


def test_results_of_another_model_are_not_mixed(detector, images, tmp_path):
    screening.screen(detector, [str(images)], tmp_path / "out")
    other = dataclasses.replace(detector, blocks=detector.blocks[1:])
    with pytest.raises(ValueError, match="another model; give another folder"):
        screening.screen(other, [str(images)], tmp_path / "out")


def test_without_calibration_there_are_scores_and_no_verdicts(
    detector, images, tmp_path
):
    bare = dataclasses.replace(detector, calibration=None)
    summary = screening.screen(bare, [str(images)], tmp_path / "out")
    verdicts = {row["verdict"] for row in rows_of(tmp_path / "out")}
    assert verdicts == {"", "refused"}
    assert "--calibration=FOLDER" in summary["guarantee"]


def test_the_guarantee_is_stated(detector, images, tmp_path):
    summary = screening.screen(detector, [str(images)], tmp_path / "out")
    assert "below 14.6 % for 95 %" in summary["guarantee"]
    assert summary["calibration"]["num_normal"] == 19
    stored = json.loads((tmp_path / "out/screening.json").read_text())
    assert stored == summary


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"alpha": 0.01}, "99 are needed"),
        ({"alpha": 2.0}, "must be above 0 and below 1"),
        ({"fdr": 0.04}, "nothing could be flagged"),
        ({"fdr": -1.0}, "must be above 0 and below 1"),
        ({"heatmaps": "some"}, "choose one of flagged, all, none"),
    ],
)
def test_settings_that_cannot_work_are_refused(
    detector, images, tmp_path, settings, sentence
):
    with pytest.raises(ValueError, match=sentence):
        screening.screen(
            detector,
            [str(images)],
            tmp_path / "out",
            screening.Settings(**settings),
        )
    assert not (tmp_path / "out").exists()


def test_benjamini_and_hochberg_flag_together(detector, images, tmp_path):
    # 2 of 8 files have p = 1/20: flagged where that is at most fdr * 2/8.
    for fdr, flagged in ((0.19, 0), (0.25, 2)):
        out = tmp_path / str(fdr)
        screening.screen(
            detector, [str(images)], out, screening.Settings(fdr=fdr)
        )
        found = [row["verdict"] for row in rows_of(out)].count("flagged")
        assert found == flagged


def test_a_batch_of_another_kind_is_named(detector, tmp_path):
    folder = tmp_path / "other"
    screening_support.write(folder, screening_support.abnormal(20))
    summary = screening.screen(detector, [str(folder)], tmp_path / "out")
    assert summary["batch_p_value"] < 0.001
    assert "another source" in summary["warning"]
    assert "many of them are abnormal" in summary["warning"]
    page = (tmp_path / "out/worklist.html").read_text()
    assert "another source" in page
    alike = training_support.make_images(20, seed=7)[..., 0]
    screening_support.write(tmp_path / "alike", alike)
    summary = screening.screen(
        detector, [str(tmp_path / "alike")], tmp_path / "out2"
    )
    assert summary["warning"] == ""


def test_what_is_odd_about_a_file_is_said(detector, tmp_path):
    folder = tmp_path / "odd"
    trained = training_support.make_images(60)[..., 0]
    screening_support.write(folder, trained)
    color = np.zeros((20, 20, 3), np.uint8)
    color[..., 0] = 200
    PIL.Image.fromarray(color).save(folder / "color.png")
    PIL.Image.fromarray(trained[0][:7, :7]).save(folder / "small.png")
    screening.screen(detector, [str(folder)], tmp_path / "out")
    reasons = {
        row["path"].rpartition("/")[2]: row["reason"]
        for row in rows_of(tmp_path / "out")
    }
    assert "has colour" in reasons["color.png"]
    assert "much smaller than the 16 pixels" in reasons["small.png"]
    nearly = [r for r in reasons.values() if "nearly equal to a training" in r]
    assert len(nearly) >= 60 - 19


def test_paths_can_be_files_folders_and_lists(detector, images, tmp_path):
    (images / "below").mkdir()
    shutil.copy(images / "000.png", images / "below" / "deep.png")
    listing = tmp_path / "list.txt"
    listing.write_text("new/001.png\n\nnew/missing.png\nnew/000.png\n")
    screening.screen(
        detector,
        [str(images / "below"), str(listing), str(images / "001.png")],
        tmp_path / "out",
    )
    rows = rows_of(tmp_path / "out")
    names = [row["path"].rpartition("/")[2] for row in rows]
    assert sorted(names) == ["000.png", "001.png", "deep.png", "missing.png"]
    assert rows[-1]["reason"] == "does not exist"


@pytest.mark.parametrize("paths", [["nowhere"], ["empty"]])
def test_nothing_to_screen_is_refused(detector, tmp_path, paths):
    (tmp_path / "empty").mkdir()
    with pytest.raises((FileNotFoundError, ValueError), match="give files"):
        screening.screen(
            detector, [str(tmp_path / p) for p in paths], tmp_path / "out"
        )


def test_names_become_neither_html_nor_formulas(detector, tmp_path):
    folder = tmp_path / "evil"
    folder.mkdir()
    image = PIL.Image.fromarray(screening_support.abnormal(1)[0])
    image.save(folder / EVIL)
    out = tmp_path / "out"
    screening.screen(detector, [f"{folder}/{EVIL}"], out)
    page = (out / "worklist.html").read_text()
    assert "<img src=x" not in page
    assert outputs._cell(EVIL) == f"'{EVIL}"
    assert outputs._cell("-1.5") == "-1.5"
    assert outputs._cell("-1.5e-05") == "-1.5e-05"
    assert outputs._cell("-1+cmd|' /C calc'!A0") == "'-1+cmd|' /C calc'!A0"
    assert outputs._cell("@cmd") == "'@cmd"


CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")


@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
def test_a_browser_shows_the_worklist(detector, images, tmp_path):
    image = PIL.Image.fromarray(screening_support.abnormal(1)[0])
    image.save(images / EVIL)
    out = tmp_path / "out"
    screening.screen(detector, [str(images)], out)
    result = subprocess.run(
        [
            *(CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu"),
            *("--disable-background-networking", "--disable-sync"),
            f"--user-data-dir={tmp_path / 'profile'}",
            "--virtual-time-budget=4000",
            *("--dump-dom", f"file://{out}/worklist.html"),
        ],
        capture_output=True,
        text=True,
        timeout=120,
    )
    dom = result.stdout
    assert dom.count("<li ") == 10
    assert "10 screened: 3 flagged, 6 not flagged, 1 refused." in dom
    assert "=2+3&lt;img src=x onerror=alert(1)&gt;&amp;.png" in dom
    assert 'aria-current="true"' in dom
    assert "<h2>" in dom


WORDS = ("Doe^Jane", "PAT-4711", "19700101", "St. Elsewhere", "ACC-99")


def write_dicom(folder, images, **tags):
    """DICOM files whose headers name a person."""
    pytest.importorskip("pydicom")
    name, number, born, hospital, accession = WORDS
    for i, image in enumerate(images):
        data_support.write_dicom(
            folder / f"IM{i:04d}",
            image,
            **{
                "PatientName": name,
                "PatientID": f"{number}-{i}",
                "PatientBirthDate": born,
                "InstitutionName": hospital,
                "AccessionNumber": accession,
                "Modality": "CR",
                "BodyPartExamined": "CHEST",
            }
            | tags,
        )
    return folder


def test_no_value_of_a_header_leaves_the_files(tmp_path_factory, tmp_path):
    normal = training_support.make_images(60)[..., 0]
    root = write_dicom(tmp_path_factory.mktemp("dicom"), normal)
    config = training_support.make_config(
        root, tmp_path / "cache", data__calibration="auto", train__epochs=1
    )
    loop.train(config, tmp_path / "run")
    detector = screening.Detector.load(tmp_path / "run")
    detector.save(tmp_path / "run" / "model.aeent")
    new = write_dicom(tmp_path / "new", screening_support.abnormal(2))
    write_dicom(new / "ct", normal[:1], Modality="CT", BodyPartExamined="HEAD")
    screening.screen(detector, [str(new)], tmp_path / "run" / "out")
    for path in (tmp_path / "run").rglob("*"):
        content = path.read_bytes() if path.is_file() else b""
        for word in WORDS:
            assert word.encode() not in content, path
    reasons = [row["reason"] for row in rows_of(tmp_path / "run" / "out")]
    assert sum("another modality" in reason for reason in reasons) == 1
    assert sum("another body part" in reason for reason in reasons) == 1


def test_a_series_in_several_files_gets_one_verdict(
    detector, tmp_path, monkeypatch
):
    """And still does when the screening is started again."""
    slices = training_support.make_images(6, seed=7)[..., 0]
    slices[4] = screening_support.abnormal(1)[0]
    trained = training_support.make_images(60)
    trained = trained[detector.is_nearly_training_image(trained)]
    slices[0] = trained[0, ..., 0]
    window = {"Modality": "MR", "WindowCenter": 128, "WindowWidth": 256}
    for i, image in enumerate(slices):
        of = {"PatientID": f"p{i // 3}", "SeriesInstanceUID": f"1.2.{i // 3}"}
        data_support.write_dicom(
            tmp_path / "new" / f"IM{i}", image, **(window | of)
        )
    out = tmp_path / "out"
    normals = detector.calibrated(
        str(write_volumes(tmp_path / "normals", 20, slices=3, seed=8))
    )
    screening.screen(normals, [str(tmp_path / "new")], out)
    rows = rows_of(out)
    series = [row for row in rows if row["frame"] == "series of 3 files"]
    assert [row["verdict"] for row in series] == ["flagged", "not_flagged"]
    assert series[0]["path"].endswith("IM4")
    # One slice of three makes no series a training image.
    assert not any("nearly" in row["reason"] for row in series)
    files = [row for row in rows if not row["verdict"]]
    assert {row["path"][-3:] for row in files} == {f"IM{i}" for i in range(6)}
    scores = {row["path"][-3:]: row["anomaly_score"] for row in files}
    assert series[0]["anomaly_score"] == scores["IM4"]
    # Names of patients and series change from process to process.
    monkeypatch.setattr(dicom_header, "_KEY", b"another")
    monkeypatch.setattr(reading, "read", None)
    screening.screen(normals, [str(tmp_path / "new")], out)
    assert rows_of(out) == rows
    # Slices that come later belong to their series and patient.
    monkeypatch.undo()
    monkeypatch.setattr(dicom_header, "_KEY", b"a third")
    data_support.write_dicom(tmp_path / "new" / "IM6", slices[0], **window | of)
    other = window | {"PatientID": "p1", "SeriesInstanceUID": "1.2.9"}
    data_support.write_dicom(tmp_path / "new" / "IM7", slices[1], **other)
    written = []
    monkeypatch.setattr(outputs, "write", lambda *args: written.append(args[1]))
    screening.screen(normals, [str(tmp_path / "new")], out)
    assert sorted(len(unit.frames) for unit in written[0]) == [1, 3, 4]
    assert len({unit.group for unit in written[0]}) == 2
    (tmp_path / "new" / "IM6").unlink()
    (tmp_path / "new" / "IM7").unlink()
    # A series calibrates as the volume that it is.
    monkeypatch.undo()
    paths = sorted((tmp_path / "new").iterdir())
    groups = detector.calibrated(paths).calibration.groups
    np.testing.assert_array_equal(groups, [0, 0, 0, 1, 1, 1])
