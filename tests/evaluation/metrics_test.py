"""Rank metrics against scikit-learn, brute force and frozen values."""

import pathlib
import time

import numpy as np
import pytest
from sklearn import metrics as sk_metrics

from aeent_jax.evaluation import metrics

_FROZEN = pathlib.Path(__file__).parents[1] / "testdata" / "metrics.npz"
# Two float64 sums over at most 1e6 terms in another order.
_ROUNDING = 1e-12


def _ranked_images(count=200, seed=0, levels=None):
    """Scores and labels that overlap; few levels make many ties."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % 2
    scores = rng.normal(size=count) + 0.8 * labels
    if levels:
        scores = np.round(scores * levels)
    return scores, labels


def _maps_and_masks(count=60, size=24, gain=2.0, seed=0):
    """Noisy maps that are brighter in a square of every second image."""
    rng = np.random.default_rng(seed)
    masks = np.zeros((count, size, size), bool)
    for i in range(1, count, 2):
        top, left = rng.integers(0, size - 5, 2)
        masks[i, top : top + 5, left : left + 5] = True
    maps = rng.gamma(2, 1, masks.shape) * (1 + gain * masks)
    level = rng.gamma(8, 1 / 8, (count, 1, 1))
    return (maps * level).astype(np.float32), masks


def _brute_force_dice(maps, masks):
    best, at = 0.0, None
    for threshold in [-np.inf, *np.unique(maps)]:
        found = maps > threshold
        dice = 2 * (found & masks).sum() / (found.sum() + masks.sum())
        if dice > best:
            best, at = dice, threshold
    return best, at


@pytest.mark.parametrize("levels", [None, 1, 3])
def test_image_metrics_equal_scikit_learn_with_and_without_ties(levels):
    scores, labels = _ranked_images(levels=levels)
    found = metrics.image_metrics(scores, labels)
    expected = {
        "auroc": sk_metrics.roc_auc_score(labels, scores),
        "ap": sk_metrics.average_precision_score(labels, scores),
    }
    assert found == pytest.approx(expected, abs=_ROUNDING)


@pytest.mark.parametrize("decimals", [0, 7])
def test_pixel_metrics_equal_scikit_learn_on_pooled_pixels(decimals):
    maps, masks = _maps_and_masks()
    maps = maps.round(decimals)
    found = metrics.pixel_metrics(maps, masks)
    truth, scores = masks.ravel(), maps.ravel()
    assert found["pixel_auroc"] == pytest.approx(
        sk_metrics.roc_auc_score(truth, scores), abs=_ROUNDING
    )
    assert found["pixel_ap"] == pytest.approx(
        sk_metrics.average_precision_score(truth, scores), abs=_ROUNDING
    )


@pytest.mark.parametrize("decimals", [0, 1, 7])
def test_oracle_dice_is_the_maximum_over_all_thresholds(decimals):
    maps, masks = _maps_and_masks(count=6, size=10)
    maps = maps.round(decimals)
    found = metrics.pixel_metrics(maps, masks)
    best, _ = _brute_force_dice(maps, masks)
    assert found["oracle_dice"] == pytest.approx(best, abs=_ROUNDING)
    above = maps > found["oracle_dice_threshold"]
    dice = 2 * (above & masks).sum() / (above.sum() + masks.sum())
    assert dice == pytest.approx(best, abs=_ROUNDING)


def test_oracle_dice_may_predict_every_pixel():
    maps = np.array([[[0.5, 0.5], [0.5, 0.5]]], np.float32)
    masks = np.array([[[1, 1], [1, 0]]])
    found = metrics.pixel_metrics(maps, masks)
    assert found["oracle_dice"] == pytest.approx(6 / 7, abs=_ROUNDING)
    assert (maps > found["oracle_dice_threshold"]).all()


def test_reproduces_the_frozen_reference_metrics():
    frozen = np.load(_FROZEN)
    maps, masks = frozen["score_maps"][:, 0], frozen["masks"][:, 0]
    scores = maps.mean(axis=(1, 2))
    image = metrics.image_metrics(scores, frozen["labels"])
    pixel = metrics.pixel_metrics(maps, masks)
    assert image["auroc"] == pytest.approx(frozen["auroc"], abs=_ROUNDING)
    assert image["ap"] == pytest.approx(frozen["ap"], abs=_ROUNDING)
    assert pixel["pixel_ap"] == pytest.approx(frozen["pix_ap"], abs=_ROUNDING)
    assert pixel["pixel_auroc"] == pytest.approx(
        frozen["pix_auroc"], abs=_ROUNDING
    )
    # The frozen maximum is over 201 order statistics, ours over all scores.
    excess = pixel["oracle_dice"] - frozen["best_dice"]
    assert 0 <= excess < 1e-3
    assert pixel["oracle_dice_threshold"] == pytest.approx(
        float(frozen["best_thresh"]), rel=1e-3
    )


def test_image_intervals_match_a_brute_force_bootstrap():
    scores, labels = _ranked_images(count=120, levels=4)
    found = metrics.bootstrap(scores, labels, num_resamples=2000)
    rng = np.random.default_rng(7)
    classes = [np.flatnonzero(labels == label) for label in (0, 1)]
    samples = []
    for _ in range(2000):
        drawn = np.concatenate([rng.choice(c, len(c)) for c in classes])
        exact = metrics.image_metrics(scores[drawn], labels[drawn])
        samples.append([exact["auroc"], exact["ap"]])
    expected = np.percentile(samples, [2.5, 97.5], axis=0).T
    # Ends of an interval of width 0.18 from 2000 resamples scatter by 0.003.
    np.testing.assert_allclose(found["auroc"], expected[0], atol=0.012)
    np.testing.assert_allclose(found["ap"], expected[1], atol=0.012)


def test_pixel_intervals_match_a_brute_force_bootstrap():
    maps, masks = _maps_and_masks(count=30, size=16)
    labels = masks.any(axis=(1, 2)).astype(int)
    found = metrics.bootstrap(maps.mean((1, 2)), labels, maps, masks)
    rng = np.random.default_rng(7)
    classes = [np.flatnonzero(labels == label) for label in (0, 1)]
    samples = {name: [] for name in ("pixel_ap", "pixel_auroc", "oracle_dice")}
    for _ in range(1000):
        drawn = np.concatenate([rng.choice(c, len(c)) for c in classes])
        exact = metrics.pixel_metrics(maps[drawn], masks[drawn])
        for name, values in samples.items():
            values.append(exact[name])
    for name, values in samples.items():
        expected = np.percentile(values, [2.5, 97.5])
        # Ends of an interval of width 0.1 from 1000 resamples scatter by
        # 0.003, and the bins are allowed 0.001.
        np.testing.assert_allclose(found[name], expected, atol=0.012)


@pytest.mark.parametrize(
    "change",
    [
        lambda maps, masks: maps,
        lambda maps, masks: np.exp(maps),  # Heavy tail.
        lambda maps, masks: maps.round(1),  # Ties.
        lambda maps, masks: maps * (1 + 50 * masks),  # Almost separated.
        lambda maps, masks: -maps,  # Worse than chance.
        lambda maps, masks: np.zeros_like(maps),
    ],
)
def test_bins_of_the_pixel_bootstrap_change_metrics_little(change):
    maps, masks = _maps_and_masks(count=80, size=32)
    maps = change(maps, masks)
    exact = metrics.pixel_metrics(maps, masks)
    every_image_once = np.ones((1, len(maps)))
    binned = metrics._pixel_samples(maps, masks, every_image_once)
    for name, values in binned.items():
        assert values[0] == pytest.approx(exact[name], abs=1e-3), name


def test_pixel_bootstrap_of_400_images_is_fast():
    maps, masks = _maps_and_masks(count=400, size=64)
    labels = masks.any(axis=(1, 2)).astype(int)
    begin = time.process_time()
    metrics.bootstrap(maps.mean((1, 2)), labels, maps, masks)
    # Measured: 0.4 s of processor time; brute force takes minutes.
    assert time.process_time() - begin < 4


def _in_perfect_order(count):
    """Scores and labels of as many normal images as abnormal ones above."""
    labels = np.repeat([0, 1], count)
    return np.arange(2.0 * count), labels


@pytest.mark.parametrize(
    ("count", "low"),
    [
        # By hand for one of each: 1 - t = 1.96**2 t.
        (1, 1 / (1 + 1.959964**2)),
        # As published for a perfect order, to two digits.
        (10, 0.80),
    ],
)
def test_perfect_order_of_few_images_has_a_wide_auroc(count, low):
    scores, labels = _in_perfect_order(count)
    found = metrics.bootstrap(scores, labels)
    # All resamples agree, on AUROC and on average precision.
    assert set(found) == {"auroc"}
    assert found["auroc"][0] == pytest.approx(low, abs=5e-3)
    assert found["auroc"][1] == 1
    mirrored = metrics.bootstrap(-scores, labels)["auroc"]
    np.testing.assert_allclose(mirrored, (0, 1 - found["auroc"][0]), atol=1e-9)


def test_score_interval_ends_where_its_equation_holds():
    auroc, m, n = 0.9, 20, 30
    for end in metrics.score_interval(auroc, m, n):
        # Hanley and McNeil, each variance with the mean of both sizes.
        q1, q2 = end / (2 - end), 2 * end**2 / (1 + end)
        more = (m + n) / 2 - 1
        variance = (end * (1 - end) + more * (q1 + q2 - 2 * end**2)) / (m * n)
        distance = abs(auroc - end) / np.sqrt(variance)
        assert distance == pytest.approx(1.959964, rel=1e-5)


def test_auroc_interval_holds_the_score_interval_and_the_resampled_one():
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1], [400, 100])
    # Abnormal scores of a wide spread: the score interval alone is narrow.
    scores = rng.normal(size=500) * np.where(labels, 4, 1) + 2 * labels
    auroc = metrics.image_metrics(scores, labels)["auroc"]
    counts = metrics._resample(labels, 1000, 0)
    resampled = metrics._image_samples(scores, labels, counts)["auroc"]
    low, high = np.percentile(resampled, [2.5, 97.5])
    narrow = metrics.score_interval(auroc, 400, 100)
    assert low < narrow[0]
    found = metrics.bootstrap(scores, labels)["auroc"]
    assert found == (min(low, narrow[0]), max(high, narrow[1]))


def test_there_is_no_paired_interval_where_all_resamples_agree():
    scores, labels = _in_perfect_order(5)
    found = metrics.paired_bootstrap(scores, -scores, labels)
    assert found["auroc"] == (1.0, None)
    same = metrics.paired_bootstrap(scores, scores + 1, labels)
    assert same["ap"] == (0.0, None)


def test_an_interval_contains_its_value_though_resampling_is_biased():
    # All abnormal images below all normal ones: any image that is drawn twice
    # raises the average precision, and one resample in 400 has none.
    labels = np.repeat([0, 1], [8, 8])
    scores = -np.arange(16.0)
    exact = metrics.image_metrics(scores, labels)["ap"]
    counts = metrics._resample(labels, 1000, 0)
    resampled = metrics._image_samples(scores, labels, counts)["ap"]
    assert np.percentile(resampled, 2.5) > exact
    low, high = metrics.bootstrap(scores, labels)["ap"]
    assert low == exact
    assert high == np.percentile(resampled, 97.5)
    _, (low, _) = metrics.paired_bootstrap(scores, -scores, labels)["ap"]
    assert low == exact - 1
    # One image of a kind is in every resample, and nothing is learned.
    maps, masks = _maps_and_masks(count=2, size=64)
    assert set(
        metrics.bootstrap(maps.mean((1, 2)), np.arange(2), maps, masks)
    ) == {"auroc"}


def test_intervals_depend_on_the_seed_alone():
    scores, labels = _ranked_images()
    first, again = (metrics.bootstrap(scores, labels) for _ in range(2))
    assert first == again
    assert metrics.bootstrap(scores, labels, seed=1) != first


@pytest.mark.filterwarnings("error")  # No division by a count of zero.
def test_resamples_without_any_lesion_are_left_out():
    maps, masks = _maps_and_masks(count=8)
    labels = np.arange(8) % 2
    masks[2:] = False  # One of four abnormal images has a mask.
    found = metrics.bootstrap(maps.mean((1, 2)), labels, maps, masks)
    assert np.isfinite(found["pixel_ap"]).all()
    # Without a lesion any prediction has a Dice of 0, in a third of resamples.
    assert found["oracle_dice"][0] > 0


def test_a_run_does_not_differ_from_itself():
    maps, masks = _maps_and_masks(count=20)
    scores = maps.mean(axis=(1, 2))
    found = metrics.paired_bootstrap(
        scores,
        scores,
        np.arange(20) % 2,
        maps_a=maps,
        maps_b=maps,
        masks=masks,
    )
    assert set(found) == {
        *("auroc", "ap"),
        *("pixel_ap", "pixel_auroc", "oracle_dice"),
    }
    assert set(found.values()) == {(0.0, None)}


def test_difference_is_first_minus_second():
    scores, labels = _ranked_images()
    better = scores + 0.5 * labels
    found = metrics.paired_bootstrap(better, scores, labels)
    exact = (
        metrics.image_metrics(better, labels)["auroc"]
        - metrics.image_metrics(scores, labels)["auroc"]
    )
    difference, (low, high) = found["auroc"]
    assert difference == pytest.approx(exact, abs=_ROUNDING)
    assert 0 < low < difference < high
    back = metrics.paired_bootstrap(scores, better, labels)["auroc"]
    assert back.value == -difference
    # The percentiles of mirrored samples are mirrored.
    np.testing.assert_allclose(back.interval, (-high, -low), atol=1e-12)


def test_pairing_cancels_what_both_runs_share():
    scores, labels = _ranked_images()
    rng = np.random.default_rng(1)
    close = scores + 0.1 * rng.normal(size=len(scores))
    _, (low, high) = metrics.paired_bootstrap(close, scores, labels)["auroc"]
    alone = metrics.bootstrap(scores, labels)["auroc"]
    # Measured: a quarter of the width.
    assert high - low < 0.5 * (alone[1] - alone[0])


def test_seeds_are_averaged_inside_each_resample():
    rng = np.random.default_rng(2)
    scores, labels = _ranked_images()
    a = scores + rng.normal(size=(3, len(scores)))
    found = metrics.paired_bootstrap(a, scores, labels)
    mean = np.mean([metrics.image_metrics(s, labels)["auroc"] for s in a])
    exact = mean - metrics.image_metrics(scores, labels)["auroc"]
    assert found["auroc"][0] == pytest.approx(exact, abs=_ROUNDING)
    widths = [
        np.diff(metrics.paired_bootstrap(s, scores, labels)["auroc"].interval)
        for s in a
    ]
    assert np.diff(found["auroc"].interval) < np.mean(widths)


def test_repeating_a_seed_changes_nothing():
    scores, labels = _ranked_images()
    maps, masks = _maps_and_masks(count=len(labels), size=8)
    once = metrics.paired_bootstrap(
        scores, -scores, labels, maps_a=maps, maps_b=-maps, masks=masks
    )
    twice = metrics.paired_bootstrap(
        np.stack([scores] * 2),
        -scores,
        labels,
        maps_a=np.stack([maps] * 2),
        maps_b=-maps,
        masks=masks,
    )
    for name, (value, interval) in once.items():
        assert twice[name].value == pytest.approx(value, abs=_ROUNDING)
        np.testing.assert_allclose(
            twice[name].interval, interval, atol=_ROUNDING
        )


def test_tells_whether_rank_metrics_are_defined():
    assert metrics.has_both_classes(np.array([0, 1, 1]))
    assert not metrics.has_both_classes(np.array([0, 0]))
    assert not metrics.has_both_classes(np.array([1]))
    assert not metrics.has_both_classes(np.zeros(0))
    assert metrics.has_both_classes(np.eye(3, dtype=bool)[None])


def test_nan_scores_are_refused_with_the_image():
    scores, labels = _ranked_images(count=6)
    scores[4] = np.nan
    message = (
        r"Found NaN or infinity in the anomaly scores of 1 of 6 images "
        r"\(first: image 4\); they must be finite: look for a training run "
        r"that diverged\."
    )
    with pytest.raises(ValueError, match=message):
        metrics.image_metrics(scores, labels)
    with pytest.raises(ValueError, match=message):
        metrics.paired_bootstrap(labels.astype(float), scores, labels)


def test_infinite_maps_are_refused():
    maps, masks = _maps_and_masks(count=4)
    maps[2, 0, 0] = np.inf
    with pytest.raises(ValueError, match="in the score maps of 1 of 4 images"):
        metrics.pixel_metrics(maps, masks)


def test_one_class_only_is_refused():
    with pytest.raises(
        ValueError,
        match=r"Found 3 images of one class only; rank metrics need normal and "
        r"abnormal ones: skip them where has_both_classes\(labels\) is false\.",
    ):
        metrics.image_metrics(np.arange(3.0), np.zeros(3, int))


def test_masks_without_lesion_are_refused():
    with pytest.raises(
        ValueError,
        match=r"Found 0 abnormal of 8 pixels; pixel metrics need normal and "
        r"abnormal ones",
    ):
        metrics.pixel_metrics(np.zeros((2, 2, 2)), np.zeros((2, 2, 2)))


def test_mismatched_shapes_are_refused():
    scores, labels = _ranked_images(count=6)
    maps, masks = _maps_and_masks(count=6)
    with pytest.raises(ValueError, match=r"Found scores \(6,\) and labels"):
        metrics.image_metrics(scores, labels[:5])
    with pytest.raises(ValueError, match=r"Found scores \(6, 1\)"):
        metrics.image_metrics(scores[:, None], labels[:, None])
    with pytest.raises(ValueError, match=r"both must be \[N, H, W\]\."):
        metrics.pixel_metrics(maps[:, None], masks)
    with pytest.raises(ValueError, match="Found 5 score maps and 6 images"):
        metrics.bootstrap(scores, labels, maps[:5], masks[:5])
    with pytest.raises(ValueError, match="Found score maps of 1 seeds and "):
        metrics.paired_bootstrap(
            np.stack([scores] * 2),
            scores,
            labels,
            maps_a=maps,
            maps_b=maps,
            masks=masks,
        )


def test_labels_other_than_zero_and_one_are_refused():
    with pytest.raises(
        ValueError,
        match=r"Found labels \[0, 2\]; they must be 0 \(normal\) or 1",
    ):
        metrics.image_metrics(np.arange(4.0), np.array([0, 2, 0, 2]))
