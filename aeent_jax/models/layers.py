"""Convolution, transposed convolution and norms with PyTorch's conventions.

Every layer takes NHWC arrays. Initialisers, padding, epsilon and the running
variance follow PyTorch, so that networks trained here and there agree.
"""

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from aeent_jax.models import strided

_DIMENSIONS = ("NHWC", "HWIO", "NHWC")
_BATCH_NORM_EPSILON = 1e-5
_BATCH_NORM_MOMENTUM = 0.9
# So small that the scale of the latents has no influence, and 0 stays 0.
_POWER_EPSILON = 1e-12


def matched(array: jax.Array, x: jax.Array) -> jax.Array:
    """Rounds parameters to bfloat16 if the activations `x` are bfloat16."""
    return array.astype(x.dtype) if x.dtype == jnp.bfloat16 else array


def raised(x: jax.Array) -> jax.Array:
    """Raises activations to at least float32, for sums over many of them."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def uniform_init(fan_in: int):
    """PyTorch's default: U(-b, b) with b = 1/sqrt(fan_in)."""
    bound = fan_in**-0.5

    def init(key, shape, dtype=jnp.float32):
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return init


class Conv(nn.Module):
    """Convolution without bias, `[B, H, W, I]` to `[B, H/s, W/s, features]`.

    Attributes:
      features: output channels.
      kernel_size: 4 with stride 2, 3 with stride 1, 1 with stride 1.
      stride: 1 or 2.
    """

    features: int
    kernel_size: int
    stride: int = 1

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Convolves `x` `[B, H, W, I]` with SAME padding."""
        size = self.kernel_size
        kernel = self.param(
            "kernel",
            uniform_init(size * size * x.shape[-1]),
            (size, size, x.shape[-1], self.features),
        )
        kernel = matched(kernel, x)
        if self.stride == 2:
            return strided.down(x, kernel)
        return lax.conv_general_dilated(
            x, kernel, (1, 1), "SAME", dimension_numbers=_DIMENSIONS
        )


class ConvTranspose(nn.Module):
    """4x4 transposed convolution of stride 2 without bias.

    Attributes:
      features: output channels.
    """

    features: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps `[B, H, W, I]` to `[B, 2H, 2W, features]`."""
        kernel = self.param(
            "kernel",
            # PyTorch takes the fan-in of a transposed convolution from its
            # output channels.
            uniform_init(4 * 4 * self.features),
            (4, 4, self.features, x.shape[-1]),
        )
        return strided.up(x, matched(kernel, x))


class Linear(nn.Module):
    """Affine map of the last axis, with PyTorch's initial values.

    Attributes:
      features: output size.
    """

    features: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps `[B, I]` to `[B, features]`."""
        init = uniform_init(x.shape[-1])
        kernel = self.param("kernel", init, (x.shape[-1], self.features))
        bias = self.param("bias", init, (self.features,))
        return x @ matched(kernel, x) + matched(bias, x)


class BatchNorm(nn.Module):
    """Masked BatchNorm whose statistics are those of the global batch.

    Rows with a false mask (the padding of a ragged batch) count nowhere.
    Devices along `axis_name` exchange count, mean and sum of squared
    deviations once and combine them as Chan, Golub and LeVeque (1983). This
    takes no difference of large squares, so the variance is never negative.
    The running variance is the unbiased one, as in PyTorch. A single value,
    such as the last image of a ragged batch in a linear layer, leaves the
    running statistics unchanged; PyTorch raises an error.

    Attributes:
      axis_name: the mapped axis to synchronise over, or None.
    """

    axis_name: str | None = None

    @nn.compact
    def __call__(
        self, x: jax.Array, mask: jax.Array | None, *, train: bool
    ) -> jax.Array:
        """Normalises `x` over all axes but the last.

        Args:
          x: `[B, ..., C]`.
          mask: `[B]` bool, rows that count; None means all. Used in training.
          train: batch statistics (and an update of the running ones) if true,
            running statistics otherwise.

        Returns:
          An array of `x`'s shape.
        """
        given, x = x, raised(x)
        features = x.shape[-1]
        running_mean = self.variable(
            "batch_stats", "mean", jnp.zeros, (features,)
        )
        running_var = self.variable("batch_stats", "var", jnp.ones, (features,))
        scale = self.param("scale", nn.initializers.ones, (features,))
        bias = self.param("bias", nn.initializers.zeros, (features,))
        if train:
            count, mean, variance = _global_moments(x, mask, self.axis_name)
            if not self.is_initializing():
                unbiased = variance * count / jnp.maximum(count - 1.0, 1.0)
                # One value has no variance, and zeros would run it down.
                for running, new in (
                    (running_mean, mean),
                    (running_var, unbiased),
                ):
                    running.value = jnp.where(
                        count > 1, _running(running.value, new), running.value
                    )
        else:
            mean, variance = running_mean.value, running_var.value
        gain = scale * lax.rsqrt(variance + _BATCH_NORM_EPSILON)
        return matched((x - mean) * gain + bias, given)


class PowerNorm(nn.Module):
    """Divides latents by their rms, one number for all rows and dimensions.

    Masks, devices and the running statistic of evaluation are as in
    `BatchNorm`. The power is the mean square, as in the constraint of a
    channel, and not the variance. The encoder can then spend power on a
    constant, and so send less information than the power allows. A division by
    the deviation would spread out again the latents that a penalty has driven
    together.

    Attributes:
      axis_name: the mapped axis to synchronise over, or None.
    """

    axis_name: str | None = None

    @nn.compact
    def __call__(
        self, z: jax.Array, mask: jax.Array | None, *, train: bool
    ) -> jax.Array:
        """Normalises `z`.

        Args:
          z: `[B, D]`.
          mask: `[B]` bool, rows that count; None means all. Used in training.
          train: the batch's power (and an update of the running one) if true,
            the running power otherwise.

        Returns:
          `[B, D]`.
        """
        z = raised(z)
        running = self.variable("batch_stats", "power", jnp.ones, ())
        power = running.value
        if train:
            _, mean, variance = _global_moments(z, mask, self.axis_name)
            power = jnp.mean(jnp.square(mean) + variance)
            if not self.is_initializing():
                running.value = _running(running.value, power)
        return z * lax.rsqrt(power + _POWER_EPSILON)


def _running(old: jax.Array, new: jax.Array) -> jax.Array:
    momentum = _BATCH_NORM_MOMENTUM
    return momentum * old + (1.0 - momentum) * lax.stop_gradient(new)


def _global_moments(
    x: jax.Array, mask: jax.Array | None, axis_name: str | None
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Count, mean `[C]` and biased variance `[C]` over devices and rows."""
    axes: Sequence[int] = tuple(range(x.ndim - 1))
    positions = x[..., 0].size // x.shape[0]
    if mask is None:
        mask = jnp.ones(x.shape[0], bool)
    weight = mask.astype(x.dtype).reshape((-1,) + (1,) * (x.ndim - 1))
    count = jnp.sum(weight) * positions
    safe = jnp.maximum(count, 1.0)
    mean = jnp.sum(x * weight, axes) / safe
    scatter = jnp.sum(jnp.square(x - mean) * weight, axes)
    if axis_name is None:
        return count, mean, scatter / safe
    packed = jnp.concatenate([count[None], mean, scatter])
    counts, means, scatters = jnp.split(
        lax.all_gather(packed, axis_name), [1, 1 + x.shape[-1]], axis=1
    )
    total = jnp.maximum(jnp.sum(counts), 1.0)
    mean = jnp.sum(counts * means, 0) / total
    between = jnp.sum(counts * jnp.square(means - mean), 0)
    return jnp.sum(counts), mean, (jnp.sum(scatters, 0) + between) / total
