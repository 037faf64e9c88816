"""Curves over the latent size, of made records."""

import csv
import io

import numpy as np
import pytest
from sweep_support import run

from aeent_jax.results import groups
from aeent_jax.sweep import latent_sizes

# Size -> AUROC of two seeds.
AUROCS = {2: (0.70, 0.72), 4: (0.74, 0.75), 8: (0.72, 0.72)}


def table_1(data="kermany_cxr", **settings):
    return [
        run(size=size, seed=seed, auroc=auroc, data=data, **settings)
        for size, aurocs in AUROCS.items()
        for seed, auroc in enumerate(aurocs)
    ]


OURS = [run(size=64, seed=s, auroc=0.78, controlled=True) for s in (0, 1)]


def found(*records):
    runs = [one for some in records for one in some]
    return groups.in_order(groups.by_experiment(runs))


def test_groups_that_differ_by_size_alone_are_a_family():
    (family,) = latent_sizes.families(found(table_1(), OURS))
    assert (family.data, family.name) == ("kermany_cxr", "ae")
    points = family.points("auroc")
    expected = [
        (size, np.mean(aurocs), np.std(aurocs, ddof=1))
        for size, aurocs in AUROCS.items()
    ]
    np.testing.assert_allclose(points, expected)


def test_two_sizes_are_no_family():
    few = [one for one in table_1() if one.config["model.latent_dim"] > 2]
    assert latent_sizes.families(found(few, OURS)) == []
    assert latent_sizes.auroc_against_size(found(few)) is None
    assert latent_sizes.error_against_size(found(few)) is None
    assert latent_sizes.errors_csv(found(few)) == ""


def test_families_are_named_by_what_tells_them_apart():
    names = [
        (family.data, family.name)
        for family in latent_sizes.families(
            found(table_1(), table_1(method="vae"), table_1("rsna"))
        )
    ]
    # Epochs follow the data, and are no part of a name.
    assert names == [
        ("kermany_cxr", "ae"),
        ("kermany_cxr", "vae"),
        ("rsna", "ae"),
    ]


def test_best_size_is_called_an_oracle():
    (sentence,) = latent_sizes.best_sizes(found(table_1(), OURS))
    assert sentence == (
        "Of 3 latent sizes of ae on kermany_cxr, 4 has the largest AUROC, 74.5"
        " ± 0.7: chosen with the test labels, an oracle."
    )


def drawn(ax, name):
    """The points `[n, 2]` under a name of the legend."""
    texts = [text.get_text() for text in ax.figure.legends[0].texts]
    handle = ax.figure.legends[0].legend_handles[texts.index(name)]
    for line in ax.lines:
        if (
            line.get_color() == _color(handle)
            and len(line.get_xydata())
            and line.get_marker() != "_"
        ):
            return line.get_xydata()
    raise AssertionError(f"{name} is not drawn")


def _color(handle):
    line = getattr(handle, "lines", (handle,))[0]
    return line.get_color()


def test_auroc_is_drawn_beside_published_points_and_components():
    fig = latent_sizes.auroc_against_size(found(table_1(), OURS))
    (ax,) = fig.axes
    assert ax.get_title(loc="left") == "kermany_cxr"
    np.testing.assert_allclose(drawn(ax, "ae"), [[2, 71], [4, 74.5], [8, 72]])
    np.testing.assert_allclose(
        drawn(ax, "ae, published"), [[2, 71.6], [4, 74.1], [8, 73.3]]
    )
    np.testing.assert_allclose(
        drawn(ax, "principal components"),
        [[2, 60.2], [4, 60.4], [8, 60.8], [64, 66.4]],
    )
    np.testing.assert_allclose(
        drawn(ax, "coding_rate, weight 0.001"), [[64, 78]]
    )


def test_each_data_set_has_a_plot():
    fig = latent_sizes.auroc_against_size(found(table_1(), table_1("rsna")))
    titles = [ax.get_title(loc="left") for ax in fig.axes]
    assert titles == ["kermany_cxr", "rsna"]


def test_errors_of_each_kind_of_image_are_drawn_and_written():
    some = found(table_1())
    (ax,) = latent_sizes.error_against_size(some).axes
    # 0.01 / size, and half of the second seed's 1e-3.
    trained = np.array([0.0055, 0.0030, 0.00175])
    for line, above in zip(ax.lines, (0.0, 0.002, 0.005), strict=True):
        np.testing.assert_allclose(line.get_xydata()[:, 1], trained + above)
    text = latent_sizes.errors_csv(some)
    rows = list(csv.DictReader(io.StringIO(text)))
    assert len(rows) == 3 * 3
    assert rows[0]["kind"] == "train_normal"
    assert float(rows[0]["mean"]) == pytest.approx(trained[0])
    assert float(rows[0]["sd"]) == pytest.approx(1e-3 / np.sqrt(2))


def test_without_abnormal_images_errors_alone_are_drawn():
    records = table_1()
    for one in records:
        evaluation = one.evaluation
        for key in ("auroc", "auroc_interval", "ap", "ap_interval"):
            del evaluation[key]
        del evaluation["baselines"]
        del evaluation["reconstruction_error"]["test_abnormal"]
    some = found(records)
    assert latent_sizes.auroc_against_size(some) is None
    assert latent_sizes.best_sizes(some) == []
    assert len(latent_sizes.error_against_size(some).axes[0].lines) == 2
