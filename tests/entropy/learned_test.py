import functools
import inspect
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.stats
from jax.test_util import check_grads

from aeent_jax import entropy

NAMES = ["mixture", "quantised"]
ESTIMATORS = entropy.ESTIMATORS
# The mixture in both forms, and the quantised density.
DENSITIES = [
    ("mixture", {"components": 3}),
    ("mixture", {"components": 3, "covariance": "full"}),
    ("quantised", {}),
]
DIM, ROWS = 2, 12
AXIS = "batch"
each_density = pytest.mark.parametrize(
    ("name", "hyper"), DENSITIES, ids=["diagonal", "full", "quantised"]
)


def perturbed(name, dim, hyper, seed=0):
    """Parameters away from their start, where nothing is symmetric."""
    params = ESTIMATORS[name].init(jax.random.key(seed), dim, **hyper)
    rng = np.random.default_rng(seed)
    return jax.tree.map(
        lambda a: np.float32(np.asarray(a) + rng.normal(0, 0.5, a.shape)),
        params,
    )


@functools.partial(jax.jit, static_argnums=0)
def evaluate(name, params, z, mask):
    """The estimate, and its gradients by the parameters and the queries."""

    def value(params, z):
        found = ESTIMATORS[name](z, query_mask=mask, params=params)
        return found.value, found

    (_, found), gradients = jax.value_and_grad(value, (0, 1), has_aux=True)(
        params, z
    )
    return found, gradients


def normal_rows(n=ROWS, dim=DIM, seed=0):
    return np.float32(np.random.default_rng(seed).normal(size=(n, dim)))


def everything(z):
    return np.ones(len(z), bool)


def assert_trees_close(got, expected, **tolerance):
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, **tolerance),
        got,
        expected,
    )


# The table


@pytest.mark.parametrize("name", NAMES)
def test_entry_says_how_it_is_called(name):
    entry = ESTIMATORS[name]
    init = inspect.signature(entry.init).parameters
    assert tuple(init) == ("rng", "dim", *entry.hyper)
    keywords = set(inspect.signature(entry.function).parameters)
    noise = {entry.noise_argument} - {None}
    assert keywords == {"points", "params"} | noise
    assert entry.direction.startswith("upper bound")
    assert entry.noisy_queries


@each_density
def test_parameters_are_float32_and_decided_by_the_key(name, hyper):
    def flat(seed):
        params = ESTIMATORS[name].init(jax.random.key(seed), DIM, **hyper)
        leaves = jax.tree.leaves(params)
        assert {leaf.dtype for leaf in leaves} == {np.dtype("float32")}
        return np.concatenate([np.ravel(leaf) for leaf in leaves])

    first = flat(0)
    with jax.enable_x64(True):
        np.testing.assert_array_equal(flat(0), first)
    assert np.any(flat(1) != first)


# Facts about both


GRID = np.arange(-400, 400, 0.05)[:, None]


def density_on_the_grid(name, params):
    """The density on GRID in float64, and its cross-entropy there."""
    with jax.enable_x64(True):
        params = jax.tree.map(np.float64, params)
        found, _ = evaluate(name, params, GRID, everything(GRID))
        return np.exp(-found.per_query), np.asarray(found.per_query)


@each_density
@pytest.mark.parametrize("start", [True, False], ids=["start", "perturbed"])
def test_density_integrates_to_one(name, hyper, start):
    params = perturbed(name, 1, hyper)
    if start:
        params = ESTIMATORS[name].init(jax.random.key(0), 1, **hyper)
    density, _ = density_on_the_grid(name, params)
    # The density beyond 400 is below exp(-20), and an equidistant sum of a
    # smooth density has no other error.
    assert np.sum(density) * 0.05 == pytest.approx(1, abs=1e-8)


@each_density
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_bounds_a_gaussian_from_above_for_any_parameters(name, hyper, seed):
    params = perturbed(name, 1, hyper, seed)
    _, code_length = density_on_the_grid(name, params)
    truth = scipy.stats.norm.pdf(GRID[:, 0], 0.3, 0.7)
    cross_entropy = np.sum(truth * code_length) * 0.05
    assert cross_entropy > scipy.stats.norm.entropy(0.3, 0.7)


@each_density
def test_gradients_are_those_of_finite_differences(name, hyper):
    with jax.enable_x64(True):
        entry = ESTIMATORS[name]

        def apply(params, z):
            return entry(z, params=params)

        params = jax.tree.map(np.float64, perturbed(name, DIM, hyper))
        z = np.random.default_rng(0).normal(size=(4, DIM))
        found = jax.jit(apply)(params, z).value
        assert found.dtype == np.dtype("float64")
        # Central differences of step 1e-6 in float64.
        check_grads(
            jax.jit(lambda params, z: apply(params, z).value),
            (params, z),
            order=1,
            modes=["rev"],
            eps=1e-6,
            atol=1e-7,
            rtol=1e-7,
        )


@each_density
@pytest.mark.parametrize("far", [1e4, -1e4, 1e8])
def test_far_tails_are_finite_and_pull_back(name, hyper, far):
    params, z = perturbed(name, DIM, hyper), normal_rows()
    z[3] = far
    found, (by_params, by_z) = evaluate(name, params, z, everything(z))
    assert np.all(np.isfinite(found.per_query))
    assert found.per_query[3] > 100
    assert np.all(np.sign(by_z[3]) == np.sign(far))
    for gradient in jax.tree.leaves((by_params, by_z)):
        assert np.all(np.isfinite(gradient))


@each_density
def test_nan_gives_nan(name, hyper):
    params, z = perturbed(name, DIM, hyper), normal_rows()
    z[3, 1] = np.nan
    found, _ = evaluate(name, params, z, everything(z))
    assert np.isnan(found.value)
    assert np.flatnonzero(np.isnan(found.per_query)) == [3]


@pytest.mark.parametrize("name", NAMES)
def test_queries_of_another_size_are_refused(name):
    entry = ESTIMATORS[name]
    params = entry.init(jax.random.key(0), 1)
    with pytest.raises(
        ValueError, match="have 2 dimensions .* 1, .*initialise"
    ):
        entry(normal_rows(), params=params)


# The mixture


@pytest.mark.parametrize("covariance", ["diagonal", "full"])
def test_mixture_starts_with_unit_scales_and_equal_weights(covariance):
    params = ESTIMATORS["mixture"].init(
        jax.random.key(0), DIM, components=4, covariance=covariance
    )
    z = normal_rows()
    found, _ = evaluate("mixture", params, z, everything(z))
    density = np.mean(
        [
            scipy.stats.multivariate_normal.pdf(z, mean)
            for mean in np.asarray(params["means"])
        ],
        0,
    )
    # float32
    np.testing.assert_allclose(found.per_query, -np.log(density), rtol=1e-5)


def test_mixture_is_that_of_scipy_with_full_covariances():
    params = perturbed("mixture", DIM, {"components": 3, "covariance": "full"})
    z = normal_rows()
    found, _ = evaluate("mixture", params, z, everything(z))
    density = 0
    weights = scipy.special.softmax(params["log_weights"])
    for k in range(3):
        factor = np.diag(np.exp(-params["log_scales"][k])) + np.tril(
            params["triangles"][k], -1
        )
        covariance = np.linalg.inv(factor.T @ factor)
        density += weights[k] * scipy.stats.multivariate_normal.pdf(
            z, params["means"][k], covariance
        )
    # float32
    np.testing.assert_allclose(found.per_query, -np.log(density), rtol=2e-5)


@pytest.mark.parametrize(
    ("hyper", "message"),
    [
        ({"components": 0}, "components is 0, and an integer of at least 1"),
        ({"covariance": "ful"}, "covariance is 'ful', and one of .*spelling"),
    ],
)
def test_bad_mixture_is_refused(hyper, message):
    with pytest.raises(ValueError, match=message):
        ESTIMATORS["mixture"].init(jax.random.key(0), DIM, **hyper)


# The quantised density


def test_quantised_density_factorises():
    params, z = perturbed("quantised", DIM, {}), normal_rows()
    crossed = np.stack([z[:, 0], z[::-1, 1]], 1)
    found, _ = evaluate("quantised", params, z, everything(z))
    swapped, _ = evaluate("quantised", params, crossed, everything(z))
    # f(a, b) + f(c, d) = f(a, d) + f(c, b), in float32.
    np.testing.assert_allclose(
        swapped.per_query + swapped.per_query[::-1],
        found.per_query + found.per_query[::-1],
        rtol=1e-5,
    )


def test_quantised_starts_as_a_logistic_of_ten_widths():
    params = tuple(
        {**layer, "bias": jnp.zeros_like(layer["bias"])}
        for layer in ESTIMATORS["quantised"].init(jax.random.key(0), DIM)
    )
    z = np.float32(np.linspace(-40, 40, ROWS * DIM).reshape(ROWS, DIM))
    found, _ = evaluate("quantised", params, z, everything(z))
    upper, lower = (scipy.special.expit((z + d) / 10) for d in (0.5, -0.5))
    # float32: the step of 0.1 between logits of up to 4 is good to 5e-6.
    np.testing.assert_allclose(
        found.per_query, -np.sum(np.log(upper - lower), 1), rtol=1e-5
    )


def test_width_is_the_unit_of_the_latents():
    entry = ESTIMATORS["quantised"]
    params, z = perturbed("quantised", DIM, {}), normal_rows()
    wide = jax.jit(
        lambda width: entry(width * z, params=params, width=width).value
    )
    # float32; the entropy of a*Z is that of Z plus dim log a.
    np.testing.assert_allclose(
        wide(4.0), wide(1.0) + DIM * math.log(4), rtol=1e-5
    )
    found, _ = evaluate("quantised", params, z, everything(z))
    np.testing.assert_allclose(wide(1.0), found.value, rtol=1e-5)
    assert jnp.isnan(wide(-1.0))
    with pytest.raises(ValueError, match="width is 0.0, and a positive"):
        entry(z, params=params, width=0.0)
