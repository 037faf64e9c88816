"""The parts of a method: inputs, latents, outputs, and pure functions."""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from aeent_jax import models

# From clean latents `[B, D]` to what the decoder gets.
Noise = Callable[[jax.Array], jax.Array]


class Inputs(NamedTuple):
    """One device's rows of a global batch.

    Attributes:
      x: clean images in [-1, 1], `[B, H, W, C]`.
      mask: `[B]` bool, False in padding; None means all rows count.
      positions: `[B]` int, places in the global batch, or in the split in
        evaluation.
      rng: the key of this step; what a method draws has a key of `streams`.
    """

    x: jax.Array
    mask: jax.Array | None
    positions: jax.Array
    rng: jax.Array


class Encoded(NamedTuple):
    """The result of an encoder.

    Attributes:
      z: clean latents, `[B, D]`, which go through the channel.
      batch_stats: statistics of the whole network after this half of the pass.
      extra: further arrays, `[B, ...]`, that the decoder or the losses need.
    """

    z: jax.Array
    batch_stats: models.Variables
    extra: dict[str, jax.Array]


class Outputs(NamedTuple):
    """The result of a whole pass.

    Attributes:
      x_hat: reconstructions, `[B, H, W, C]`.
      z: clean latents, `[B, D]`; None where there is no latent vector.
      z_noisy: these latents behind the channel.
      batch_stats: after the pass; as they were where it did not train.
      extra: further arrays, `[B, ...]`, that the method's losses or its score
        need.
    """

    x_hat: jax.Array
    z: jax.Array | None
    z_noisy: jax.Array | None
    batch_stats: models.Variables
    extra: dict[str, jax.Array]


@dataclasses.dataclass(frozen=True)
class Adversary:
    """A second network that is trained against the first: pure functions.

    In training the first network has the state of the second as the entry
    "adversary" of its variables. The state has the second network's own
    `variables`, and no gradient reaches them there.

    Attributes:
      init: as of a method.
      loss: `(variables, inputs, outputs)` to the loss of each image `[B]` that
        the adversary minimises, and its `batch_stats` after the pass;
        `variables` are its own and `outputs` the first network's in training.
      renew: `(params, loss, inputs)` to the parameters that a step leaves of
        `params` after a mean loss of the adversary, a scalar.
    """

    init: Callable[[jax.Array], models.Variables]
    loss: Callable[
        [models.Variables, Inputs, Outputs], tuple[jax.Array, models.Variables]
    ]
    renew: Callable[[models.Variables, jax.Array, Inputs], models.Variables]


@dataclasses.dataclass(frozen=True)
class Method:
    """One method, built from a configuration: pure functions.

    With `train` they use the statistics of the global batch, corrupt what the
    method corrupts, and sample what it samples.

    Attributes:
      init: from a key to `{"params": ..., "batch_stats": ...}`, the same on
        every device count.
      encode: `(variables, inputs, *, train)` to `Encoded`; None where there is
        no latent vector.
      decode: `(variables, inputs, encoded, z_noisy, *, train)` to `Outputs`.
        Without a latent vector `encoded` and `z_noisy` are None, and it makes
        the whole pass.
      losses: `(x, outputs)` to name -> loss of each image `[B]`, weighted; what
        is minimised is the mean of their sum. "reconstruction" is one of them.
      score: its own anomaly score, a name of `scores.SCORES`.
      latent_dim: size of the latent vector; None where there is none.
      extra: names in `Outputs.extra` that there are in evaluation too, for the
        scores that need them.
      adversary: the network it is trained against; None for none.
    """

    init: Callable[[jax.Array], models.Variables]
    encode: Callable[..., Encoded] | None
    decode: Callable[..., Outputs]
    losses: Callable[[jax.Array, Outputs], dict[str, jax.Array]]
    score: str
    latent_dim: int | None
    extra: tuple[str, ...] = ()
    adversary: Adversary | None = None

    def forward(
        self,
        variables: models.Variables,
        inputs: Inputs,
        noise: Noise,
        *,
        train: bool,
    ) -> Outputs:
        """Encodes, sends through the channel, decodes.

        Args:
          variables: as `init` returns.
          inputs: this device's rows.
          noise: the channel.
          train: see above.

        Returns:
          The outputs.
        """
        if self.encode is None:
            return self.decode(variables, inputs, None, None, train=train)
        encoded = self.encode(variables, inputs, train=train)
        z_noisy = noise(encoded.z)
        return self.decode(variables, inputs, encoded, z_noisy, train=train)


def normalise(images: jax.Array) -> jax.Array:
    """Maps uint8 images to float32 in [-1, 1], which is `Inputs.x`."""
    return images.astype(jnp.float32) / 127.5 - 1.0


def no_noise(z: jax.Array) -> jax.Array:
    """The channel of evaluation: none."""
    return z


def without_padding(array: jax.Array, mask: jax.Array | None) -> jax.Array:
    """Sets the rows of padding to 0, before an exponential.

    BatchNorm with the statistics of a few other rows can send padding far away,
    and where the exponential overflows, a gradient of 0 becomes NaN.

    Args:
      array: `[B, ...]`.
      mask: `[B]` bool, False in padding; None means all rows count.

    Returns:
      An array of the same shape.
    """
    if mask is None:
        return array
    return jnp.where(mask.reshape(-1, *[1] * (array.ndim - 1)), array, 0)
