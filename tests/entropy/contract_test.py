"""The promises of every estimator, each tested on all of them."""

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from aeent_jax import entropy

N, DIM, S = 20, 3, 0.8
RNG = np.random.default_rng(0)
# Numbers that float32 can hold, in float64.
Z = np.float64(np.float32(RNG.normal(size=(N, DIM)) * [1.0, 1.5, 0.7]))
MASK = np.arange(N) % 4 != 1
# Length and direction of a central difference.
STEP, DIRECTION = 1e-5, RNG.normal(size=(N, DIM))


class Case(NamedTuple):
    """An estimator and its keywords.

    Attributes:
      name: in the table.
      noise: of the channel, which is scaled with the latents; None where the
        estimator takes none, or has a rule.
      hyper: other keywords.
    """

    name: str
    noise: float | None = None
    hyper: dict = {}


CASES = {
    "kde_loo": Case("kde_loo", S),
    "kde_loo-scott": Case("kde_loo"),
    "kde_resub": Case("kde_resub", S),
    "kde_kl": Case("kde_kl", S),
    "kde_kl-scott": Case("kde_kl"),
    "kde_bd": Case("kde_bd", S),
    "renyi2": Case("renyi2", S),
    "renyi2-scott": Case("renyi2"),
    "matrix_renyi": Case("matrix_renyi", S),
    "matrix_renyi-scott": Case("matrix_renyi"),
    "matrix_renyi-3": Case("matrix_renyi", S, {"alpha": 3.0}),
    "matrix_renyi-1": Case("matrix_renyi", S, {"alpha": 1.0}),
    "matrix_renyi-0.7": Case("matrix_renyi", S, {"alpha": 0.7}),
    "kde_marginal": Case("kde_marginal", S),
    "kde_marginal-2-scott": Case("kde_marginal", None, {"group": 2}),
    "knn": Case("knn"),
    "gaussian": Case("gaussian"),
    "gaussian-none": Case("gaussian", None, {"shrinkage": "none"}),
    "gaussian-ledoit": Case("gaussian", None, {"shrinkage": "ledoit_wolf"}),
    "gaussian-0.3": Case("gaussian", None, {"shrinkage": 0.3}),
    "coding_rate": Case("coding_rate", S),
    "vasicek": Case("vasicek"),
    "histogram": Case("histogram"),
    "mixture": Case("mixture", None, {"components": 3}),
    "mixture-full": Case(
        "mixture", None, {"components": 3, "covariance": "full"}
    ),
    "quantised": Case("quantised", S),
}
FIXED = [k for k, c in CASES.items() if not entropy.ESTIMATORS[c.name].init]
# Sums over single dimensions.
TURNS = [
    k for k in FIXED if not k.startswith(("kde_marginal", "vasicek", "histo"))
]
each_case = pytest.mark.parametrize("case", CASES)
each_fixed = pytest.mark.parametrize("case", FIXED)


def test_every_estimator_has_a_case():
    names = {case.name for case in CASES.values()}
    assert names | {"none"} == set(entropy.ESTIMATORS)


def entry_of(case):
    return entropy.ESTIMATORS[CASES[case].name]


@functools.cache
def params_of(case):
    """Parameters away from their start, where nothing is symmetric."""
    with jax.ensure_compile_time_eval():
        rng = jax.random.key(0)
        drawn = entry_of(case).init(rng, DIM, **CASES[case].hyper)
        drawn = jax.tree.map(np.asarray, drawn)
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda a: a + rng.normal(0, 0.5), drawn)


def call(case, z, noise=S, **masks):
    entry = entry_of(case)
    hyper = dict(CASES[case].hyper)
    if entry.init:
        dtype = jnp.promote_types(jnp.asarray(z).dtype, jnp.float32)
        cast = functools.partial(np.asarray, dtype=dtype)
        hyper = {"params": jax.tree.map(cast, params_of(case))}
    if CASES[case].noise:
        hyper[entry.noise_argument] = noise
    return entry(z, **masks, **hyper)


@functools.cache
def compiled(case, over_rows):
    def value(z, mask, noise):
        found = call(case, z, noise, query_mask=mask)
        return found.value, found

    return jax.jit(over_rows(jax.value_and_grad(value, has_aux=True)))


def scan(function):
    """As `jax.vmap`, one after the other."""

    def mapped(*stacks):
        return jax.lax.scan(lambda _, x: (None, function(*x)), None, stacks)[1]

    return mapped


def variants():
    """By name: latents, mask, and the noise that they are measured with."""
    everything = np.ones(N, bool)
    turn = scipy.stats.special_ortho_group.rvs(DIM, random_state=0)
    masked = np.where(MASK[:, None], Z, np.nan)
    bad = {}
    for name, number in (("nan", np.nan), ("inf", np.inf), ("-inf", -np.inf)):
        bad[name] = Z.copy(), everything, S
        bad[name][0][4, 0] = number
    return {
        "base": (Z, everything, S),
        "moved": (Z + 100, everything, S),
        "turned": (Z @ turn, everything, S),
        "reversed": (Z[::-1], everything, S),
        "scaled": (7 * Z, everything, 7 * S),
        "masked": (masked, MASK, S),
        "masked above": (masked + STEP * DIRECTION, MASK, S),
        "masked below": (masked - STEP * DIRECTION, MASK, S),
        "one": (Z, np.arange(N) < 1, S),
        "nobody": (Z, np.arange(N) < 0, S),
        # A tenth is no binary number: its mean over 20 rows rounds.
        "equal": (np.full_like(Z, 0.1), everything, S),
        "twice": (np.repeat(Z[: N // 2], 2, 0), everything, S),
        **bad,
    }


@functools.cache
def evaluate(case, dtype=np.float64):
    """By variant: value, gradient and the whole estimate.

    Float64 is mapped by `vmap`, float32 by `scan`: what agrees to rounding has
    been transformed by both.
    """
    with jax.enable_x64(dtype == np.float64):
        stack = zip(*variants().values(), strict=True)
        z, mask, noise = (np.stack(part) for part in stack)
        program = compiled(case, jax.vmap if dtype == np.float64 else scan)
        found = program(z.astype(dtype), mask, noise.astype(dtype))
        (values, estimates), gradients = jax.device_get(found)
    return {
        name: (
            values[i],
            gradients[i],
            jax.tree.map(lambda a, i=i: a[i], estimates),
        )
        for i, name in enumerate(variants())
    }


@each_case
def test_estimate_is_what_the_table_says(case):
    value, _, found = evaluate(case)["base"]
    assert np.isfinite(value)
    assert found.kind == ("I" if case.startswith(("matr", "cod")) else "h")
    assert (found.per_query is not None) == entry_of(case).per_query
    if entry_of(case).per_query:
        assert found.per_query.shape == (N,)
        np.testing.assert_allclose(found.value, found.per_query.mean())


@each_case
def test_float32_in_a_scan_is_float64_in_a_vmap_rounded(case):
    narrow, wide = evaluate(case, np.float32), evaluate(case)
    for name in ("base", "masked", "reversed"):
        value, gradient, _ = narrow[name]
        assert value.dtype == gradient.dtype == np.float32
        assert wide[name][0].dtype == wide[name][1].dtype == np.float64
        np.testing.assert_allclose(value, wide[name][0], rtol=2e-5, atol=2e-6)
        # Small eigenvalues lose digits below alpha = 1; places of values among
        # 32 bins carry 1e-6 each, which the log of a small share amplifies.
        largest = np.abs(wide[name][1]).max()
        np.testing.assert_allclose(
            gradient, wide[name][1], rtol=0, atol=5e-4 * largest
        )


@each_case
def test_order_of_the_rows_does_not_count(case):
    found = evaluate(case)
    (value, gradient, _), (other, reverse, _) = found["base"], found["reversed"]
    np.testing.assert_allclose(other, value, rtol=1e-11)
    np.testing.assert_allclose(reverse[::-1], gradient, rtol=1e-7, atol=1e-9)


@each_fixed
def test_moving_the_latents_changes_nothing(case):
    found = evaluate(case)
    # Moving by 100 rounds the latents by 1e-14.
    np.testing.assert_allclose(found["moved"][0], found["base"][0], rtol=1e-10)
    np.testing.assert_allclose(found["base"][1].sum(0), 0, atol=1e-12)


@pytest.mark.parametrize("case", TURNS)
def test_turning_the_latents_changes_nothing(case):
    found = evaluate(case)
    np.testing.assert_allclose(found["turned"][0], found["base"][0], rtol=1e-10)


@each_fixed
def test_scaling_latents_and_noise_adds_dim_log_to_an_entropy(case):
    found = evaluate(case)
    change = DIM * math.log(7) if found["base"][2].kind == "h" else 0
    np.testing.assert_allclose(
        found["scaled"][0], found["base"][0] + change, rtol=1e-10
    )


@each_fixed
def test_radial_gradient_is_that_of_the_scaling_law(case):
    _, gradient, found = evaluate(case)["base"]
    radial = np.sum(Z * gradient)
    if "scale_gradient" in found.diagnostics and CASES[case].noise:
        np.testing.assert_allclose(
            radial, found.diagnostics["scale_gradient"], rtol=1e-9
        )
    elif CASES[case].noise is None:
        # Euler: a factor of e adds dim nats to an entropy.
        degree = DIM if found.kind == "h" else 0
        np.testing.assert_allclose(radial, degree, rtol=1e-9, atol=1e-9)
    if case == "coding_rate":
        covariance = np.cov(Z.T, bias=True) / S**2
        degree = np.trace(covariance @ np.linalg.inv(np.eye(DIM) + covariance))
        np.testing.assert_allclose(radial, degree, rtol=1e-9)


@each_case
def test_a_plain_call_on_the_valid_rows_finds_the_same(case):
    value, gradient, found = evaluate(case)["masked"]
    with jax.enable_x64(True):
        alone = call(case, Z[MASK])  # neither jit, vmap nor mask
    np.testing.assert_allclose(value, alone.value, rtol=1e-9)
    np.testing.assert_array_equal(gradient[~MASK], 0)
    if found.per_query is not None:
        np.testing.assert_array_equal(found.per_query[~MASK], 0)
        np.testing.assert_allclose(
            found.per_query[MASK], alone.per_query, rtol=1e-9
        )


@each_case
def test_gradient_of_the_valid_rows_is_the_slope(case):
    above, below = (
        evaluate(case)[f"masked {side}"][0] for side in ("above", "below")
    )
    slope = np.sum(evaluate(case)["masked"][1][MASK] * DIRECTION[MASK])
    # Central differences: 1e-15 / STEP of rounding, and 3e-6 where the slope of
    # a histogram jumps at the edge of a bin.
    np.testing.assert_allclose(
        (above - below) / (2 * STEP), slope, rtol=1e-5, atol=1e-8
    )


@each_case
def test_too_few_valid_rows_pull_nowhere(case):
    # One row does train a density.
    for name in ("nobody",) if entry_of(case).init else ("nobody", "one"):
        value, gradient, _ = evaluate(case)[name]
        # Without a covariance there is no entropy of it.
        assert np.isnan(value) == case.startswith("gaussian")
        np.testing.assert_array_equal(gradient, 0)


@each_case
@pytest.mark.parametrize("bad", ["nan", "inf", "-inf"])
def test_a_bad_latent_never_gives_a_number(case, bad):
    for dtype in (np.float32, np.float64):
        value, _, _ = evaluate(case, dtype)[bad]
        if entry_of(case).init and bad != "nan":
            assert not np.isfinite(value)
        else:
            assert np.isnan(value)


@each_fixed
def test_equal_latents_have_the_entropy_of_the_kernel_or_none(case):
    value, gradient, found = evaluate(case)["equal"]
    if "bandwidth" in (entry_of(case).noise_argument or ""):
        if CASES[case].noise is None:
            assert np.isnan(value)  # A rule finds no scale.
            return
        kernel = DIM / 2 * math.log(2 * math.pi * S**2)
        expected = {
            "kde_kl": kernel + DIM / 2,
            "kde_bd": kernel + DIM / 2,
            "renyi2": DIM / 2 * math.log(4 * math.pi * S**2),
            "matrix_renyi": 0,
        }.get(CASES[case].name, kernel)
    else:
        expected = 0 if found.kind == "I" else -np.inf
    np.testing.assert_allclose(value, expected, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(gradient, 0, atol=1e-12)


@each_case
def test_duplicates_leave_value_and_gradient_finite(case):
    value, gradient, _ = evaluate(case)["twice"]
    assert np.isfinite(value)
    assert np.isfinite(gradient).all()


@each_case
def test_the_fewest_rows_have_a_value_and_fewer_a_sentence(case):
    fewest = entry_of(case).min_samples
    if case.endswith("scott"):
        fewest = max(fewest, 2)  # A rule needs a deviation.
    # More neighbours, and more rows than columns.
    fewest = {"knn": 4, "gaussian-none": DIM + 1}.get(case, fewest)
    found = jax.jit(functools.partial(call, case))(np.float32(Z[:fewest]))
    assert not np.isnan(found.value)
    for n in range(1, fewest):
        sentence = f"has {n} rows.* needs at least [234]: pass more latents"
        with pytest.raises(ValueError, match=sentence):
            call(case, np.float32(Z[:n]))


@each_case
def test_narrow_latents_are_cast_up(case):
    narrow = jax.ShapeDtypeStruct((N, DIM), jnp.bfloat16)
    found = jax.eval_shape(functools.partial(call, case), narrow)
    assert found.value.dtype == jnp.float32


@each_case
def test_other_keywords_are_refused_in_a_sentence(case):
    with pytest.raises(
        ValueError, match=r"^bandwith is given to the estimator .*: check the"
    ):
        entry_of(case)(np.float32(Z), bandwith=1.0)


@each_fixed
def test_documentation_has_unit_and_family(case):
    entry = entry_of(case)
    family = "per query" if entry.per_query else "whole batch"
    summary = entry.__doc__.partition("\n\n")[0]
    assert summary.endswith(f"; {family}.")
    assert "nats" in entry.__doc__
    assert all(f"{name}: " in entry.__doc__ for name in entry.hyper)


X = jnp.float32(Z)
KEY = jax.random.key(0)
LOO = entropy.ESTIMATORS["kde_loo"]
REFUSALS = (
    lambda: entropy.kde_loo(X, X[:, :1]),
    lambda: entropy.kde_loo(X, X),
    lambda: entropy.kde_loo(X, bandwidth="scot"),
    lambda: entropy.kde_loo(X, bandwidth=None),
    lambda: entropy.kde_loo(None),
    lambda: entropy.kde_resub(X, bandwidth=0.0),
    lambda: entropy.coding_rate(X, sigma="a"),
    lambda: entropy.knn(X, k="3"),
    lambda: entropy.knn(X[:3], k=3),
    lambda: entropy.gaussian(X[:2], shrinkage="none"),
    lambda: entropy.gaussian(X, shrinkage=None),
    lambda: entropy.gaussian(X, bias_correction=True),
    lambda: entropy.vasicek(X, spacing=N // 2),
    lambda: entropy.histogram(X, num_bins=2.5),
    lambda: entropy.matrix_renyi(X, alpha=0),
    lambda: entropy.pairwise_lse(X, X, None),
    lambda: entropy.pairwise_lse(X, X, 1.0, exclude_self=True),
    lambda: entropy.mutual_information(X[:1], KEY, S),
    lambda: entropy.mutual_information(X, KEY, "a"),
    lambda: entropy.rescale(X[:2], "whitened"),
    lambda: entropy.total_correlation(X, method="pearson"),
    lambda: entropy.total_correlation(X[:2]),
    lambda: entropy.sample_queries(
        entropy.ESTIMATORS["gaussian"], X, max_queries=5, rng=KEY
    ),
    lambda: entropy.sample_queries(LOO, X, max_queries=5, rng=KEY, noisy=X[:5]),
    lambda: entropy.sample_queries(
        LOO, X, max_queries=5, rng=KEY, sample_mask=MASK
    ),
    lambda: entropy.fit_learned("mixture", KEY, X[:3]),
    lambda: entropy.fit_learned("mixture", KEY, X, width=1.0),
    lambda: entropy.fit_learned("flow", KEY, X),
    lambda: entropy.fit_learned("knn", KEY, X),
    lambda: entropy.ESTIMATORS["mixture"](X),
    lambda: entropy.to_rate(entropy.kde_resub(X, bandwidth=S), S, DIM, "x"),
    lambda: entropy.to_rate(entropy.kde_resub(X, bandwidth=S), None, DIM),
)


@pytest.mark.parametrize("refused", REFUSALS)
def test_refusals_are_one_sentence(refused):
    with pytest.raises(ValueError, match="^[^\n]+[:;] [^\n]+[.]$"):
        refused()
