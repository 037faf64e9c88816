import data_support
import numpy as np
import pytest

from aeent_jax.data import check, files, images, layouts, sources

nibabel = pytest.importorskip("nibabel")


def _volume(shape=(6, 8, 4), dtype=np.int16):
    """Values that grow to the right, anterior and superior."""
    r, a, s = np.ogrid[: shape[0], : shape[1], : shape[2]]
    return (1 + r + 10 * a + 100 * s).astype(dtype)


def _read(path, window=None):
    return list(images.frames(path, window=window))


@pytest.mark.parametrize("suffix", ["nii", "nii.gz"])
def test_slices_are_axial_and_look_like_dicom(tmp_path, suffix):
    path = data_support.write_nifti(tmp_path / f"a.{suffix}", _volume())
    shown = _read(path, window=(0, 255))
    assert [f.name for f in shown] == images.names(path)
    assert images.names(path) == ["0000", "0001", "0002", "0003"]
    first = np.asarray(shown[0].image)
    assert first.shape == (8, 6)
    # The patient's right is on the left, and anterior at the top.
    assert first[0, 0] == 1 + 5 + 70
    assert first[-1, -1] == 1
    assert {f.volume for f in shown} == {shown[0].volume}


@pytest.mark.parametrize("axes", ["LPS", "PIR", "SAR", "ASL", "RAS"])
def test_any_orientation_of_the_file_gives_the_same_slices(tmp_path, axes):
    image = nibabel.Nifti1Image(_volume(), np.eye(4))
    source = nibabel.orientations.io_orientation(image.affine)
    target = nibabel.orientations.axcodes2ornt(axes)
    turned = image.as_reoriented(
        nibabel.orientations.ornt_transform(source, target)
    )
    nibabel.save(turned, tmp_path / "turned.nii")
    data_support.write_nifti(tmp_path / "plain.nii", _volume())
    for a, b in zip(
        _read(tmp_path / "plain.nii", (0, 400)),
        _read(tmp_path / "turned.nii", (0, 400)),
        strict=True,
    ):
        np.testing.assert_array_equal(np.asarray(a.image), np.asarray(b.image))


def test_window_is_one_of_the_volume(tmp_path):
    rng = np.random.default_rng(0)
    values = rng.integers(0, 1000, (40, 40, 5)).astype(np.int16)
    values[3, 3, 2] = 32000
    path = data_support.write_nifti(tmp_path / "a.nii.gz", values)
    shown = _read(path)
    assert len({f.window for f in shown}) == 1
    low, high = shown[0].window
    assert 0 <= low < 10
    assert 990 < high <= 1000
    assert shown[0].window_source == "volume"
    assert not shown[0].problem


def test_window_of_the_header_is_in_rescaled_units(tmp_path):
    path = data_support.write_nifti(
        tmp_path / "a.nii",
        _volume(),
        scl_slope=2.0,
        scl_inter=-10.0,
        cal_min=0.0,
        cal_max=510.0,
    )
    shown = _read(path)
    stored = np.asarray(nibabel.load(path).dataobj.get_unscaled())
    values = stored[:, :, 1] * 2.0 - 10
    expected = np.rint(np.clip(values / 510, 0, 1) * 255).T[::-1, ::-1]
    np.testing.assert_array_equal(np.asarray(shown[1].image), expected)
    assert shown[0].window_source == "file"


def test_empty_slices_are_left_out(tmp_path):
    values = _volume((9, 9, 6))
    values[:, :, [0, 4]] = 0
    path = data_support.write_nifti(tmp_path / "train/normal/a.nii", values)
    assert [f.index for f in _read(path)] == [1, 2, 3, 5]
    listing = layouts.read_listing(tmp_path)
    splits = sources.read_files(listing, sources.Spec(image_size=9))
    assert splits["train"].ids == tuple(
        f"train/normal/a.nii#{k:04d}" for k in (1, 2, 3, 5)
    )
    shown = np.asarray(_read(path)[2].image)
    np.testing.assert_array_equal(splits["train"].images[2, ..., 0], shown)


def test_each_volume_of_four_dimensions_counts(tmp_path):
    values = np.stack([_volume(), 3 * _volume()], axis=-1)
    path = data_support.write_nifti(tmp_path / "a.nii.gz", values)
    shown = _read(path)
    assert [f.name for f in shown[:4:3]] == ["v0000s0000", "v0000s0003"]
    assert shown[4].name == "v0001s0000"
    assert len({f.volume for f in shown}) == 2
    assert len({f.window for f in shown}) == 2
    assert len({f.group for f in shown}) == 1


def test_other_contents_are_read(tmp_path):
    path = data_support.write_nifti(tmp_path / "flat.nii", _volume()[:, :, 0])
    assert len(_read(path)) == 1
    colors = np.zeros((4, 5, 2), [(c, "u1") for c in "RGB"])
    colors["R"][1:] = 200
    path = data_support.write_nifti(tmp_path / "rgb.nii", colors)
    assert _read(path)[0].image.getpixel((0, 0)) == (200, 0, 0)
    holes = _volume().astype(np.float32)
    holes[0] = np.nan
    path = data_support.write_nifti(tmp_path / "nan.nii", holes)
    assert not np.asarray(_read(path)[0].image)[:, -1].any()


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        (np.zeros((3, 3, 2), np.int16), "empty slices alone"),
        (np.ones((3, 3, 2), np.complex64), "complex values"),
        (np.ones((2, 2, 2, 2, 2), np.int16), "5 dimensions"),
    ],
)
def test_other_files_are_refused(tmp_path, values, reason):
    path = data_support.write_nifti(tmp_path / "a.nii", values)
    with pytest.raises(files.UnreadableFileError, match=reason):
        _read(path)


@pytest.mark.parametrize("suffix", ["nii", "nii.gz"])
def test_cut_and_false_files_are_refused(tmp_path, suffix):
    path = data_support.write_nifti(tmp_path / f"a.{suffix}", _volume())
    whole = path.read_bytes()
    for content in (b"", b"no image", whole[:200], whole[:-60]):
        path.write_bytes(content)
        with pytest.raises(files.UnreadableFileError, match=f"^{path}: "):
            _read(path)


def test_huge_claims_are_refused_before_reading(tmp_path):
    path = data_support.write_nifti(tmp_path / "a.nii", _volume())
    content = bytearray(path.read_bytes())
    for dimensions, reason in (
        ((3, 30000, 30000, 30000, 1), "pixels allowed"),
        ((3, 6, 8, 32000, 1), "cut off"),
        ((3, 0, 8, 4, 1), "no pixels|no readable"),
    ):
        content[40:50] = np.array(dimensions, "<i2").tobytes()
        path.write_bytes(content)
        with pytest.raises(files.UnreadableFileError, match=reason):
            images.names(path)


def _with_masks(root):
    normal = {
        "train/normal/a": _volume() % 7,
        "test/normal/b": _volume() % 5,
    }
    for name, values in normal.items():
        data_support.write_nifti(root / f"{name}.nii.gz", values)
    data_support.write_nifti(root / "test/abnormal/c.nii.gz", _volume() + 2)
    mask = np.zeros((6, 8, 4), np.uint8)
    mask[1:3, 2:6, 1] = 1
    data_support.write_nifti(root / "test/masks/c.nii.gz", mask)
    return mask


def test_mask_volume_marks_slices_and_labels_them(tmp_path):
    mask = _with_masks(tmp_path)
    listing = layouts.read_listing(tmp_path)
    test = sources.read_files(listing, sources.Spec(image_size=8))["test"]
    assert test.ids[3:5] == (
        "test/abnormal/c.nii.gz#0003",
        "test/normal/b.nii.gz#0000",
    )
    np.testing.assert_array_equal(test.labels, [0, 1, 0, 0, 0, 0, 0, 0])
    np.testing.assert_array_equal(
        test.masks.any(axis=(1, 2)), test.labels.astype(bool)
    )
    assert test.masks[1].mean() == pytest.approx(mask[:, :, 1].mean(), abs=0.1)
    report = check.check("folder", str(tmp_path))
    assert report.problems == ()
    assert report.counts["test", 1] == 1


def test_mask_of_other_values_is_refused(tmp_path):
    mask = _with_masks(tmp_path)
    mask[4, 4, 1] = 2
    data_support.write_nifti(tmp_path / "test/masks/c.nii.gz", mask)
    listing = layouts.read_listing(tmp_path)
    with pytest.raises(ValueError, match=r"3 values \(0, 1, 2\)"):
        sources.read_files(listing, sources.Spec(image_size=8))


_CLINICAL = {
    "anatomical.nii": (25, 148.60),
    "example4d_epi.nii.gz": (48, 29.62),
    "example_nifti2.nii.gz": (24, 92.63),
    "someones_anatomy.nii.gz": (56, 152.67),
}


@pytest.mark.parametrize("name", sorted(_CLINICAL))
def test_real_volumes_are_read(name):
    shown = _read(data_support.real_folder("clinical") / "nifti" / name)
    count, expected = _CLINICAL[name]
    assert len(shown) == count
    middle = np.asarray(shown[count // 2].image)
    assert middle.mean() == pytest.approx(expected, abs=0.01)
    assert not any(f.problem for f in shown)
