"""The same autoencoder and its training as one would first write them in flax.

The yardstick of the training benchmark: linen's own layers, `optax.adam`,
`jax.jit`, one device, the mean squared error alone.
"""

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from flax.training import train_state


class Autoencoder(nn.Module):
    """The network of `models.make_autoencoder`, from linen's own layers.

    Attributes:
      channels: 1 or 3.
      latent_dim: size of the latent vector.
      base_width: channels of the first block.
      hidden_dim: size of the hidden linear layers.
      depth: convolutions in a block.
      dtype: of the layers' arithmetic.
    """

    channels: int
    latent_dim: int
    base_width: int
    hidden_dim: int
    depth: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x, *, train):
        """Maps `x` `[B, H, W, C]` to `x_hat` `[B, H, W, C]`."""

        def norm_relu(x):
            norm = nn.BatchNorm(
                use_running_average=not train, momentum=0.9, dtype=self.dtype
            )
            return nn.relu(norm(x))

        def dense(x, features):
            return nn.Dense(features, dtype=self.dtype)(x)

        def conv(x, features, size, stride):
            layer = nn.Conv(
                features,
                (size, size),
                (stride, stride),
                use_bias=False,
                dtype=self.dtype,
            )
            return norm_relu(layer(x))

        widths = [self.base_width * m for m in (1, 2, 4, 4)]
        for width in widths:
            x = conv(x, width, 4, 2)
            for _ in range(self.depth - 1):
                x = conv(x, width, 3, 1)
        shape = x.shape[1:]
        x = x.reshape(x.shape[0], -1)
        x = norm_relu(dense(x, self.hidden_dim))
        z = dense(x, self.latent_dim)
        x = norm_relu(dense(z, self.hidden_dim))
        x = dense(x, math.prod(shape)).reshape(-1, *shape)
        for width in (*reversed(widths[:-1]), None):
            for _ in range(self.depth - 1):
                x = conv(x, x.shape[-1], 3, 1)
            x = nn.ConvTranspose(
                width or self.channels,
                (4, 4),
                (2, 2),
                use_bias=False,
                dtype=self.dtype,
            )(x)
            x = norm_relu(x) if width else x
        return x.astype(jnp.float32)


class TrainState(train_state.TrainState):
    """Flax's training state with running statistics."""

    batch_stats: dict


def create_state(
    network: Autoencoder, image_size: int, learning_rate: float, seed: int
) -> TrainState:
    """Draws the initial state."""
    shape = (1, image_size, image_size, network.channels)
    init = jax.jit(lambda rng: network.init(rng, jnp.zeros(shape), train=True))
    variables = init(jax.random.key(seed))
    return TrainState.create(
        apply_fn=network.apply,
        params=variables["params"],
        batch_stats=variables["batch_stats"],
        tx=optax.adam(learning_rate),
    )


def train_step(state: TrainState, x: jax.Array) -> tuple[TrainState, jax.Array]:
    """One step on images `[B, H, W, C]` in [-1, 1]; returns the loss too."""

    def loss_fn(params):
        x_hat, updates = state.apply_fn(
            {"params": params, "batch_stats": state.batch_stats},
            x,
            train=True,
            mutable=["batch_stats"],
        )
        return jnp.mean(jnp.square(x - x_hat)), updates["batch_stats"]

    (loss, batch_stats), grads = jax.value_and_grad(loss_fn, has_aux=True)(
        state.params
    )
    state = state.apply_gradients(grads=grads, batch_stats=batch_stats)
    return state, loss


def errors(state: TrainState, images: jax.Array) -> jax.Array:
    """Mean squared errors `[B]` of images `[B, H, W, C]` uint8."""
    x = images.astype(jnp.float32) / 127.5 - 1.0
    variables = {"params": state.params, "batch_stats": state.batch_stats}
    x_hat = state.apply_fn(variables, x, train=False)
    return jnp.mean(jnp.square(x - x_hat), (1, 2, 3))
