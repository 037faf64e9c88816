"""Latents from a file or a run, and every estimator on them, as one table.

`read` and `check` refuse latents that cannot be measured, and `measure` calls
every estimator. With the bandwidth `"channel"` it measures the channel
`z + sigma*eps`, as in training: an entropy is that of the channel's output, and
the rate is the information that passes. With a rule or a number it measures the
clean latents: an entropy is that of the latents under that kernel, and no rate.
"""

import dataclasses
import functools
import pathlib
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from aeent_jax import entropy
from aeent_jax.entropy import bandwidth as bandwidths
from aeent_jax.entropy import channel
from aeent_jax.runtime import storage

# Above this many rows the pairs of all rows take longer than a person waits.
# Per-query estimators then get a choice of queries, and what has no queries but
# visits all pairs, or fits a density, gets this many rows.
MOST_ROWS = 16384
MAX_QUERIES = 4096
_ALL_PAIRS = frozenset({"renyi2", "matrix_renyi"})
_FIT_STEPS = 1000


def read(path: str | pathlib.Path) -> np.ndarray:
    """Reads latents that `numpy.save` wrote, and checks them.

    Args:
      path: a `.npy` file of `[n, dim]` numbers.

    Returns:
      `[n, dim]` float32, as `check` returns.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: it is no `.npy` file, or `check` refuses what it holds.
    """
    path = storage.to_path(path)
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} is no file, and latents are needed that"
            " numpy.save('z.npy', z) wrote: check the path."
        )
    try:
        with path.open("rb") as file:
            array = np.load(file, allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise ValueError(
            f"{path} cannot be read as a .npy file of numbers: write the"
            " latents with numpy.save('z.npy', z)."
        ) from error
    if not isinstance(array, np.ndarray):
        array.close()
        raise ValueError(
            f"{path} is an archive of arrays, and one array is needed: write"
            " the latents alone with numpy.save('z.npy', z)."
        )
    return check(array, str(path))


def check(array: np.ndarray, name: str) -> np.ndarray:
    """Returns latents about their mean as float32, if they can be measured.

    Moving latents changes no entropy. Their mean is taken off in float64, since
    float32 has no digits left for the spread of latents far from zero. Integers
    are cast, as every estimator would: a latent that was rounded is still a
    latent. Constant columns are fine; an estimator to which they are not says
    so by its value.

    Args:
      array: `[n, dim]`.
      name: where it is from, for the message.

    Returns:
      `[n, dim]` float32.

    Raises:
      ValueError: another shape, a type that is not of real numbers, fewer than
        two rows, or rows with NaN or infinity in float32.
    """
    if array.ndim != 2 or array.shape[1] == 0:
        raise ValueError(
            f"{name} has shape {array.shape}, and [rows, dim] is needed: give"
            " one row to each latent vector."
        )
    if array.dtype.kind not in "iuf":
        raise ValueError(
            f"{name} has type {array.dtype}, and real numbers are needed:"
            " convert the latents with z.astype('float32')."
        )
    if len(array) < 2:
        raise ValueError(
            f"{name} has {len(array)} rows, and at least 2 are needed: pass"
            " more latents."
        )
    # A number that overflows becomes infinite here and is refused below.
    with np.errstate(over="ignore"):
        bad = int(np.sum(~np.isfinite(array.astype(np.float32)).all(1)))
    if bad:
        raise ValueError(
            f"{name} has NaN or infinity in {bad} of {len(array)} rows, and"
            " finite numbers are needed: drop those rows, or mend what wrote"
            " them."
        )
    mean = array.mean(0, dtype=np.float64)
    return (array - mean).astype(np.float32)


def measure(
    z: np.ndarray,
    sigma: float,
    *,
    bandwidth: str = "channel",
    max_queries: int | None = None,
    estimators: Sequence[str] = (),
    seed: int = 0,
) -> dict[str, Any]:
    """Measures latents with every estimator, and what is always reported.

    Args:
      z: `[n, dim]` finite float32 latents, n at least 2.
      sigma: positive standard deviation of the channel's noise, in the unit of
        the latents.
      bandwidth: "channel" for sigma, a rule's name, or a number in digits.
      max_queries: of the per-query estimators; by default all rows, and 4096
        of more than 16384.
      estimators: names to measure; default all.
      seed: of the noise, of the choice of rows, and of fits.

    Returns:
      A dictionary of plain numbers: the settings; `estimators`, by name
      `h_nats`, `rate_nats` (None where not defined), `standard_error_nats`
      (None where all rows were queries), `direction`, `queries`, `rows`,
      `seconds`, `compile_seconds` and `peak_bytes`, or else `skipped`, a
      sentence; `diagnostics` of the channel with their `rows`; and
      `total_correlation_nats`.

    Raises:
      ValueError: an unknown name, or a setting out of its range.
    """
    names = _check_names(estimators)
    latents, noise_rng = make_latents(z, sigma, bandwidth, max_queries, seed)
    settings = {
        "rows": len(z),
        "dim": z.shape[1],
        "sigma": sigma,
        "bandwidth": bandwidth,
        "kernel": latents.kernel,
        "seed": seed,
    }
    return settings | {
        "estimators": {name: _measure_one(name, latents) for name in names},
        "diagnostics": _diagnostics(latents, noise_rng),
        # By the Gaussian closed form, which needs more rows than dimensions.
        "total_correlation_nats": float(
            entropy.total_correlation(latents.clean)
        )
        if len(z) > z.shape[1]
        else None,
    }


@dataclasses.dataclass(frozen=True)
class Latents:
    """Latents, clean and behind the channel, and how they are measured.

    Attributes:
      clean: `[n, dim]`.
      output: `[n, dim]`, behind the channel; `clean` where that is measured.
      sigma: standard deviation of the channel's noise.
      bandwidth: what estimators with kernels get: `sigma`, a number, or the
        name of a rule, which each applies to the dimensions that it sees.
      kernel: the bandwidth of all dimensions together, as a number.
      is_channel: whether an entropy is that of the channel's output.
      max_queries: of the per-query estimators.
      rng: key of every choice of rows, and of fits.
    """

    clean: jax.Array
    output: jax.Array
    sigma: float
    bandwidth: str | float
    kernel: float
    is_channel: bool
    max_queries: int
    rng: jax.Array

    @property
    def noise(self) -> dict[str, str | float]:
        """By keyword: what an estimator is told of kernel or channel."""
        return {
            "bandwidth": self.bandwidth,
            "sigma": self.sigma,
            "width": channel.width(self.sigma),
        }

    def fewer(self) -> "Latents":
        """Returns a random choice of `MOST_ROWS` rows, or all there are."""
        n = len(self.clean)
        if n <= MOST_ROWS:
            return self
        rows = jax.random.choice(self.rng, n, (MOST_ROWS,), replace=False)
        return dataclasses.replace(
            self, clean=self.clean[rows], output=self.output[rows]
        )


def make_latents(
    z: np.ndarray,
    sigma: float,
    bandwidth: str,
    max_queries: int | None,
    seed: int,
) -> tuple[Latents, jax.Array]:
    """Checks the settings and draws the noise; arguments as `measure`.

    Returns:
      The latents, and the key of the channel's noise.

    Raises:
      ValueError: a setting out of its range.
    """
    if not 0 < sigma < float("inf"):
        raise ValueError(
            f"sigma is {sigma}, and a positive number is needed, because"
            " without noise the rate is infinite: give --sigma=1.0, say."
        )
    if max_queries is not None and max_queries < 2:
        raise ValueError(
            f"max_queries is {max_queries}, and at least 2 are needed: their"
            " scatter gives the standard error."
        )
    if max_queries is None:
        max_queries = len(z) if len(z) <= MOST_ROWS else MAX_QUERIES
    clean = jnp.asarray(z)
    noise_rng, rng = jax.random.split(jax.random.key(seed))
    is_channel = bandwidth == "channel"
    output = clean
    if is_channel:
        noise = jax.random.normal(noise_rng, clean.shape, clean.dtype)
        output = clean + sigma * noise
    chosen = sigma if is_channel else _parse_bandwidth(bandwidth)
    latents = Latents(
        clean,
        output,
        sigma,
        chosen,
        _kernel(chosen, clean),
        is_channel,
        max_queries,
        rng,
    )
    return latents, noise_rng


def _parse_bandwidth(text: str) -> str | float:
    if text in entropy.RULES:
        return text
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise ValueError(
            f"bandwidth is {text!r}, and a number above 0 is needed or one of"
            f" {', '.join(['channel', *entropy.RULES])}: check the spelling."
        )
    return value


def _kernel(bandwidth: str | float, z: jax.Array) -> float:
    if not isinstance(bandwidth, str):
        return bandwidth
    resolve = jax.jit(functools.partial(bandwidths.resolve, bandwidth))
    value = float(resolve(z, jnp.ones(len(z), bool)))
    if not value > 0:
        raise ValueError(
            f"The bandwidth rule {bandwidth!r} finds no scale in these latents,"
            " because too many are equal: give a number with --bandwidth."
        )
    return value


# (clean, output, rng) -> (h, rate, standard error), None where not defined.
Call = Callable[..., tuple[jax.Array | None, jax.Array | None, jax.Array]]


def prepare(name: str, latents: Latents) -> tuple[Latents, Call, int | None]:
    """Returns how an estimator is called.

    Args:
      name: of `entropy.ESTIMATORS`.
      latents: what is to be measured.

    Returns:
      The latents that it gets, the function of their `clean`, `output` and
      `rng`, and its number of queries, None for the whole batch.
    """
    entry = entropy.ESTIMATORS[name]
    if entry.init or name in _ALL_PAIRS:
        latents = latents.fewer()
    hyper = {}
    if entry.noise_argument:
        hyper[entry.noise_argument] = latents.noise[entry.noise_argument]
    queries = None
    if entry.per_query and not entry.init:
        queries = min(latents.max_queries, len(latents.clean))

    def call(clean, output, rng):
        if entry.dither:
            # Its channel is uniform noise of the same standard deviation.
            dither = jax.random.uniform(
                rng, clean.shape, clean.dtype, -0.5, 0.5
            )
            output = clean + channel.width(latents.sigma) * dither
        if entry.init:
            z = output if entry.noisy_queries else clean
            estimate = entropy.fit_learned(
                name, rng, z, steps=_FIT_STEPS, **hyper
            )
        elif queries:
            estimate = entropy.sample_queries(
                entry,
                clean,
                max_queries=queries,
                rng=rng,
                noisy=output,
                **hyper,
            )
        else:
            estimate = entry(output if entry.noisy_samples else clean, **hyper)
        rate = None
        if estimate.kind == "I" or latents.is_channel or entry.dither:
            noise = "uniform" if entry.dither else "gaussian"
            rate = entropy.to_rate(
                estimate, latents.sigma, clean.shape[1], noise
            )
        error = estimate.diagnostics.get("standard_error", jnp.zeros(()))
        return estimate.value if estimate.kind == "h" else None, rate, error

    return latents, call, queries


def _check_names(names: Sequence[str]) -> list[str]:
    known = list(entropy.ESTIMATORS)
    for name in names:
        if name not in known:
            raise ValueError(
                f"estimators holds {name!r}, and each must be one of"
                f" {', '.join(known)}: check the spelling."
            )
    return list(dict.fromkeys(names)) or known


def _measure_one(name: str, latents: Latents) -> dict[str, Any]:
    """Compiles and runs one estimator; says why where it cannot."""
    latents, call, queries = prepare(name, latents)
    record = {"direction": entropy.ESTIMATORS[name].direction}
    arguments = (latents.clean, latents.output, latents.rng)
    begun = time.monotonic()
    try:
        # The estimators refuse what they cannot measure while being traced.
        compiled = jax.jit(call).lower(*arguments).compile()
    except ValueError as error:
        return record | {"skipped": str(error)}
    compile_seconds = time.monotonic() - begun
    begun = time.monotonic()
    h, rate, error = jax.device_get(compiled(*arguments))
    n, memory = len(latents.clean), compiled.memory_analysis()
    sampled = queries is not None and queries < n
    return record | {
        "h_nats": None if h is None else float(h),
        "rate_nats": None if rate is None else float(rate),
        "standard_error_nats": float(error) if sampled else None,
        "queries": queries,
        "rows": n,
        "seconds": time.monotonic() - begun,
        "compile_seconds": compile_seconds,
        "peak_bytes": None if memory is None else memory.temp_size_in_bytes,
    }


def _diagnostics(latents: Latents, rng: jax.Array) -> dict[str, Any]:
    """Diagnostics of the channel, the same for all estimators."""
    z = latents.fewer().clean
    diagnostics = entropy.channel_diagnostics(z, rng, latents.sigma)
    numbers = {
        key: float(diagnostics[key])
        for key in ("rate_low", "rate_up", "rho", "effective_rank")
    }
    return {"rows": len(z)} | numbers
