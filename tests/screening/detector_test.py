"""Detectors of runs, of files and of arrays."""

import csv
import dataclasses

import numpy as np
import PIL.Image
import pytest
import screening_support
import training_support

from aeent_jax import screening
from aeent_jax.evaluation import conformal
from aeent_jax.screening import archive
from aeent_jax.screening import calibration as calibration_lib
from aeent_jax.screening import detector as detector_lib
from aeent_jax.training import loop, restore


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return screening_support.train(tmp_path_factory)


@pytest.fixture
def detector(run):
    return screening_support.load(run)


def new_images(count=5):
    return training_support.make_images(count, seed=7)[..., 0]


def test_a_run_calibrates_with_the_normals_that_were_held_out(run, detector):
    with (run / "eval/calibration/scores.csv").open() as file:
        scores = [float(r["anomaly_score"]) for r in csv.DictReader(file)]
    assert len(scores) == 19
    np.testing.assert_allclose(detector.calibration.scores, scores, rtol=1e-6)


def test_p_values_are_ranks_among_the_calibration_normals(detector):
    images = np.concatenate([new_images(), screening_support.abnormal(3)])
    expected = conformal.p_values(
        detector.score(images), detector.calibration.scores
    )
    np.testing.assert_array_equal(detector.p_values(images), expected)
    np.testing.assert_array_equal(expected[-3:], 1 / 20)


def test_a_file_gives_the_scores_of_its_run(detector, tmp_path):
    detector.save(tmp_path / "deep" / "model.aeent")
    loaded = screening.Detector.load(tmp_path / "deep" / "model.aeent")
    images = new_images()
    np.testing.assert_allclose(
        loaded.score(images), detector.score(images), rtol=1e-5
    )
    np.testing.assert_array_equal(
        loaded.p_values(images), detector.p_values(images)
    )
    assert loaded.digest == detector.digest
    assert loaded.about == detector.about


def test_a_file_holds_no_name_of_training_images_and_no_path(
    run, detector, tmp_path
):
    detector.save(tmp_path / "model.aeent")
    content = (tmp_path / "model.aeent").read_bytes()
    for word in (b"secret_name", str(run.parent).encode(), b"normals/"):
        assert word not in content


def test_weights_of_another_network_are_refused(detector, tmp_path):
    config = detector.config.copy_and_resolve_references()
    with config.unlocked():
        config.model.latent_dim = 7
    other = dataclasses.replace(detector, config=config)
    other.save(tmp_path / "model.aeent")
    with pytest.raises(ValueError, match="weights of another network"):
        screening.Detector.load(tmp_path / "model.aeent")


def test_a_run_without_its_images_scores_and_gives_no_verdict(
    tmp_path_factory, tmp_path
):
    run = screening_support.train(tmp_path_factory, train__epochs=1)
    (run.parent / "normals").rename(run.parent / "moved")
    detector = screening.Detector.load(run)
    assert detector.calibration is None
    assert np.isfinite(detector.score(new_images())).all()
    with pytest.raises(ValueError, match="no calibration normals"):
        detector.p_values(new_images())
    folder = screening_support.write(tmp_path / "n", new_images(20))
    calibrated = detector.calibrated(sorted(folder.iterdir()))
    assert len(calibrated.calibration.scores) == 20
    assert calibrated.p_values(screening_support.abnormal(1))[0] == 1 / 21


def test_training_images_are_recognised_and_new_ones_are_not(run, detector):
    trained = training_support.make_images(60)
    held_out = detector.is_nearly_training_image(trained)
    assert held_out.sum() == 60 - 19
    assert not detector.is_nearly_training_image(
        screening_support.abnormal(3)[..., None]
    ).any()


def p_value(calibration, *scores):
    """The p-value of one volume, or of one image."""
    return calibration.p_values(
        np.array([max(scores)]), np.array([len(scores)])
    )


def test_a_volume_is_ranked_among_volumes():
    scores = np.array([1.0, 2, 3, 4, 5, 6])
    volumes = screening.Calibration(scores, np.array([0, 0, 1, 1, 2, 2]), "x")
    # Among the largest scores 2, 4 and 6.
    assert p_value(volumes, 0.5, 4.5) == 2 / 4
    alone = screening.Calibration(scores, np.arange(6), "x")
    # The smallest of both, times 2.
    assert p_value(alone, 0.5, 4.5) == 2 * 3 / 7
    assert p_value(alone, 0.5, 0.7) == 1.0


@pytest.mark.parametrize(
    ("n", "alpha", "fdr", "words"),
    [
        (19, 0.05, None, ["the 19 calib", " 5 % of new", "below 14.6 % for"]),
        (200, 0.05, None, [" 5 % of new", "below 7.7 % for"]),
        (200, 0.01, None, [" 1 % of new", "below 2.3 % for"]),
        (45, 0.05, None, [" 4.3 % of new", "at most alpha = 0.05"]),
        (9, 0.05, None, ["There are 9 calibration volumes", "need 19"]),
        (200, 0.05, 0.1, ["At most 10 % of the flagged files are normal"]),
    ],
)
def test_the_guarantee_is_said_in_numbers(n, alpha, fdr, words):
    said = calibration_lib.guarantee(n, alpha, fdr)
    assert [word for word in words if word not in said] == []


def test_images_of_one_patient_are_no_volume():
    """Only the slices of one file or series are."""
    ids = ["a.nii#0001", "a.nii#0002", "b.nii#v0000s0001", "b.nii#v0001s0001"]
    ids += ["b.nii#v0001s0002", "c.png", "d.png", "e#1.png", "e#2.png"]
    ids += ["IM1", "IM2"]
    series = {"IM1": "s", "IM2": "s", "c.png": ""}
    calibration = calibration_lib.calibrate(
        np.zeros(11),
        [detector_lib._volume(i, series) for i in ids],
        np.zeros(11, bool),
        "x",
    )
    np.testing.assert_array_equal(
        calibration.groups, [0, 0, 1, 2, 2, 3, 4, 5, 6, 7, 7]
    )
    # A pair of slices does not make volumes of single images.
    groups = np.array([0, 0, 1, 2, 3, 4, 5, 6, 7, 8])
    mixed = screening.Calibration(np.arange(10.0), groups, "x")
    np.testing.assert_array_equal(mixed.of_volumes(), [1.0])
    assert p_value(mixed, *[9.5] * 50) == 1 / 2
    assert p_value(mixed, np.inf) == 1 / 11


def test_training_images_do_not_calibrate(detector, caplog):
    """Their scores are lower than those of new normals."""
    trained = training_support.make_images(60)[..., 0]
    both = np.concatenate([trained, new_images(20)])
    near = detector.is_nearly_training_image(both[..., None])
    calibrated = detector.calibrated(both).calibration
    assert len(calibrated.scores) == 80 - near.sum() <= 80 - 41
    assert f"without {near.sum()} that are nearly equal" in calibrated.source
    assert calibrated.source in caplog.text
    with pytest.raises(ValueError, match="none is other than the training"):
        detector.calibrated(trained[near[:60]])


def test_a_volume_calibrates_unless_most_of_it_was_trained_on():
    scores, near = np.arange(6.0), np.array([1, 0, 0, 1, 1, 0], bool)
    found = calibration_lib.calibrate(scores, list("aaabbb"), near, "x")
    np.testing.assert_array_equal(found.scores, [0, 1, 2])


def test_validation_normals_calibrate_unless_they_were_trained_on(
    tmp_path_factory,
):
    root = tmp_path_factory.mktemp("val")
    trained = training_support.make_images(60)[..., 0]
    screening_support.write(root / "train/normal", trained)
    screening_support.write(root / "val/normal", new_images(20))
    screening_support.write(root / "val/normal", trained[:5], "again")
    run = root / "run"
    loop.train(training_support.make_config(root, root / "cache"), run)
    calibration = screening.Detector.load(run).calibration
    assert len(calibration.scores) == 20
    assert "without 5 that are nearly equal" in calibration.source


def test_many_images_are_scored_in_batches(detector, monkeypatch):
    """A pass of the network takes a batch, and not one image."""
    calls = []
    score = screening.Detector.score_pixels

    def counting(self, pixels, **kwargs):
        calls.append(len(pixels))
        return score(self, pixels, **kwargs)

    images = new_images(2 * detector.config.eval.batch_size + 1)
    single = [detector.score(image[None])[0] for image in images]
    monkeypatch.setattr(screening.Detector, "score_pixels", counting)
    np.testing.assert_allclose(detector.score(images), single, rtol=1e-5)
    size = detector.config.eval.batch_size
    assert calls == [size, size, 1]


def test_a_folder_calibrates_and_a_spoiled_image_does_not(detector, tmp_path):
    folder = screening_support.write(tmp_path / "n", new_images(20))
    assert len(detector.calibrated(str(folder)).calibration.scores) == 20
    # A 16-bit image of few levels is not scored in silence.
    dark = np.arange(256, dtype=np.uint16).reshape(16, 16)
    PIL.Image.fromarray(dark).save(folder / "dark.png")
    with pytest.raises(ValueError, match="dark.png: .*gray levels"):
        detector.calibrated(str(folder))


@pytest.mark.parametrize(
    "change",
    [
        {"training/blocks": np.zeros((2, 3, 3), np.uint8)},
        {"calibration/scores": np.zeros(0)},
        {"calibration/scores": np.full(19, np.nan)},
        {"calibration/groups": np.zeros(3, np.int32)},
    ],
)
def test_a_model_file_without_its_parts_is_refused(detector, tmp_path, change):
    path = tmp_path / "model.aeent"
    archive.write(path, detector.card(), detector._arrays() | change)
    with pytest.raises(ValueError, match="lacks a part; export"):
        screening.Detector.load(path)


@pytest.mark.parametrize("choice", [{"best": True}, {"root": "images"}])
def test_choices_of_a_workdir_are_refused_of_a_file(detector, tmp_path, choice):
    detector.save(tmp_path / "model.aeent")
    with pytest.raises(ValueError, match="is no workdir; leave out"):
        screening.Detector.load(tmp_path / "model.aeent", **choice)


def test_heatmaps_point_at_what_is_abnormal(detector):
    (heatmap,) = detector.heatmaps(screening_support.abnormal(1))
    assert heatmap.shape == (1, 16, 16)
    inside = np.zeros((16, 16), bool)
    inside[2:14, 2:14] = True
    assert heatmap[0][inside].mean() > 2 * heatmap[0][~inside].mean()


@pytest.mark.parametrize("kind", ["array", "paths"])
def test_fit_trains_on_arrays_and_on_paths(tmp_path, kind):
    images = new_images(60)
    if kind == "paths":
        for i, image in enumerate(images):
            # Names may be the same.
            screening_support.write(tmp_path / f"{i}", [image])
        images = sorted(tmp_path.glob("*/*.png"))
    detector = screening.Detector.fit(
        images,
        settings={
            key: value
            for key, value in training_support.tiny("", "").items()
            if not key.startswith("data.")
        }
        | {"data.image_size": 16, "train.epochs": 2},
    )
    assert len(detector.calibration.scores) == 19
    assert detector.p_values(screening_support.abnormal(1))[0] == 1 / 20


@pytest.mark.parametrize(
    ("images", "sentence"),
    [
        (np.zeros((3, 8, 8)), "must be uint8"),
        (np.zeros((3, 8), np.uint8), "must be uint8"),
        (np.zeros((3, 8, 8, 4), np.uint8), "must be uint8"),
    ],
)
def test_other_arrays_are_refused(detector, images, sentence):
    with pytest.raises(ValueError, match=sentence):
        detector.score(images)
    with pytest.raises(ValueError, match=sentence):
        screening.Detector.fit(images)


def test_the_detector_is_at_hand_in_the_package():
    import aeent_jax

    assert aeent_jax.Detector is screening.Detector
    with pytest.raises(AttributeError, match="no attribute 'Detektor'"):
        _ = aeent_jax.Detektor


def test_images_that_moved_are_named_and_changed_ones_are_refused(
    tmp_path_factory,
):
    run = screening_support.train(tmp_path_factory, train__epochs=1)
    moved = run.parent / "moved"
    (run.parent / "normals").rename(moved)
    with pytest.raises(FileNotFoundError, match="moved, .* with --root=DIR"):
        restore.evaluate_workdir(run)
    found = screening.Detector.load(run, root=str(moved))
    assert len(found.calibration.scores) == 19
    assert restore.evaluate_workdir(run, root=str(moved))
    PIL.Image.fromarray(new_images(1)[0]).save(moved / "added.png")
    for use in (
        lambda: screening.Detector.load(run, root=str(moved)),
        lambda: restore.evaluate_workdir(run, root=str(moved)),
        lambda: restore.encode_workdir(run, "train", root=str(moved)),
    ):
        with pytest.raises(ValueError, match="trained on other images"):
            use()
    with pytest.raises(FileNotFoundError):
        screening.Detector.load(run, root=str(run.parent / "nowhere"))
