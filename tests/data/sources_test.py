import data_support
import numpy as np
import PIL.Image
import pytest

from aeent_jax.data import catalog, sources

_SPEC = sources.Spec(image_size=16)


def _read(root, spec=_SPEC, name="folder"):
    return sources.read_files(sources.list_files(name, root), spec)


def test_reads_all_splits_in_the_order_of_ids(tmp_path):
    data_support.make_data_json(tmp_path)
    splits = _read(tmp_path)
    assert list(splits) == ["train", "test"]
    assert splits["train"].ids == ("a.png", "b.png", "c.png", "d.png")
    assert splits["test"].ids == ("n.png", "x.png", "y.png")
    np.testing.assert_array_equal(splits["test"].labels, [0, 1, 1])
    assert splits["test"].labels.dtype == np.int32
    for i, id_ in enumerate(splits["train"].ids):
        with PIL.Image.open(tmp_path / "images" / id_) as image:
            expected = image.resize((16, 16), PIL.Image.Resampling.BILINEAR)
        np.testing.assert_array_equal(
            splits["train"].images[i, :, :, 0], np.array(expected)
        )


def test_pixels_may_be_in_a_file_that_goes_with_them(tmp_path):
    listing = sources.list_files(
        "folder", data_support.make_class_folders(tmp_path / "root")
    )
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    in_memory = sources.read_files(listing, _SPEC)
    in_file = sources.read_files(listing, _SPEC, scratch=scratch)
    for name, split in in_memory.items():
        assert isinstance(in_file[name].images, np.memmap)
        np.testing.assert_array_equal(in_file[name].images, split.images)
    assert not list(scratch.iterdir())


def test_masks_are_read_for_the_test_split_only(tmp_path):
    data_support.make_class_folders(tmp_path)
    splits = _read(tmp_path)
    assert splits["train"].masks is None
    labels, masks = splits["test"].labels, splits["test"].masks
    assert masks.shape == (5, 16, 16)
    assert masks.dtype == bool
    np.testing.assert_array_equal(masks.any((1, 2)), labels == 1)


def test_without_masks_there_are_none(tmp_path):
    data_support.make_class_folders(tmp_path, masks=False)
    assert _read(tmp_path)["test"].masks is None


def test_color(tmp_path):
    data_support.make_flat(tmp_path)
    splits = _read(tmp_path, sources.Spec(image_size=16, channels=3))
    assert splits["train"].images.shape == (4, 16, 16, 3)


def test_bad_files_of_all_splits_are_named_at_once(tmp_path):
    data_support.make_class_folders(tmp_path)
    (tmp_path / "train/normal/t1.png").write_text("no image")
    (tmp_path / "test/normal/n0.png").write_bytes(b"")
    with pytest.raises(ValueError, match="^2 of 10 files .*n0.png.*t1.png"):
        _read(tmp_path)


def test_mask_of_another_shape_than_its_image_is_refused(tmp_path):
    data_support.make_class_folders(tmp_path)
    expected = _read(tmp_path)["test"].masks
    path = tmp_path / "test/masks/a0.png"
    # A mask of another scale means the same, to whole pixels: images are
    # 24 x 20.
    for size in ((48, 40), (13, 11)):
        data_support.write_mask(path, size=size)
        assert _read(tmp_path)["test"].masks.shape == expected.shape
    data_support.write_mask(path, size=(20, 24))
    with pytest.raises(ValueError, match=r".") as caught:
        _read(tmp_path)
    assert str(caught.value) == (
        f"1 of 3 files cannot be read ({path}: is a mask of 20 x 24 pixels for"
        " an image of 24 x 20, another shape): remove or replace them."
    )


def test_marked_mask_of_a_normal_image_is_refused(tmp_path):
    data_support.make_class_folders(tmp_path)
    data_support.write_mask(tmp_path / "test/masks/n0.png", marked=False)
    assert not _read(tmp_path)["test"].masks[3].any()
    data_support.write_mask(tmp_path / "test/masks/n0.png")
    with pytest.raises(ValueError, match="1 normal images .*test/normal/n0"):
        _read(tmp_path)


def test_12_bit_folder_is_refused_without_a_window(tmp_path):
    values = np.linspace(0, 4095, 64).reshape(8, 8).astype(np.uint16)
    PIL.Image.fromarray(values).save(tmp_path / "a.png")
    with pytest.raises(
        ValueError, match="17 of its 64 gray levels.*example 0,4095"
    ):
        _read(tmp_path)
    splits = _read(tmp_path, sources.Spec(image_size=8, window=(0, 4095)))
    assert splits["train"].images.max() == 255


def test_phantoms_are_repeated_over_channels(monkeypatch):
    data_support.draw_few_phantoms(monkeypatch)
    gray = sources.draw_phantoms("phantom_cxr", sources.Spec(image_size=16))
    color = sources.draw_phantoms("phantom_cxr", sources.Spec(16, 3))
    assert list(gray) == ["train", "test"]
    assert gray["train"].masks is None
    assert gray["test"].masks.shape == gray["test"].images.shape[:3]
    for channel in range(3):
        np.testing.assert_array_equal(
            color["test"].images[..., channel], gray["test"].images[..., 0]
        )


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"image_size": 0}, "image size must be 1 to 4096 pixels, found 0"),
        ({"image_size": 9999}, "image size must be 1 to 4096"),
        ({"channels": 2}, "1 channel .* or 3 .*found 2"),
        ({"window": (4095, 0)}, "the lower one first, found"),
        ({"window": (5, 5)}, "the lower one first, found"),
        ({"window": (0, float("inf"))}, "two finite values"),
        ({"window": (0, float("nan"))}, "two finite values"),
    ],
)
def test_impossible_spec_is_refused(change, sentence):
    with pytest.raises(ValueError, match=sentence):
        sources.Spec(**change)


def test_window_is_parsed():
    assert sources.parse_window([]) is None
    assert sources.parse_window(["-1000", "3e3"]) == (-1000.0, 3000.0)
    for values in (["1"], ["1", "2", "3"], ["a", "b"]):
        with pytest.raises(ValueError, match="two numbers, as in 0,4095"):
            sources.parse_window(values)


@pytest.mark.parametrize(
    ("name", "root", "error", "sentence"),
    [
        ("folder", "", ValueError, "none is given; set data.root"),
        (
            "rsna",
            "gone",
            FileNotFoundError,
            "gone is none; .*RSNA.tar.gz",
        ),
        ("rsna", ".", FileNotFoundError, "rsna needs data.json beside images/"),
        ("kermany_cxr", ".", FileNotFoundError, "1400 of 1400 originals"),
        ("phantom_cxr", ".", ValueError, "phantom_cxr is generated"),
        ("nope", ".", ValueError, "choose one of"),
    ],
)
def test_unusable_root_is_refused(
    tmp_path, monkeypatch, name, root, error, sentence
):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error, match=sentence):
        sources.list_files(name, root)


@pytest.mark.parametrize("name", ["rsna", "vindr_cxr", "brain_tumor"])
def test_other_counts_than_published_are_refused(tmp_path, name):
    data_support.make_data_json(tmp_path)
    listing = sources.list_files(name, tmp_path)
    sources.check_counts("folder", listing)
    with pytest.raises(ValueError, match="found 4, 1 and 2 .*the name folder"):
        sources.check_counts(name, listing)


@pytest.mark.parametrize(
    ("name", "folder"),
    [("kermany_cxr", "KermanyCXR"), ("brain_mri", "BrainMRI")],
)
def test_real_images_load(name, folder):
    root = data_support.real_folder(folder)
    listing = sources.list_files(name, root)
    sources.check_counts(name, listing)
    splits = sources.read_files(listing, _SPEC)
    train, normal, abnormal = catalog.get_entry(name).counts
    assert len(splits["train"]) == train
    np.testing.assert_array_equal(
        np.bincount(splits["test"].labels), [normal, abnormal]
    )
    # Images with contrast, and not a stack of copies.
    assert splits["train"].images.std() > 20
    assert splits["train"].images.std(0).mean() > 5
