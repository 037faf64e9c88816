import math

import numpy as np
import pytest
from matplotlib import patches

from aeent_jax import figures
from aeent_jax.figures import theory_plots

KINDS = ("train_normal", "test_normal", "test_abnormal")
X = np.array([5.0, 10.0, 10.0])


def points(x=X):
    errors = {kind: (i + 1) / x for i, kind in enumerate(KINDS)}
    return figures.Points(x, errors, 1 / x, 0.5 + 1 / x)


def area_by_counting(first, second, distance):
    """Shared area of two circles, on a fine grid."""
    y, x = np.mgrid[-2:2:2001j, -2:4:3001j]
    inside = (x**2 + y**2 < first**2) & ((x - distance) ** 2 + y**2 < second**2)
    return inside.sum() * 0.002**2


@pytest.mark.parametrize("radii", [(1.5, 1.0), (1.0, 1.0), (0.4, 1.8)])
@pytest.mark.parametrize("share", [0.1, 0.6, 0.97])
def test_circles_share_the_area_they_are_given(radii, share):
    shared = share * math.pi * min(radii) ** 2
    distance = theory_plots.centre_distance(*radii, shared)
    # Cells of the grid along the lens's edge.
    assert area_by_counting(*radii, distance) == pytest.approx(shared, abs=5e-3)


def test_circles_of_no_and_of_whole_overlap_touch():
    assert theory_plots.centre_distance(2.0, 1.0, 0.0) == 3
    assert theory_plots.centre_distance(2.0, 1.0, math.pi + 1e-6) == 1
    assert theory_plots.centre_distance(0.0, 0.0, 0.0) == 0


def venn(**fields):
    values = {
        "title": "run",
        "normal": 10.0,
        "abnormal": 8.0,
        "shared": 7.0,
        "paid": 12.0,
        "by_chance": 0.5,
    }
    return figures.Venn(**(values | fields))


def test_venn_has_areas_in_nats_on_one_scale_and_says_them():
    fig = figures.venn([venn(), venn(normal=2.0, shared=1.0, by_chance=None)])
    for ax, wanted in zip(
        fig.axes, ((10.0, 8.0, 12.0), (2.0, 8.0, 12.0)), strict=True
    ):
        circles = [p for p in ax.patches if isinstance(p, patches.Circle)]
        areas = [math.pi * p.radius**2 for p in circles[1::2]]
        np.testing.assert_allclose(areas, wanted)
        for p in circles:
            # Nothing is cut off.
            assert abs(p.center[0]) + p.radius <= ax.get_xlim()[1]
    assert fig.axes[0].get_xlim() == fig.axes[1].get_xlim()
    texts = [text.get_text() for text in fig.axes[0].texts]
    assert texts == [
        "training normals 12.0",
        "normal alone 3.0",
        "both 7.0",
        "abnormal alone 1.0 (0.5 by chance)",
    ]
    assert fig.axes[1].texts[-1].get_text() == "abnormal alone 7.0"


def test_errors_are_drawn_hollow_where_the_channel_is_a_reference():
    networks = {kind: (X, 1 / X) for kind in KINDS}
    code = {"train_normal": (np.ones(4), np.ones(4))}
    fig = figures.error_against_rate(
        networks, code, np.array([False, True, True])
    )
    line, *dots = fig.axes[0].lines
    np.testing.assert_array_equal(line.get_xdata(), np.ones(4))
    assert [len(d.get_xdata()) for d in dots] == [1, 2] * 3
    assert [d.get_markerfacecolor() == "w" for d in dots] == [False, True] * 3


def test_shortcut_draws_the_code_or_joins_means():
    code = points(np.array([1.0, 2.0, 4.0, 8.0]))
    fig = figures.shortcut({"nats": (points(), code), "size": (points(), None)})
    axes = np.reshape(fig.axes, (3, 2))
    dots, line = axes[2, 0].lines[:2]
    np.testing.assert_allclose(dots.get_ydata(), 50 + 100 / X)
    np.testing.assert_allclose(line.get_ydata(), 50 + 100 / code.x)
    _, line = axes[1, 1].lines[:2]
    np.testing.assert_allclose(line.get_xydata(), [[5, 20], [10, 10]])
    assert list(axes[2, 1].get_xticks()) == [5, 10]
    assert axes[0, 0].get_yscale() == "log"


def test_shortcut_leaves_out_the_column_that_is_not_there():
    assert len(figures.shortcut({"size": (points(), None)}).axes) == 3
