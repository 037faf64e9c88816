import data_support
import numpy as np
import PIL.Image
import pytest

from aeent_jax.data import check, dataset


@pytest.fixture(autouse=True)
def _few_are_enough(monkeypatch):
    monkeypatch.setattr(dataset, "_FEW", 1)


def test_hardly_any_images_are_noted(tmp_path, monkeypatch):
    monkeypatch.setattr(dataset, "_FEW", 20)
    root = data_support.make_class_folders(tmp_path / "root")
    (note,) = [
        n for n in check.check("folder", str(root)).notes if "heart" in n
    ]
    assert "fewer than 20 by heart" in note


def _check(root, name="folder"):
    return check.check(name, str(root))


def _only(sentences):
    (sentence,) = sentences
    return sentence


def _notes(report):
    """The notes but the one on shape: these images are 24 x 20."""
    found = [f for f in report.findings if not f.is_problem]
    return [f.sentence for f in found if f.kind != "not_square"]


def test_sound_folder_has_no_problems(tmp_path):
    data_support.make_class_folders(tmp_path)
    report = _check(tmp_path)
    assert report.layout == "class_folders"
    assert report.counts == {
        ("train", 0): 5,
        ("test", 0): 2,
        ("test", 1): 3,
    }
    assert report.masks == 3
    assert report.sizes == {(24, 20): 10}
    assert report.modes == {"L": 10}
    assert report.problems == ()
    assert _notes(report) == []


def test_report_is_readable(tmp_path):
    data_support.make_class_folders(tmp_path)
    data_support.write_gray(tmp_path / "train/normal/t9.png", 30, size=(8, 9))
    assert check.format_report(_check(tmp_path)) == (
        "layout class_folders, 11 images\n"
        "  train  normal          6\n"
        "  test   normal          2\n"
        "  test   abnormal        3\n"
        "  masks                  3\n"
        "sizes  24 x 20 (10), 8 x 9 (1)\n"
        "modes  L (11)\n"
        "note: 11 images are not square and are squeezed to a square; "
        "data.resize=pad would keep their proportions (test/abnormal/a0.png, "
        "test/abnormal/a1.png, test/abnormal/a2.png, test/normal/n0.png, "
        "test/normal/n1.png, ...).\n"
        "note: --json names every file of every note.\n"
        "no problems found"
    )


def test_training_alone_is_sound(tmp_path):
    data_support.make_flat(tmp_path)
    report = _check(tmp_path)
    assert report.counts == {("train", 0): 4}
    assert report.problems == ()


def test_unreadable_files_are_counted_and_named(tmp_path):
    data_support.make_flat(tmp_path)
    (tmp_path / "n1.png").write_text("no image")
    report = _check(tmp_path)
    problem = _only(report.problems)
    assert problem.startswith("1 of 4 files cannot be read")
    assert "n1.png" in problem
    assert report.sizes == {(24, 20): 3}


def test_text_names_all_that_is_to_be_removed(tmp_path):
    data_support.make_flat(tmp_path / "train/normal", 9)
    for i in range(7):
        (tmp_path / f"train/normal/n{i}.png").write_text("no image")
    for i in range(8):
        name = tmp_path / f"test/normal/copy{i}.png"
        data_support.write_gray(name, seed=100 + i)
        data_support.write_gray(tmp_path / f"train/normal/x{i}.png", 100 + i)
    text = check.format_report(_check(tmp_path))
    for i in range(7):
        assert text.count(f"normal/n{i}.png: ") == 1
    for i in range(8):
        assert text.count(f"test:test/normal/copy{i}.png") == 1
    # Notes name the first few, and say what names all.
    assert text.count("note: --json names every file of every note.") == 1


def test_leak_between_training_and_test_is_loud(tmp_path):
    data_support.make_class_folders(tmp_path)
    # The same pixels in another format and mode.
    image = data_support.make_gray(3).convert("RGB")
    image.save(tmp_path / "test/normal/copy.bmp")
    problem = _only(_check(tmp_path).problems)
    assert problem.startswith("LEAK: 1 images are in more than one split")
    assert "train/normal/t3.png" in problem
    assert "test/normal/copy.bmp" in problem
    assert "PROBLEM: LEAK" in check.format_report(_check(tmp_path))


def test_image_with_two_labels_is_a_problem(tmp_path):
    data_support.make_class_folders(tmp_path, masks=False)
    data_support.write_gray(tmp_path / "test/normal/a.png", seed=20)
    problem = _only(_check(tmp_path).problems)
    assert problem.startswith("1 images are both normal and abnormal")


def test_repetition_within_a_split_is_a_note(tmp_path):
    data_support.make_flat(tmp_path)
    data_support.write_gray(tmp_path / "copy.png", seed=0)
    report = _check(tmp_path)
    assert report.problems == ()
    note = _only(_notes(report))
    assert note.startswith("1 images occur more than once in their split")
    assert "train:copy.png = train:n0.png" in note


def test_masks_that_do_not_fit_are_problems(tmp_path):
    data_support.make_class_folders(tmp_path)
    data_support.write_mask(tmp_path / "test/masks/a0.png", size=(20, 20))
    data_support.write_mask(tmp_path / "test/masks/a1.png", marked=False)
    (tmp_path / "test/masks/a2.png").write_text("no image")
    data_support.write_mask(tmp_path / "test/masks/n0.png")
    data_support.write_mask(tmp_path / "test/masks/nobody.png")
    report = _check(tmp_path)
    problems = report.problems
    assert _notes(report) == []
    starts = [
        "1 of 4 files cannot be read",
        "1 masks have no image",
        "1 masks have another size",
        "1 masks of normal images are not empty",
        "1 masks of abnormal images are empty",
    ]
    assert len(problems) == len(starts)
    for problem, start in zip(problems, starts, strict=True):
        assert problem.startswith(start)


def test_blank_and_unused_images_are_noted(tmp_path):
    data_support.make_data_json(tmp_path)
    PIL.Image.new("L", (9, 9), 7).save(tmp_path / "images/a.png")
    data_support.write_gray(tmp_path / "images/u.png", seed=50)
    report = _check(tmp_path)
    assert report.problems == ()
    blank, unused = _notes(report)
    assert blank.startswith("1 images are of one gray value")
    assert "a.png" in blank
    assert unused.startswith("1 image files are not used")
    assert "u.png" in unused


def test_12_bit_images_are_a_problem(tmp_path):
    values = np.linspace(0, 4095, 64).reshape(8, 8).astype(np.uint16)
    PIL.Image.fromarray(values).save(tmp_path / "a.png")
    report = _check(tmp_path)
    assert report.modes == {"I;16": 1}
    assert report.bits == {16: 1}
    assert report.windows == {"0,65535 default": 1}
    assert "17 of its 64 gray levels" in _only(report.problems)


def test_other_counts_than_published_are_a_problem(tmp_path):
    data_support.make_data_json(tmp_path)
    problem = _only(_check(tmp_path, "rsna").problems)
    assert problem.startswith("rsna has 3851 training images")


@pytest.mark.parametrize(
    ("name", "folder"),
    [("kermany_cxr", "KermanyCXR"), ("brain_mri", "BrainMRI")],
)
def test_real_images_are_sound(name, folder):
    report = _check(data_support.real_folder(folder), name)
    assert report.problems == ()
    assert report.modes == {"L": sum(report.counts.values())}
