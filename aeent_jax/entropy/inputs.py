"""The arguments that all estimators share: checked, defaulted, made safe."""

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
      query_index: `[m]` int32, the row of `samples` that a query came from; -1
        for a query from elsewhere, and for one whose own sample is masked.
      query_mask: `[m]` bool.
      sample_mask: `[n]` bool.
    """

    queries: jax.Array
    samples: jax.Array
    query_index: jax.Array
    query_mask: jax.Array
    sample_mask: jax.Array


class Table(dict):
    """A closed table that lists its names when asked for another one."""

    def __init__(self, key: str, **entries: object):
        """Fills the table.

        Args:
          key: the configuration's key that chooses an entry, for the message.
          **entries: by name.
        """
        super().__init__(entries)
        self._key = key

    def __missing__(self, name: str):
        raise ValueError(
            f"{self._key} is {name!r}, and one of {', '.join(sorted(self))} is"
            " needed: check the spelling."
        )


def resolve(
    queries: jax.Array,
    samples: jax.Array | None = None,
    query_index: jax.Array | None = None,
    query_mask: jax.Array | None = None,
    sample_mask: jax.Array | None = None,
    *,
    min_samples: int = 1,
    leaves_one_out: bool = False,
) -> Points:
    """Checks the arguments of an estimator and fills in the defaults.

    Everything behind it trusts its `Points`. Masked rows become zero, so that
    nothing they hold, not even NaN, reaches a value or a gradient.

    Args:
      queries: this and the next four as `Estimator`.
      samples: `[n, dim]` or None.
      query_index: `[m]` integers or None.
      query_mask: `[m]` bool or None.
      sample_mask: `[n]` bool or None.
      min_samples: the fewest rows of samples with which the estimator is
        defined.
      leaves_one_out: whether the estimator leaves each query's own sample out.
        Nobody can guess which one that is for samples that are given: the
        query behind the channel, or none at all for a test set.

    Returns:
      The points.

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
    x = _latents("queries", queries)
    y = x if samples is None else _latents("samples", samples)
    if samples is None and sample_mask is None:
        sample_mask = query_mask
    (m, dim), (n, dim_of_samples) = x.shape, y.shape
    if dim != dim_of_samples:
        raise ValueError(
            f"queries have {dim} dimensions and samples {dim_of_samples}, and"
            " one size of latent is needed: pass latents of the same network."
        )
    if n < min_samples:
        raise ValueError(
            f"samples has {n} rows, and this estimator needs at least"
            f" {min_samples}: pass more latents, or a larger batch."
        )
    query_mask = _per_row("query_mask", query_mask, m, jnp.bool_)
    sample_mask = _per_row("sample_mask", sample_mask, n, jnp.bool_)
    index = _per_row("query_index", query_index, m, jnp.integer)
    if n:
        has_own = (index >= 0) & (index < n) & sample_mask[index]
        index = jnp.where(has_own, index, -1)
    dtype = jnp.promote_types(x.dtype, y.dtype)
    return Points(
        jnp.where(query_mask[:, None], x.astype(dtype), 0),
        jnp.where(sample_mask[:, None], y.astype(dtype), 0),
        index,
        query_mask,
        sample_mask,
    )


def against_itself(samples: jax.Array, mask: jax.Array) -> Points:
    """Points whose queries are the samples, each with its own row."""
    index = jnp.where(mask, jnp.arange(len(samples), dtype=jnp.int32), -1)
    return Points(samples, samples, index, mask, mask)


def check_params(queries: jax.Array, dim: int) -> None:
    """Refuses queries `[m, dim]` of another size than the parameters'."""
    if queries.shape[1] != dim:
        raise ValueError(
            f"queries have {queries.shape[1]} dimensions and the parameters"
            f" {dim}, and one size of latent is needed: initialise the"
            " parameters for these latents."
        )


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
    try:
        array = jnp.asarray(value)
    except (TypeError, ValueError):
        array = jnp.zeros((), bool)
    is_real = any(
        jnp.issubdtype(array.dtype, kind)
        for kind in (jnp.floating, jnp.integer)
    )
    is_traced = isinstance(array, jax.core.Tracer)
    if is_real and array.shape != ():
        raise ValueError(
            f"{name} has shape {array.shape}, and one number for all"
            " dimensions is needed: pass a scalar."
        )
    if not is_real or not (is_traced or value > 0):
        shown = value if is_real else repr(value)
        raise ValueError(
            f"{name} is {shown}, and a positive number is needed: it is"
            f" {meaning}."
        )
    array = array.astype(dtype)
    return jnp.where(array > 0, array, jnp.nan)


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
        choice = f"one of {', '.join(sorted(taken))}" if taken else "none"
        raise ValueError(
            f"{unknown[0]} is given to {owner}, and {choice} is needed: check"
            " the spelling, or leave it out."
        )


# Steps of float32 below which the spread of a dimension counts as lost.
_STEPS = 16


def _latents(name: str, array: jax.Array) -> jax.Array:
    """Checks `[rows, dim]` and casts what is narrower than float32 up to it."""
    given = array
    try:
        array = jnp.asarray(given)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"{name} is a {type(given).__name__} that is no array of numbers,"
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
    if isinstance(given, np.ndarray) and given.dtype.itemsize > 4:
        _refuse_lost_digits(name, given, array.dtype)
    return array.astype(jnp.promote_types(array.dtype, jnp.float32))


def _refuse_lost_digits(name: str, given: np.ndarray, dtype: jnp.dtype) -> None:
    """Refuses latents whose spread JAX lost when it cast them to float32."""
    if dtype == given.dtype or not len(given):
        return
    with np.errstate(invalid="ignore"):
        spread = np.ptp(given, 0)
    step = np.finfo(np.float32).eps * np.max(np.abs(given), 0)
    if np.any((spread > 0) & (spread < _STEPS * step)):
        raise ValueError(
            f"{name} have type {given.dtype} and lie so far from zero that"
            " float32 cannot hold their spread: subtract their mean, or set"
            " JAX_ENABLE_X64=1."
        )


_NEEDED = {
    jnp.bool_: ("bool", "one truth value to each row"),
    jnp.integer: (
        "int32",
        "the row of samples that each query came from, or -1 for none",
    ),
}


def _per_row(
    name: str, array: jax.Array | None, rows: int, kind: type
) -> jax.Array:
    """Checks `[rows]` of a kind; None is all true, or the row numbers."""
    if array is None:
        array = jnp.ones(rows, bool) if kind is jnp.bool_ else jnp.arange(rows)
    array = jnp.asarray(array)
    if array.shape != (rows,) or not jnp.issubdtype(array.dtype, kind):
        dtype, meaning = _NEEDED[kind]
        raise ValueError(
            f"{name} is {array.dtype}{list(array.shape)}, and {dtype}[{rows}]"
            f" is needed: give {meaning}."
        )
    return array if kind is jnp.bool_ else array.astype(jnp.int32)
