import json

import jax
import numpy as np
import pytest

from aeent_jax.bench import (
    entropy,
    entropy_peers,
    entropy_tables,
    peaks,
    timing,
)
from aeent_jax.entropy import kde_loo, pairwise

# Seventeen queries do not divide among eight devices.
Q = np.random.default_rng(0).normal(size=(17, 3)).astype(np.float32)
Z = np.random.default_rng(1).normal(size=(20, 3)).astype(np.float32)
SAME_NUMBER = ("devices", "dense", "map")


def run(name, *, with_gradient):
    return entropy_peers.PEERS[name].prepare(Q, Z, with_gradient).run()


@pytest.mark.parametrize("name", SAME_NUMBER)
def test_peers_give_the_same_value_and_gradient(name):
    got = jax.tree.leaves(run(name, with_gradient=True))
    expected = jax.tree.leaves(run("ours", with_gradient=True))
    assert len(got) == len(expected) == 3
    for a, b in zip(got, expected, strict=True):
        # float32 sums in another order.
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_kernel_density_gives_the_same_value():
    np.testing.assert_allclose(
        run("sklearn", with_gradient=False).value,
        run("ours", with_gradient=False).value,
        rtol=1e-6,
    )


@pytest.mark.parametrize("name", ["torch", "keops"])
def test_other_frameworks_give_the_same_value_and_gradient(name):
    pytest.importorskip(entropy_peers.PEERS[name].needs)
    got = jax.tree.leaves(run(name, with_gradient=True))
    expected = jax.tree.leaves(run("ours", with_gradient=True))
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
    assert entropy.count_work(10, 20, 3, True) == {"matmul": 3600, "exp": 200}
    many = 10 * pairwise.WHOLE
    assert entropy.count_work(1, many, 3, True) == {
        "matmul": 24 * many,
        "exp": 2 * many,
    }
    assert entropy.count_work(10, 20, 3, False) == {"matmul": 1200, "exp": 200}


def test_queries_are_sampled_above_the_largest_square():
    case = entropy.Case(2**17, 1, False)
    assert [len(rows) for rows in case.draw()] == [4096, 2**17]
    assert case.pairs("ours") == case.pairs("sampled") == 2**29
    case = entropy.Case(2**16, 1, False)
    assert (case.pairs("ours"), case.pairs("sampled")) == (2**32, 2**28)


def test_sampled_queries_tell_their_standard_error(monkeypatch):
    monkeypatch.setattr(entropy_peers, "MOST_QUERIES", 8)
    found = run("sampled", with_gradient=False)
    everything = float(kde_loo(Z, bandwidth=1.0).value)
    assert found.standard_error > 0
    # Chance: a normal one exceeds five with a probability of 1e-6.
    assert abs(found.value - everything) < 5 * found.standard_error


class Clock:
    """A clock that calls move on."""

    def __init__(self, monkeypatch):
        self.now, self.called = 0.0, ""
        monkeypatch.setattr(timing.time, "perf_counter", lambda: self.now)
        monkeypatch.setattr(timing.time, "process_time", lambda: 2 * self.now)

    def call(self, name, *seconds):
        left = list(seconds)

        def call():
            self.now += left.pop(0) if len(left) > 1 else left[0]
            self.called += name

        return call


def test_calls_take_turns_and_the_first_run_does_not_count(monkeypatch):
    clock, said = Clock(monkeypatch), []
    calls = {"a": clock.call("a", 2.0, 1.0), "b": clock.call("b", 0.5)}
    runs = timing.take_turns(calls, 60.0, said.append)
    assert clock.called == "ab" * 6
    assert said == ["a", "b"]
    assert [r.seconds for r in runs["a"]] == [1.0] * 5
    assert {r.cores for r in runs["b"]} == {2.0}


def test_a_short_call_is_repeated_and_its_mean_counts(monkeypatch):
    clock = Clock(monkeypatch)
    found = timing.run(clock.call("a", 0.0625, 0.015625))
    assert (
        clock.called == "aaaa"
    )  # 1/16 s and three times 1/64 are more than 1/10.
    assert found.seconds == 7 / 64 / 4
    assert found.cores == 2.0


def test_what_has_no_time_for_a_second_run_keeps_its_first(monkeypatch):
    clock = Clock(monkeypatch)
    calls = {"a": clock.call("a", 4.0), "b": clock.call("b", 40.0)}
    runs = timing.take_turns(calls, 60.0, lambda key: None)
    # 44 s, then 4 for a second run; after that 15 are over.
    assert clock.called == "aba"
    assert {key: len(listed) for key, listed in runs.items()} == {
        "a": 1,
        "b": 1,
    }


def test_peers_are_skipped_that_are_not_expected_to_end_in_time():
    case = entropy.Case(16, 2, False)
    pace = {"ours": 0.1, "dense": 0.25}
    calls, skipped = entropy._admit(case, ["ours", "dense"], pace, 60.0)
    assert list(calls) == ["ours"]
    assert skipped == {
        "dense": "dense JAX would need about 64 s, and of 60 s others need"
        " 26 s."
    }


def test_the_first_size_is_predicted_from_a_smaller_one(monkeypatch):
    monkeypatch.setattr(entropy, "_PROBE", 8)
    case, pace = next(entropy._list_cases([16, 32], [2], ["ours", "scipy"]))
    assert case.n == 16
    assert set(pace) == {"ours", "scipy"}
    _, pace = next(entropy._list_cases([8, 32], [2], ["ours", "scipy"]))
    assert not pace


@pytest.mark.parametrize("num_devices", [1, 2])
def test_every_device_does_the_work_of_a_peak(monkeypatch, num_devices):
    monkeypatch.setattr(peaks, "_SIDE", 4)
    monkeypatch.setattr(peaks, "_EXPONENTIALS", 8)
    found = peaks.prepare(num_devices)
    assert {unit: peak.work for unit, peak in found.items()} == {
        "matmul": 2 * 4**3 * num_devices,
        "exp": 8 * peaks._REPEATS * num_devices,
    }
    # The product of ones is 4 everywhere, on rows of all devices.
    np.testing.assert_array_equal(
        found["matmul"].run(), np.full((4 * num_devices, 4), 4.0)
    )
    # Where exp(-1.0001 a) = a.
    np.testing.assert_allclose(found["exp"].run(), 0.567122, atol=1e-5)


def test_measures_and_prints(monkeypatch):
    monkeypatch.setattr(timing, "_ROUNDS", 1)
    monkeypatch.setattr(peaks, "_SIDE", 4)
    monkeypatch.setattr(peaks, "_EXPONENTIALS", 8)
    said = []
    result = entropy.measure(
        [16],
        [2],
        ["dense", "ours", "sklearn", "devices", "sampled"],
        say=said.append,
        most_seconds=60.0,
    )
    assert json.loads(json.dumps(result)) == result
    assert result["peaks"]["ours"]["devices"] == 1
    assert result["peaks"]["devices"]["devices"] == jax.local_device_count()
    assert len(result["cases"]) == 2
    for case in result["cases"]:
        ours = case["peers"]["ours"]
        assert ours["over_ours"]["median"] == 1
        assert ours["seconds"] == ours["runs"][0] > 0
        share = ours["share_of_peak"]
        assert share["both"] == pytest.approx(share["matmul"] + share["exp"])
        assert "share_of_peak" in case["peers"]["devices"]
        assert ("sklearn" in case["peers"]) != case["with_gradient"]
        values = [case["peers"][key]["value"] for key in ("dense", "devices")]
        # float32 sums in another order.
        np.testing.assert_allclose(values, ours["value"], rtol=1e-5)
    text = entropy_tables.format_entropy(result)
    for words in ("times ours", "dense JAX", "KernelDensity gives", "+- 0.0"):
        assert words in text
    assert "value, 16 queries, 16 samples, dim 2: ours ..." in said


@pytest.mark.parametrize(
    ("sizes", "peers", "seconds", "message"),
    [
        ([16], ["ours", "fly"], 60.0, "--peers is ours,fly"),
        ([16], ["dense"], 60.0, "--peers is dense, and ours with any"),
        ([1], ["ours"], 60.0, "--sizes is .1. and --dims"),
        ([16], ["ours"], 0.0, "--most_seconds is 0.0"),
    ],
)
def test_bad_requests_are_refused(sizes, peers, seconds, message):
    with pytest.raises(ValueError, match=message):
        entropy.measure(
            sizes, [2], peers, say=lambda line: None, most_seconds=seconds
        )
