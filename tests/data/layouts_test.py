import importlib.util
import json
import os

import data_support
import pytest

from aeent_jax.data import check, layouts


def _ids(listing, split, label):
    return [
        r.id for r in listing.records if (r.split, r.label) == (split, label)
    ]


def test_flat_folder_is_all_normal_training(tmp_path):
    data_support.make_flat(tmp_path)
    (tmp_path / "notes.txt").write_text("no image")
    (tmp_path / "._n0.png").write_text("resource fork")
    (tmp_path / "N9.PNG").write_bytes((tmp_path / "n0.png").read_bytes())
    listing = layouts.read_listing(tmp_path)
    assert listing.layout == "flat"
    assert not listing.has_masks
    expected = ["N9.PNG", "n0.png", "n1.png", "n2.png", "n3.png"]
    assert _ids(listing, "train", 0) == expected
    assert len(listing.records) == 5


def test_class_folders(tmp_path):
    data_support.make_class_folders(tmp_path)
    data_support.write_gray(tmp_path / "val/normal/v.png", seed=50)
    listing = layouts.read_listing(tmp_path)
    assert listing.layout == "class_folders"
    assert len(_ids(listing, "train", 0)) == 5
    assert _ids(listing, "val", 0) == ["val/normal/v.png"]
    assert _ids(listing, "test", 1)[0] == "test/abnormal/a0.png"
    assert listing.has_masks
    masks = {r.id: r.mask for r in listing.records if r.mask}
    assert masks == {
        f"test/abnormal/a{i}.png": tmp_path / f"test/masks/a{i}.png"
        for i in range(3)
    }


def test_class_folders_may_have_folders_and_other_formats(tmp_path):
    data_support.write_gray(tmp_path / "train/normal/p1/a.png", seed=0)
    data_support.write_gray(tmp_path / "train/normal/p2/a.jpg", seed=1)
    data_support.write_gray(tmp_path / "test/abnormal/p3/a.jpg", seed=2)
    data_support.write_mask(tmp_path / "test/masks/p3/a.png")
    listing = layouts.read_listing(tmp_path)
    expected = ["train/normal/p1/a.png", "train/normal/p2/a.jpg"]
    assert _ids(listing, "train", 0) == expected
    (abnormal,) = [r for r in listing.records if r.label]
    assert abnormal.mask == tmp_path / "test/masks/p3/a.png"


def test_training_alone_is_enough(tmp_path):
    data_support.write_gray(tmp_path / "train/normal/a.png", seed=0)
    listing = layouts.read_listing(tmp_path)
    assert [r.split for r in listing.records] == ["train"]


def test_data_json(tmp_path):
    data_support.make_data_json(tmp_path)
    listing = layouts.read_listing(tmp_path)
    assert listing.layout == "data_json"
    assert _ids(listing, "train", 0) == ["a.png", "b.png", "c.png", "d.png"]
    assert _ids(listing, "test", 0) == ["n.png"]
    assert _ids(listing, "test", 1) == ["x.png", "y.png"]


def test_data_json_with_normals_only(tmp_path):
    data_support.make_data_json(tmp_path, {"train": {"0": ["a.png"]}})
    assert len(layouts.read_listing(tmp_path).records) == 1


def test_masks_without_images_are_kept_apart(tmp_path):
    data_support.make_class_folders(tmp_path)
    data_support.write_mask(tmp_path / "test/masks/nobody.png")
    listing = layouts.read_listing(tmp_path)
    assert listing.orphan_masks == (tmp_path / "test/masks/nobody.png",)


def test_links_are_followed_and_loops_end(tmp_path):
    data_support.make_flat(tmp_path / "store")
    root = tmp_path / "root"
    (root / "train/normal").mkdir(parents=True)
    (root / "train/normal/linked").symlink_to(tmp_path / "store")
    (root / "train/normal/loop").symlink_to(root / "train")
    (root / "train/normal/one.png").symlink_to(tmp_path / "store/n0.png")
    # Below the loop only the folder train/normal is read, once.
    ids = _ids(layouts.read_listing(root), "train", 0)
    assert "train/normal/one.png" in ids
    assert "train/normal/linked/n3.png" in ids
    assert len(ids) == 5


def _broken_json(tmp_path, text):
    (tmp_path / "data.json").write_text(text)
    (tmp_path / "images").mkdir()
    return tmp_path


def _make_misspelt(tmp_path):
    data_support.make_class_folders(tmp_path)
    (tmp_path / "test/abnormal").rename(tmp_path / "test/Abnormal")
    return tmp_path


def _make_unsorted(tmp_path):
    data_support.write_gray(tmp_path / "train/a.png", seed=0)
    return tmp_path


def _make_maskless(tmp_path):
    data_support.make_class_folders(tmp_path)
    (tmp_path / "test/masks/a1.png").unlink()
    return tmp_path


def _make_ambiguous_masks(tmp_path):
    data_support.make_class_folders(tmp_path)
    data_support.write_gray(tmp_path / "test/normal/a1.png", seed=0)
    return tmp_path


def _make_double_masks(tmp_path):
    data_support.make_class_folders(tmp_path)
    data_support.write_mask(tmp_path / "test/masks/a1.bmp")
    return tmp_path


def _make_test_only(tmp_path):
    data_support.write_gray(tmp_path / "test/normal/a.png", seed=0)
    return tmp_path


def _make_volumes(tmp_path):
    (tmp_path / "scan.mha").touch()
    return tmp_path


def _make_incomplete(tmp_path):
    data_support.make_data_json(tmp_path)
    (tmp_path / "images/b.png").unlink()
    return tmp_path


@pytest.mark.parametrize(
    ("make", "error", "sentence"),
    [
        (lambda p: p / "gone", FileNotFoundError, "gone does not exist"),
        (
            lambda p: data_support.write_gray(p / "a.png", 0),
            NotADirectoryError,
            "a.png is a file, and a folder is needed",
        ),
        (lambda p: p, ValueError, "no layout that is known.*It is empty"),
        (_make_volumes, ValueError, "It holds scan.mha"),
        (_make_misspelt, ValueError, "has test/Abnormal .*only train/normal"),
        (_make_unsorted, ValueError, "has train/a.png .*only train/normal"),
        (_make_maskless, ValueError, "1 abnormal test .*test/abnormal/a1.png"),
        (_make_ambiguous_masks, ValueError, "two test images share the mask"),
        (_make_double_masks, ValueError, "masks of the same image; keep one"),
        (_make_test_only, ValueError, "no training image.*in train/normal"),
        (_make_incomplete, FileNotFoundError, r"1 of 7 images .*\(b.png\)"),
    ],
)
def test_unusable_folder_is_refused(tmp_path, make, error, sentence):
    with pytest.raises(error, match=sentence):
        layouts.read_listing(make(tmp_path))


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("{", "data.json is not valid JSON"),
        ("[]", "data.json must hold"),
        ('{"train": ["a.png"]}', "found 'train'"),
        ('{"train": {"0": "a.png"}}', "found 'train' with '0'"),
        ('{"train": {"0": [1]}}', "found 'train' with '0'"),
        ('{"train": {"1": ["a.png"]}}', "found 'train' with '1'"),
        ('{"train": {"0": []}, "tets": {}}', "found 'tets'"),
        ('{"train": {"0": []}}', 'no training image.*"train", "0"'),
        ('{"test": {"2": ["a.png"]}}', "found 'test' with '2'"),
        (
            '{"train": {"0": ["a.png"]}, "test": {"0": ["a.png"]}}',
            r"1 names more than once \(a.png\): an image belongs to one split",
        ),
        (
            '{"train": {"0": ["a.png"]}, "test": {"0": ["./a.png"]}}',
            r"1 names more than once \(a.png\)",
        ),
        ("[" * 100_000, "data.json is not valid JSON"),
    ],
)
def test_broken_data_json_is_refused(tmp_path, content, sentence):
    with pytest.raises(ValueError, match=sentence):
        layouts.read_listing(_broken_json(tmp_path, content))


def test_data_json_that_is_a_folder_is_refused(tmp_path):
    (tmp_path / "data.json").mkdir()
    with pytest.raises(ValueError, match="data.json cannot be read"):
        layouts.read_listing(tmp_path)


@pytest.mark.parametrize(
    "name",
    [
        "../a.png",
        "x/../../a.png",
        "/etc/a.png",
        "",
        ".",
        "C:/a.png",
        "..\\b.png",
    ]
    + ["a\0.png", "//host/a.png", "C:\\a.png", "\\\\host\\a.png"],
)
def test_names_that_leave_the_folder_are_refused(tmp_path, name):
    data_support.write_gray(tmp_path / "a.png", 0)
    content = json.dumps({"train": {"0": [name]}})
    root = tmp_path / "root"
    root.mkdir()
    with pytest.raises(ValueError, match="names files outside its folder"):
        layouts.read_listing(_broken_json(root, content))


def test_name_that_is_not_utf8_is_refused(tmp_path):
    source = data_support.write_gray(tmp_path / "a.png", 0)
    try:
        os.rename(source, os.fsencode(tmp_path) + b"/\xff.png")
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    with pytest.raises(ValueError, match="not UTF-8"):
        layouts.read_listing(tmp_path)


def test_what_systems_put_aside_is_left_out(tmp_path):
    data_support.make_class_folders(tmp_path, masks=False)
    before = layouts.read_listing(tmp_path)
    for name in (
        *("@eaDir/n0.png/SYNOPHOTO_THUMB_M.jpg", "#recycle/old.png"),
        *(".DS_Store", "._n0.png", ".AppleDouble/n0.png", "Thumbs.db"),
        *("@Recycle/a.png", "$RECYCLE.BIN/a.png", "~snapshot/a.png"),
        *("__MACOSX/._n0.png", "__MACOSX/n0.png", "lost+found/a.png"),
        *(".@__thumb/n0.png", "System Volume Information/a.png"),
        *("desktop.ini", "notes.txt", "thumbs/n0.png"),
    ):
        for folder in ("train/normal", "test/abnormal", "train", "test"):
            path = tmp_path / folder / name
            if path.suffix in (".png", ".jpg"):
                data_support.write_gray(path, 99)
            else:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.touch()
    assert layouts.read_listing(tmp_path).records == before.records
    report = check.check("folder", str(tmp_path))
    assert report.problems == ()
    kinds = {f.kind: f for f in report.findings}
    assert len(kinds["no_image"].names) == 4
    assert any(name.endswith("@eaDir") for name in kinds["aside"].names)


def test_a_file_named_like_what_is_put_aside_is_an_image(tmp_path):
    for name in ("#1.png", "@2.png", "~3.png", "$4.png"):
        data_support.write_gray(tmp_path / name, 0)
    assert len(layouts.read_listing(tmp_path).records) == 4


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("separator", ["/", "\\"])
def test_data_json_from_windows_is_read(tmp_path, encoding, separator):
    names = [f"s{separator}n{i}.png" for i in range(3)]
    for i in range(3):
        data_support.write_gray(tmp_path / f"images/s/n{i}.png", i)
    text = json.dumps({"train": {"0": names}}, indent=1)
    content = text.replace("\n", "\r\n").encode(encoding)
    (tmp_path / "data.json").write_bytes(content)
    listing = layouts.read_listing(tmp_path)
    assert [r.id for r in listing.records] == [f"s/n{i}.png" for i in range(3)]


def test_other_files_are_named_by_check(tmp_path):
    data_support.make_flat(tmp_path)
    for name in ("labels.csv", "scan.mha", "readme.txt"):
        (tmp_path / name).touch()
    (finding,) = [
        f
        for f in check.check("folder", str(tmp_path)).findings
        if f.kind == "no_image"
    ]
    assert "3 files are no images and are not read" in finding.sentence
    assert "labels.csv" in finding.sentence


def test_jfif_is_an_image(tmp_path):
    data_support.make_gray(0).save(tmp_path / "a.jfif", format="JPEG")
    assert len(layouts.read_listing(tmp_path).records) == 1


@pytest.mark.parametrize(
    "name", ["a.dcm", "IM000001", "1.2.840.5", "a.nii", "a.nii.gz"]
)
def test_medical_files_without_their_extra_give_one_sentence(
    tmp_path, monkeypatch, name
):
    for i in range(3):
        path = tmp_path / f"train/normal/{i}" / name
        path.parent.mkdir(parents=True)
        path.write_bytes(b"\0" * 128 + b"DICM" + bytes(200))
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    sentence = (
        r"is a (DICOM|NIfTI) file, and the extra that reads these is not "
        r"installed: pip install 'aeent-jax\[medical\]'$"
    )
    with pytest.raises(ValueError, match=sentence) as caught:
        check.check("folder", str(tmp_path))
    assert len(str(caught.value).splitlines()) == 1
