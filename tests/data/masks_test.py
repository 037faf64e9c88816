import numpy as np
import PIL.Image
import pytest

from aeent_jax.data import files, masks


def _mask(shape=(40, 60)):
    values = np.zeros(shape, np.uint8)
    values[10:20, 15:35] = 255
    return values


def _save(path, image, **kwargs):
    if isinstance(image, np.ndarray):
        image = PIL.Image.fromarray(image)
    image.save(path, **kwargs)
    return path


def _palette(indices, colors):
    image = PIL.Image.fromarray(indices, "P")
    image.putpalette([c for color in colors for c in color])
    return image


def test_mask_is_nearest_and_nonzero(tmp_path):
    values = np.zeros((97, 131), np.uint8)
    values[20:60, 30:90] = 1
    path = _save(tmp_path / "mask.png", values)
    with PIL.Image.open(path) as image:
        expected = image.resize((64, 64), PIL.Image.Resampling.NEAREST)
    mask = masks.to_network(masks.read(path), 64, "stretch")
    assert mask.dtype == bool
    np.testing.assert_array_equal(mask, np.array(expected) > 0)


@pytest.mark.parametrize(
    ("dtype", "value"),
    [(np.uint16, 1), (np.uint16, 65535), (np.int32, -1), (np.float32, 0.5)],
)
def test_wide_mask_keeps_small_values(tmp_path, dtype, value):
    values = (_mask() > 0) * dtype(value)
    path = _save(tmp_path / "mask.tif", values.astype(dtype))
    np.testing.assert_array_equal(masks.read(path), _mask() > 0)


@pytest.mark.parametrize(
    "color", [(255, 255, 255), (128, 0, 0), (0, 0, 1), (255, 0, 255)]
)
@pytest.mark.parametrize("mode", ["RGB", "P", "RGBA"])
def test_one_color_besides_black_is_a_mask(tmp_path, color, mode):
    image = _palette((_mask() > 0).astype(np.uint8), [(0, 0, 0), color])
    path = _save(tmp_path / "mask.png", image.convert(mode))
    np.testing.assert_array_equal(masks.read(path), _mask() > 0)


def test_empty_and_whole_masks_are_masks(tmp_path):
    for value in (0, 7):
        path = _save(tmp_path / "a.png", np.full((9, 9), value, np.uint8))
        assert masks.read(path).all() == bool(value)


def _void():
    values = _mask()
    values[8:10, 15:35] = 128
    return values


def _smooth(path):
    image = PIL.Image.fromarray(_mask()).resize((90, 60))
    return _save(path, image)


_LABELS = _mask() // 255 + (np.arange(60) < 20).astype(np.uint8) * 2
_BROKEN = {
    "jpeg": (
        lambda p: _save(p.with_suffix(".jpg"), _mask(), quality=75),
        "values .*JPEG changes the values at edges",
    ),
    "void": (lambda p: _save(p, _void()), r"3 values \(0, 128, 255\)"),
    "labels": (lambda p: _save(p, _LABELS), r"4 values \(0, 1, 2, 3\)"),
    "smooth": (_smooth, "values .*two are needed"),
    "no black": (
        lambda p: _save(p, _mask() // 255 + 1),
        "values 1, 2, and one of two must be 0",
    ),
    "inverted": (lambda p: _save(p, 255 - _mask()), "seems to be inverted"),
    "inverted at the border": (
        lambda p: _save(p, np.roll(255 - _mask(), -10, axis=0)),
        "92% of its image .* seems to be inverted",
    ),
    "1 bit, inverted": (
        lambda p: _save(p, PIL.Image.fromarray(_mask() == 0)),
        "seems to be inverted",
    ),
    "alpha": (
        lambda p: _save(
            p, np.dstack([np.full_like(_mask(), 255)] * 3 + [_mask()])
        ),
        "transparency, where its shape seems to be",
    ),
    "gray alpha": (
        lambda p: _save(p, np.dstack([_mask(), 255 - _mask()])),
        "channel of transparency",
    ),
    "palette of labels": (
        lambda p: _save(
            p, _palette(_LABELS, [(0, 0, 0), (9, 0, 0), (0, 9, 0), (0, 0, 9)])
        ),
        r"4 values \(0, #000009|4 values \(0, 9",
    ),
    "palette of one color": (
        lambda p: _save(
            p, _palette((_mask() > 0).astype(np.uint8), [(0, 0, 0)] * 2)
        ),
        "2 labels whose palette shows 1 colors",
    ),
    "not finite": (
        lambda p: _save(
            p.with_suffix(".tif"),
            np.where(_mask(), np.nan, 0).astype(np.float32),
        ),
        "not finite",
    ),
}


@pytest.mark.parametrize("kind", _BROKEN)
def test_what_is_no_mask_is_named(tmp_path, kind):
    make, reason = _BROKEN[kind]
    path = make(tmp_path / "mask.png")
    with pytest.raises(files.UnreadableFileError, match=reason) as caught:
        masks.read(path)
    assert str(caught.value).startswith(f"{path}: ")
    if kind != "not finite":
        assert masks.read(path, strict=False).any() == (
            kind != "palette of one color"
        )


def test_mask_is_turned_like_its_image(tmp_path):
    exif = PIL.Image.Exif()
    exif[0x112] = 3
    path = _save(tmp_path / "a.png", np.rot90(_mask(), 2).copy(), exif=exif)
    np.testing.assert_array_equal(masks.read(path), _mask() > 0)


def test_padded_mask_lies_on_its_padded_image(tmp_path):
    path = _save(tmp_path / "a.png", _mask())
    padded = masks.to_network(masks.read(path), 60, "pad")
    expected = np.zeros((60, 60), bool)
    expected[20:30, 15:35] = True
    np.testing.assert_array_equal(padded, expected)


def test_mask_of_another_shape_is_refused(tmp_path):
    path = _save(tmp_path / "a.png", _mask())
    with pytest.raises(files.UnreadableFileError, match="another shape"):
        masks.read(path, like=(60, 60))
    masks.read(path, like=(120, 81))
