import hashlib
import pathlib
import struct
import subprocess
import sys
import zlib

import data_support
import numpy as np
import PIL.Image
import PIL.ImageOps
import pytest

from aeent_jax.data import files, gray, images

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
        "LA": _opaque(pattern[..., :2]),
        "RGB": rgb,
        "RGBA": _opaque(pattern),
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


def _opaque(pattern: np.ndarray) -> PIL.Image.Image:
    pattern = pattern.copy()
    pattern[..., -1] = 255
    return PIL.Image.fromarray(pattern)


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
    with pytest.raises(
        files.UnreadableFileError, match="0.5 to 0.5; state the window"
    ):
        _read(path)
    path = _save_wide(tmp_path / "c.tif", np.array([[np.nan]], np.float32))
    with pytest.raises(files.UnreadableFileError, match="not finite"):
        _read(path, window=(0, 1))


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


def test_digest_sees_equal_images_in_other_files(tmp_path):
    image = data_support.make_gray(0)
    image.save(tmp_path / "a.png")
    image.convert("RGB").save(tmp_path / "b.bmp")
    data_support.make_gray(1).save(tmp_path / "c.png")
    a, b, c = (
        next(images.frames(tmp_path / n)) for n in ("a.png", "b.bmp", "c.png")
    )
    assert images.digest(a) == images.digest(b) != images.digest(c)
    assert (a.mode, b.mode) == ("L", "RGB")
    assert (a.kind, b.kind) == ("png", "bmp")
    assert a.size == (24, 20)


def _turn(folder, suffix, orientation):
    """A file that viewers show as the gray image 0, stored otherwise."""
    upright = data_support.make_gray(0)
    stored = PIL.ImageOps.exif_transpose(
        _with_orientation(upright, _INVERSE[orientation])
    )
    exif = PIL.Image.Exif()
    exif[0x112] = orientation
    path = folder / f"{orientation}.{suffix}"
    stored.save(path, exif=exif, **_LOSSLESS.get(suffix, {}))
    return path, upright


def _with_orientation(image, orientation):
    image = image.copy()
    image.getexif()[0x112] = orientation
    return image


_INVERSE = {2: 2, 3: 3, 4: 4, 5: 5, 6: 8, 7: 7, 8: 6}
_LOSSLESS = {"webp": {"lossless": True}, "jpg": {"quality": 100}}


@pytest.mark.parametrize("suffix", ["jpg", "png", "tif", "webp"])
@pytest.mark.parametrize("orientation", sorted(_INVERSE))
def test_orientation_is_applied_as_viewers_do(tmp_path, suffix, orientation):
    path, upright = _turn(tmp_path, suffix, orientation)
    (shown,) = images.frames(path)
    assert shown.size == upright.size
    difference = np.asarray(shown.image.convert("L")).astype(int)
    assert np.abs(difference - np.asarray(upright)).max() <= 3
    assert "is turned by its EXIF orientation" in shown.notes


def test_wide_images_are_turned_too(tmp_path):
    values = np.arange(6, dtype=np.uint16).reshape(2, 3) * 10000
    exif = PIL.Image.Exif()
    exif[0x112] = 3
    path = tmp_path / "a.png"
    PIL.Image.fromarray(values[::-1, ::-1].copy()).save(path, exif=exif)
    (shown,) = images.frames(path)
    np.testing.assert_array_equal(
        np.asarray(shown.image), np.rint(values / 257)
    )


@pytest.mark.parametrize("mode", ["LA", "RGBA", "P", "tRNS"])
def test_transparent_pixels_are_black(tmp_path, mode):
    values = np.full((4, 4), 200, np.uint8)
    alpha = np.full((4, 4), 255, np.uint8)
    alpha[0, 0], alpha[0, 1] = 0, 51
    path = tmp_path / "a.png"
    if mode == "tRNS":
        values[0, 0] = 90
        PIL.Image.fromarray(values).save(path, transparency=90)
    elif mode == "P":
        image = PIL.Image.fromarray((alpha == 0).astype(np.uint8), "P")
        image.putpalette([200] * 6)
        image.save(path, transparency=1)
    else:
        bands = [values] * (len(mode) - 1) + [alpha]
        PIL.Image.fromarray(np.dstack(bands)).save(path)
    (shown,) = images.frames(path)
    found = np.asarray(shown.image.convert("L"))
    assert found[0, 0] == 0
    assert found[1, 1] == 200
    if mode in ("LA", "RGBA"):
        assert found[0, 1] == 200 * 51 // 255
    assert shown.notes == ("has transparent pixels, which are read as black",)


def _make_white_zero(path):
    """Changes a TIFF's photometric interpretation to WhiteIsZero."""
    content = bytearray(path.read_bytes())
    first = struct.unpack_from("<I", content, 4)[0]
    for k in range(struct.unpack_from("<H", content, first)[0]):
        entry = first + 2 + 12 * k
        if struct.unpack_from("<H", content, entry)[0] == 262:
            struct.pack_into("<H", content, entry + 8, 0)
    path.write_bytes(content)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_white_is_zero_is_inverted_at_all_depths(tmp_path, dtype):
    values = np.array([[0, 10], [100, 255]]).astype(dtype)
    scale = 1 if dtype == np.uint8 else 257
    path = tmp_path / "a.tif"
    PIL.Image.fromarray(values * dtype(scale)).save(path)
    _make_white_zero(path)
    (shown,) = images.frames(path)
    np.testing.assert_array_equal(np.asarray(shown.image), 255 - values)


def _smooth(bits, marker=0.0):
    """A soft blob of many gray levels within some bits, in 16."""
    y, x = np.mgrid[:96, :96] / 96
    blob = np.exp(-((y - 0.4) ** 2 + (x - 0.5) ** 2) / 0.2)
    values = np.rint(blob * (2**bits - 1)).astype(np.uint16)
    # Letters have many levels of their own, and some of them the brightest.
    side = round(marker * 96)
    letters = np.random.default_rng(0).integers(0, 65535, (side, side))
    values[:side, :side] = letters
    values[: side // 2, :side] = 65535
    return values


@pytest.mark.parametrize("bits", [8, 10, 12, 14])
@pytest.mark.parametrize("marker", [0.0, 0.02, 0.09])
def test_few_bits_are_noticed_despite_a_bright_marker(tmp_path, bits, marker):
    path = _save_wide(tmp_path / "a.png", _smooth(bits, marker))
    (shown,) = images.frames(path)
    assert "gray levels in the window 0,65535" in shown.problem
    assert shown.needs_window
    (windowed,) = images.frames(path, window=(0, 2**bits - 1))
    assert windowed.problem == ""


def test_levels_in_use_need_no_window(tmp_path):
    # All of 16 bits; 8 bits spread over 16; and one value of all pixels but a
    # few, of which no window would show more.
    spread = np.asarray(data_support.make_gray(0)).astype(np.uint16) * 257
    flat = np.full((96, 96), 9, np.uint16)
    flat[:3, :3] = np.arange(9).reshape(3, 3)
    for values in (_smooth(16), spread, flat):
        path = _save_wide(tmp_path / "a.png", values)
        (shown,) = images.frames(path)
        assert shown.problem == ""


@pytest.mark.parametrize("resize", images.RESIZES)
def test_to_network_and_back_fit_each_other(resize):
    image = PIL.Image.new("L", (60, 20), 100)
    image.paste(255, (45, 5, 60, 15))
    shown = images.Frame(image=image, size=image.size)
    seen = images.to_network(shown, 30, 1, resize)[..., 0]
    if resize == "pad":
        # 10 of 30 rows are the image; black above and below.
        assert not seen[:9].any()
        assert not seen[21:].any()
        np.testing.assert_array_equal(seen[11:19, :22], 100)
    back = images.from_network(seen.astype(np.float32), image.size, resize)
    assert back.shape == (20, 60)
    assert back[10, 52] > 240
    assert back[10, 20] == pytest.approx(100, abs=1)


def test_wide_images_take_little_more_memory_than_their_pixels(tmp_path):
    if not pathlib.Path("/proc/self/status").exists():
        pytest.skip("the peak of a process's memory is read from /proc")
    # The peak that getrusage gives would be the parent's, if that is larger.
    code = (
        "import sys\n"
        "from aeent_jax.data import images\n"
        "def peak():\n"
        "    lines = open('/proc/self/status').read().splitlines()\n"
        "    (line,) = [x for x in lines if x.startswith('VmHWM')]\n"
        "    return int(line.split()[1]) / 1024\n"
        "before = peak()\n"
        "images.read_image(sys.argv[1], image_size=64, channels=1)\n"
        "print(peak() - before)\n"
    )
    values = np.kron(
        np.random.default_rng(0).integers(0, 65535, (400, 400), np.uint16),
        np.ones((10, 10), np.uint16),
    )
    path = _save_wide(tmp_path / "a.png", values)
    megabytes = float(
        subprocess.run(
            [sys.executable, "-c", code, path],
            capture_output=True,
            check=True,
            text=True,
        ).stdout
    )
    # 32 MB of pixels, 16 of the 8-bit result, and strips; in float64 it would
    # be 128 MB for each of several copies.
    assert 30 < megabytes < 120


# sha256 over all images of both sets, sorted by name, read as the reference
# does, with PIL alone.
BENCHMARK = {
    "BrainTumor": (
        "3d69e67211290b0426fa6f853e05eb12b14104b7bbc01ad4cdfa65fe67248e24"
    ),
    "RSNA": (
        "459390c970604fa83fa7f3ed8c3894bd5d099322813222e7ed652ddfc743375c"
    ),
}


@pytest.mark.parametrize("name", sorted(BENCHMARK))
def test_benchmark_images_are_read_as_by_pil_alone(name):
    folder = data_support.real_folder("benchmark64") / name / "images"
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*.*")):
        pixels = images.read_image(path, image_size=64, channels=1).pixels
        digest.update(pixels.tobytes())
    assert digest.hexdigest() == BENCHMARK[name]


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.int32])
def test_large_images_are_scaled_like_small_ones(dtype):
    info = np.iinfo(np.int16 if dtype == np.int32 else dtype)
    values = np.random.default_rng(0).integers(
        info.min, info.max, (300, 400), dtype, endpoint=True
    )
    curve = gray.Linear(-500.0, 20000.0)

    def shown(part):
        parts = gray.array_strips(part)
        return np.asarray(gray.to_uint8(parts, part.shape[::-1], curve))

    small = np.vstack([shown(values[i : i + 10]) for i in range(0, 300, 10)])
    np.testing.assert_array_equal(shown(values), small)
    counted = gray.histogram(lambda: gray.array_strips(values))
    expected = np.unique(values, return_counts=True)
    np.testing.assert_array_equal(counted.values, expected[0])
    np.testing.assert_array_equal(counted.counts, expected[1])
