"""A whole run with an adversary: ganomaly, from images to a report."""

import signal

import jax
import numpy as np
import pytest
import training_support
from training_support import Recorder

from aeent_jax.results import evaluations, report
from aeent_jax.training import loop, restore


@pytest.fixture(scope="module", autouse=True)
def compilation_cache(tmp_path_factory):
    yield from training_support.use_compilation_cache(
        training_support.cache_home(tmp_path_factory)
    )


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    """With the channel, an estimator and evaluations in between."""
    folder = tmp_path_factory.mktemp("data")
    root = training_support.make_class_folders(folder / "images")
    return training_support.make_config(
        root, folder / "cache", method="ganomaly", train__epochs=2
    )


@pytest.fixture(scope="module")
def straight(config, tmp_path_factory):
    """A run of 8 steps, and what it found."""
    folder = tmp_path_factory.mktemp("straight") / "run"
    return folder, loop.train(config, folder, log=Recorder())


@pytest.mark.slow
def test_a_run_writes_scores_and_says_that_there_is_no_map(straight, tmp_path):
    folder, results = straight
    assert results["score"] == "latent_distance"
    assert 0 <= results["auroc"] <= 1
    assert "pixel_ap" not in results
    assert not results["has_score_map"]
    assert (folder / "eval/test/scores.csv").exists()
    assert not (folder / "eval/test/score_maps.npz").exists()
    # What `aeent train` and `aeent evaluate` print,
    sentence = "  no pixel metrics: the score is of whole images"
    (again,) = restore.evaluate_workdir(folder)
    assert sentence in evaluations.describe(again).splitlines()
    assert again["auroc"] == results["auroc"]
    # and what a report says below the panel.
    report.make_report([str(folder)], str(tmp_path / "report.html"))
    assert (
        "run shows the squared error: its score (latent_distance) is one number"
        " for a whole image and has no map."
    ) in (tmp_path / "report.html").read_text()


@pytest.mark.slow
def test_another_score_of_the_same_network_has_a_map(straight):
    folder, _ = straight
    squared, summed = restore.evaluate_workdir(
        folder, scores=["squared", "squared+latent_distance"]
    )
    assert squared["has_score_map"]
    assert "pixel_ap" in squared
    assert "no pixel metrics" not in evaluations.describe(squared)
    assert not summed["has_score_map"]


@pytest.mark.slow
def test_losses_and_rate_are_logged_by_name(straight):
    first, last = (
        record
        for record in training_support.read_history(straight[0])
        if "train/loss" in record
    )
    for record in (first, last):
        parts = sum(
            record[f"train/{name}_loss"]
            for name in ("reconstruction", "latent", "feature")
        )
        assert record["train/rate_nats"] > 0
        # Means of float32 numbers.
        assert record["train/loss"] == pytest.approx(
            parts + 1e-2 * record["train/rate_nats"], rel=1e-5
        )
        assert record["train/adversary_loss"] > 0
    assert (
        last["train/reconstruction_loss"] < first["train/reconstruction_loss"]
    )


@pytest.mark.slow
def test_a_stopped_run_goes_on_bitwise_with_its_adversary(
    straight, config, tmp_path
):
    def stop(done):
        if done == 5:
            signal.raise_signal(signal.SIGTERM)

    with pytest.raises(loop.InterruptedRunError):
        loop.train(config, tmp_path, log=Recorder(stop))
    loop.train(config, tmp_path, log=Recorder())
    one, other = (
        training_support.final_state(folder, config).state
        for folder in (tmp_path, straight[0])
    )
    training_support.assert_bitwise(one, other)
    # It was saved whole, and has moved.
    adversary = one.adversary
    assert jax.tree.leaves(adversary.opt_state)
    assert np.abs(adversary.batch_stats["block1_0"]["norm"]["mean"]).max() > 0
