import json
import resource

import numpy as np
import pytest
import training_support

from aeent_jax.bench import machine, reading
from aeent_jax.cli import bench as bench_cli


@pytest.fixture(scope="module", autouse=True)
def compilation_cache(tmp_path_factory):
    yield from training_support.use_compilation_cache(
        tmp_path_factory.mktemp("xla")
    )


@pytest.fixture
def config(tmp_path):
    return training_support.make_config(tmp_path, tmp_path / "cache")


def _result(peak):
    entry = {
        "startup_seconds": {"data": 1.0, "first step": 2.5},
        "images_per_second": 400.0,
        "peak_memory_bytes": peak,
        "rounds": [400.0],
    }
    return {
        "environment": {"cores": 2, "processor": "A processor"},
        "size": {
            "images": 200_000,
            "image_bytes": 819_200_000,
            "image_size": 64,
            "channels": 1,
            "batch_size": 64,
            "steps_per_round": 6,
        },
        "entries": {"memory": entry, "files": entry},
        "files_over_memory": {"median": 0.98, "low": 0.95, "high": 1.014},
        "read_images_per_second": {"1": 20000.0, "2": 31000.0},
    }


def test_table_shows_speed_memory_and_start():
    lines = reading.format_reading(_result(2_500_000_000)).splitlines()
    assert lines[0] == (
        "200000 images of 64 px and 1 channel(s), 819 MB; batch 64"
    )
    assert "| files | 400 | 2500 | 3.5 |" in lines
    assert lines[-2:] == [
        "Files over memory: 0.98 times (0.95-1.01) in 9 rounds of 6 steps.",
        "Reading alone, images/s: 20000 by 1 thread(s), 31000 by 2 thread(s).",
    ]


def test_table_says_nothing_of_memory_that_is_not_told():
    assert "| files | 400 | - | 3.5 |" in reading.format_reading(_result(None))


def test_drawn_images_differ_and_are_the_same_again(config, tmp_path):
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        reading.write(tmp_path / name, config, 5)
    one, other = (
        reading.load(tmp_path / name, config, budget)
        for name, budget in (("one", np.inf), ("other", 0.0))
    )
    assert one.fingerprint == other.fingerprint
    images = one.splits["train"].images
    assert images.shape == (5, 16, 16, 1)
    assert len({image.tobytes() for image in images}) == 5


def test_peak_memory_is_what_the_system_counts():
    found = machine.peak_memory()
    if found is None:
        pytest.skip("this system does not tell")
    counted = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # The two are read one after the other, and counted per thread.
    np.testing.assert_allclose(found, counted, rtol=0.05)


def test_peak_memory_of_no_process_is_not_told():
    assert machine.peak_memory(2**30) is None


def test_refuses_fewer_images_than_a_batch(config):
    with pytest.raises(
        ValueError,
        match=r"^--steps is 6 and --images 3; give at least 1 step and the 4"
        r" images of a batch\.$",
    ):
        reading.measure(config, 3, 6, say=print)


@pytest.mark.slow
def test_measures_and_prints(config, monkeypatch):
    said = []
    result = reading.measure(
        config, 22, 3, say=said.append, own_processes=False
    )
    assert json.loads(json.dumps(result)) == result
    assert set(result["entries"]) == {"memory", "files"}
    for entry in result["entries"].values():
        assert len(entry["rounds"]) == 9
        assert entry["images_per_second"] > 0
        assert entry["peak_memory_bytes"] is None  # Threads have none.
    assert result["size"]["image_bytes"] == 22 * 16 * 16
    assert "Files over memory" in reading.format_reading(result)
    assert set(bench_cli._BENCHES) == {"train", "entropy", "sweep", "data"}
