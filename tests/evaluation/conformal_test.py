"""Ranks, levels and guarantees of the verdicts."""

import numpy as np
import pytest
from scipy import stats

from aeent_jax.evaluation import conformal


def test_p_values_count_the_scores_that_are_as_large():
    p = conformal.p_values(np.array([0.0, 2.0, 2.5, 9.0]), np.array([3, 1, 2]))
    np.testing.assert_array_equal(p, [4 / 4, 3 / 4, 2 / 4, 1 / 4])


def test_a_score_that_is_no_number_has_no_p_value():
    p = conformal.p_values(np.array([np.nan, 1.0]), np.array([2.0]))
    assert np.isnan(p[0])
    assert p[1] == 1.0


@pytest.mark.parametrize(
    ("n", "alpha", "bound"), [(19, 0.05, 0.146), (200, 0.05, 0.077)]
)
def test_the_bound_is_that_of_the_order_statistic(n, alpha, bound):
    assert conformal.false_alarm_bound(n, alpha) == pytest.approx(
        bound, abs=5e-4
    )


def test_the_bound_holds_for_95_percent_of_calibration_sets():
    rng = np.random.default_rng(0)
    n, alpha, draws = 50, 0.1, 4000
    calibration = np.sort(rng.uniform(size=(draws, n)), axis=1)
    ranks = conformal.flagged_ranks(n, alpha)
    rate = 1 - calibration[:, n - ranks]  # Uniform scores: beyond the l-th.
    share = np.mean(rate <= conformal.false_alarm_bound(n, alpha))
    assert abs(share - 0.95) < 4 * np.sqrt(0.95 * 0.05 / draws)


@pytest.mark.parametrize("n", [19, 20, 60, 99, 199])
@pytest.mark.parametrize("alpha", [0.05, 0.01, 0.1, 0.3])
def test_flagged_ranks_are_those_whose_p_value_is_flagged(n, alpha):
    p = conformal.p_values(np.arange(n + 1) - 0.5, np.arange(n))
    assert conformal.flagged_ranks(n, alpha) == np.sum(p <= alpha)


def test_no_rank_is_lost_to_rounding():
    # 0.29 * 100 is 28.999999999999996.
    assert conformal.flagged_ranks(99, 0.29) == 29


@pytest.mark.parametrize(("alpha", "n"), [(0.05, 19), (0.01, 99), (0.5, 1)])
def test_the_least_number_of_normals_is_named(alpha, n):
    assert conformal.normals_for(alpha) == n
    conformal.check_alpha(alpha, n)
    with pytest.raises(ValueError, match=f"{n} are needed"):
        conformal.check_alpha(alpha, n - 1)


@pytest.mark.parametrize("alpha", [0.0, 1.0, -1, float("nan")])
def test_a_level_outside_0_and_1_is_refused(alpha):
    with pytest.raises(ValueError, match="must be above 0 and below 1"):
        conformal.check_alpha(alpha, 100)


def test_few_new_normals_are_flagged_over_many_calibration_sets():
    # One test image per draw: the draws are independent.
    rng = np.random.default_rng(1)
    n, alpha, draws = 39, 0.05, 20_000
    scores = rng.normal(size=(draws, n + 1))
    flagged = [
        conformal.p_values(row[:1], row[1:])[0] <= alpha for row in scores
    ]
    expected = conformal.flagged_ranks(n, alpha) / (n + 1)
    assert expected == 0.05
    error = np.sqrt(expected * (1 - expected) / draws)
    assert abs(np.mean(flagged) - expected) < 4 * error


def test_a_threshold_from_training_images_breaks_the_guarantee():
    # A plain network fits its training images: their errors are smaller.
    rng = np.random.default_rng(2)
    n, alpha, draws = 39, 0.05, 2000
    fitted = 0.5 * np.abs(rng.normal(size=(draws, n)))
    new = np.abs(rng.normal(size=draws))
    flagged = [
        conformal.p_values(new[i : i + 1], fitted[i])[0] <= alpha
        for i in range(draws)
    ]
    assert np.mean(flagged) > 3 * alpha


def test_benjamini_hochberg_agrees_with_scipy():
    rng = np.random.default_rng(3)
    p = np.concatenate([rng.uniform(size=40), rng.uniform(0, 0.01, 10)])
    expected = stats.false_discovery_control(p) <= 0.1
    np.testing.assert_array_equal(
        conformal.benjamini_hochberg(p, 0.1), expected
    )
    assert expected.sum() >= 10


def test_benjamini_hochberg_leaves_missing_p_values_alone():
    p = np.array([0.001, np.nan, 0.9])
    np.testing.assert_array_equal(
        conformal.benjamini_hochberg(p, 0.1), [True, False, False]
    )
    assert not conformal.benjamini_hochberg(np.array([np.nan]), 0.1).any()


def test_a_false_discovery_rate_that_flags_nothing_is_refused():
    with pytest.raises(ValueError, match="nothing could be flagged"):
        conformal.check_fdr(0.05, 10, 100)
    conformal.check_fdr(0.05, 19, 100)


def test_the_batch_test_sees_a_shift():
    rng = np.random.default_rng(4)
    calibration = rng.normal(size=100)
    alike = conformal.rank_sum_p_value(rng.normal(size=40), calibration)
    other = conformal.rank_sum_p_value(2 + rng.normal(size=40), calibration)
    assert alike > 0.001 > other


def test_a_rate_has_the_interval_of_clopper_and_pearson():
    found = conformal.rate_of(np.array([True] * 3 + [False] * 17))
    low, high = found["interval"]
    assert found["rate"] == 0.15
    assert low == pytest.approx(stats.beta.ppf(0.025, 3, 18))
    assert high == pytest.approx(stats.beta.ppf(0.975, 4, 17))


def test_verdicts_are_measured_on_labelled_images():
    calibration = np.arange(19.0)
    scores = np.array([0.5, 30.0, 17.5, 40.0])
    found = conformal.measure(scores, np.array([0, 0, 1, 1]), calibration)
    # 19 normals reach 0.05 and not 0.01.
    assert list(found["alpha"]) == ["0.05"]
    rates = found["alpha"]["0.05"]
    assert rates["false_alarm_rate"]["rate"] == 0.5
    assert rates["sensitivity"]["rate"] == 0.5
