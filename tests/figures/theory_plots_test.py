import numpy as np

from aeent_jax import figures

KINDS = ("train_normal", "test_normal", "test_abnormal")
X = np.array([5.0, 10.0, 10.0])


def points(x=X):
    errors = {kind: (i + 1) / x for i, kind in enumerate(KINDS)}
    return figures.Points(x, errors, 1 / x, 0.5 + 1 / x)


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


def test_what_came_through_the_channel_is_hollow():
    through = (1 / X, 0.5 + 1 / X)
    fig = figures.shortcut({"nats": (points()._replace(through=through), None)})
    for ax, values in zip(fig.axes[1:], through, strict=True):
        (hollow,) = (
            line for line in ax.lines if line.get_markerfacecolor() == "w"
        )
        np.testing.assert_allclose(hollow.get_ydata(), 100 * values)


def test_shortcut_leaves_out_the_column_that_is_not_there():
    assert len(figures.shortcut({"size": (points(), None)}).axes) == 3
