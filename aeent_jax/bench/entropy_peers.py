"""What the entropy benchmark compares: one number, computed in many ways.

`mean_i -log 1/n sum_j K(q_i, z_j)`, in nats, with a normalised Gaussian kernel
of standard deviation 1, and its gradient in queries and samples.
"""

import functools
import importlib.util
import math
import time
import tracemalloc
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.special
import scipy.stats
from sklearn import neighbors

from aeent_jax import entropy

_CHUNK = 256
# Pairs up to which one more run, to trace its memory, takes seconds.
_MOST_TRACED = 8192**2


class Call(NamedTuple):
    """A computation that is ready to run.

    Attributes:
      run: computes it to its end and returns the value, or value and gradients.
      compile_seconds: what getting ready took; 0 where nothing is compiled.
      memory: bytes beside arguments and results at the peak: of compiled
        programs by the compiler's account, of numpy's by tracemalloc's; None
        where nobody keeps one.
    """

    run: Callable[[], Any]
    compile_seconds: float
    memory: int | None


class Peer(NamedTuple):
    """One way to compute the number.

    Attributes:
      name: for the table.
      prepare: `(queries, samples, with_gradient) -> Call`, from numpy arrays.
      has_gradient: whether it can differentiate.
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
            return f"{self.name} has no gradient."
        size = self.square_bytes * m * n
        if size > most_bytes:
            return (
                f"{self.name} would need {size / 2**30:.0f} GiB for all pairs"
                " at once."
            )
        return None


def _constant(n: int, dim: int) -> float:
    return math.log(n) + 0.5 * dim * math.log(2 * math.pi)


def _ours(q: jax.Array, z: jax.Array) -> jax.Array:
    nobody = jnp.full(q.shape[0], -1, jnp.int32)
    return entropy.kde_resub(q, z, nobody, bandwidth=1.0).value


def _leave_one_out(q: jax.Array, z: jax.Array) -> jax.Array:
    del q
    return entropy.kde_loo(z).value


def _log_sums(q: jax.Array, z: jax.Array) -> jax.Array:
    """`[m]` log sums of kernels, as one would first write them."""
    product = jnp.matmul(q, z.T, precision=jax.lax.Precision.HIGHEST)
    norms = jnp.sum(q**2, 1)[:, None] + jnp.sum(z**2, 1)
    return jax.nn.logsumexp(product - 0.5 * norms, 1)


def _dense(q: jax.Array, z: jax.Array) -> jax.Array:
    return _constant(*z.shape) - jnp.mean(_log_sums(q, z))


def _mapped(q: jax.Array, z: jax.Array) -> jax.Array:
    """Linear memory: a few queries at a time, computed again for gradients."""
    chunks = q.reshape(-1, math.gcd(q.shape[0], _CHUNK), q.shape[1])
    rows = jax.lax.map(jax.checkpoint(lambda rows: _log_sums(rows, z)), chunks)
    return _constant(*z.shape) - jnp.mean(rows)


def _prepare_jax(function, q, z, with_gradient: bool) -> Call:
    if with_gradient:
        function = jax.value_and_grad(function, (0, 1))
    return _compile(jax.jit(function), jnp.asarray(q), jnp.asarray(z))


def _prepare_on_devices(q, z, with_gradient: bool) -> Call:
    """Ours, with the queries spread over all local devices."""
    mesh = jax.make_mesh((jax.local_device_count(),), ("batch",))
    rows, everywhere = jax.P("batch"), jax.P()

    def mean(q, z):
        def per_device(q, z):
            return jax.lax.pmean(_ours(q, z), "batch")

        return jax.shard_map(
            per_device,
            mesh=mesh,
            in_specs=(rows, everywhere),
            out_specs=everywhere,
        )(q, z)

    function = jax.value_and_grad(mean, (0, 1)) if with_gradient else mean
    q = jax.device_put(q, jax.NamedSharding(mesh, rows))
    z = jax.device_put(z, jax.NamedSharding(mesh, everywhere))
    return _compile(jax.jit(function), q, z)


def _compile(function, q: jax.Array, z: jax.Array) -> Call:
    begun = time.perf_counter()
    compiled = function.lower(q, z).compile()
    seconds = time.perf_counter() - begun
    analysis = compiled.memory_analysis()
    memory = None if analysis is None else analysis.temp_size_in_bytes
    return Call(
        lambda: jax.tree.map(np.asarray, compiled(q, z)), seconds, memory
    )


def _prepare_numpy(function, q, z, with_gradient: bool) -> Call:
    del with_gradient
    memory = None
    if len(q) * len(z) <= _MOST_TRACED:
        tracemalloc.start()
        function(q, z)
        _, memory = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    return Call(functools.partial(function, q, z), 0.0, memory)


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
    from pykeops.torch import LazyTensor  # Not a dependency of the project.

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

    def run():
        value = _constant(*z.shape) - log_sums(*arrays).mean()
        if not with_gradient:
            return value.numpy()
        gradients = torch.autograd.grad(value, arrays)
        return value.detach().numpy(), tuple(g.numpy() for g in gradients)

    return Call(run, 0.0, None)


PEERS: Mapping[str, Peer] = {
    "ours": Peer("ours", functools.partial(_prepare_jax, _ours)),
    "devices": Peer("ours, all devices", _prepare_on_devices),
    "loo": Peer(
        "ours, kde_loo(z)", functools.partial(_prepare_jax, _leave_one_out)
    ),
    "dense": Peer(
        "dense JAX", functools.partial(_prepare_jax, _dense), square_bytes=12
    ),
    "map": Peer(
        "lax.map and checkpoint", functools.partial(_prepare_jax, _mapped)
    ),
    "sklearn": Peer(
        "KernelDensity",
        functools.partial(_prepare_numpy, _sklearn),
        has_gradient=False,
    ),
    "scipy": Peer(
        "gaussian_kde",
        functools.partial(_prepare_numpy, _scipy),
        has_gradient=False,
    ),
    "torch": Peer(
        "torch cdist", _prepare_torch, square_bytes=16, needs="torch"
    ),
    "keops": Peer("PyKeOps", _prepare_keops, needs="pykeops"),
}
