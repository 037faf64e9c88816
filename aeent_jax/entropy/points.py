"""The arguments all estimators share: checked, defaulted, made safe."""

import numbers
from collections.abc import Collection
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np


class Points(NamedTuple):
    """Checked points, float32 or float64, with zeros in the masked rows.

    Attributes:
      queries: `[m, dim]`.
      samples: `[n, dim]`.
      query_index: `[m]` int32, the row of `samples` that a query came from; a
        number outside `0..n-1` says that it came from none.
      query_mask: `[m]` bool.
      sample_mask: `[n]` bool.
    """

    queries: jax.Array
    samples: jax.Array
    query_index: jax.Array
    query_mask: jax.Array
    sample_mask: jax.Array


def resolve(
    queries: jax.Array,
    samples: jax.Array | None,
    query_index: jax.Array | None,
    query_mask: jax.Array | None,
    sample_mask: jax.Array | None,
    *,
    min_samples: int,
    leaves_one_out: bool = False,
) -> Points:
    """Checks the arguments of an estimator and fills in the defaults.

    `samples`, `query_index` and the masks default to `queries`, its row
    numbers and all-true. Samples that default to the queries take the queries'
    mask too: a padded query is no sample.

    Args:
      queries: `[m, dim]`.
      samples: `[n, dim]` or None.
      query_index: `[m]` integers or None.
      query_mask: `[m]` bool or None.
      sample_mask: `[n]` bool or None.
      min_samples: the fewest rows of samples with which the estimator is
        defined.
      leaves_one_out: whether the estimator leaves each query's own sample out.
        Which one that is cannot be guessed for samples that are given: the
        query behind the channel, or none at all for a test set.

    Returns:
      The points. Masked rows are zeroed, so that nothing they hold, not even
      NaN, reaches a value or a gradient.

    Raises:
      ValueError: a shape, a type or a number of rows does not fit, or samples
        come without the index that leaving one out needs.
    """
    if leaves_one_out and samples is not None and query_index is None:
        raise ValueError(
            "samples are given without query_index, and to leave one out the"
            " row of each query's own sample is needed: pass jnp.arange(m)"
            " where query i belongs to sample i, or jnp.full(m, -1) where"
            " queries are from elsewhere."
        )
    queries = _latents("queries", queries)
    if samples is None:
        samples = queries
        sample_mask = query_mask if sample_mask is None else sample_mask
    else:
        samples = _latents("samples", samples)
    if queries.shape[1] != samples.shape[1]:
        raise ValueError(
            f"queries have {queries.shape[1]} dimensions and samples"
            f" {samples.shape[1]}, and one size of latent is needed: pass"
            " latents of the same network."
        )
    m, n = queries.shape[0], samples.shape[0]
    if n < min_samples:
        raise ValueError(
            f"samples has {n} rows, and this estimator needs at least"
            f" {min_samples}: pass more latents, or a larger batch."
        )
    dtype = jnp.promote_types(queries.dtype, samples.dtype)
    query_mask = _mask("query_mask", query_mask, m)
    sample_mask = _mask("sample_mask", sample_mask, n)
    return Points(
        jnp.where(query_mask[:, None], queries.astype(dtype), 0),
        jnp.where(sample_mask[:, None], samples.astype(dtype), 0),
        _index(query_index, m),
        query_mask,
        sample_mask,
    )


def resolve_queries(
    queries: jax.Array, query_mask: jax.Array | None, dim: int
) -> tuple[jax.Array, jax.Array]:
    """Checks the arguments of an estimator that needs no samples.

    Args:
      queries: `[m, dim]`.
      query_mask: `[m]` bool or None for all.
      dim: size of a latent that the estimator's parameters are made for.

    Returns:
      The queries, zero where masked, and their mask.

    Raises:
      ValueError: a shape or a type does not fit.
    """
    resolved = resolve(queries, None, None, query_mask, None, min_samples=0)
    if resolved.queries.shape[1] != dim:
        raise ValueError(
            f"queries have {resolved.queries.shape[1]} dimensions and the"
            f" parameters {dim}, and one size of latent is needed: initialise"
            " the parameters for these latents."
        )
    return resolved.queries, resolved.query_mask


def is_number(value: object) -> bool:
    """Whether it is a real number, or an array of some, traced or not."""
    if isinstance(value, jax.Array | np.ndarray | np.generic):
        kinds = (jnp.floating, jnp.integer)
        return any(jnp.issubdtype(value.dtype, kind) for kind in kinds)
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


def positive(
    name: str,
    value: float | jax.Array,
    dtype: jnp.dtype,
    meaning: str = "a length in the unit of the latents",
) -> jax.Array:
    """Returns a positive scalar of the given type.

    Args:
      name: what the caller's argument is called, for the message.
      value: a number or a scalar array. A traced one cannot be compared while
        tracing: NaN takes its place at run time where it is not positive.
      dtype: type of the result.
      meaning: what it is, for the message.

    Raises:
      ValueError: not a real scalar, or a concrete value that is not positive.
    """
    fits = is_number(value)
    if fits and jnp.shape(value) != ():
        raise ValueError(
            f"{name} has shape {jnp.shape(value)}, and one number for all"
            " dimensions is needed: pass a scalar."
        )
    is_traced = isinstance(value, jax.core.Tracer)
    if not fits or (not is_traced and not value > 0):
        shown = value if fits else repr(value)
        raise ValueError(
            f"{name} is {shown}, and a positive number is needed: it is"
            f" {meaning}."
        )
    value = jnp.asarray(value, dtype)
    return jnp.where(value > 0, value, jnp.nan)


def centre(samples: jax.Array, mask: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Takes the mean of the valid rows off them.

    Args:
      samples: `[n, dim]`, zero where masked.
      mask: `[n]` bool.

    Returns:
      The centred samples `[n, dim]`, zero where masked and, exactly, in a
      dimension in which all are equal; and the number of valid rows, at least
      1, as a float.
    """
    count = jnp.maximum(jnp.sum(mask, dtype=samples.dtype), 1)
    mean = jnp.sum(samples, 0) / count
    # The rounding of a sum can put the mean of equal numbers beside them, and
    # a dimension without any spread would seem to have one.
    valid = mask[:, None]
    low = jnp.min(samples, 0, initial=jnp.inf, where=valid)
    high = jnp.max(samples, 0, initial=-jnp.inf, where=valid)
    rounding = mean - jnp.clip(mean, low, high)
    mean = mean - jax.lax.stop_gradient(rounding)
    return jnp.where(mask[:, None], samples - mean, 0), count


def log(value: jax.Array) -> jax.Array:
    """Returns the logarithm of what cannot be negative, safe at 0.

    At 0 the value is -inf and the gradient 0, not NaN: between points that
    coincide no direction is better than another. NaN stays NaN.
    """
    is_zero = value == 0
    return jnp.where(is_zero, -jnp.inf, jnp.log(jnp.where(is_zero, 1, value)))


def at_least(name: str, value: int, least: int, meaning: str) -> int:
    """Returns an integer that is known while tracing and not too small.

    Args:
      name: what the caller's argument is called, for the message.
      value: the integer.
      least: the smallest that makes sense.
      meaning: what it is, for the message.

    Raises:
      ValueError: not an integer, or a smaller one.
    """
    if not isinstance(value, numbers.Integral) or value < least:
        raise ValueError(
            f"{name} is {value!r}, and an integer of at least {least} is"
            f" needed: it is {meaning}."
        )
    return value


def refuse_unknown(
    owner: str, hyper: Collection[str], taken: Collection[str]
) -> None:
    """Refuses keywords that would end in an error from further inside.

    Args:
      owner: what takes the keywords, for the message.
      hyper: the keywords that are given.
      taken: those that it takes.

    Raises:
      ValueError: one is given that is not taken.
    """
    unknown = sorted(set(hyper) - set(taken))
    if unknown:
        choice = f"one of {sorted(taken)}" if taken else "none"
        raise ValueError(
            f"{unknown[0]} is given to {owner}, and {choice} is needed: check"
            " the spelling, or leave it out."
        )


def _latents(name: str, array: jax.Array) -> jax.Array:
    """Checks `[rows, dim]` and casts what is narrower than float32 up to it."""
    try:
        array = jnp.asarray(array)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"{name} is a {type(array).__name__} that is no array of numbers,"
            " and [rows, dim] is needed: give one row to each latent vector."
        ) from error
    if array.ndim != 2 or array.shape[1] == 0:
        raise ValueError(
            f"{name} has shape {array.shape}, and [rows, dim] is needed: give"
            " one row to each latent vector."
        )
    if jnp.issubdtype(array.dtype, jnp.complexfloating):
        raise ValueError(
            f"{name} has type {array.dtype}, and real numbers are needed:"
            " split the complex latents into real and imaginary parts."
        )
    return array.astype(jnp.promote_types(array.dtype, jnp.float32))


def _mask(name: str, mask: jax.Array | None, rows: int) -> jax.Array:
    if mask is None:
        return jnp.ones(rows, bool)
    mask = jnp.asarray(mask)
    if mask.shape != (rows,) or mask.dtype != jnp.bool_:
        raise ValueError(
            f"{name} is {mask.dtype}{list(mask.shape)}, and bool[{rows}] is"
            " needed: give one truth value to each row."
        )
    return mask


def _index(index: jax.Array | None, rows: int) -> jax.Array:
    if index is None:
        return jnp.arange(rows, dtype=jnp.int32)
    index = jnp.asarray(index)
    if index.shape != (rows,) or not jnp.issubdtype(index.dtype, jnp.integer):
        raise ValueError(
            f"query_index is {index.dtype}{list(index.shape)}, and"
            f" int32[{rows}] is needed: give the row of samples that each"
            " query came from, or -1 for none."
        )
    return index.astype(jnp.int32)
