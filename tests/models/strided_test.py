"""The strided convolution, its adjoint and their gradients, to the second."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from aeent_jax.models import strided

DIMENSIONS = ("NHWC", "HWIO", "NHWC")
# Few and many channels, odd numbers, both heads of three channels, a batch of
# one: B, H, W, I, O.
SHAPES = [(5, 8, 8, 1, 16), (2, 4, 6, 3, 5), (1, 4, 4, 6, 16), (3, 2, 1, 16, 7)]
FUNCTIONS = {"down": strided.down, "up": strided.up}
# Errors of sums in another order, of the largest entry.
TOLERANCES = {"float32": 2e-6, "float64": 4e-15}


def plain_down(x, kernel):
    return lax.conv_general_dilated(
        x, kernel, (2, 2), "SAME", dimension_numbers=DIMENSIONS
    )


def plain_up(g, kernel):
    return lax.conv_transpose(
        g,
        kernel,
        (2, 2),
        "SAME",
        dimension_numbers=DIMENSIONS,
        transpose_kernel=True,
    )


PLAIN = {"down": plain_down, "up": plain_up}


def make_operands(name, shape, dtype, members=()):
    """What `name` convolves, a kernel, and a cotangent."""
    batch, height, width, inputs, outputs = shape
    rng = np.random.default_rng(0)
    large = rng.normal(size=(*members, batch, 2 * height, 2 * width, inputs))
    small = rng.normal(size=(*members, batch, height, width, outputs))
    kernel = rng.normal(size=(*members, 4, 4, inputs, outputs))
    images = (large, small) if name == "down" else (small, large)
    return [jnp.asarray(a, dtype) for a in (images[0], kernel, images[1])]


def with_gradients(function):
    """The function's value, and its gradients for a cotangent."""

    def run(x, kernel, g):
        y, pull = jax.vjp(function, x, kernel)
        return y, pull(g)

    return run


def second_gradients(function):
    """Gradients of a function of the gradients."""

    def of_gradients(*operands):
        _, (dx, dkernel) = with_gradients(function)(*operands)
        return jnp.sum(dx**3) + jnp.sum(dkernel**3)

    return jax.grad(of_gradients, (0, 1, 2))


def assert_close(tree, expected, tolerance):
    def check(a, b):
        assert a.dtype == b.dtype
        np.testing.assert_allclose(a, b, 0, tolerance * np.abs(b).max())

    jax.tree.map(check, tree, expected)


@pytest.fixture(params=["cpu", "gpu"])
def backend(request, monkeypatch):
    """Has the forms of one backend run on this one."""
    monkeypatch.setattr(jax, "default_backend", lambda: request.param)


@pytest.mark.usefixtures("backend")
@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_values_and_gradients_are_those_of_xla(name, shape, dtype):
    with jax.enable_x64(True):
        operands = make_operands(name, shape, dtype)
        ours = jax.jit(with_gradients(FUNCTIONS[name]))(*operands)
        plain = jax.jit(with_gradients(PLAIN[name]))(*operands)
    assert_close(ours, plain, TOLERANCES[dtype])


@pytest.mark.usefixtures("backend")
@pytest.mark.parametrize("shape", SHAPES[1:3])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_second_gradients_are_those_of_xla(name, shape):
    with jax.enable_x64(True):
        operands = make_operands(name, shape, jnp.float64)
        ours = jax.jit(second_gradients(FUNCTIONS[name]))(*operands)
        plain = jax.jit(second_gradients(PLAIN[name]))(*operands)
    # Products of three such sums.
    assert_close(ours, plain, 4 * TOLERANCES["float64"])


@pytest.mark.usefixtures("backend")
@pytest.mark.parametrize("shape", SHAPES[1:3])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_members_of_a_population_compute_as_each_alone(name, shape):
    run = with_gradients(FUNCTIONS[name])
    operands = make_operands(name, shape, jnp.float32, members=(2,))
    together = jax.jit(jax.vmap(run))(*operands)
    for i in range(2):
        alone = jax.jit(run)(*(a[i] for a in operands))
        member = jax.tree.map(lambda a, i=i: a[i], together)
        assert_close(member, alone, TOLERANCES["float32"])


@pytest.mark.usefixtures("backend")
@pytest.mark.parametrize("name", FUNCTIONS)
def test_bfloat16_is_rounded_float32(name):
    exact = make_operands(name, SHAPES[1], jnp.float32)
    rounded = [a.astype(jnp.bfloat16) for a in exact]
    y, pull = jax.vjp(FUNCTIONS[name], *rounded[:2])
    results = (y, *pull(rounded[2]))
    expected, pull = jax.vjp(FUNCTIONS[name], *exact[:2])
    for a, b in zip(results, (expected, *pull(exact[2])), strict=True):
        assert a.dtype == jnp.bfloat16
        # 8 bits of mantissa: factors and sums are rounded by up to 2^-9.
        error = np.abs(np.asarray(a, np.float32) - b).max()
        assert error < 0.02 * np.abs(b).max()
