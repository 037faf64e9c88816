"""The peers of the entropy benchmark: one number, computed in many ways.

`mean_i -log 1/n sum_j K(q_i, z_j)`, in nats, with a normalised Gaussian kernel
of standard deviation 1, and its gradient in queries and samples.
"""

import contextlib
import functools
import importlib.util
import math
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from sklearn import neighbors

from aeent_jax import entropy

# Queries, and pairs, that `lax.map` visits at a time.
_CHUNK = 256
_MOST_PAIRS = 2**24


class Call(NamedTuple):
    """A computation that is ready to run.

    Attributes:
      run: computes value and gradients, numpy arrays, to the end.
      compile_seconds: seconds to get ready; 0 where nothing is compiled.
      memory: bytes at the peak beside arguments and results, by the compiler's
        account; None where there is no compiler.
    """

    run: Callable[[], tuple]
    compile_seconds: float = 0.0
    memory: int | None = None


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


def _ours(q: jax.Array, z: jax.Array) -> jax.Array:
    no_sample = jnp.full(q.shape[0], -1, jnp.int32)  # So none is left out.
    return entropy.kde_loo(q, z, no_sample, bandwidth=1.0).value


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
            return (function(q, z),)
        value, gradients = jax.value_and_grad(function, (0, 1))(q, z)
        return value, *gradients

    arguments = jnp.asarray(q), jnp.asarray(z)
    begun = time.perf_counter()
    compiled = jax.jit(compute).lower(*arguments).compile()
    seconds = time.perf_counter() - begun
    analysis = compiled.memory_analysis()
    return Call(
        lambda: jax.device_get(compiled(*arguments)),
        seconds,
        analysis.temp_size_in_bytes if analysis else None,
    )


def _prepare_sklearn(q, z, with_gradient: bool) -> Call:
    del with_gradient

    def run() -> tuple:
        density = neighbors.KernelDensity(bandwidth=1.0, rtol=0, atol=0).fit(z)
        return (-np.mean(density.score_samples(q)),)

    return Call(run)


def _prepare_torch(q, z, with_gradient: bool) -> Call:
    import torch  # Not a dependency of the project.

    def log_sums(q, z):
        return torch.logsumexp(-0.5 * torch.cdist(q, z) ** 2, 1)

    return _prepare_in_torch(log_sums, q, z, with_gradient)


def _prepare_keops(q, z, with_gradient: bool) -> Call:
    # It reports its compiler on stdout, which is for our JSON.
    with contextlib.redirect_stdout(sys.stderr):
        import pykeops  # Not a dependency of the project.
        from pykeops.torch import LazyTensor

    pykeops.set_verbose(False)

    def log_sums(q, z):
        pairs = LazyTensor(q[:, None, :]) - LazyTensor(z[None, :, :])
        return (-0.5 * (pairs**2).sum(-1)).logsumexp(dim=1)

    begun = time.perf_counter()
    _prepare_in_torch(log_sums, q[:8], z[:8], with_gradient).run()
    seconds = time.perf_counter() - begun
    call = _prepare_in_torch(log_sums, q, z, with_gradient)
    return call._replace(compile_seconds=seconds)


def _prepare_in_torch(log_sums, q, z, with_gradient: bool) -> Call:
    import torch  # Not a dependency of the project.

    device = "cuda" if torch.cuda.is_available() else "cpu"
    arrays = [
        torch.tensor(a, device=device, requires_grad=with_gradient)
        for a in (q, z)
    ]

    def run() -> tuple:
        value = _constant(*z.shape) - log_sums(*arrays).mean()
        gradients: Any = ()
        if with_gradient:
            gradients = torch.autograd.grad(value, arrays)
        return tuple(a.detach().cpu().numpy() for a in (value, *gradients))

    return Call(run)


# In the order in which they get time.
PEERS: Mapping[str, Peer] = {
    "ours": Peer("ours", functools.partial(_prepare_jax, _ours)),
    "map": Peer(
        "lax.map and checkpoint", functools.partial(_prepare_jax, _mapped)
    ),
    "keops": Peer("PyKeOps", _prepare_keops, needs="pykeops"),
    "dense": Peer(
        "dense JAX", functools.partial(_prepare_jax, _dense), square_bytes=12
    ),
    "torch": Peer(
        "PyTorch cdist", _prepare_torch, square_bytes=16, needs="torch"
    ),
    "sklearn": Peer("KernelDensity", _prepare_sklearn, has_gradient=False),
}
