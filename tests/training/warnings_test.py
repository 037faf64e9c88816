import pytest

from aeent_jax import entropy
from aeent_jax.training import objective
from aeent_jax.training import warnings as warnings_lib


def warnings(normalisation="none", **overrides):
    fields = {"sigma": 1.0, "estimator": "kde_loo", "weight": 1e-3}
    rate = objective.Rate(**(fields | overrides))
    return warnings_lib.warnings(rate, normalisation, batch_size=64)


@pytest.mark.parametrize(
    "sound",
    [
        {},
        {"estimator": "coding_rate"},
        {"bandwidth": 1.0},
        {"estimator": "none", "sigma": 0.0},
        {"normalisation": "power"},
    ],
)
def test_sound_combinations_are_silent(sound):
    assert warnings(**sound) == []


@pytest.mark.parametrize(
    ("overrides", "reason"),
    [
        ({"noise": "uniform"}, "stays an upper bound in expectation"),
        (
            {"noise": "uniform", "estimator": "coding_rate"},
            # 1/2 log(pi e / 6): how much less entropy uniform noise has.
            "lets up to 0.18 nats more pass in each dimension",
        ),
        ({"bandwidth": "scott"}, "measures another channel"),
        ({"bandwidth": 0.5}, "measures another channel"),
        (
            {"estimator": "kde_kl", "weight": 0.0},
            "cannot read more than log n = 4.2 nats of rate from 64 latents",
        ),
        (
            {"sigma": 0.0, "bandwidth": 0.5},
            "the encoder shrinks them and the decoder undoes it",
        ),
    ],
)
def test_unsound_combinations_are_warned_of(overrides, reason):
    (sentence,) = warnings(**overrides)
    assert reason in sentence


def test_power_without_noise_hides_the_information():
    _, sentence = warnings("power", sigma=0.0, bandwidth=0.5)
    assert "amplitudes far below the kernel" in sentence


def table_with(monkeypatch, **entries):
    for name, entry in entries.items():
        monkeypatch.setitem(entropy.ESTIMATORS, name, entry)


def test_only_a_weight_makes_a_penalty_of_what_is_no_upper_bound(monkeypatch):
    table_with(
        monkeypatch,
        renyi2=entropy.Estimator(entropy.none, "lower bound"),
        knn=entropy.Estimator(entropy.none, "neither"),
    )
    (sentence,) = warnings(estimator="renyi2")
    assert "(lower bound), and to minimise anything else" in sentence
    assert warnings(estimator="renyi2", weight=0.0) == []
    first, second = warnings(estimator="knn")
    assert "certifies nothing" in first
    assert "its k-th neighbour alone" in second
    assert warnings(estimator="knn", weight=0.0) == []


def test_dither_belongs_to_uniform_noise(monkeypatch):
    entry = entropy.Estimator(
        entropy.none, "upper bound", noise_argument="width"
    )
    table_with(monkeypatch, quantised=entry)
    (sentence,) = warnings(estimator="quantised")
    assert "set channel.noise=uniform" in sentence
    assert warnings(estimator="quantised", noise="uniform") == []
