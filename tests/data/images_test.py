import hashlib
import pathlib
import zlib

import data_support
import numpy as np
import PIL.Image
import pytest

from aeent_jax.data import files, images

# sha256 of the six images below, read at 64 px in gray and in RGB. Made with
# Pillow 13.0; they change only if PIL's conversion or resampling does, and
# then so does every published number: never update them without saying so.
GOLDEN = {
    1: "f6e4ca8679677e5668f8d90edd3cb825052a5fe123d040842d44533e29f99863",
    3: "ffbba24b77d8c45c8dbd0fba9d48bd583c5fd342f32d3d4d609b25fd48a432bf",
}


def _pattern() -> np.ndarray:
    """[97, 131, 4] uint8 from integer arithmetic, the same everywhere."""
    y, x, c = np.ogrid[:97, :131, :4]
    return ((y * 7 + x * 13 + y * x // 5 + c * 61) % 256).astype(np.uint8)


def _write_modes(folder: pathlib.Path) -> list[pathlib.Path]:
    """Writes the pattern as PNG in each 8-bit mode that occurs in practice."""
    pattern = _pattern()
    rgb = PIL.Image.fromarray(pattern[..., :3])
    palette = PIL.Image.fromarray(pattern[..., 0], "P")
    palette.putpalette([(5 * i) % 256 for i in range(768)])
    made = {
        "L": PIL.Image.fromarray(pattern[..., 0]),
        "LA": PIL.Image.fromarray(pattern[..., :2]),
        "RGB": rgb,
        "RGBA": PIL.Image.fromarray(pattern),
        "P": palette,
        "1": PIL.Image.fromarray(pattern[..., 0] > 127),
    }
    paths = []
    for mode, image in made.items():
        assert image.mode == mode
        paths.append(folder / f"{mode}.png")
        image.save(paths[-1])
        with PIL.Image.open(paths[-1]) as saved:
            assert saved.mode == mode
    return paths


def _read(path, channels=1, window=None, image_size=64):
    return images.read_image(
        path, image_size=image_size, channels=channels, window=window
    ).pixels


@pytest.mark.parametrize(("channels", "mode"), [(1, "L"), (3, "RGB")])
def test_reads_as_the_reference_does(tmp_path, channels, mode):
    for path in _write_modes(tmp_path):
        with PIL.Image.open(path) as image:
            expected = image.convert(mode).resize(
                (64, 64), PIL.Image.Resampling.BILINEAR
            )
        expected = np.array(expected).reshape(64, 64, channels)
        np.testing.assert_array_equal(_read(path, channels), expected)


@pytest.mark.parametrize("channels", [1, 3])
def test_matches_golden_hash(tmp_path, channels):
    digest = hashlib.sha256()
    for path in _write_modes(tmp_path):
        digest.update(_read(path, channels).tobytes())
    assert digest.hexdigest() == GOLDEN[channels]


def test_converts_before_it_resizes(tmp_path):
    path = tmp_path / "palette.png"
    image = PIL.Image.fromarray(np.arange(4, dtype=np.uint8).reshape(2, 2), "P")
    image.putpalette([0, 0, 0, 200, 200, 200, 100, 100, 100, 60, 60, 60])
    image.save(path)
    # The mean of the grays; resized indices 0 to 3 would give index 2, 100.
    assert _read(path, image_size=1).item() == (0 + 200 + 100 + 60) / 4


def _save_wide(path, values):
    PIL.Image.fromarray(values).save(path)
    return path


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_16_bit_is_scaled_not_truncated(tmp_path, suffix):
    values = np.array([[0, 257], [32896, 65535]], np.uint16)
    path = _save_wide(tmp_path / f"wide.{suffix}", values)
    np.testing.assert_array_equal(
        _read(path, image_size=2)[..., 0], [[0, 1], [128, 255]]
    )


def test_16_bit_rgb_is_three_equal_channels(tmp_path):
    values = np.array([[0, 65535]], np.uint16)
    path = _save_wide(tmp_path / "wide.png", values)
    pixels = _read(path, 3, image_size=2)
    np.testing.assert_array_equal(pixels[..., 0], pixels[..., 2])


def test_window_is_linear_and_clips(tmp_path):
    values = np.array([[900, 1000], [2000, 9000]], np.uint16)
    path = _save_wide(tmp_path / "wide.png", values)
    pixels = _read(path, window=(1000, 3000), image_size=2)[..., 0]
    np.testing.assert_array_equal(pixels, [[0, 0], [128, 255]])


def test_window_reads_signed_and_floating_point_values(tmp_path):
    signed = np.array([[-1000, 0], [500, 1000]], np.int32)
    path = _save_wide(tmp_path / "signed.tif", signed)
    pixels = _read(path, window=(-1000, 1000), image_size=2)[..., 0]
    np.testing.assert_array_equal(pixels, [[0, 128], [191, 255]])
    path = _save_wide(tmp_path / "float.tif", signed.astype(np.float32) / 1000)
    pixels = _read(path, window=(-1, 1), image_size=2)[..., 0]
    np.testing.assert_array_equal(pixels, [[0, 128], [191, 255]])


def test_window_leaves_8_bit_images_alone(tmp_path):
    path = data_support.write_gray(tmp_path / "a.png", 0)
    np.testing.assert_array_equal(_read(path), _read(path, window=(0, 9)))


def test_wide_values_beyond_the_default_window_are_refused(tmp_path):
    path = _save_wide(tmp_path / "a.tif", np.array([[-5, 70000]], np.int32))
    with pytest.raises(files.UnreadableFileError, match="-5 to 70000, outside"):
        _read(path)
    path = _save_wide(tmp_path / "b.tif", np.array([[0.5]], np.float32))
    with pytest.raises(files.UnreadableFileError, match="state their window"):
        _read(path)
    path = _save_wide(tmp_path / "c.tif", np.array([[np.nan]], np.float32))
    with pytest.raises(files.UnreadableFileError, match="not finite"):
        _read(path, window=(0, 1))


def test_12_bit_data_in_16_bit_files_needs_a_window():
    sentence = "no value above 4000.* state the window .* 0,4000"
    with pytest.raises(ValueError, match=sentence):
        images.check_window([None, 12.0, 4000.0], None)
    images.check_window([None, 12.0, 4100.0], None)
    images.check_window([12.0], (0, 4095))
    images.check_window([None], None)


def _png_chunk(kind: bytes, body: bytes) -> bytes:
    size = len(body).to_bytes(4, "big")
    crc = zlib.crc32(kind + body).to_bytes(4, "big")
    return size + kind + body + crc


def _png(width, height, depth, color, body=b"") -> bytes:
    """A PNG file whose header may promise what the body does not hold."""
    header = width.to_bytes(4, "big") + height.to_bytes(4, "big")
    header += bytes([depth, color, 0, 0, 0])
    return (
        b"\x89PNG\r\n\x1a\n"
        + _png_chunk(b"IHDR", header)
        + _png_chunk(b"IDAT", zlib.compress(body))
        + _png_chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("side", [8193, 20000])
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_huge_image_is_refused_before_it_is_decoded(tmp_path, side):
    path = tmp_path / "bomb.png"
    path.write_bytes(_png(side, side, 8, 0))
    with pytest.raises(
        files.UnreadableFileError, match="bomb.png: has .* 67108864 pixels"
    ):
        _read(path)


def test_16_bit_color_is_refused(tmp_path):
    path = tmp_path / "deep.png"
    path.write_bytes(_png(1, 1, 16, 2, bytes(7)))
    with pytest.raises(files.UnreadableFileError, match="channels of 16 bits"):
        _read(path)


def test_several_frames_are_refused(tmp_path):
    path = tmp_path / "film.gif"
    frames = [data_support.make_gray(seed) for seed in range(3)]
    frames[0].save(path, save_all=True, append_images=frames[1:])
    with pytest.raises(files.UnreadableFileError, match="several frames"):
        _read(path)


@pytest.mark.parametrize("suffix", ["gif", "tif", "webp", "jpg", "bmp", "pgm"])
def test_other_formats_are_read(tmp_path, suffix):
    path = data_support.write_gray(tmp_path / f"a.{suffix}", 0)
    with PIL.Image.open(path) as image:
        expected = image.convert("L").resize(
            (64, 64), PIL.Image.Resampling.BILINEAR
        )
    np.testing.assert_array_equal(_read(path)[..., 0], np.array(expected))


def test_bad_files_are_named(tmp_path):
    good = data_support.write_gray(tmp_path / "good.png", 0)
    cut = tmp_path / "cut.png"
    cut.write_bytes(good.read_bytes()[:200])
    text = tmp_path / "text.png"
    text.write_text("no image")
    empty = tmp_path / "empty.png"
    empty.touch()
    for path, reason in (
        (cut, "truncated"),
        (text, "not an image in one of BMP"),
        (empty, "not an image in one of BMP"),
        (tmp_path / "gone.png", "does not exist"),
        (tmp_path, "is no regular file"),
    ):
        with pytest.raises(files.UnreadableFileError) as caught:
            _read(path)
        assert str(caught.value).startswith(f"{path}: ")
        assert reason in str(caught.value)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_damaged_files_raise_nothing_else(tmp_path):
    rng = np.random.default_rng(0)
    path = tmp_path / "damaged"
    outcomes = set()
    for suffix in ("png", "jpg", "bmp", "gif", "tif"):
        source = data_support.write_gray(tmp_path / f"a.{suffix}", 0)
        whole = source.read_bytes()
        for _ in range(40):
            content = bytearray(whole[: rng.integers(len(whole) // 2, None)])
            for position in rng.integers(0, min(len(content), 300), 4):
                content[position] = rng.integers(256)
            path.write_bytes(content)
            try:
                _read(path)
                outcomes.add("read")
            except files.UnreadableFileError:
                outcomes.add("refused")
    assert outcomes == {"read", "refused"}


def test_mask_is_nearest_and_nonzero(tmp_path):
    values = np.zeros((97, 131), np.uint8)
    values[20:60, 30:90] = 1
    path = tmp_path / "mask.png"
    PIL.Image.fromarray(values).save(path)
    with PIL.Image.open(path) as image:
        expected = image.resize((64, 64), PIL.Image.Resampling.NEAREST)
    mask = images.read_mask(path, image_size=64)
    assert mask.dtype == bool
    np.testing.assert_array_equal(mask, np.array(expected) > 0)


@pytest.mark.parametrize(
    ("dtype", "value"),
    [(np.uint16, 1), (np.uint16, 65535), (np.int32, -1), (np.float32, 0.5)],
)
def test_wide_mask_keeps_small_values(tmp_path, dtype, value):
    path = _save_wide(tmp_path / "mask.tif", np.full((8, 8), value, dtype))
    assert images.read_mask(path, image_size=4).all()


def test_inspection_sees_equal_images_in_other_files(tmp_path):
    image = data_support.make_gray(0)
    image.save(tmp_path / "a.png")
    image.convert("RGB").save(tmp_path / "b.bmp")
    data_support.make_gray(1).save(tmp_path / "c.png")
    a, b, c = (
        images.inspect(tmp_path / n) for n in ("a.png", "b.bmp", "c.png")
    )
    assert a.digest == b.digest != c.digest
    assert (a.mode, b.mode) == ("L", "RGB")
    assert a.size == (24, 20)
