"""Training and evaluation on images that stay in their files."""

import json
import pathlib
import signal
import threading

import pytest
import training_support
from training_support import Recorder

from aeent_jax import data
from aeent_jax.data import dataset, nearest, stored
from aeent_jax.evaluation import baselines, evaluate, shortcuts
from aeent_jax.training import experiment, loop, population

# Small enough that nothing fits, and no more is needed to stream.
STREAMED = {"data__memory_budget_mb": 0}


@pytest.fixture(scope="module", autouse=True)
def compilation_cache(tmp_path_factory):
    yield from training_support.use_compilation_cache(
        training_support.cache_home(tmp_path_factory)
    )


@pytest.fixture(scope="module")
def make_config(tmp_path_factory):
    return training_support.config_maker(tmp_path_factory)


@pytest.fixture(scope="module")
def resident(make_config, tmp_path_factory):
    folder = tmp_path_factory.mktemp("resident") / "run"
    return folder, loop.train(make_config(), folder, log=Recorder())


def reading_threads():
    return [t for t in threading.enumerate() if t.name.startswith("prefetch")]


def assert_same_end(folder, other, config):
    one, two = (
        training_support.final_state(path, config) for path in (folder, other)
    )
    assert one.step == two.step
    training_support.assert_bitwise(one.state, two.state)


def without_times(results):
    return {k: v for k, v in results.items() if k != "images_per_second"}


def test_parameters_and_scores_are_those_of_resident_images(
    make_config, resident, tmp_path
):
    config = make_config(**STREAMED)
    results = loop.train(config, tmp_path / "run", log=Recorder())
    assert experiment.load_data(config).splits["train"].is_stored
    assert_same_end(resident[0], tmp_path / "run", config)
    assert without_times(results) == without_times(resident[1])
    for name in ("scores.csv", "metrics.json"):
        one, other = (
            (folder / "eval/test" / name).read_text()
            for folder in (resident[0], tmp_path / "run")
        )
        if name.endswith("json"):
            one, other = map(without_times, map(json.loads, (one, other)))
        assert one == other
    assert not reading_threads()


@pytest.mark.slow
@pytest.mark.parametrize(
    "overrides",
    [
        {"train__steps_per_call": 2},
        {"train__batch_size": 5, "parallel__num_devices": 3},
    ],
    ids=str,
)
def test_any_mapping_gives_the_same_parameters(
    make_config, tmp_path, overrides
):
    for name, added in (("resident", {}), ("streamed", STREAMED)):
        config = make_config(**overrides, **added)
        loop.train(config, tmp_path / name, log=Recorder())
    assert_same_end(tmp_path / "resident", tmp_path / "streamed", config)


@pytest.mark.slow
def test_a_stopped_run_goes_on_and_may_change_its_reading(
    make_config, resident, tmp_path
):
    def stop(done):
        if done == 5:
            signal.raise_signal(signal.SIGTERM)

    config = make_config(**STREAMED)
    with pytest.raises(loop.InterruptedRunError, match="after step 5 of 12"):
        loop.train(config, tmp_path / "run", log=Recorder(stop))
    assert not reading_threads()
    loop.train(make_config(), tmp_path / "run", log=Recorder())
    assert_same_end(resident[0], tmp_path / "run", config)


@pytest.mark.slow
def test_file_that_is_lost_meanwhile_ends_the_run_in_one_sentence(
    make_config, tmp_path
):
    config = make_config(
        **STREAMED, data__cache_dir=str(tmp_path / "cache"), train__epochs=50
    )

    def empty(done):
        if done == 1:
            for path in pathlib.Path(tmp_path / "cache").rglob("*train.array*"):
                path.write_bytes(b"")

    with pytest.raises(
        ValueError, match=r"^a record of the prepared copy .* cannot be read"
    ):
        loop.train(config, tmp_path / "run", log=Recorder(empty))
    assert not reading_threads()


def test_population_of_stored_images_is_refused(make_config, tmp_path):
    configs = [make_config(**STREAMED, train__seed=seed) for seed in (0, 1)]
    with pytest.raises(
        ValueError,
        match=r"^A population needs its 14 training images in memory, but their"
        r" 0\.0 MB are read from files; raise data\.memory_budget_mb, or train"
        r" each member by itself with --population=1\.$",
    ):
        population.train_population(configs, [tmp_path / "0", tmp_path / "1"])


@pytest.fixture
def largest_read(monkeypatch):
    """How many images were read at once, in a list that grows."""
    read, counts = stored.StoredImages.__getitem__, []

    def counted(images, rows):
        found = read(images, rows)
        counts.append(len(found))
        return found

    monkeypatch.setattr(stored.StoredImages, "__getitem__", counted)
    return counts


def test_evaluation_reads_a_batch_at_a_time(
    make_config, tmp_path, monkeypatch, largest_read
):
    monkeypatch.setattr(evaluate, "_BASELINE_IMAGES", 6)
    monkeypatch.setattr(dataset, "_BLOCK_BYTES", 3 * 16 * 16)
    monkeypatch.setattr(baselines, "_PIXELS_AT_A_TIME", 4 * 16 * 16)
    monkeypatch.setattr(nearest, "_TILE", 4)
    monkeypatch.setattr(shortcuts, "_IMAGES_AT_A_TIME", 4)
    run = experiment.Experiment(make_config(**STREAMED), tmp_path)
    variables = run.parallel.replicate(run.initial_state()).variables
    found = run.evaluator.evaluate(variables, run.dataset, 0, tmp_path)
    assert max(largest_read) == 8  # eval.batch_size
    fitted = {
        name: table.get("num_training_images")
        for name, table in found["baselines"].items()
    }
    assert fitted == {
        "mean_intensity": None,
        "nearest_image": 6,
        "mean_image": 6,
        "pca": 6,
        "shortcut": None,
    }
    assert (tmp_path / "eval/test/score_maps.npz").exists()
    # Without masks nothing needs the maps of all images.
    train_alone = data.Dataset("folder", {"train": run.dataset.splits["train"]})
    run.evaluator.evaluate(variables, train_alone, 0, tmp_path)
    assert (tmp_path / "eval/train/scores.csv").exists()
    assert not (tmp_path / "eval/train/score_maps.npz").exists()
    assert max(largest_read) == 8
