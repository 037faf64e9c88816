"""Statistics that look at no anatomy, and the warning of the largest."""

import dataclasses

import data_support
import numpy as np
import pytest

from aeent_jax import data
from aeent_jax.data import dataset
from aeent_jax.evaluation import metrics, shortcuts


def draw(count, seed=0, channels=1):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (count, 6, 5, channels), np.uint8)


def test_statistics_match_their_definitions(monkeypatch):
    monkeypatch.setattr(shortcuts, "_IMAGES_AT_A_TIME", 3)
    images = draw(7, channels=3)
    images[2] = 5  # Black, and without contrast or edges.
    images[3] = 6
    found = shortcuts.measure_images(images)
    assert {k: found[k][2] for k in found} == {
        "mean intensity": 5.0,
        "contrast": 0.0,
        "edge energy": 0.0,
        "share of black": 1.0,
    }
    assert found["share of black"][3] == 0.0
    for i, image in enumerate(images.astype(int)):
        down = [image[y + 1, x] - image[y, x] for y, x in np.ndindex(5, 5)]
        right = [image[y, x + 1] - image[y, x] for y, x in np.ndindex(6, 4)]
        edges = np.mean(np.abs(down)) + np.mean(np.abs(right))
        assert found["edge energy"][i] == pytest.approx(edges)
        assert found["mean intensity"][i] == pytest.approx(image.mean())
        assert found["contrast"][i] == pytest.approx(image.std())


def test_files_are_looked_at_where_there_are_any(tmp_path):
    for i in range(3):
        data_support.write_gray(tmp_path / f"train/normal/{i}.png", i)
        wide, plain = data_support.make_gray(i + 9, (30, 20)), tmp_path / "test"
        for label, extra in (("normal", 0), ("abnormal", 1)):
            path = plain / label / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            wide.resize((30 + 10 * extra, 20)).save(path)
    split = data.load(
        "folder", root=str(tmp_path), cache_dir=str(tmp_path / "c")
    ).splits["test"]
    found = shortcuts.measure(split)
    size = [(tmp_path / id_).stat().st_size for id_ in split.ids]
    assert found["file size"].tolist() == size
    assert found["aspect"].tolist() == [2.0] * 3 + [1.5] * 3
    # A statistic that is the same everywhere cannot tell images apart.
    normal = dataset.select(split, split.labels == 0)
    assert "aspect" not in shortcuts.measure(normal)
    phantoms = dataclasses.replace(split, originals=None)
    assert "file size" not in shortcuts.measure(phantoms)


def labelled(count):
    return np.arange(2 * count) % 2


def test_largest_is_taken_in_either_direction():
    labels = labelled(20)
    noise = np.random.default_rng(0).normal(size=40)
    values = {"one": noise + 0.5 * labels, "other": noise - 4 * labels}
    entry = shortcuts.find_largest(values, labels)
    assert (entry["statistic"], entry["direction"]) == ("other", "low")
    assert entry["auroc"] == 1 - entry["tried"]["other"]
    assert (
        entry["tried"]["one"]
        == (metrics.image_metrics(values["one"], labels)["auroc"])
    )


def test_interval_is_corrected_for_the_number_tried():
    labels = labelled(20)
    noise = np.random.default_rng(0).normal(size=40)
    value = noise + labels
    alone = shortcuts.find_largest({"a": value}, labels)["auroc_interval"]
    auroc = metrics.image_metrics(value, labels)["auroc"]
    assert alone == pytest.approx(metrics.score_interval(auroc, 20, 20))
    four = shortcuts.find_largest(
        {"a": value} | {k: np.zeros(40) for k in "bcd"}, labels
    )["auroc_interval"]
    # 1 - 0.05 / 4 / 2 of a normal distribution lies below 2.4977.
    expected = metrics.score_interval(auroc, 20, 20, deviations=2.497705)
    assert four == pytest.approx(expected, abs=1e-6)
    assert four[0] < alone[0] < alone[1] < four[1]


def test_warns_where_the_interval_is_above_six_tenths():
    labels = labelled(60)
    noise = np.random.default_rng(0).normal(size=120)
    entry = shortcuts.find_largest({"edge energy": noise + 2 * labels}, labels)
    low, high = entry["auroc_interval"]
    assert low > 0.6
    assert entry["warning"] == (
        f"Edge energy alone scores {100 * entry['auroc']:.0f} on this set (high"
        f" in abnormal images; interval {100 * low:.0f} to {100 * high:.0f}): a"
        " network can score as high without looking at anatomy."
    )
    weak = shortcuts.find_largest({"edge energy": noise}, labels)
    assert "warning" not in weak
    # As high a value of few images says too little.
    values = {"edge energy": noise[:8] + 2 * labels[:8]}
    few = shortcuts.find_largest(values, labels[:8])
    assert few["auroc"] > 0.6
    assert "warning" not in few


@pytest.mark.slow
@pytest.mark.parametrize(
    ("folder", "statistic", "auroc"),
    [
        ("benchmark64/BrainTumor", "edge energy", 0.8327),
        ("KermanyCXR", "edge energy", 0.8873),
    ],
)
def test_shortcuts_of_published_splits(folder, statistic, auroc, tmp_path):
    test = data.load(
        "folder",
        root=str(data_support.real_folder(folder)),
        cache_dir=str(tmp_path),
        image_size=64,
        channels=1,
    ).splits["test"]
    entry = shortcuts.find_largest(
        shortcuts.measure_images(test.images), test.labels
    )
    assert (entry["statistic"], entry["direction"]) == (statistic, "low")
    assert entry["auroc"] == pytest.approx(auroc, abs=5e-5)
    assert "warning" in entry
