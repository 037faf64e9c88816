"""What the entropy benchmark compares: one number, computed in many ways.

`mean_i -log 1/n sum_j K(q_i, z_j)`, in nats, with a normalised Gaussian kernel
of standard deviation 1, and its gradient in queries and samples.
"""

import contextlib
import functools
import importlib.util
import math
import sys
import time
import tracemalloc
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.stats
from jax import lax
from sklearn import neighbors

from aeent_jax import entropy
from aeent_jax.runtime import parallel

# Of an estimate at a choice of queries, and of all above 65536 samples.
MOST_QUERIES = 4096

# Queries, and pairs, that are visited at a time by what maps over queries.
_CHUNK = 256
_MOST_PAIRS = 2**24
# Pairs up to which one more run, to trace its memory, takes seconds.
_MOST_TRACED = 4096**2


class Result(NamedTuple):
    """What a computation returns; nats.

    Attributes:
      value: the number.
      gradients: in queries and samples, where asked for.
      standard_error: of a choice of queries, where one is made.
    """

    value: Any
    gradients: Any = ()
    standard_error: Any = None


class Call(NamedTuple):
    """A computation that is ready to run.

    Attributes:
      run: computes it to its end.
      compile_seconds: what getting ready took; 0 where nothing is compiled.
      memory: bytes beside arguments and results at the peak: of compiled
        programs by the compiler's account, of each device; of numpy's by
        tracemalloc's; None where nobody keeps one.
    """

    run: Callable[[], Result]
    compile_seconds: float
    memory: int | None


class Peer(NamedTuple):
    """One way to compute the number.

    Attributes:
      name: for the table.
      prepare: `(queries, samples, with_gradient) -> Call`, from numpy arrays.
      has_gradient: whether its gradient is measured.
      square_bytes: bytes that it needs for each pair at once, or 0.
      needs: module that has to be installed, or None.
    """

    name: str
    prepare: Callable[[np.ndarray, np.ndarray, bool], Call]
    has_gradient: bool = True
    square_bytes: int = 0
    needs: str | None = None

    def reason_against(
        self, m: int, n: int, with_gradient: bool, most_bytes: int
    ) -> str | None:
        """Returns a sentence on why it cannot run at a size, or None."""
        if self.needs and importlib.util.find_spec(self.needs) is None:
            return f"{self.needs} is not installed."
        if with_gradient and not self.has_gradient:
            return f"{self.name} gives the value alone."
        size = self.square_bytes * m * n
        if size > most_bytes:
            return (
                f"{self.name} would need {size / 2**30:.0f} GiB for all pairs"
                " at once."
            )
        return None


def _constant(n: int, dim: int) -> float:
    return math.log(n) + 0.5 * dim * math.log(2 * math.pi)


def _from_nowhere(q: jax.Array) -> jax.Array:
    """The indices of queries that are no sample, so that none is left out."""
    return jnp.full(q.shape[0], -1, jnp.int32)


def _ours(q: jax.Array, z: jax.Array) -> jax.Array:
    return entropy.kde_loo(q, z, _from_nowhere(q), bandwidth=1.0).value


def _log_sums(q: jax.Array, z: jax.Array) -> jax.Array:
    """`[m]` log sums of kernels, as one would first write them."""
    product = jnp.matmul(q, z.T, precision=lax.Precision.HIGHEST)
    norms = jnp.sum(q**2, 1)[:, None] + jnp.sum(z**2, 1)
    return jax.nn.logsumexp(product - 0.5 * norms, 1)


def _dense(q: jax.Array, z: jax.Array) -> jax.Array:
    return _constant(*z.shape) - jnp.mean(_log_sums(q, z))


def _mapped(q: jax.Array, z: jax.Array) -> jax.Array:
    """Linear memory: a few queries at a time, computed again for gradients."""
    rows = min(_CHUNK, max(_MOST_PAIRS // z.shape[0], 1))
    chunks = q.reshape(-1, math.gcd(q.shape[0], rows), q.shape[1])
    rows = lax.map(jax.checkpoint(lambda rows: _log_sums(rows, z)), chunks)
    return _constant(*z.shape) - jnp.mean(rows)


def _prepare_jax(function, q, z, with_gradient: bool) -> Call:
    def compute(q, z):
        if not with_gradient:
            return Result(function(q, z))
        return Result(*jax.value_and_grad(function, (0, 1))(q, z))

    return _compile(jax.jit(compute), jnp.asarray(q), jnp.asarray(z))


def _prepare_on_devices(q, z, with_gradient: bool) -> Call:
    """Ours, with the queries spread over all devices, as in a training step."""
    mapping = parallel.make_parallel()
    m = len(q)

    def share(q, z, mask):
        found = entropy.kde_loo(
            q, z, _from_nowhere(q), query_mask=mask, bandwidth=1.0
        )
        return found.value * jnp.sum(mask) / m

    def step(q, z, mask):
        if not with_gradient:
            return lax.psum(share(q, z, mask), parallel.AXIS)
        value, (dq, dz) = jax.value_and_grad(share, (0, 1))(q, z, mask)
        value, dz = lax.psum((value, dz), parallel.AXIS)
        return value, dq, dz

    function = mapping.map(step)
    rows = mapping.padded(m)
    padded = np.pad(q, ((0, rows - m), (0, 0)))
    call = _compile(
        function,
        mapping.shard(padded),
        mapping.replicate(z),
        mapping.shard(np.arange(rows) < m),
    )

    def run() -> Result:
        # Mapped arrays have a leading axis of devices.
        if not with_gradient:
            return Result(call.run()[0])
        value, dq, dz = call.run()
        return Result(value[0], (dq.reshape(rows, -1)[:m], dz[0]))

    return call._replace(run=run)


def _prepare_sampled(q, z, with_gradient: bool) -> Call:
    """The entropy of the samples, at some of them."""
    del q, with_gradient

    def compute(z, rng):
        found = entropy.sample_queries(
            entropy.ESTIMATORS["kde_loo"],
            z,
            max_queries=MOST_QUERIES,
            rng=rng,
            bandwidth=1.0,
        )
        error = found.diagnostics["standard_error"]
        return Result(found.value, standard_error=error)

    return _compile(jax.jit(compute), jnp.asarray(z), jax.random.key(0))


def _compile(function, *arguments) -> Call:
    begun = time.perf_counter()
    compiled = function.lower(*arguments).compile()
    seconds = time.perf_counter() - begun
    analysis = compiled.memory_analysis()
    memory = None if analysis is None else analysis.temp_size_in_bytes
    return Call(
        lambda: jax.tree.map(np.asarray, compiled(*arguments)), seconds, memory
    )


def _prepare_numpy(function, q, z, with_gradient: bool) -> Call:
    del with_gradient
    memory = None
    if len(q) * len(z) <= _MOST_TRACED:
        tracemalloc.start()
        function(q, z)
        _, memory = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    return Call(lambda: Result(function(q, z)), 0.0, memory)


def _sklearn(q: np.ndarray, z: np.ndarray) -> float:
    density = neighbors.KernelDensity(bandwidth=1.0, rtol=0, atol=0).fit(z)
    return -float(np.mean(density.score_samples(q)))


def _scipy(q: np.ndarray, z: np.ndarray) -> float:
    # Its kernel has the covariance of the samples, so the number is another.
    return -float(np.mean(scipy.stats.gaussian_kde(z.T, 1.0).logpdf(q.T)))


def _prepare_torch(q, z, with_gradient: bool) -> Call:
    import torch  # Not a dependency of the project.

    def log_sums(q, z):
        return torch.logsumexp(-0.5 * torch.cdist(q, z) ** 2, 1)

    return _prepare_in_torch(log_sums, q, z, with_gradient)


def _prepare_keops(q, z, with_gradient: bool) -> Call:
    # It tells what it finds and compiles on stdout, where our JSON goes.
    with contextlib.redirect_stdout(sys.stderr):
        import pykeops  # Not a dependency of the project.
        from pykeops.torch import LazyTensor

    pykeops.set_verbose(False)

    def log_sums(q, z):
        pairs = LazyTensor(q[:, None, :]) - LazyTensor(z[None, :, :])
        return (-0.5 * (pairs**2).sum(-1)).logsumexp(dim=1)

    few = q[:8], z[:8]
    begun = time.perf_counter()
    _prepare_in_torch(log_sums, *few, with_gradient).run()
    seconds = time.perf_counter() - begun
    call = _prepare_in_torch(log_sums, q, z, with_gradient)
    return call._replace(compile_seconds=seconds)


def _prepare_in_torch(log_sums, q, z, with_gradient: bool) -> Call:
    import torch  # Not a dependency of the project.

    arrays = [
        torch.from_numpy(np.array(a)).requires_grad_(with_gradient)
        for a in (q, z)
    ]

    def run() -> Result:
        value = _constant(*z.shape) - log_sums(*arrays).mean()
        if not with_gradient:
            return Result(value.numpy())
        gradients = torch.autograd.grad(value, arrays)
        numbers = tuple(gradient.numpy() for gradient in gradients)
        return Result(value.detach().numpy(), numbers)

    return Call(run, 0.0, None)


# In the order in which they get time.
PEERS: Mapping[str, Peer] = {
    "ours": Peer("ours", functools.partial(_prepare_jax, _ours)),
    "map": Peer(
        "lax.map and checkpoint", functools.partial(_prepare_jax, _mapped)
    ),
    "devices": Peer("ours, all devices", _prepare_on_devices),
    "keops": Peer("PyKeOps", _prepare_keops, needs="pykeops"),
    "sampled": Peer(
        f"kde_loo(z), {MOST_QUERIES} queries",
        _prepare_sampled,
        has_gradient=False,
    ),
    "dense": Peer(
        "dense JAX", functools.partial(_prepare_jax, _dense), square_bytes=12
    ),
    "torch": Peer(
        "torch cdist", _prepare_torch, square_bytes=16, needs="torch"
    ),
    "scipy": Peer(
        "gaussian_kde",
        functools.partial(_prepare_numpy, _scipy),
        has_gradient=False,
    ),
    "sklearn": Peer(
        "KernelDensity",
        functools.partial(_prepare_numpy, _sklearn),
        has_gradient=False,
    ),
}
