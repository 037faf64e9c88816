import json

import jax
import numpy as np
import pytest

from aeent_jax.bench import entropy, entropy_peers, entropy_tables

Q = np.random.default_rng(0).normal(size=(16, 3)).astype(np.float32)
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
        run("sklearn", with_gradient=False),
        run("ours", with_gradient=False),
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
    assert "no gradient" in sklearn.reason_against(2, 2, True, 2**30)
    absent = dense._replace(needs="no_such_module")
    assert "not installed" in absent.reason_against(2, 2, False, 2**30)


def test_work_of_a_gradient_is_four_products_and_two_exponentials():
    assert entropy.count_work(10, 20, 3, True) == {"matmul": 4800, "exp": 400}
    assert entropy.count_work(10, 20, 3, False) == {"matmul": 1200, "exp": 200}


def test_queries_are_sampled_above_the_largest_square():
    q, z = entropy._draw(2**17, 1)
    assert (len(q), len(z)) == (2**15, 2**17)


def test_measures_and_prints(monkeypatch):
    monkeypatch.setattr(entropy, "_ROUNDS", 1)
    monkeypatch.setattr(
        entropy, "measure_peaks", lambda: {"matmul": 1e11, "exp": 1e9}
    )
    said = []
    result = entropy.measure(
        [16, 24], [2], ["ours", "dense", "sklearn"], say=said.append
    )
    assert json.loads(json.dumps(result)) == result
    assert len(result["cases"]) == 4
    for case in result["cases"]:
        ours = case["peers"]["ours"]
        assert ours["over_ours"]["median"] == 1
        assert ours["seconds"] > 0
        share = ours["share_of_peak"]
        assert share["both"] == pytest.approx(share["matmul"] + share["exp"])
        assert ("sklearn" in case["peers"]) != case["with_gradient"]
    text = entropy_tables.format_entropy(result)
    for words in ("times ours", "dense JAX", "KernelDensity has no gradient."):
        assert words in text


def test_slow_peers_are_skipped_at_larger_sizes(monkeypatch):
    monkeypatch.setattr(entropy, "_ROUNDS", 1)
    case = entropy._measure_case(
        16, 2, False, ["ours", "dense"], {"dense": 1.0}, 60.0
    )
    assert list(case["peers"]) == ["ours"]
    assert case["skipped"] == {"dense": "dense JAX would need about 256 s."}


@pytest.mark.parametrize(
    ("sizes", "peers", "message"),
    [
        ([16], ["ours", "fly"], "--peers is ours,fly"),
        ([16], ["dense"], "--peers is dense, and ours with any"),
        ([1], ["ours"], "--sizes is .1. and --dims"),
    ],
)
def test_bad_requests_are_refused(sizes, peers, message):
    with pytest.raises(ValueError, match=message):
        entropy.measure(sizes, [2], peers, say=lambda line: None)
