"""Estimates at a random choice of queries, for very many latents."""

import dataclasses

import jax
import jax.numpy as jnp

from aeent_jax.entropy import inputs
from aeent_jax.entropy.estimator import Estimate, Estimator


def sample_queries(
    estimator: Estimator,
    z: jax.Array,
    *,
    max_queries: int,
    rng: jax.Array,
    noisy: jax.Array | None = None,
    **hyper,
) -> Estimate:
    """A per-query estimator at some of the rows, against all, in nats.

    The cost is `max_queries n` pairs in place of n^2. In expectation over the
    choice, without replacement, the value is that of all queries, bias and all.

    Args:
      estimator: an entry of `entropy.ESTIMATORS` with `per_query`.
      z: `[n, dim]` clean latents.
      max_queries: at least 2; of fewer rows all are queries.
      rng: key of the choice.
      noisy: `[n, dim]`, the channel's output, which takes the place of `z`
        where the entry says so; default `z`, for the entropy of the latents
        themselves.
      **hyper: keywords of the estimator but its masks.

    Returns:
      Estimate with `per_query` `[max_queries]` and, beside the estimator's own
      diagnostics, `standard_error`: the standard deviation of `per_query` over
      the root of their number, times the finite population's
      `sqrt(1 - max_queries/n)`. It covers the choice of queries alone, not that
      of the n latents, and is 0 where all rows are queries.

    Raises:
      ValueError: the estimator is one of the whole batch, `max_queries` is
        below 2, `noisy` has another shape than `z`, a mask is given, or as the
        estimator.

    Reference: Cochran 1977, Sampling Techniques, theorem 2.2.
    """
    if not estimator.per_query:
        raise ValueError(
            "This estimator is one of the whole batch, and one with a value for"
            " each query is needed: pass it fewer latents instead."
        )
    inputs.at_least(
        "max_queries", max_queries, 2, "enough to have a standard error"
    )
    z = jnp.asarray(z)
    noisy = z if noisy is None else jnp.asarray(noisy)
    if noisy.shape != z.shape:
        raise ValueError(
            f"noisy has shape {noisy.shape} and z {z.shape}, and one row behind"
            " the channel is needed for each latent: pass z plus its noise."
        )
    masks = {"query_mask", "sample_mask"} & hyper.keys()
    if masks:
        raise ValueError(
            f"{', '.join(sorted(masks))} is given, and queries are chosen"
            " among all rows: pass the valid rows alone."
        )
    n = z.shape[0]
    m = min(n, max_queries)
    rows = jax.random.choice(rng, n, (m,), replace=False).astype(jnp.int32)
    queries = noisy if estimator.noisy_queries else z
    samples = noisy if estimator.noisy_samples else z
    found = estimator(queries[rows], samples, rows, **hyper)
    assert found.per_query is not None, "the entry says that there is one"
    error = jnp.zeros((), found.value.dtype)
    if m < n:
        spread = jnp.std(found.per_query, ddof=1)
        error = jax.lax.stop_gradient(spread * jnp.sqrt((1 - m / n) / m))
    return dataclasses.replace(
        found, diagnostics=found.diagnostics | {"standard_error": error}
    )
