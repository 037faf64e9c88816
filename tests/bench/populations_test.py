"""Populations timed beside a run alone."""

import pytest
import training_support

from aeent_jax.bench import populations
from aeent_jax.cli import bench as bench_cli


@pytest.fixture(autouse=True, scope="module")
def compilation_cache(tmp_path_factory):
    yield from training_support.use_compilation_cache(
        training_support.cache_home(tmp_path_factory)
    )


@pytest.mark.slow
def test_speeds_are_of_all_members_together(tmp_path):
    config = training_support.make_config(tmp_path, tmp_path / "cache")
    lines = []
    result = populations.measure(
        config, [2], steps=1, most_seconds=1.0, say=lines.append
    )
    found = result["populations"]
    assert list(found) == ["alone", "2"]
    assert found["alone"]["times_alone"] == 1
    assert found["2"]["times_alone"] == pytest.approx(
        found["2"]["images_per_second"] / found["alone"]["images_per_second"]
    )
    assert all(row["images_per_second"] > 0 for row in found.values())


def test_table_has_a_row_a_population():
    result = {
        "machine": {
            "device": "cpu",
            "processor": "Fast",
            "cores": 2,
            "cores_of_others": 1.4,
        },
        "populations": {
            "alone": {"images_per_second": 500.4, "times_alone": 1.0},
            "8": {"images_per_second": 610.0, "times_alone": 1.219},
        },
    }
    lines = populations.format_populations(result).splitlines()
    assert lines[0] == "cpu, one device; Fast, 2 core(s)"
    assert lines[-4:] == [
        "| alone | 500 | 1.00 |",
        "| 8 | 610 | 1.22 |",
        "",
        "Other work kept 1.4 cores busy meanwhile.",
    ]


@pytest.mark.parametrize("members", ["0", "x", "2,-1", ""])
def test_members_are_positive_numbers(members):
    with pytest.raises(ValueError, match="members=.*whole numbers of at least"):
        bench_cli.parse_numbers("members", members.split(","), "1,2,8")


def test_words_that_are_no_numbers_are_refused_by_their_flag():
    assert bench_cli.parse_numbers("sizes", ["16", "8"], "1024") == [16, 8]
    with pytest.raises(
        ValueError, match=r"--sizes=1k,2 was found, .* --sizes=1"
    ):
        bench_cli.parse_numbers("sizes", ["1k", "2"], "1024")
    with pytest.raises(ValueError, match="--dims= was found"):
        bench_cli.parse_numbers("dims", [], "16,64")


def test_less_than_one_step_is_refused(tmp_path):
    config = training_support.make_config(tmp_path, tmp_path / "cache")
    with pytest.raises(ValueError, match="--steps is 0, but must be at least"):
        populations.measure(
            config, [2], steps=0, most_seconds=1.0, say=lambda line: None
        )
