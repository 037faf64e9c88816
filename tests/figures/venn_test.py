import math

import numpy as np
import pytest
from matplotlib import patches

from aeent_jax import figures
from aeent_jax.figures.venn import centre_distance


def area_by_counting(first, second, distance):
    """Shared area of two circles, on a fine grid."""
    y, x = np.mgrid[-2:2:2001j, -2:4:3001j]
    inside = (x**2 + y**2 < first**2) & ((x - distance) ** 2 + y**2 < second**2)
    return inside.sum() * 0.002**2


@pytest.mark.parametrize("radii", [(1.5, 1.0), (1.0, 1.0), (0.4, 1.8)])
@pytest.mark.parametrize("share", [0.1, 0.6, 0.97])
def test_circles_share_the_area_they_are_given(radii, share):
    shared = share * math.pi * min(radii) ** 2
    distance = centre_distance(*radii, shared)
    # Cells of the grid along the lens's edge.
    assert area_by_counting(*radii, distance) == pytest.approx(shared, abs=5e-3)


def test_circles_of_no_and_of_whole_overlap_touch():
    assert centre_distance(2.0, 1.0, 0.0) == 3
    assert centre_distance(2.0, 1.0, math.pi + 1e-6) == 1
    assert centre_distance(0.0, 0.0, 0.0) == 0


def pair(**fields):
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
    fig = figures.venn([pair(), pair(normal=2.0, shared=1.0, by_chance=None)])
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
