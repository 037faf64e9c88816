"""One set of latents, and how each estimator of the tables is called on it."""

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from aeent_jax import entropy
from aeent_jax.entropy import bandwidth as bandwidths
from aeent_jax.entropy import channel

# Above this many rows the pairs of all rows take longer than a person waits.
# Per-query estimators then get a choice of queries, and what has no queries but
# visits all pairs, or fits a density, gets this many rows.
MOST_ROWS = 16384
MAX_QUERIES = 4096
_ALL_PAIRS = frozenset({"renyi2", "matrix_renyi"})
_FIT_STEPS = 1000


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
            found = entropy.fit_learned(name, rng, z, steps=_FIT_STEPS, **hyper)
        elif queries:
            found = entropy.sample_queries(
                entry,
                clean,
                max_queries=queries,
                rng=rng,
                noisy=output,
                **hyper,
            )
        else:
            found = entry(output if entry.noisy_samples else clean, **hyper)
        rate = None
        if found.kind == "I" or latents.is_channel or entry.dither:
            noise = "uniform" if entry.dither else "gaussian"
            rate = entropy.to_rate(found, latents.sigma, clean.shape[1], noise)
        error = found.diagnostics.get("standard_error", jnp.zeros(()))
        return found.value if found.kind == "h" else None, rate, error

    return latents, call, queries
