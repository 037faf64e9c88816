import numpy as np
import pytest

from aeent_jax.evaluation import latents


def saved(tmp_path, array):
    path = tmp_path / "z.npy"
    np.save(path, array)
    return path


@pytest.mark.parametrize("dtype", [np.float64, np.float16, np.int32, np.uint8])
def test_numbers_come_back_as_float32_about_their_mean(tmp_path, dtype):
    z = np.arange(12).reshape(4, 3).astype(dtype)
    got = latents.read(saved(tmp_path, z))
    assert got.dtype == np.float32
    np.testing.assert_array_equal(got, z - z.mean(0))


def test_latents_far_from_zero_keep_their_spread(tmp_path):
    z = np.random.default_rng(0).normal(size=(40, 3))
    got = latents.read(saved(tmp_path, z + [0.0, 1e8, -1e8]))
    # 1e8 leaves 1.5e-8 in float64; float32 would leave 8.
    np.testing.assert_allclose(got, z - z.mean(0), rtol=0, atol=1e-7)


def test_constant_columns_are_fine(tmp_path):
    got = latents.read(saved(tmp_path, np.ones((4, 3))))
    np.testing.assert_array_equal(got, 0)


@pytest.mark.parametrize(
    ("array", "sentence"),
    [
        (np.ones(4), r"shape \(4,\), and \[rows, dim\] is needed"),
        (np.ones((4, 3, 2)), r"shape \(4, 3, 2\), and \[rows, dim\]"),
        (np.ones((4, 0)), r"shape \(4, 0\), and \[rows, dim\]"),
        (np.ones((1, 3)), "has 1 rows, and at least 2 are needed"),
        (np.ones((4, 3), complex), "type complex128, and real numbers"),
        (np.ones((4, 3), bool), "type bool, and real numbers"),
        (np.full((4, 3), "a"), "type <U1, and real numbers"),
        (
            np.diag([1, np.nan, np.inf, 1]),
            "NaN or infinity in 2 of 4 rows, .*drop those rows",
        ),
        (np.full((4, 3), 1e300), "NaN or infinity in 4 of 4 rows"),
        (np.full((4, 3), None), "cannot be read as a .npy file of numbers"),
    ],
)
def test_what_cannot_be_measured_is_refused(tmp_path, array, sentence):
    path = saved(tmp_path, array)
    with pytest.raises(ValueError, match=sentence) as caught:
        latents.read(path)
    assert str(caught.value).startswith(str(path))


def test_what_is_no_array_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="nothing.npy is no file, and"):
        latents.read(tmp_path / "nothing.npy")
    with pytest.raises(FileNotFoundError, match="is no file, and latents"):
        latents.read(tmp_path)
    for name, content in (("empty.npy", b""), ("text.npy", b"1 2 3\n")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=f"{name} cannot be read as a"):
            latents.read(tmp_path / name)
    np.savez(tmp_path / "z.npz", z=np.ones((4, 3)))
    with pytest.raises(ValueError, match="z.npz is an archive of arrays, and"):
        latents.read(tmp_path / "z.npz")
