"""The 4x4 convolution of stride 2, its adjoint and its kernel gradient.

The three are the derivatives of one form that is linear in the large images x,
in the kernel k and in the small images g:

  sum(down(x, k) * g) = sum(x * up(g, k)) = sum(k * kernel_gradient(x, g))

The gradients of each one are therefore the other two, to any order, and each
one is written in the form that XLA runs fastest. On accelerators all three are
XLA's own convolutions. XLA on CPU is fast at a strided convolution of many
channels and at its kernel gradient; it is slow at a dilated convolution, which
the adjoint is, and at a few channels. The CPU forms of those work on cells: the
2x2 pixels of x that meet at a corner of the pixels of g. In cells, the kernel
is 2x2 and the stride is 1.

Shapes: x `[B, 2H, 2W, I]`, k `[4, 4, I, O]`, g `[B, H, W, O]`, cells of x
`[B, H + 1, W + 1, 4 I]`.
"""

import functools

import jax
import jax.numpy as jnp
from jax import lax

_DIMENSIONS = ("NHWC", "HWIO", "NHWC")
# Images have 1 or 3 channels; the layers inside of a network have more.
_FEW_CHANNELS = 4


def down(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Convolves with stride 2 and SAME padding; halves height and width.

    Args:
      x: `[B, 2H, 2W, I]`.
      kernel: `[4, 4, I, O]`, of the same dtype.

    Returns:
      `[B, H, W, O]`.
    """
    return _down(x, kernel, jax.config.jax_default_matmul_precision)


def up(g: jax.Array, kernel: jax.Array) -> jax.Array:
    """Transposed convolution, the adjoint of `down`; doubles height and width.

    Args:
      g: `[B, H, W, O]`.
      kernel: `[4, 4, I, O]`, of the same dtype; the axes (2, 3, 1, 0) of
        PyTorch's `[O, I, 4, 4]`.

    Returns:
      `[B, 2H, 2W, I]`.
    """
    return _up(g, kernel, jax.config.jax_default_matmul_precision)


# The precision is an argument, because gradients are traced where the context
# that sets it around a forward pass has ended.
@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _down(x, kernel, precision):
    with jax.default_matmul_precision(precision):
        if _is_cpu() and x.shape[-1] <= _FEW_CHANNELS:
            return _convolve(_cells(x), _kernel_of_cells(kernel), 1, "VALID")
        return _convolve(x, kernel, 2, "SAME")


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _up(g, kernel, precision):
    with jax.default_matmul_precision(precision):
        if not _is_cpu():
            return lax.conv_transpose(
                g,
                kernel,
                (2, 2),
                "SAME",
                dimension_numbers=_DIMENSIONS,
                transpose_kernel=True,
            )
        kernel = jnp.swapaxes(_kernel_of_cells(kernel), 2, 3)
        if kernel.shape[-1] <= 4 * _FEW_CHANNELS:
            return _pixels(_sum_of_corners(g, kernel))
        return _pixels(_convolve(g, kernel[::-1, ::-1], 1, [(1, 1), (1, 1)]))


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _kernel_gradient(x, g, precision):
    shape = (4, 4, x.shape[-1], g.shape[-1])
    with jax.default_matmul_precision(precision):
        transpose = jax.linear_transpose(
            lambda kernel: _convolve(x, kernel, 2, "SAME"),
            jax.ShapeDtypeStruct(shape, x.dtype),
        )
        return transpose(g)[0]


def _keeping_operands(function):
    """The forward pass of `function`, whose gradients need its operands."""
    return lambda a, b, precision: (function(a, b, precision), (a, b))


def _down_gradients(precision, operands, g):
    x, kernel = operands
    return _up(g, kernel, precision), _kernel_gradient(x, g, precision)


def _up_gradients(precision, operands, x):
    g, kernel = operands
    return _down(x, kernel, precision), _kernel_gradient(x, g, precision)


def _kernel_gradient_gradients(precision, operands, kernel):
    x, g = operands
    return _up(g, kernel, precision), _down(x, kernel, precision)


_down.defvjp(_keeping_operands(_down), _down_gradients)
_up.defvjp(_keeping_operands(_up), _up_gradients)
_kernel_gradient.defvjp(
    _keeping_operands(_kernel_gradient), _kernel_gradient_gradients
)


def _is_cpu():
    return jax.default_backend() == "cpu"


def _convolve(x, kernel, stride, padding):
    return lax.conv_general_dilated(
        x, kernel, (stride, stride), padding, dimension_numbers=_DIMENSIONS
    )


def _cells(x):
    """Cells `[B, H + 1, W + 1, 4 I]` of images, with zeros around them."""
    x = jnp.pad(x, [(0, 0), (1, 1), (1, 1), (0, 0)])
    batch, height, width, channels = x.shape
    cells = x.reshape(batch, height // 2, 2, width // 2, 2, channels)
    return cells.swapaxes(2, 3).reshape(batch, height // 2, width // 2, -1)


def _pixels(cells):
    """Inverse of `_cells`: `[B, 2H, 2W, I]`."""
    batch, height, width, _ = cells.shape
    x = cells.reshape(batch, height, width, 2, 2, -1).swapaxes(2, 3)
    return x.reshape(batch, 2 * height, 2 * width, -1)[:, 1:-1, 1:-1]


def _kernel_of_cells(kernel):
    """Kernel `[2, 2, 4 I, O]` that convolves cells, of one `[4, 4, I, O]`."""
    parts = kernel.reshape(2, 2, 2, 2, *kernel.shape[2:])
    return parts.swapaxes(1, 2).reshape(2, 2, -1, kernel.shape[-1])


def _sum_of_corners(g, kernel):
    """Cells `[B, H + 1, W + 1, 4 I]`: what g gives to its pixels' corners.

    Args:
      g: `[B, H, W, O]`.
      kernel: `[2, 2, O, 4 I]`.
    """
    return sum(
        jnp.pad(g @ kernel[i, j], [(0, 0), (i, 1 - i), (j, 1 - j), (0, 0)])
        for i in range(2)
        for j in range(2)
    )
