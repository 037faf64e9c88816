import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from aeent_jax import entropy
from aeent_jax.evaluation import latents
from aeent_jax.results import latents as latents_text

N, DIM, SIGMA = 60, 3, 0.5
Z = np.random.default_rng(0).normal(size=(N, DIM)).astype(np.float32)
NOISE = 0.5 * DIM * math.log(2 * math.pi * math.e * SIGMA**2)


@pytest.fixture(scope="module")
def channel():
    """The channel, with all rows as queries."""
    return latents.measure(Z, SIGMA)


def test_every_estimator_is_measured(channel):
    found = channel["estimators"]
    assert list(found) == list(entropy.ESTIMATORS)
    for name, entry in entropy.ESTIMATORS.items():
        assert found[name]["direction"] == entry.direction
        assert found[name]["rows"] == N
        has_queries = entry.per_query and entry.init is None
        assert found[name]["queries"] == (N if has_queries else None)
        assert found[name]["standard_error_nats"] is None
        assert found[name]["compile_seconds"] > 0
        assert found[name]["peak_bytes"] >= 0


def test_entropy_of_the_channel_less_that_of_the_noise_is_the_rate(channel):
    for name, record in channel["estimators"].items():
        if record["h_nats"] is not None:
            rate = record["rate_nats"]
            # The dither of a quantiser is uniform, of the same deviation.
            uniform = DIM * math.log(SIGMA * math.sqrt(12))
            noise = uniform if name == "quantised" else NOISE
            # float32
            assert record["h_nats"] - noise == pytest.approx(rate, abs=1e-5)
        else:
            assert name in ("none", "coding_rate", "matrix_renyi")


def test_values_are_the_estimators_own(channel):
    found = channel["estimators"]
    low = channel["diagnostics"]["rate_low"]
    up = channel["diagnostics"]["rate_up"]
    assert low < up
    # The same noise, but here its square is not replaced by its mean; that
    # moves the mean of 60 draws in 3 dimensions by sqrt(3/120).
    for name, end in (("kde_loo", up), ("kde_resub", low)):
        distance = abs(found[name]["rate_nats"] - end)
        assert distance < 4 * math.sqrt(DIM / (2 * N))
    # float32, compiled apart.
    coding_rate = float(entropy.coding_rate(Z, sigma=SIGMA).value)
    rate = found["coding_rate"]["rate_nats"]
    assert rate == pytest.approx(coding_rate, rel=1e-5)
    kl = float(entropy.kde_kl(Z, bandwidth=SIGMA).value)
    assert found["kde_kl"]["h_nats"] == pytest.approx(kl, rel=1e-5)
    correlation = float(entropy.total_correlation(Z))
    got = channel["total_correlation_nats"]
    assert got == pytest.approx(correlation, rel=1e-5)


def test_rule_or_number_measures_clean_latents_which_have_no_rate():
    names = ["kde_loo", "coding_rate"]
    result = latents.measure(
        Z, SIGMA, bandwidth="scott", estimators=names, max_queries=1000
    )
    found = result["estimators"]
    assert list(found) == names
    expected = entropy.kde_loo(Z)
    # float32, rows in another order.
    assert found["kde_loo"]["h_nats"] == pytest.approx(
        float(expected.value), rel=1e-5
    )
    assert found["kde_loo"]["rate_nats"] is None
    assert found["coding_rate"]["rate_nats"] > 0
    assert result["kernel"] == pytest.approx(
        float(expected.diagnostics["bandwidth"]), rel=1e-5
    )
    assert "scott" in latents_text.describe(result)


def test_many_latents_are_sampled_and_said_to_be(monkeypatch):
    monkeypatch.setattr(latents, "MOST_ROWS", 40)
    monkeypatch.setattr(latents, "MAX_QUERIES", 20)
    monkeypatch.setattr(latents, "_ALL_PAIRS", frozenset({"coding_rate"}))
    result = latents.measure(Z, SIGMA, estimators=["kde_loo", "coding_rate"])
    loo = result["estimators"]["kde_loo"]
    assert (loo["queries"], loo["rows"]) == (20, N)
    assert loo["standard_error_nats"] > 0
    whole_batch = result["estimators"]["coding_rate"]
    assert (whole_batch["queries"], whole_batch["rows"]) == (None, 40)
    assert result["diagnostics"]["rows"] == 40
    table = " ".join(latents_text.describe(result).split())
    assert "Where +- is given, 20 latents chosen at random" in table
    assert "coding_rate: of 40 latents chosen at random" in table
    assert "nats (of 40 latents); the first is at most log n = 3.69" in table


def refuse(points):
    n = len(points.samples)
    raise ValueError(f"samples has {n} rows: pass more latents.")


def test_what_cannot_run_is_skipped_with_its_sentence(monkeypatch):
    entry = entropy.Estimator(refuse, "neither")
    monkeypatch.setitem(entropy.ESTIMATORS, "knn", entry)
    result = latents.measure(Z[:3], SIGMA, estimators=["knn", "none"])
    sentence = "samples has 3 rows: pass more latents."
    assert result["estimators"]["knn"] == {
        "direction": "neither",
        "skipped": sentence,
    }
    table = latents_text.describe(result)
    assert f"\nknn skipped: {sentence}\n" in table
    # As many dimensions as rows.
    assert result["total_correlation_nats"] is None
    assert "skipped: it needs at least 4 latents" in table


def fit_normal(name, rng, z, *, steps, width=None):
    """Stands for a density that is fitted: a normal, or the cube's volume."""
    if width is not None:
        value = jnp.sum(jnp.log(jnp.max(z, 0) - jnp.min(z, 0)))
    else:
        value = jnp.sum(jnp.log(jnp.std(z, 0))) + DIM * 1.41894
    return entropy.Estimate(value, "h", jnp.full(len(z) // 2, value))


@pytest.fixture
def learned(monkeypatch):
    monkeypatch.setattr(entropy, "fit_learned", fit_normal)


def test_learned_estimators_get_the_noise_that_they_are_made_for(learned):
    found = latents.measure(
        np.tile(Z, (20, 1)), SIGMA, estimators=["mixture", "quantised"]
    )["estimators"]
    # A normal with the variances' sum; the noise is 1200 draws.
    expected = 0.5 * np.sum(np.log(1 + Z.var(0) / SIGMA**2))
    assert found["mixture"]["rate_nats"] == pytest.approx(expected, abs=0.15)
    # The cube that the dither fills is that of the latents and its width.
    width = math.sqrt(12) * SIGMA
    expected = np.sum(np.log(np.ptp(Z, 0) / width + 1))
    # Corners of the cube stay empty: it is a little smaller.
    assert found["quantised"]["rate_nats"] == pytest.approx(expected, abs=0.4)
    found = latents.measure(
        Z, SIGMA, bandwidth="scott", estimators=["mixture"]
    )["estimators"]
    assert found["mixture"]["rate_nats"] is None
    expected = np.sum(np.log(Z.std(0))) + DIM * 1.41894
    assert found["mixture"]["h_nats"] == pytest.approx(expected, rel=1e-5)


def test_seed_decides_the_noise():
    def rate(seed):
        result = latents.measure(Z, SIGMA, estimators=["kde_loo"], seed=seed)
        return result["estimators"]["kde_loo"]["rate_nats"]

    assert rate(1) == rate(1) != rate(0)


def test_equal_latents_carry_nothing():
    result = latents.measure(
        np.ones((N, DIM), np.float32),
        SIGMA,
        estimators=["kde_kl", "coding_rate"],
    )
    found = result["estimators"]
    assert found["coding_rate"]["rate_nats"] == 0
    assert found["kde_kl"]["rate_nats"] == pytest.approx(0, abs=1e-5)
    assert result["total_correlation_nats"] == 0
    latents_text.describe(result)


def test_bracket_near_its_ceiling_is_said_to_be(channel):
    warning = "The rate is not well below log n"
    found = channel["diagnostics"]
    for rate, warned in ((math.log(N) - 2, True), (math.log(N) - 4, False)):
        result = channel | {"diagnostics": found | {"rate_up": rate}}
        assert (warning in latents_text.describe(result)) == warned


def test_table_has_a_line_for_each_estimator(channel):
    text = latents_text.describe(channel)
    lines = text.split("\nThe rate is not")[0].splitlines()
    assert lines[0] == "60 latents of 3 dimensions, seed 0"
    for name, record in channel["estimators"].items():
        (line,) = [x for x in lines if x.startswith(f"| {name} ")]
        assert f"{record['rate_nats']:.3f} " in line
        assert line.endswith(f" {record['direction']} |")
    names = ["rate between", "rho", "effective rank", "total correlation"]
    for line, name in zip(lines[-4:], names, strict=True):
        assert line.startswith(name)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"sigma": 0.0}, "sigma is 0.0, .*rate is infinite: give --sigma=1.0"),
        ({"sigma": math.nan}, "sigma is nan, and a positive number"),
        ({"max_queries": 1}, "max_queries is 1, and at least 2"),
        ({"bandwidth": "scot"}, "'scot', and a number .*channel, scott.*spell"),
        ({"bandwidth": "-1"}, "bandwidth is '-1', and a number above 0"),
        ({"estimators": ["kde"]}, "holds 'kde', .*kde_loo.*spelling"),
    ],
)
def test_unusable_settings_are_refused(settings, sentence):
    with pytest.raises(ValueError, match=sentence):
        latents.measure(Z, **({"sigma": SIGMA} | settings))


def test_rule_without_a_scale_is_refused():
    with pytest.raises(ValueError, match="'scott' finds no scale .*--bandwid"):
        latents.measure(np.ones((N, DIM), np.float32), 1.0, bandwidth="scott")


def test_choice_of_rows_is_without_replacement(monkeypatch):
    monkeypatch.setattr(latents, "MOST_ROWS", 40)
    made, _ = latents.make_latents(Z, SIGMA, "channel", None, 0)
    fewer = made.fewer()
    assert len(np.unique(np.asarray(fewer.clean), axis=0)) == 40
    noise = (fewer.output - fewer.clean) / SIGMA
    assert 0.7 < jnp.std(noise) < 1.3
    assert isinstance(fewer.rng, jax.Array)
