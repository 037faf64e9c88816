"""The nearest images of another split, beside all pairs in numpy."""

import data_support
import numpy as np
import pytest
from scipy import sparse

from aeent_jax import data
from aeent_jax.data import nearest
from aeent_jax.evaluation import metrics


def draw(count, seed=0, shape=(8, 8, 1)):
    return np.random.default_rng(seed).integers(
        0, 256, (count, *shape), np.uint8
    )


def all_distances(images, others):
    differences = images[:, None].astype(int) - others.astype(int)
    return np.abs(differences).mean((2, 3, 4))


@pytest.mark.parametrize(
    ("count", "others", "shape"),
    [
        (1, 1, (8, 8, 1)),
        (7, 5, (8, 8, 3)),  # Smaller than a tile.
        (16, 32, (4, 4, 1)),  # Whole tiles.
        (17, 40, (4, 4, 1)),  # Ragged ones.
    ],
)
def test_equals_all_pairs(monkeypatch, count, others, shape):
    monkeypatch.setattr(nearest, "_TILE", 16)
    images, others = draw(count, shape=shape), draw(others, 1, shape)
    result = nearest.find_nearest(images, others)
    distances = all_distances(images, others)
    # Sums of whole numbers, so exact.
    np.testing.assert_array_equal(result.distance, distances.min(1))
    np.testing.assert_array_equal(result.index, distances.argmin(1))


def test_tile_size_changes_nothing(monkeypatch):
    images, others = draw(30), draw(50, 1)
    # Equal images in different tiles; the first one counts.
    others[40] = others[3]
    images[5] = others[3]
    whole = nearest.find_nearest(images, others)
    assert (whole.distance[5], whole.index[5]) == (0.0, 3)
    monkeypatch.setattr(nearest, "_TILE", 7)
    tiled = nearest.find_nearest(images, others)
    np.testing.assert_array_equal(tiled.distance, whole.distance)
    np.testing.assert_array_equal(tiled.index, whole.index)


def test_black_and_white_are_255_gray_levels_apart():
    # 512 pixels in color sum to 2.0e8, beyond what float32 counts exactly.
    black = np.zeros((1, 512, 512, 3), np.uint8)
    black[0, 0, 0, 0] = 254
    result = nearest.find_nearest(black, np.full_like(black, 255))
    assert result.distance[0] == 255 - 254 / (512 * 512 * 3)


def test_reads_files_a_tile_at_a_time(monkeypatch):
    monkeypatch.setattr(nearest, "_TILE", 16)
    reads = []

    class Stored:
        shape, array = (40, 4, 4, 1), draw(40, 1, (4, 4, 1))

        def __len__(self):
            return 40

        def __getitem__(self, rows):
            reads.append(rows.stop - rows.start)
            return self.array[rows]

    images = draw(5, shape=(4, 4, 1))
    result = nearest.find_nearest(images, Stored())
    expected = nearest.find_nearest(images, Stored.array)
    np.testing.assert_array_equal(result.distance, expected.distance)
    assert reads == [16, 16, 16]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("folder", "near_normals", "auroc"),
    [
        ("benchmark64/BrainTumor", 404, 0.8658),
        ("KermanyCXR", 0, 0.7719),
        ("BrainMRI", 0, 0.4135),
    ],
)
def test_near_copies_of_published_splits(folder, near_normals, auroc, tmp_path):
    splits = data.load(
        "folder",
        root=str(data_support.real_folder(folder)),
        cache_dir=str(tmp_path),
        image_size=64,
        channels=1,
    ).splits
    test = splits["test"]
    distance = nearest.find_nearest(
        test.images, splits["train"].images
    ).distance
    near = distance <= 5
    assert near[test.labels == data.NORMAL].sum() == near_normals
    assert not near[test.labels == data.ABNORMAL].any()
    # Mean squared differences score 0.8643, 0.7539 and 0.4204.
    measured = metrics.image_metrics(distance, test.labels)["auroc"]
    assert measured == pytest.approx(auroc, abs=5e-5)


def test_groups_are_linked_by_near_copies():
    rng = np.random.default_rng(5)
    whole = rng.integers(0, 200, (150, 16, 16, 1)).astype(np.uint8)
    # A chain: each link is near the one before, and far from the first.
    chain = np.concatenate([whole[:1] + 4 * i for i in range(1, 6)])
    images = np.concatenate([whole, chain, whole[7:8]])
    found = nearest.near_groups(images, 5.0)
    gaps = np.abs(images[:, None].astype(int) - images).mean(axis=(2, 3, 4))
    _, expected = sparse.csgraph.connected_components(gaps <= 5.0)
    same = found[:, None] == found
    np.testing.assert_array_equal(same, expected[:, None] == expected)
    assert same[0].sum() == 6
    assert same[7].sum() == 2


def test_images_that_are_all_alike_are_compared_once_each(monkeypatch):
    images = np.full((150, 16, 16, 1), 7, np.uint8)
    compared = []
    distance = nearest._distance

    def counting(pair):
        compared.append(pair)
        return distance(pair)

    monkeypatch.setattr(nearest, "_distance", counting)
    assert len(np.unique(nearest.near_groups(images, 5.0))) == 1
    assert len(compared) == 149
