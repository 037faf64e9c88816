"""GANomaly (Akcay, Atapour-Abarghouei and Breckon, arXiv 1805.06725).

An encoder, a decoder and another encoder, against a discriminator:

    z = E(x),  x_hat = G(z + sigma * eps),  z_again = E'(x_hat)
    image_weight * mean (x - x_hat)^2 + latent_weight * mean (z - z_again)^2
        + feature_weight * mean (f(x) - f(x_hat))^2

with the discriminator's features `f`. It minimises, of its probability `p` of
an image, `-(log p(x) + log(1 - p(x_hat))) / 2`, with an optimizer of the same
kind. An image is scored by mean (z - z_again)^2, which has no place in it.

In the form of MedIAnomaly: its own encoder and decoder, without BatchNorm
behind the linear layers, and squared errors throughout. Once the discriminator
has won (`has_won`), its convolutions and BatchNorms are drawn anew; that is
looked for at every step, as the authors of the method do, where MedIAnomaly
takes the mean loss of an epoch. The loss is that of logits, so it does not end
at 100. None of this has been compared with numbers of the reference.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import ml_collections

from aeent_jax import models
from aeent_jax.methods import autoencoders, streams
from aeent_jax.methods.method import (
    Adversary,
    Encoded,
    Inputs,
    Method,
    Outputs,
)

_WON_BELOW = 1e-5
_DEVIATION = 0.02
_WEIGHTS = ("feature_weight", "image_weight", "latent_weight")
# Four halvings leave a single place of 16 pixels, which has no variance.
_SMALLEST_ALONE = 32

# From the discriminator's variables, images and mask to `(logits, features)`
# and its new `batch_stats`.
Look = Callable[..., tuple[tuple[jax.Array, jax.Array], models.Variables]]
Half = Callable[..., Encoded | Outputs]


def _init(network: models.Autoencoder, rng: jax.Array) -> models.Variables:
    """Initial variables, with those of `encoder_again`."""
    first, second = map(network.init, jax.random.split(rng))
    return {
        name: tree | {"encoder_again": second[name]["encoder"]}
        for name, tree in first.items()
    }


def _decode(
    network: models.Autoencoder,
    look: Look,
    variables: models.Variables,
    inputs: Inputs,
    encoded: Encoded,
    z_noisy: jax.Array,
    *,
    train: bool,
) -> Outputs:
    """Decodes, and encodes what came out with another encoder."""
    outputs = autoencoders.decode(
        network, variables, inputs, encoded, z_noisy, train=train
    )
    again = {
        name: {"encoder": variables[name]["encoder_again"]}
        for name in ("params", "batch_stats")
    }
    z_again, stats = network.apply(
        "encoder", again, outputs.x_hat, inputs.mask, train=train
    )
    extra = {"z_again": z_again}
    if train and "adversary" in variables:
        opponent = variables["adversary"].variables
        (_, real), _ = look(opponent, inputs.x, inputs.mask)
        (_, fake), _ = look(opponent, outputs.x_hat, inputs.mask)
        extra["feature_error"] = jnp.mean(jnp.square(real - fake), axis=1)
    return outputs._replace(
        batch_stats=outputs.batch_stats | {"encoder_again": stats},
        extra=extra,
    )


def _alone(half: Half, variables: models.Variables, inputs: Inputs, *latents):
    """Half of a pass in which each image has the statistics of itself alone."""

    def one(x, position, *latents):
        row = Inputs(x, None, position, inputs.rng)
        outputs = half(variables, row, *latents, train=True)
        return outputs._replace(batch_stats={})

    rows = (inputs.x, inputs.positions, *latents)
    # Each image is a batch of one.
    outputs = jax.vmap(one)(*jax.tree.map(lambda a: a[:, None], rows))
    return jax.tree.map(lambda a: a[:, 0], outputs)


def _losses(
    feature_weight: float,
    image_weight: float,
    latent_weight: float,
    x: jax.Array,
    outputs: Outputs,
) -> dict[str, jax.Array]:
    """Squared errors of each image, its latent and its features, weighted."""
    error = autoencoders.squared_error(x, outputs)["reconstruction"]
    change = jnp.square(outputs.z - outputs.extra["z_again"])
    losses = {
        "reconstruction": image_weight * error,
        "latent": latent_weight * jnp.mean(change, axis=1),
    }
    if "feature_error" in outputs.extra:  # In training alone.
        losses["feature"] = feature_weight * outputs.extra["feature_error"]
    return losses


def has_won(loss: jax.Array) -> jax.Array:
    """Whether a discriminator of this loss has nothing left to teach."""
    return loss < _WON_BELOW


def redraw(rng: jax.Array, params: models.Variables) -> models.Variables:
    """Draws convolutions from N(0, 0.02^2) and BatchNorms anew.

    Their scales are from N(1, 0.02^2) and their shifts 0. Linear layers stay,
    as does what the optimizer remembers.

    Args:
      rng: a key.
      params: of a `models.Discriminator`.

    Returns:
      Parameters of the same shapes.
    """
    leaves, structure = jax.tree.flatten(params)
    keys = structure.unflatten(jax.random.split(rng, len(leaves)))

    def draw(path, leaf, key):
        layer, name = (entry.key for entry in path[-2:])
        if layer not in ("conv", "norm"):
            return leaf
        if name == "bias":
            return jnp.zeros_like(leaf)
        mean = 0.0 if layer == "conv" else 1.0
        draws = jax.random.normal(key, leaf.shape, leaf.dtype)
        return mean + _DEVIATION * draws

    return jax.tree_util.tree_map_with_path(draw, params, keys)


def make_adversary(
    look: Look,
    discriminator: models.Discriminator,
    image_shape: tuple[int, int, int],
) -> Adversary:
    """The discriminator as an adversary.

    Args:
      look: the discriminator's pass in training.
      discriminator: the module.
      image_shape: `(H, W, C)`.

    Returns:
      The adversary. Images and reconstructions are normalised apart, and its
      running statistics are of both in turn; no pass makes use of them.
    """

    def init(rng):
        x = jnp.zeros((1, *image_shape))
        return discriminator.init(rng, x, None, train=False)

    def loss(variables, inputs, outputs):
        (real, _), updated = look(variables, inputs.x, inputs.mask)
        (fake, _), updated = look(
            variables | updated, outputs.x_hat, inputs.mask
        )
        # -log p and -log(1 - p) of p = sigmoid(logit).
        loss = 0.5 * (jax.nn.softplus(-real) + jax.nn.softplus(fake))
        return loss, updated["batch_stats"]

    def renew(params, loss, inputs):
        rng = streams.batch_key(inputs, streams.GANOMALY_RENEWAL)
        return jax.lax.cond(
            has_won(loss), functools.partial(redraw, rng), lambda p: p, params
        )

    return Adversary(init, loss, renew)


def make_ganomaly(
    config: ml_collections.ConfigDict, axis_name: str | None
) -> Method:
    """`ganomaly`: three losses against an adversary, scored by its latents.

    The losses are weighted as above, so a target of the distortion is one of
    `image_weight` times the squared error. Evaluation is with the running
    statistics; with `compat=medianomaly` each image is normalised by its own.

    Args:
      config: the resolved configuration.
      axis_name: mapped axis that BatchNorm synchronises over, or None.

    Returns:
      The method.

    Raises:
      ValueError: images too small to be normalised alone.
    """
    group, size = config.loss, config.data.image_size
    is_quirky = config.compat == "medianomaly"
    if is_quirky and size < _SMALLEST_ALONE:
        raise ValueError(
            f"data.image_size is {size}, but with compat=medianomaly ganomaly"
            " normalises each image by its own statistics, which a single place"
            f" does not have; use {_SMALLEST_ALONE} or more, or leave compat"
            " empty."
        )
    make_network = functools.partial(
        autoencoders.make_network, config, normalises_hidden=False
    )
    discriminator = models.Discriminator(
        base_width=config.model.base_width,
        hidden_dim=config.model.hidden_dim,
        depth=config.model.depth,
        axis_name=axis_name,
    )
    look = functools.partial(
        discriminator.apply, train=True, mutable=["batch_stats"]
    )
    network, alone = make_network(axis_name), make_network(None)

    def encode(variables, inputs, *, train: bool) -> Encoded:
        if is_quirky and not train:
            half = functools.partial(autoencoders.encode, alone)
            return _alone(half, variables, inputs)
        return autoencoders.encode(network, variables, inputs, train=train)

    def decode(variables, inputs, encoded, z_noisy, *, train: bool) -> Outputs:
        if is_quirky and not train:
            half = functools.partial(_decode, alone, look)
            outputs = _alone(half, variables, inputs, encoded, z_noisy)
            return outputs._replace(batch_stats=variables["batch_stats"])
        return _decode(
            network, look, variables, inputs, encoded, z_noisy, train=train
        )

    return Method(
        init=functools.partial(_init, network),
        encode=encode,
        decode=decode,
        losses=functools.partial(_losses, *(group[name] for name in _WEIGHTS)),
        score="latent_distance",
        latent_dim=network.latent_dim,
        extra=("z_again",),
        adversary=make_adversary(
            look, discriminator, (size, size, config.data.channels)
        ),
    )
