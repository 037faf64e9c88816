"""The rule by which a sweep agrees with a published number."""

import csv
import io

import numpy as np
import pytest
import sweep_support

from aeent_jax.sweep import agreement, groups, published


def cell(mean, sd, seeds, *, of=(0.70, 0.0, 1)):
    number = published.Number(*of, "paper")
    return agreement.Cell("auroc", mean, sd, seeds, number)


def test_pooled_deviation_is_that_of_the_centred_seeds():
    rng = np.random.default_rng(0)
    a, b = rng.normal(0, 1, 3), rng.normal(5, 2, 4)
    centred = np.append(a - a.mean(), b - b.mean())
    expected = np.sqrt((centred**2).sum() / (3 + 4 - 2))
    found = agreement.pooled_sd(a.std(ddof=1), 3, b.std(ddof=1), 4)
    # Two orders of summation in float64.
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_single_seed_takes_the_deviation_of_the_other_side():
    assert agreement.pooled_sd(0.0, 1, 0.3, 3) == pytest.approx(0.3)
    assert agreement.pooled_sd(0.3, 3, 0.0, 1) == pytest.approx(0.3)
    assert agreement.pooled_sd(0.0, 1, 0.0, 1) == 0.0


@pytest.mark.parametrize(
    ("found", "passes"),
    [
        # Two points, and not a hair more, without a spread.
        (cell(0.72, 0.0, 1), True),
        (cell(0.68, 0.0, 1), True),
        (cell(0.7201, 0.0, 1), False),
        # A small spread narrows nothing.
        (cell(0.72, 0.001, 3), True),
        # Three deviations of 1.5 points.
        (cell(0.744, 0.015, 3), True),
        (cell(0.746, 0.015, 3), False),
        # Ours does not vary, the published runs do: 1.5 / sqrt(2) pooled.
        (cell(0.731, 0.0, 3, of=(0.70, 0.015, 3)), True),
        (cell(0.733, 0.0, 3, of=(0.70, 0.015, 3)), False),
    ],
)
def test_cells_pass_by_the_rule(found, passes):
    assert found.passes is passes


def kermany(aurocs, **config):
    """Groups of plain members at latent size 4, published at 74.1 and 71.7."""
    return groups.groups(
        [
            sweep_support.record(auroc=auroc, ap=0.717, seed=seed, **config)
            for seed, auroc in enumerate(aurocs)
        ]
    )


def test_passed_and_failed_cells_are_counted():
    rule, source = agreement.summary(kermany([0.60, 0.61]))
    assert "1 of 2 cells pass, and 1 fail." in rule
    assert "at most 2 points or 3 pooled standard deviations" in rule
    assert "run once on the images of this split" in source
    assert agreement.summary(kermany([0.6], data="phantom_cxr")) == []


def test_file_of_cells_holds_fractions_and_verdicts():
    (group,) = kermany([0.60, 0.61])
    rows = list(csv.DictReader(io.StringIO(agreement.to_csv([group]))))
    assert [row["verdict"] for row in rows] == ["fail", "pass"]
    auroc = rows[0]
    assert (auroc["metric"], auroc["latent_dim"]) == ("auroc", "4")
    assert float(auroc["published_mean"]) == pytest.approx(0.741)
    # (0.60 + 0.61) / 2, and a pooled deviation of 0.01 / sqrt(2).
    assert float(auroc["difference"]) == pytest.approx(0.605 - 0.741)
    assert float(auroc["bound"]) == pytest.approx(0.03 / np.sqrt(2))


def test_without_published_numbers_there_is_no_file():
    assert agreement.to_csv(kermany([0.6], data="phantom_cxr")) == ""
