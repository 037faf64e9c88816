import inspect
import math

import jax
import jax.numpy as jnp
import pytest

from aeent_jax import entropy

NAMES = [k for k, entry in entropy.ESTIMATORS.items() if not entry.init]


def far_apart(n=32, dim=3):
    return 100 * jax.random.normal(jax.random.key(0), (n, dim))


def test_unknown_name_lists_the_names():
    with pytest.raises(ValueError, match="is 'kde_lo', .*kde_loo.*spelling"):
        entropy.ESTIMATORS["kde_lo"]


@pytest.mark.parametrize("name", NAMES)
def test_entry_is_the_function_of_the_same_name(name):
    entry = entropy.ESTIMATORS[name]
    assert getattr(entropy, name) is entry
    assert entry.function.__name__ == name
    found = jax.eval_shape(entry, jax.ShapeDtypeStruct((10, 2), jnp.float32))
    assert (found.per_query is not None) == entry.per_query


@pytest.mark.parametrize("name", NAMES)
def test_noise_argument_is_a_keyword_and_takes_a_traced_sigma(name):
    entry = entropy.ESTIMATORS[name]
    keywords = inspect.signature(entry.function).parameters
    noise = {entry.noise_argument} - {None}
    assert set(keywords) == {"points", *noise, *entry.hyper}
    if entry.noise_argument:
        (noise,) = noise
        found = jax.jit(lambda s: entry(far_apart(), **{noise: s}).value)
        assert jnp.isfinite(found(1.0))
        assert jnp.isnan(found(-1.0))


@pytest.mark.parametrize("name", NAMES)
def test_only_the_self_term_keeps_the_rate_of_far_latents_below_log_n(name):
    entry = entropy.ESTIMATORS[name]
    z = far_apart()
    noisy = z + jax.random.normal(jax.random.key(1), z.shape)
    hyper = {entry.noise_argument: 1.0} if entry.noise_argument else {}
    queries = noisy if entry.noisy_queries else z
    samples = noisy if entry.noisy_samples else z
    found = jax.jit(lambda *args: entry(*args, **hyper))(
        queries, samples, jnp.arange(32)
    )
    rate = entropy.to_rate(found, 1.0, 3)
    if name == "none":
        assert rate == 0
    elif entry.includes_self:
        # The noise of 32 draws in 3 dimensions moves the mean by sqrt(3/64);
        # the ceiling of renyi2 is lower by 3/2 log(e/2), .46.
        assert abs(rate - math.log(32)) < 4 * math.sqrt(3 / 64)
    else:
        assert rate > 2 * math.log(32)


@pytest.mark.parametrize("name", NAMES)
def test_samples_that_are_given_need_an_index_where_one_is_left_out(name):
    z = far_apart()
    rows, elsewhere = jnp.arange(32), jnp.full(32, -1)

    @jax.jit
    def value(*args):
        return entropy.ESTIMATORS[name](*args).value

    if name not in ("kde_loo", "kde_marginal", "knn"):
        assert value(z, z) == value(z, z, rows)
        return
    with pytest.raises(ValueError, match="given without query_index, .*-1"):
        value(z, z)
    # With its own sample a query is where the density is large.
    assert value(z, z, elsewhere) < value(z, z, rows) == value(z)
