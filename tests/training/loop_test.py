import json
import math
import os
import shutil
import signal

import jax
import numpy as np
import pytest
import training_support
from training_support import Recorder

from aeent_jax.data import near_copies
from aeent_jax.evaluation import evaluate
from aeent_jax.training import experiment, loop, restore

# Runs whose state holds more than a network.
CARRIED = {
    "controlled": {
        "entropy__controller": "target_rate",
        "entropy__target": 1.0,
        "channel__noise": "uniform",
        "channel__normalisation": "power",
    },
    "learned": {
        "entropy__estimator": "density",
        "entropy__controller": "target_distortion",
        "entropy__target": 0.1,
    },
}


@pytest.fixture(scope="module", autouse=True)
def compilation_cache(tmp_path_factory):
    yield from training_support.use_compilation_cache(
        training_support.cache_home(tmp_path_factory)
    )


@pytest.fixture(scope="module")
def make_config(tmp_path_factory):
    """The tiny configuration on one folder of images."""
    return training_support.config_maker(tmp_path_factory)


@pytest.fixture(scope="module")
def uninterrupted(make_config, tmp_path_factory):
    """A run of 12 steps: its folder, what it returned and what it said."""
    folder = tmp_path_factory.mktemp("uninterrupted") / "run"
    log = Recorder()
    results = loop.train(make_config(), folder, log=log)
    return folder, results, log


def stop_after(step, number=signal.SIGTERM):
    def after_step(done):
        if done == step:
            signal.raise_signal(number)

    return Recorder(after_step)


def interrupt(config, folder, step, number=signal.SIGTERM):
    """Trains until `step`; returns the sentence of the interruption."""
    with pytest.raises(loop.InterruptedRunError) as caught:
        loop.train(config, folder, log=stop_after(step, number))
    return str(caught.value)


def steps_on_disk(folder):
    names = [path.name for path in (folder / "checkpoints").iterdir()]
    return sorted(int(name) for name in names if name.isdigit())


def assert_same_end(folder, other, config):
    one, two = (
        training_support.final_state(path, config) for path in (folder, other)
    )
    assert one.step == two.step
    training_support.assert_bitwise(one.state, two.state)


def assert_no_duplicates(folder):
    """No metric of a step is written twice; returns the records."""
    records = training_support.read_history(folder)
    keys = [
        (record["step"], name)
        for record in records
        for name in record
        if "/" in name
    ]
    assert len(keys) == len(set(keys))
    steps = [record["step"] for record in records]
    assert steps == sorted(steps)
    return records


def test_run_leaves_everything_in_the_workdir(uninterrupted):
    folder, results, log = uninterrupted
    assert sorted(path.name for path in folder.iterdir()) == [
        "checkpoints",
        "config.json",
        "environment.json",
        "eval",
        "lock",
        "metrics.jsonl",
    ]
    assert steps_on_disk(folder) == [10, 12]  # keep=2
    found = json.loads((folder / "eval/test/metrics.json").read_text())
    assert found == json.loads(json.dumps(results))
    assert (results["step"], results["num_images"]) == (12, 11)
    assert 0 <= results["auroc"] <= 1
    assert log.shown == list(range(1, 13))
    assert log.said[0] == (
        "ae on folder {'train': 14, 'test': 11}, batch 4 over 2 cpu device(s)"
        f" (2 each), 12 steps, workdir {folder}"
    )
    assert log.warnings == []


def test_metrics_have_the_documented_keys(uninterrupted):
    folder, results, _ = uninterrupted
    *epochs, last = assert_no_duplicates(folder)
    assert [record["step"] for record in epochs] == [4, 8, 12]
    assert [record["epoch"] for record in epochs] == [1, 2, 3]
    for record in epochs:
        speed = {"train/images_per_second"}
        assert set(record) - speed == {
            "step",
            "epoch",
            "wall_seconds",
            "train/loss",
            "train/reconstruction_loss",
            "train/rate_nats",
            "train/weight",
            "train/grad_norm",
        }
    assert epochs[-1]["train/images_per_second"] > 0
    seconds = [record["wall_seconds"] for record in [*epochs, last]]
    assert seconds == sorted(seconds)
    assert (last["step"], last["epoch"]) == (12, 3)
    flat = evaluate.flat_metrics(results)
    assert {k: v for k, v in last.items() if "/" in k} == flat


def test_epoch_metrics_are_means_over_images(uninterrupted, make_config):
    folder, _, _ = uninterrupted
    run = experiment.Experiment(make_config(), folder)
    state = run.parallel.replicate(run.initial_state())
    losses, counts, feed = [], [], run.make_feed(0)
    for step in range(4):
        state, metrics = run.step_fn(
            state,
            run.parallel.replicate(run.hyper()),
            *feed.next(step, 1),
        )
        metrics = run.parallel.fetch_replicated(metrics)
        losses.append(metrics["loss"][0])
        counts.append(metrics["count"][0])
    assert counts == [4, 4, 4, 2]
    first = training_support.read_history(folder)[0]
    np.testing.assert_allclose(
        first["train/loss"],
        np.average(losses, weights=counts),
        rtol=1e-6,  # the losses are float32
    )


def test_nothing_compiles_after_the_first_epoch(make_config, tmp_path):
    compiled, at_step = [], {}

    def count(event, duration, **_):
        if event == "/jax/core/compile/backend_compile_duration":
            compiled.append(duration)

    # With all that a step may carry, as less of it compiles no more often.
    config = make_config(**CARRIED["controlled"])
    log = Recorder(lambda done: at_step.update({done: len(compiled)}))
    jax.monitoring.register_event_duration_secs_listener(count)
    try:
        loop.train(config, tmp_path / "run", log=log)
    finally:
        jax.monitoring.unregister_event_duration_listener(count)
    assert at_step[1] > 0
    # The ragged batch is step 4, the first checkpoint step 2.
    assert at_step[12] == at_step[1]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_stopped_run_goes_on_bitwise(
    make_config, uninterrupted, tmp_path, number
):
    config, folder = make_config(), tmp_path / "run"
    # In the middle of an epoch, at its end, and where a checkpoint is due.
    stops = [1, 4, 10] if number == signal.SIGTERM else [3]
    for step in stops:
        assert interrupt(config, folder, step, number) == (
            f"Stopped by {number.name} after step {step} of 12; the state is"
            " saved, and the same command goes on from it."
        )
        assert steps_on_disk(folder)[-1] == step
        assert not (folder / "eval").exists()
    log = Recorder()
    loop.train(config, folder, log=log)
    assert f"Going on from step {stops[-1]}." in log.said
    assert log.shown == list(range(stops[-1] + 1, 13))
    assert_same_end(folder, uninterrupted[0], config)
    records, straight = (
        [
            {k: v for k, v in record.items() if "second" not in k}
            for record in assert_no_duplicates(path)
        ]
        for path in (folder, uninterrupted[0])
    )
    # Also those of an epoch that was begun before the stop.
    assert records == straight
    assert [record["step"] for record in records] == [4, 8, 12, 12]


def test_signal_after_the_last_step_still_evaluates(make_config, tmp_path):
    log = stop_after(12)
    results = loop.train(make_config(), tmp_path / "run", log=log)
    assert results["step"] == 12


def test_signal_handlers_are_put_back(make_config, tmp_path):
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    interrupt(make_config(), tmp_path / "run", 1)
    after = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    assert after == before


def test_finished_run_is_only_evaluated_again(
    make_config, uninterrupted, tmp_path
):
    folder = tmp_path / "run"
    shutil.copytree(uninterrupted[0], folder)
    shutil.rmtree(folder / "eval")
    before = training_support.read_history(folder)
    log = Recorder()
    results = loop.train(make_config(), folder, log=log)
    assert "Training is complete at step 12; only evaluating." in log.said
    assert log.shown == []
    assert results["auroc"] == uninterrupted[1]["auroc"]
    assert (folder / "eval/test/metrics.json").exists()
    after = assert_no_duplicates(folder)
    assert [record["step"] for record in after] == [4, 8, 12, 12]
    assert after[:-1] == before[:-1]


def test_more_epochs_go_on_from_the_end(make_config, uninterrupted, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(uninterrupted[0], folder)
    log = Recorder()
    config = make_config(train__epochs=4)
    results = loop.train(config, folder, log=log)
    assert log.shown == [13, 14, 15, 16]
    assert results["step"] == 16
    straight = tmp_path / "straight"
    loop.train(config, straight, log=Recorder())
    assert_same_end(folder, straight, config)


def test_a_run_does_not_go_on_with_other_images(
    make_config, uninterrupted, tmp_path
):
    folder = tmp_path / "run"
    shutil.copytree(uninterrupted[0], folder)
    # Where the images are may change, what they are may not.
    root = training_support.make_class_folders(tmp_path / "others", seed=3)
    with pytest.raises(ValueError, match=r".") as caught:
        loop.train(make_config(data__root=str(root)), folder, log=Recorder())
    assert str(caught.value) == (
        f"The run in {folder} was trained on other images than those of folder"
        " now; give the folder that it began with as data.root, or another"
        " workdir."
    )


def flip_a_bit(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def truncate(path):
    os.truncate(path, path.stat().st_size // 2)


@pytest.mark.parametrize(
    "damage", [flip_a_bit, pytest.param(truncate, marks=pytest.mark.slow)]
)
def test_damaged_newest_checkpoint_is_reported_and_the_one_before_used(
    make_config, uninterrupted, tmp_path, damage
):
    folder, config = tmp_path / "run", make_config()
    interrupt(config, folder, 7)
    assert steps_on_disk(folder) == [6, 7]
    files = [p for p in (folder / "checkpoints/7").rglob("*") if p.is_file()]
    damage(max(files, key=lambda path: path.stat().st_size))
    log = Recorder()
    loop.train(config, folder, log=log)
    (warning,) = log.warnings
    assert warning.startswith(
        f"WARNING: {folder / 'checkpoints/7'} is damaged: "
    )
    assert "Going on from step 6." in log.said
    assert log.shown == list(range(7, 13))
    assert_same_end(folder, uninterrupted[0], config)
    assert_no_duplicates(folder)


def test_checkpoint_of_another_network_is_refused(
    make_config, uninterrupted, tmp_path
):
    folder = tmp_path / "run"
    folder.mkdir()
    shutil.copytree(uninterrupted[0] / "checkpoints", folder / "checkpoints")
    config = make_config(model__latent_dim=3)
    (folder / "config.json").write_text(config.to_json())
    with pytest.raises(ValueError, match=r".") as caught:
        loop.train(config, folder, log=Recorder())
    assert "is of another network: " in str(caught.value)
    assert steps_on_disk(folder) == [10, 12]


def test_another_configuration_is_refused_before_anything_is_touched(
    make_config, uninterrupted
):
    folder, _, _ = uninterrupted
    before = {p: p.stat().st_mtime_ns for p in folder.rglob("*")}
    config = make_config(train__seed=1, entropy__estimator="coding_rate")
    with pytest.raises(ValueError, match=r".") as caught:
        loop.train(config, folder, log=Recorder())
    assert str(caught.value) == (
        f"--workdir={folder} belongs to another configuration:"
        " entropy.estimator is kde_loo there and coding_rate here; train.seed"
        " is 0 there and 1 here. Give another workdir, or the same"
        " configuration to go on with that run."
    )
    assert {p: p.stat().st_mtime_ns for p in folder.rglob("*")} == before


def test_loss_that_is_not_finite_stops_and_leaves_earlier_checkpoints(
    make_config, tmp_path
):
    folder = tmp_path / "run"
    config = make_config(
        optimizer__learning_rate=1e30,
        # The first step moves nothing, so that there is something to lose.
        optimizer__warmup_steps=2,
        checkpoint__every_steps=1,
        checkpoint__keep=9,
    )
    with pytest.raises(FloatingPointError) as caught:
        loop.train(config, folder, log=Recorder())
    message = str(caught.value)
    name, _, rest = message.partition(" is ")
    assert name in ("loss", "grad_norm")
    step = int(rest.split(" at step ")[1].split(",")[0])
    assert message.endswith(
        f", so training stopped; any checkpoint in {folder / 'checkpoints'}"
        " is of an earlier step. Lower optimizer.learning_rate or set"
        " optimizer.clip_norm=1, and use a new workdir."
    )
    assert steps_on_disk(folder) == list(range(1, step))
    restored = training_support.final_state(folder, config)
    assert restored.damaged == ()
    assert restored.step == step - 1


def test_evaluation_in_the_course_of_training_changes_nothing(
    make_config, uninterrupted, tmp_path
):
    config = make_config(
        eval__every_epochs=1, log__every_epochs=2, checkpoint__every_steps=0
    )
    folder = tmp_path / "run"
    loop.train(config, folder, log=Recorder())
    records = assert_no_duplicates(folder)
    evaluated = [r["step"] for r in records if "eval/test/auroc" in r]
    # At the end of training it is the last line's.
    assert evaluated == [4, 8, 12]
    assert [r["step"] for r in records if "train/loss" in r] == [4, 8, 12]
    assert "eval/rate_nats" in records[0]
    assert steps_on_disk(folder) == [12]
    assert_same_end(folder, uninterrupted[0], config)


def test_weights_of_another_run_are_a_start(
    make_config, uninterrupted, tmp_path
):
    config = make_config(
        checkpoint__restore_from=str(uninterrupted[0]),
        # So small that nothing moves, and the end shows the start.
        optimizer__learning_rate=1e-30,
        train__epochs=1,
        # That run had none: weights are weights.
        optimizer__clip_norm=1.0,
    )
    log = Recorder()
    loop.train(config, tmp_path / "run", log=log)
    assert f"Starting from the weights of {uninterrupted[0]}." in log.said
    assert log.shown == [1, 2, 3, 4]
    found, wanted = (
        training_support.final_state(path, other)
        for path, other in (
            (tmp_path / "run", config),
            (uninterrupted[0], make_config()),
        )
    )
    assert (found.step, wanted.step) == (4, 12)
    for one, other in zip(
        *(jax.tree.leaves(r.state.params) for r in (found, wanted)), strict=True
    ):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-20)


def test_a_run_goes_on_rather_than_starting_from_other_weights(
    make_config, uninterrupted, tmp_path
):
    config = make_config(checkpoint__restore_from=str(uninterrupted[0]))
    folder = tmp_path / "run"
    interrupt(config, folder, 1)
    log = stop_after(2)
    with pytest.raises(loop.InterruptedRunError):
        loop.train(config, folder, log=log)
    assert "Going on from step 1." in log.said
    assert not any(text.startswith("Starting from") for text in log.said)


def test_weights_that_are_not_there_are_an_error(make_config, tmp_path):
    config = make_config(checkpoint__restore_from=str(tmp_path / "nothing"))
    with pytest.raises(FileNotFoundError) as caught:
        loop.train(config, tmp_path / "run", log=Recorder())
    assert str(caught.value) == (
        f"There is no checkpoint in {tmp_path / 'nothing'}; give the workdir"
        " of a run that has saved one."
    )


def test_weights_of_another_latent_size_are_refused_by_name(
    make_config, uninterrupted, tmp_path
):
    config = make_config(
        checkpoint__restore_from=str(uninterrupted[0]), model__latent_dim=3
    )
    with pytest.raises(ValueError, match=r".") as caught:
        loop.train(config, tmp_path / "run", log=Recorder())
    assert str(caught.value).startswith(
        f"The checkpoint {uninterrupted[0] / 'checkpoints' / '12'} is of"
        " another network: params/decoder/"
    )
    assert "float32[4,32] there and float32[3,32] here" in str(caught.value)


def test_normals_alone_train_and_are_scored(tmp_path):
    root = tmp_path / "images"
    training_support.write_images(root, training_support.make_images(9))
    config = training_support.make_config(
        root, tmp_path / "cache", train__epochs=1
    )
    results = loop.train(config, tmp_path / "run", log=Recorder())
    assert (results["split"], results["num_abnormal"]) == ("train", 0)
    assert not {"auroc", "pixel_ap", "baselines"} & set(results)
    assert results["rate_nats"] > 0
    assert (tmp_path / "run/eval/train/scores.csv").exists()


def test_held_out_normals_choose_the_best_checkpoint(make_config, tmp_path):
    config = make_config(
        data__validation_fraction=0.3,
        checkpoint__keep=1,
        # Steps of this length spoil the first ones.
        optimizer__learning_rate=0.3,
    )
    loop.train(config, tmp_path, log=Recorder())
    latest = restore.evaluate_workdir(tmp_path)[0]
    best = restore.evaluate_workdir(tmp_path, best=True)[0]
    assert latest["step"] == 9  # 10 images in batches of 4, three epochs
    assert {best["step"], latest["step"]} == set(steps_on_disk(tmp_path))


def test_other_scores_go_beside_the_evaluation_of_the_run(
    make_config, uninterrupted, tmp_path
):
    folder = tmp_path / "run"
    shutil.copytree(uninterrupted[0], folder)
    before = (folder / "eval/test/metrics.json").read_bytes()
    plain, surprise, length, own_sum = restore.evaluate_workdir(
        folder,
        scores=[
            "squared",
            "surprise",
            "description_length",
            "squared+0.01*surprise",  # the weight of this run
        ],
    )
    assert plain["auroc"] == uninterrupted[1]["auroc"]
    assert (folder / "eval/test/metrics.json").read_bytes() == before
    assert (folder / "eval/test/squared+0.01xsurprise/scores.csv").exists()
    # The loss of `ae` is the mean of its score map.
    means = [
        found["anomaly_score_of_normals"]["mean"]
        for found in (plain, surprise, length, own_sum)
    ]
    assert means[2] == pytest.approx(means[3], rel=1e-5)
    assert means[3] == pytest.approx(means[0] + 0.01 * means[1])
    assert "pixel_ap" in plain
    assert "pixel_ap" not in surprise
    with pytest.raises(ValueError, match="the score is 'sqared'; choose"):
        restore.evaluate_workdir(folder, scores=["squared", "sqared"])


def test_near_copies_are_left_out_of_an_evaluation_beside_that_of_the_run(
    uninterrupted, tmp_path, monkeypatch
):
    folder = tmp_path / "run"
    shutil.copytree(uninterrupted[0], folder)
    before = (folder / "eval/test/metrics.json").read_bytes()
    monkeypatch.setattr(
        near_copies, "find", lambda images, others: np.arange(len(images)) < 1
    )
    whole = uninterrupted[1]
    (rest,) = restore.evaluate_workdir(folder, deduplicate=True)
    assert rest["num_normal"] + rest["num_abnormal"] == (
        whole["num_normal"] + whole["num_abnormal"] - 1
    )
    assert rest["left_out"]
    assert rest["baselines"].keys() == whole["baselines"].keys()
    (squared,) = restore.evaluate_workdir(
        folder, scores=["squared"], deduplicate=True
    )
    assert squared["auroc"] == rest["auroc"]
    assert (folder / "eval/test/metrics.json").read_bytes() == before
    assert (folder / "eval/test/near/squared/scores.csv").exists()


@pytest.mark.parametrize(
    ("names", "scores", "error", "sentence"),
    [
        (["run", "none"], [], FileNotFoundError, "none is not the workdir"),
        (["run", "run/"], [], ValueError, "run is given twice"),
        (["run"], ["squared", ""], ValueError, "one of the scores is empty"),
        (["run"], ["sqared"], ValueError, "the score is 'sqared'; choose"),
    ],
)
def test_several_runs_are_checked_before_the_first_is_evaluated(
    uninterrupted, names, scores, error, sentence
):
    parent = uninterrupted[0].parent
    with pytest.raises(error, match=sentence):
        restore.check([f"{parent}/{name}" for name in names], scores)


def test_network_is_evaluated_again_without_training(
    make_config, uninterrupted, tmp_path
):
    folder = tmp_path / "run"
    shutil.copytree(uninterrupted[0], folder)
    shutil.rmtree(folder / "eval")
    # It was trained on more devices than there are here.
    config = json.loads((folder / "config.json").read_text())
    config["parallel"]["num_devices"] = 64
    (folder / "config.json").write_text(json.dumps(config))
    found = restore.evaluate_workdir(folder)[0]
    assert found["auroc"] == pytest.approx(uninterrupted[1]["auroc"], abs=0.02)
    assert (folder / "eval/test/metrics.json").exists()
    with pytest.raises(FileNotFoundError) as caught:
        restore.evaluate_workdir(folder, best=True)
    assert str(caught.value) == (
        f"No checkpoint in {folder / 'checkpoints'} has a criterion to be the"
        " best by; train with data.validation_fraction above 0, or take the"
        " latest."
    )


def test_rate_is_null_without_a_channel(make_config, tmp_path):
    config = make_config(
        channel__sigma=0.0, entropy__weight=0.0, train__epochs=1
    )
    results = loop.train(config, tmp_path, log=Recorder())
    assert results["rate_nats"] is None
    first, last = assert_no_duplicates(tmp_path)
    assert first["train/rate_nats"] is None
    assert last["eval/rate_nats"] is None
    assert "train/latent_entropy_nats" not in first


def test_entropy_without_a_channel_is_not_called_a_rate(make_config, tmp_path):
    config = make_config(
        channel__sigma=0.0,
        entropy__allow_unsound=True,
        entropy__bandwidth="0.5",
        train__epochs=1,
    )
    log = Recorder()
    loop.train(config, tmp_path, log=log)
    (warning,) = log.warnings
    assert "a penalty on clean latents compresses nothing" in warning
    first, _ = assert_no_duplicates(tmp_path)
    assert first["train/rate_nats"] is None
    assert math.isfinite(first["train/latent_entropy_nats"])


def test_saturated_estimator_is_warned_of_once(make_config, tmp_path):
    config = make_config(channel__sigma=1e-3, entropy__estimator="kde_kl")
    log = Recorder()
    loop.train(config, tmp_path, log=log)
    at_start, warning = log.warnings
    assert "cannot read more than log n = 1.4 nats" in at_start
    assert "kde_kl is saturated" in warning


def test_steps_of_one_call_resume_bitwise(make_config, tmp_path):
    config = make_config(train__steps_per_call=3, checkpoint__every_steps=4)
    straight, stopped = tmp_path / "straight", tmp_path / "stopped"
    log = Recorder()
    loop.train(config, straight, log=log)
    assert log.shown == [3, 4, 7, 8, 11, 12]
    interrupt(config, stopped, 7)
    loop.train(config, stopped, log=Recorder())
    assert_same_end(stopped, straight, config)


@pytest.mark.parametrize(
    "name", ["controlled", pytest.param("learned", marks=pytest.mark.slow)]
)
def test_all_that_training_carries_resumes_bitwise(
    make_config, tmp_path, monkeypatch, name
):
    training_support.add_density(monkeypatch)
    config = make_config(**CARRIED[name])
    straight, stopped = tmp_path / "straight", tmp_path / "stopped"
    loop.train(config, straight, log=Recorder())
    interrupt(config, stopped, 5)
    loop.train(config, stopped, log=Recorder())
    assert_same_end(stopped, straight, config)
    state = training_support.final_state(stopped, config).state
    # It is there, and has moved.
    assert state.ascent.log_factor != 0
    if name == "controlled":
        assert state.batch_stats["encoder"]["latent_norm"]["power"] != 1
    else:
        assert np.abs(state.estimator_params["log_scale"]).max() > 0
        assert jax.tree.leaves(state.estimator_opt_state)
    weights = [r["train/weight"] for r in assert_no_duplicates(stopped)[:3]]
    assert len(set(weights)) == 3


def test_nothing_is_carried_without_need(uninterrupted, make_config):
    state = training_support.final_state(uninterrupted[0], make_config()).state
    extra = state.estimator_params, state.estimator_opt_state
    assert jax.tree.leaves((extra, state.ascent)) == []


def test_configuration_of_an_earlier_version_is_refused(
    make_config, uninterrupted, tmp_path
):
    folder = tmp_path / "run"
    shutil.copytree(uninterrupted[0], folder)
    config = json.loads((folder / "config.json").read_text())
    del config["channel"]["noise"]
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r".") as caught:
        restore.evaluate_workdir(folder)
    assert str(caught.value) == (
        f"{folder / 'config.json'} has no channel.noise, so it is of another"
        " version; add what it lacks, with the defaults that `aeent train"
        " --help` lists."
    )
    with pytest.raises(ValueError, match=r".") as caught:
        loop.train(make_config(), folder, log=Recorder())
    assert "channel.noise is None there and gaussian here." in str(caught.value)


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (
            {"data__window": None},
            "The configuration has data.window = None, but it must be a"
            " string.",
        ),
        (
            {"train__seed": 2**31},
            "The configuration has train.seed = 2147483648, but it must be a"
            " whole number of at least 0 and at most 2147483647.",
        ),
        (
            {"entropy__warmup_fraction": 0.0},
            "The configuration has entropy.warmup_fraction = 0.0, but it must"
            " be a finite number above 0.",
        ),
        (
            {"entropy__estimator": "density", "entropy__learning_rate": 0.0},
            "The configuration has entropy.learning_rate = 0.0, but it must be"
            " a finite number above 0.",
        ),
        (
            {"channel__normalisation": "layer"},
            "The configuration has channel.normalisation = 'layer', but it must"
            " be one of none, power.",
        ),
    ],
)
def test_what_a_run_cannot_train_with_is_refused(
    make_config, monkeypatch, overrides, sentence
):
    training_support.add_density(monkeypatch)
    with pytest.raises(ValueError, match=r".") as caught:
        experiment.check_config(make_config(**overrides))
    assert str(caught.value).startswith(sentence)


def test_warmup_is_a_fraction_of_the_training(make_config):
    config = make_config(
        entropy__controller="schedule", entropy__warmup_fraction=2 / 3
    )
    made = experiment.make_step_config(config, total_steps=12)  # of 3 epochs
    assert made.control.warmup_steps == 8
