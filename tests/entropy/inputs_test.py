import jax
import jax.numpy as jnp
import numpy as np
import pytest

from aeent_jax.entropy import inputs

Z = np.ones((4, 2), np.float32)


def resolve(queries=Z, samples=None, index=None, qmask=None, smask=None):
    return inputs.resolve(queries, samples, index, qmask, smask, min_samples=2)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"queries": Z[0]}, r"queries has shape \(2,\), .* one row to each"),
        ({"samples": Z[None]}, r"samples has shape \(1, 4, 2\), and \[rows"),
        ({"queries": Z[:, :0]}, r"queries has shape \(4, 0\)"),
        ({"samples": Z[:, :1]}, "queries have 2 dimensions and samples 1,"),
        ({"queries": Z[:1]}, "samples has 1 rows, .* at least 2: pass more"),
        ({"queries": Z * 1j}, "queries has type complex64, and real numbers"),
        ({"queries": None}, "queries is a NoneType that is no array of"),
        ({"samples": "z"}, "samples is a str that is no array of numbers"),
        ({"queries": [[1], [1, 2]]}, "queries is a list that is no array of"),
        (
            {"index": np.arange(3)},
            r"query_index is int32\[3\], and int32\[4\] is needed: give",
        ),
        (
            {"index": np.ones(4, np.float32)},
            r"query_index is float32\[4\], .*or -1 for none",
        ),
        (
            {"qmask": np.ones(4, np.float32)},
            r"query_mask is float32\[4\], and bool\[4\] is needed",
        ),
        (
            {"smask": np.ones(5, bool)},
            r"sample_mask is bool\[5\], and bool\[4\] is needed",
        ),
    ],
)
def test_bad_arguments_are_refused_with_what_is_needed(arguments, sentence):
    with pytest.raises(ValueError, match=sentence):
        resolve(**arguments)


def test_defaults_are_the_queries_their_rows_and_everything():
    found = resolve(2 * Z)
    np.testing.assert_array_equal(found.samples, 2 * Z)
    np.testing.assert_array_equal(found.query_index, np.arange(4))
    assert found.query_mask.all()
    assert found.sample_mask.all()


def test_samples_that_default_to_queries_take_their_mask():
    mask = np.array([True, False, True, True])
    np.testing.assert_array_equal(resolve(qmask=mask).sample_mask, mask)
    assert resolve(samples=Z, qmask=mask).sample_mask.all()


def test_masked_rows_are_zeroed_whatever_they_hold():
    mask = np.array([True, False, True, True])
    bad = np.where(mask[:, None], Z, np.nan)
    np.testing.assert_array_equal(
        resolve(bad, qmask=mask).queries, Z * mask[:, None]
    )


@pytest.mark.parametrize(
    ("narrow", "wide"),
    [("bfloat16", "float32"), ("float16", "float32"), ("int32", "float32")],
)
def test_narrow_types_are_cast_up(narrow, wide):
    assert resolve(jnp.asarray(Z, narrow)).queries.dtype == wide


def test_equal_numbers_are_centred_to_exactly_zero():
    # A tenth is no binary number: its mean over 40 rows rounds.
    z = jnp.full((40, 1), 0.1).at[1].set(jnp.nan)
    mask = jnp.arange(40) != 1
    centred, count = inputs.centre(jnp.where(mask[:, None], z, 0), mask)
    np.testing.assert_array_equal(centred, 0)
    assert count == 39


def test_float64_latents_that_float32_cannot_hold_are_refused():
    z = np.random.default_rng(0).normal(size=(40, 2))
    with pytest.raises(ValueError, match="float64 and lie .*: subtract their"):
        resolve(z + [0, 1e8])
    with jax.enable_x64(True):
        assert resolve(z + [0, 1e8]).queries.dtype == "float64"
    # Far from zero, or without spread, but not lost.
    for fine in (z + 1e4, np.full_like(z, 1e8)):
        assert resolve(fine).queries.dtype == "float32"


@pytest.mark.parametrize("index", [[0, 7, -3, 3], [0, -1, -1, 3]])
def test_queries_without_a_sample_of_their_own_have_the_index_minus_one(index):
    mask = np.array([True, True, True, False])
    found = resolve(samples=Z, index=np.array(index), smask=mask)
    np.testing.assert_array_equal(found.query_index, [0, -1, -1, -1])
