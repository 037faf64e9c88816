"""Gaussian rate-distortion in closed form, in nats and summed squared errors.

Variances are the eigenvalues of a covariance, one a direction. Errors are sums
over directions: divide by their number for the mean over pixels.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp


class LinearCode(NamedTuple):
    """An autoencoder that scales each direction, with a channel between.

        x_hat = decoder_gain * (encoder_gain * x + eps),    eps ~ N(0, I)

    Attributes:
      encoder_gain: `[p]`; 0 where a direction is not coded.
      decoder_gain: `[p]`.
    """

    encoder_gain: jax.Array
    decoder_gain: jax.Array


def gaussian_distortion_rate(variances: jax.Array, rate: jax.Array):
    """Least squared error of a Gaussian source at a rate in nats, `D(R)`.

    Reverse water-filling: `D = sum_i min(v_i, level)`, with the level at which
    `R = sum_i max(0, 1/2 log(v_i / level))`. No code of R nats has a smaller
    expected error on a Gaussian with these variances. On any other source of
    this covariance the least error is at most this one, because the linear
    code of `optimal_linear_code` has this error there too, and passes at most
    R nats. So it bounds every network from below where the images are Gaussian,
    and the best network from above whatever they are.

    Args:
      variances: `[p]`, not negative.
      rate: scalar, nats, not negative.

    Returns:
      Scalar: `sum(variances)` at rate 0, and 0 at an infinite rate.

    Raises:
      ValueError: a shape that does not fit, or a negative number; where it is
        traced, NaN comes out instead.

    Reference: Cover and Thomas 2006, Elements of Information Theory, theorem
    10.3.3; for other sources, the problem on bounds of R(D) in that chapter.
    """
    variances = _not_negative("variances", variances, 1)
    level = _level(variances, _not_negative("rate", rate, 0))
    return jnp.sum(jnp.minimum(variances, level))


def gaussian_rate_distortion(variances: jax.Array, distortion: jax.Array):
    """Nats that a Gaussian source needs at a squared error, `R(D)`.

    The inverse of `gaussian_distortion_rate`; arguments, errors and source as
    there.

    Args:
      variances: `[p]`, not negative.
      distortion: scalar, the squared error, summed over directions.

    Returns:
      Scalar, nats: 0 from `sum(variances)` up, and inf at 0 unless all
      variances are 0.
    """
    variances = _not_negative("variances", variances, 1)
    distortion = _not_negative("distortion", distortion, 0)
    v = jnp.flip(jnp.sort(variances))
    place = jnp.arange(1, len(v) + 1)
    below = jnp.flip(jnp.cumsum(jnp.flip(v))) - v
    # A direction is coded where the error is less than with the level at it.
    coded = jnp.sum(place * v + below > distortion)
    last = jnp.maximum(coded, 1) - 1
    level = jnp.where(coded == 0, v[0], (distortion - below[last]) / (last + 1))
    ratio = jnp.where(v > level, v / level, 1)
    rate = jnp.sum(jnp.log(ratio)) / 2
    return jnp.where(jnp.isnan(level + distortion), jnp.nan, rate)


def optimal_linear_code(variances: jax.Array, rate: jax.Array) -> LinearCode:
    """The linear autoencoder that attains `D(R)` with unit channel noise.

    With the level of `gaussian_distortion_rate` and `s_i = min(1, level/v_i)`,
    `x_hat_i = (1 - s_i) x_i + sqrt((1 - s_i) level) eps_i`.

    Args:
      variances: `[p]`, not negative.
      rate: scalar, nats, not negative.

    Returns:
      The code; at an infinite rate the encoder's gains are infinite.

    Raises:
      ValueError: as `gaussian_distortion_rate`.
    """
    variances = _not_negative("variances", variances, 1)
    level = _level(variances, _not_negative("rate", rate, 0))
    kept = 1 - _lost(variances, level)
    encoder_gain = jnp.where(kept == 0, 0, jnp.sqrt(kept / level))
    return LinearCode(encoder_gain, jnp.sqrt(kept * level))


def linear_code_error(
    variances: jax.Array, rate: jax.Array, squares: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Squared error of other images through the optimal code of normal ones.

    An image with the coordinate `y_i` in direction i keeps `s_i^2 y_i^2` of
    error where it is decoded without noise, and the noise adds
    `sum_i (1 - s_i) level` to every image alike. So abnormal images have

        sum_i min(1, level/v_i)^2 (m_i - v_i)

    more error than normal ones on average, where m_i is the mean of their
    `y_i^2`. If no m_i is below v_i, this never rises with the rate, and falls
    from the whole difference of their energies at 0 nats to what lies where
    normal images have no variance: the identical shortcut, in closed form. If
    some m_i are below v_i, abnormal images can have the smaller error.

    Args:
      variances: `[p]`, of the normal images that the code is made for.
      rate: scalar, nats on those.
      squares: `[n, p]`, squared coordinates of images, about the normals' mean.

    Returns:
      Errors `[n]` of images decoded without and with noise, the second in
      expectation over the noise.

    Raises:
      ValueError: as `gaussian_distortion_rate`.
    """
    variances = _not_negative("variances", variances, 1)
    squares = _not_negative("squares", squares, 2)
    if squares.shape[1] != len(variances):
        raise ValueError(
            f"squares have {squares.shape[1]} columns and variances"
            f" {len(variances)} entries, and one number of directions is"
            " needed: project both on the same axes."
        )
    level = _level(variances, _not_negative("rate", rate, 0))
    lost = _lost(variances, level)
    clean = jnp.sum(lost**2 * squares, 1)
    return clean, clean + jnp.sum((1 - lost) * level)


def _level(variances: jax.Array, rate: jax.Array) -> jax.Array:
    """The water level at a rate: at most the largest variance."""
    v = jnp.flip(jnp.sort(variances))
    place = jnp.arange(1, len(v) + 1)
    is_zero = v == 0
    logs = jnp.log(jnp.where(is_zero, 1, v))
    total = jnp.cumsum(jnp.where(is_zero, 0, logs))
    # Nats at which the level falls to this variance.
    entered = jnp.where(is_zero, jnp.inf, (total - place * logs) / 2)
    last = jnp.maximum(jnp.sum(entered < rate), 1) - 1
    level = jnp.exp((total[last] - 2 * rate) / (last + 1))
    # Above it by rounding, the level of rate 0 would code nothing negative.
    return jnp.minimum(level, v[0])


def _lost(variances: jax.Array, level: jax.Array) -> jax.Array:
    """`min(1, level/v)`, and 1 where there is no variance."""
    is_coded = variances > level
    lost = jnp.where(is_coded, level / jnp.where(is_coded, variances, 1), 1)
    return jnp.where(jnp.isnan(variances + level), jnp.nan, lost)


def _not_negative(name: str, value: jax.Array, ndim: int) -> jax.Array:
    """Checks what is concrete; negative entries that are traced become NaN."""
    array = jnp.asarray(value)
    array = array.astype(jnp.promote_types(array.dtype, jnp.float32))
    if array.ndim != ndim or 0 in array.shape[-1:]:
        raise ValueError(
            f"{name} has shape {array.shape}, and {_SHAPES[ndim]} is needed:"
            " give one number to each direction."
        )
    if not isinstance(array, jax.core.Tracer) and bool(jnp.any(array < 0)):
        raise ValueError(
            f"{name} holds {float(jnp.min(array)):g}, and no number below 0 is"
            " possible: set to 0 what rounding made negative."
        )
    return jnp.where(array < 0, jnp.nan, array)


_SHAPES = ("a scalar", "[directions]", "[images, directions]")
