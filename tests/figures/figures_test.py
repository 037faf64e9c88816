"""Figures: that they draw what they are given, and where they end up."""

import re

import numpy as np
import pytest
from matplotlib import pyplot
from PIL import Image

from aeent_jax import figures
from aeent_jax.figures import heatmaps


def _panel_arrays(count=3, channels=1, masks=True, seed=0):
    rng = np.random.default_rng(seed)
    arrays = {
        "images": rng.random((count, 16, 16, channels)),
        "reconstructions": rng.random((count, 16, 16, channels)),
        "score_maps": rng.random((count, 16, 16)).astype(np.float32),
        "labels": np.arange(count) % 2,
        "ids": [f"test/{i:03d}" for i in range(count)],
        "scores": rng.random(count),
    }
    if masks:
        arrays["masks"] = np.zeros((count, 16, 16), bool)
        arrays["masks"][1:, 4:8, 4:8] = True
    return arrays


def _texts(fig):
    return [text.get_text() for ax in fig.axes for text in ax.texts]


def _lines(ax):
    return [line.get_xydata() for line in ax.lines]


def test_curves_keep_a_runs_color_where_another_run_has_no_curve():
    x = np.arange(5.0)
    fig = figures.curves(
        [
            ("loss", {"plain": (x, x + 1), "controlled": (x, x + 2)}),
            ("rate", {"controlled": (x, x + 9)}),
        ],
        "epoch",
    )
    left, right = fig.axes
    assert left.lines[1].get_color() == right.lines[0].get_color()
    assert [t.get_text() for t in fig.legends[0].texts] == [
        "plain",
        "controlled",
    ]
    np.testing.assert_array_equal(_lines(right)[0][:, 1], x + 9)


def test_loss_over_decades_is_drawn_on_a_logarithmic_axis():
    x = np.arange(3.0)
    wide, narrow, negative = (
        figures.curves([("y", {"run": (x, y)})], "epoch").axes[0]
        for y in (10.0**-x * 2, x + 5, x - 1)
    )
    assert wide.get_yscale() == "log"
    assert narrow.get_yscale() == "linear"
    assert negative.get_yscale() == "linear"


def test_intervals_are_drawn_in_percent_with_their_values():
    rows = [("a", 0.741, 0.7, 0.78, "#000000"), ("b", 0.5, 0.4, 0.6, "#ff0000")]
    ax = figures.intervals(rows, "AUROC, percent", 0.5).axes[0]
    assert [text.get_text() for text in ax.texts] == ["74.1", "50.0"]
    _, whisker, dot, *_ = _lines(ax)
    np.testing.assert_allclose(whisker, [[70, 0], [78, 0]])
    np.testing.assert_allclose(dot, [[74.1, 0]])


def test_differences_carry_their_sign():
    ax = figures.intervals([("a", 0.06, -0.01, 0.1, "#000000")], "", 0.0).axes
    assert [text.get_text() for text in ax[0].texts] == ["+6.0"]


@pytest.mark.parametrize("labels", [np.zeros(50, int), np.arange(50) % 2])
def test_histograms_name_only_the_classes_they_show(labels):
    scores = np.random.default_rng(0).random(50)
    fig = figures.score_histograms({"run": (scores, labels)})
    words = {text.get_text()[2:] for text in fig.texts}
    assert words == ({"normal", "abnormal"} if labels.any() else {"normal"})


def test_histograms_of_equal_scores_are_drawn():
    fig = figures.score_histograms({"run": (np.ones(4), np.arange(4) % 2)})
    assert figures.to_svg(fig)


def test_an_outlier_lands_in_the_last_bin():
    scores = np.append(np.linspace(0, 1, 999), 1e6)
    fig = figures.score_histograms({"run": (scores, np.zeros(1000, int))})
    assert fig.axes[0].get_xlim()[1] < 2


def test_panels_of_all_runs_share_one_scale():
    runs = {"a": _panel_arrays(seed=0), "b": _panel_arrays(seed=1)}
    runs["b"]["score_maps"] *= 3
    for common, count in ((True, 1), (False, 2)):
        fig = figures.panels(runs, common_scale=common)
        maps = [
            image
            for ax in fig.axes
            for image in ax.images
            if image.get_cmap().name == "magma"
        ]
        assert len(maps) == 6
        assert len({image.get_clim() for image in maps}) == count
        assert {image.get_clim()[0] for image in maps} == {0}


def test_panels_outline_masks_on_the_image_and_on_every_map():
    fig = figures.panels({"a": _panel_arrays(), "b": _panel_arrays()})
    outlined = [bool(ax.collections) for ax in fig.axes]
    row = [True, False, True, False, True]
    assert outlined == [False] * 5 + row + row


def test_panels_name_classes_ids_and_scores():
    arrays = _panel_arrays()
    arrays["ids"][0] = "a/very/long/path/to/image_0001.png"
    texts = _texts(figures.panels({"": arrays}))
    assert {"normal", "abnormal", "test/001"} <= set(texts)
    assert "…image_0001.png" in texts
    assert f"{arrays['scores'][0]:.3g}" in texts


@pytest.mark.filterwarnings("error")
def test_names_that_the_font_lacks_are_drawn_with_question_marks(tmp_path):
    arrays = _panel_arrays()
    arrays["ids"][0] = "胸部é1.png"
    assert "??é1.png" in _texts(figures.panels({"": arrays}))
    figures.save_panel(tmp_path, **arrays)
    curve = (np.arange(3), np.arange(3.0))
    fig = figures.curves([("loss", {"胸": curve})], "step")
    fig.savefig(tmp_path / "a.png")


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("masks", [True, False])
def test_save_panel_writes_the_picture_and_what_it_was_drawn_from(
    tmp_path, channels, masks
):
    arrays = _panel_arrays(channels=channels, masks=masks)
    arrays.setdefault("masks", None)
    figures.save_panel(tmp_path, **arrays)
    with Image.open(tmp_path / "panel.png") as picture:
        assert min(picture.size) > 300
    with np.load(tmp_path / "panel.npz") as found:
        assert set(found) == {k for k, v in arrays.items() if v is not None}
        for name, values in found.items():
            np.testing.assert_array_equal(values, arrays[name])


def test_svg_is_self_contained_and_the_same_each_time():
    svg, again = (
        figures.to_svg(figures.panels({"<b>&": _panel_arrays()}))
        for _ in range(2)
    )
    assert svg == again
    assert svg.startswith("<svg")
    assert svg.endswith("</svg>")
    assert "<b>" not in svg
    links = re.findall(r'(?:href|src)="([^"]*)"', svg)
    assert links
    assert all(link.startswith(("#", "data:image/png")) for link in links)
    assert not re.search(r"url\((?!#)", svg)
    assert "var(--ink," in svg


def test_rate_curves_ascend_and_name_their_best_point():
    points = [(5.0, 0.7, 0.0, "high"), (9.0, 0.8, 0.0, "low")]
    curves = {"a": [(20.0, 0.6, 0.0, "least"), *points], "b": points}
    fig = figures.rate_curves(
        curves, points={"free": (50.0, 0.55)}, lines={"plain": 0.5}, y_label=""
    )
    (curve,) = fig.axes[0].containers
    np.testing.assert_allclose(
        curve.lines[0].get_xydata(), [[5, 70], [9, 80], [20, 60]]
    )
    # The first plot names the axis that all share.
    assert set(_texts(fig)) == {"low", "free", "plain"}
    assert fig.axes[1].get_xscale() == "log"


def test_size_curves_ascend_with_a_band_and_one_legend():
    points = [(8, 72.0, 1.0), (2, 70.0, 0.5)]
    curve = figures.SizeCurve("ae", points, figures.RUNS[0])
    numbers = figures.SizeCurve("printed", points, figures.INK, "published")
    quiet = figures.SizeCurve("PCA", points, figures.NORMAL, "quiet")
    fig = figures.size_curves(
        {"a": [curve, numbers], "b": [curve, quiet]}, y_label="AUROC, percent"
    )
    left, right = fig.axes
    np.testing.assert_array_equal(_lines(left)[0], [[2, 70], [8, 72]])
    (band,) = left.collections[:1]
    low, high = band.get_paths()[0].get_extents().get_points()[:, 1]
    assert (low, high) == (69.5, 73.0)
    # A line without seeds has no band.
    assert len(right.collections) == 1
    assert [tick.get_text() for tick in right.get_xticklabels()] == ["2", "8"]
    assert [t.get_text() for t in fig.legends[0].texts] == [
        "ae",
        "printed",
        "PCA",
    ]


def test_names_are_never_read_as_formulas():
    x = np.arange(3.0)
    svg = figures.to_svg(figures.curves([("y", {"_a$b$": (x, x)})], "epoch"))
    assert "_a$b$" in svg


def test_no_global_figure_is_left_behind():
    figures.panels({"": _panel_arrays()})
    figures.intervals([("a", 0.5, 0.4, 0.6, "#000000")], "", 0.5)
    assert not pyplot.get_fignums()


@pytest.mark.parametrize("channels", [1, 3])
def test_a_strip_shows_image_reconstruction_and_overlay(channels):
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (8, 8, channels), np.uint8)
    score_map = np.float32(rng.uniform(0, 1.5, (8, 8)))
    reconstruction = pixels / np.float32(127.5) - 1
    drawn = heatmaps.strip(pixels, reconstruction, score_map, 1.0)
    image, again, overlay = np.split(np.asarray(drawn), 3, axis=1)
    np.testing.assert_array_equal(image, np.broadcast_to(pixels, image.shape))
    np.testing.assert_array_equal(again, image)
    expected = heatmaps.overlay(Image.fromarray(image), score_map, 1.0)
    # Opacity is rounded there.
    np.testing.assert_allclose(overlay, np.float32(expected), atol=2)
    drawn = heatmaps.strip(pixels, reconstruction, None, 1.0)
    assert not np.asarray(drawn)[:, 16:].any()
