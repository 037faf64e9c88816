import json

import numpy as np
import pytest

from aeent_jax.bench import entropy_peers, entropy_speed, timing
from aeent_jax.entropy import pairwise

# Seventeen queries do not divide among eight devices.
Q = np.random.default_rng(0).normal(size=(17, 3)).astype(np.float32)
Z = np.random.default_rng(1).normal(size=(20, 3)).astype(np.float32)


def run(name, *, with_gradient):
    return entropy_peers.PEERS[name].prepare(Q, Z, with_gradient).run()


@pytest.mark.parametrize("name", ["dense", "map"])
def test_peers_give_the_same_value_and_gradient(name):
    got = run(name, with_gradient=True)
    expected = run("ours", with_gradient=True)
    assert len(got) == len(expected) == 3
    for a, b in zip(got, expected, strict=True):
        # float32 sums in another order.
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_kernel_density_gives_the_same_value():
    np.testing.assert_allclose(
        run("sklearn", with_gradient=False),
        run("ours", with_gradient=False),
        rtol=1e-6,
    )


@pytest.mark.parametrize("name", ["torch", "keops"])
def test_other_frameworks_give_the_same_value_and_gradient(name):
    pytest.importorskip(entropy_peers.PEERS[name].needs)
    got = run(name, with_gradient=True)
    expected = run("ours", with_gradient=True)
    for a, b in zip(got, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_what_cannot_run_says_why():
    dense = entropy_peers.PEERS["dense"]
    reason = dense.reason_against(65536, 65536, True, 2**30)
    assert reason == "dense JAX would need 48 GiB for all pairs at once."
    assert dense.reason_against(256, 256, True, 2**30) is None
    sklearn = entropy_peers.PEERS["sklearn"]
    assert "value alone" in sklearn.reason_against(2, 2, True, 2**30)
    absent = dense._replace(needs="no_such_module")
    assert "not installed" in absent.reason_against(2, 2, False, 2**30)


def test_work_of_a_gradient_is_three_products_or_four():
    count, many = entropy_speed.count_work, 10 * pairwise.WHOLE
    assert count(10, 20, 3, True) == {"matmul": 3600, "exp": 200}
    assert count(10, 20, 3, False) == {"matmul": 1200, "exp": 200}
    assert count(1, many, 3, True) == {"matmul": 24 * many, "exp": 2 * many}


def test_queries_are_some_samples_above_the_largest_square():
    case = entropy_speed.Case(2**17, 1, False)
    assert [len(rows) for rows in case.draw()] == [4096, 2**17]
    assert entropy_speed.Case(2**16, 1, False).queries == 2**16


class Clock:
    """A clock that calls move on."""

    def __init__(self, monkeypatch):
        self.now, self.called = 0.0, ""
        monkeypatch.setattr(timing.time, "perf_counter", lambda: self.now)

    def call(self, name, *seconds):
        left = list(seconds)

        def call():
            self.now += left.pop(0) if len(left) > 1 else left[0]
            self.called += name

        return call


def test_calls_take_turns_and_the_first_run_does_not_count(monkeypatch):
    clock = Clock(monkeypatch)
    calls = {"a": clock.call("a", 2.0, 1.0), "b": clock.call("b", 0.5)}
    runs = timing.take_turns(calls, 60.0)
    assert clock.called == "ab" * 6
    assert runs == {"a": [1.0] * 5, "b": [0.5] * 5}


def test_a_short_call_is_repeated_and_its_mean_counts(monkeypatch):
    clock = Clock(monkeypatch)
    seconds = timing.time_call(clock.call("a", 0.0625, 0.015625))
    # 1/16 s and three times 1/64 s are more than 1/10 s.
    assert clock.called == "aaaa"
    assert seconds == 7 / 64 / 4


def test_what_has_no_time_for_a_second_run_keeps_its_first(monkeypatch):
    clock = Clock(monkeypatch)
    calls = {"a": clock.call("a", 4.0), "b": clock.call("b", 40.0)}
    runs = timing.take_turns(calls, 60.0)
    # 44 s, then 4 s for a second run; after that 15 s are over.
    assert clock.called == "aba"
    assert runs == {"a": [4.0], "b": [40.0]}


def test_ratio_is_that_of_each_round():
    # A machine that slows down fourfold in between changes no ratio.
    base = [100.0, 100.0, 25.0]
    assert timing.ratio([200.0, 200.0, 50.0], base) == (2.0, 2.0, 2.0)
    assert timing.ratio([100.0, 400.0, 50.0], base) == (2.0, 1.0, 4.0)


def test_peers_are_skipped_that_are_not_expected_to_end_in_time():
    case = entropy_speed.Case(16, 2, False)
    pace = {"ours": 0.1, "dense": 0.25}
    calls, skipped = entropy_speed._admit(case, ["ours", "dense"], pace, 60.0)
    assert list(calls) == ["ours"]
    assert skipped == {
        "dense": "dense JAX would need about 64 s, and of 60 s others need"
        " 26 s."
    }


def test_peaks_compute_what_they_count(monkeypatch):
    monkeypatch.setattr(entropy_speed, "_SIDE", 4)
    monkeypatch.setattr(entropy_speed, "_EXPONENTIALS", 8)
    peaks = entropy_speed._prepare_peaks()
    assert {key: work for key, (_, work) in peaks.items()} == {
        "matmul": 2 * 4**3,
        "exp": 8 * entropy_speed._REPEATS,
    }
    np.testing.assert_array_equal(peaks["matmul"][0](), np.full((4, 4), 4.0))
    # Where exp(-1.0001 a) = a.
    np.testing.assert_allclose(peaks["exp"][0](), 0.567122, atol=1e-5)


def test_share_of_the_peak_is_of_the_time_of_ours():
    case = entropy_speed.Case(10, 5, False)
    runs = {"ours": [4.0], "matmul": [1.0], "exp": [2.0]}
    peaks = {"matmul": (None, 2000.0), "exp": (None, 800.0)}
    # 1000 FLOP need half a second, 100 exponentials a quarter, of four.
    assert entropy_speed._shares(case, runs, peaks) == {
        "matmul": 0.125,
        "exp": 0.0625,
        "both": 0.1875,
    }


def test_measures_and_prints(monkeypatch):
    monkeypatch.setattr(timing, "_ROUNDS", 1)
    monkeypatch.setattr(entropy_speed, "_SIDE", 4)
    monkeypatch.setattr(entropy_speed, "_EXPONENTIALS", 8)
    lines = []
    result = entropy_speed.measure(
        [16],
        [2],
        ["dense", "ours", "sklearn"],
        log=lines.append,
        most_seconds=60.0,
    )
    assert json.loads(json.dumps(result)) == result
    assert len(result["cases"]) == 2
    for case in result["cases"]:
        ours = case["peers"]["ours"]
        assert ours["over_ours"]["median"] == 1
        assert ours["seconds"] == ours["runs"][0] > 0
        assert ours["share_of_peak"]["both"] > 0
        assert ("sklearn" in case["peers"]) != case["with_gradient"]
        # float32 sums in another order.
        dense = case["peers"]["dense"]["value"]
        np.testing.assert_allclose(dense, ours["value"], rtol=1e-5)
    text = entropy_speed.format_entropy(result)
    for words in ("times ours", "dense JAX", "KernelDensity gives"):
        assert words in text
    assert "value, 16 queries, 16 samples, dim 2 ..." in lines


@pytest.mark.parametrize(
    ("sizes", "peers", "seconds", "message"),
    [
        ([16], ["ours", "fly"], 60.0, "--peers is ours,fly"),
        ([16], ["dense"], 60.0, "--peers is dense, and ours with any"),
        ([1], ["ours"], 60.0, "--sizes begins at 1 and --dims"),
        ([16], ["ours"], 0.0, "--most_seconds is 0.0"),
    ],
)
def test_bad_requests_are_refused(sizes, peers, seconds, message):
    with pytest.raises(ValueError, match=message):
        entropy_speed.measure(
            sizes, [2], peers, log=lambda line: None, most_seconds=seconds
        )
