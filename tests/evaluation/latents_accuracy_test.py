import pytest

from aeent_jax.evaluation import latents


@pytest.fixture(scope="module")
def found():
    return latents.measure_accuracy(4, dims=(1, 8), sizes=(256, 64))


def test_errors_are_those_that_are_documented(found):
    # Published at n = 256: -2.3 and +.62 in 8 dimensions.
    cell = found[8, 256]
    for name, published in (("kde_resub", -2.3), ("kde_loo", 0.62)):
        error = 4 * cell[name].standard_error + 0.05
        assert cell[name].mean == pytest.approx(published, abs=error)
    for name, accuracy in found[1, 256].items():
        # The scatter of the mean of log p over 256 draws is sqrt(1/2 / 256).
        error = 4 * (0.5 / 256 / 4) ** 0.5
        assert abs(accuracy.mean) < error + 0.05, name


def test_standard_error_falls_with_n(found):
    for name, accuracy in found[1, 256].items():
        assert 0 < accuracy.standard_error < 0.1
        # The same draws, of which there are fewer.
        assert found[1, 64][name] != accuracy


def test_markdown_has_a_row_for_each_dim_and_a_column_for_each_n(found):
    text = latents.format_accuracy(found, 4)
    lines = text.splitlines()
    assert "mean error in nats over 4 seeds" in lines[0]
    assert "`kde_loo` bandwidth=scott" in lines[0]
    assert lines[2:4] == ["| dim | n=256 | n=64 |", "|---|---|---|"]
    assert len(lines) == 6
    cells = lines[5].strip("| ").split(" | ")
    assert cells[0] == "8"
    means = [accuracy.mean for accuracy in found[8, 256].values()]
    assert cells[1].split(" / ") == [f"{mean:+.2f}" for mean in means]


def test_one_seed_has_no_scatter():
    with pytest.raises(ValueError, match="seeds is 1, and at least 2"):
        latents.measure_accuracy(1)
