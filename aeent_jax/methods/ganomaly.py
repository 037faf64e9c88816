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

import jax
import jax.numpy as jnp
import ml_collections

from aeent_jax import models
from aeent_jax.methods import autoencoders, streams
from aeent_jax.methods.method import (
    Adversary,
    Inputs,
    Method,
    Noise,
    Outputs,
)

_WON_BELOW = 1e-5
_DEVIATION = 0.02
_WEIGHTS = ("feature_weight", "image_weight", "latent_weight")
# Four halvings leave a single place of 16 pixels, which has no variance.
_SMALLEST_ALONE = 32


def _init(network: models.Autoencoder, rng: jax.Array) -> models.Variables:
    """Initial variables, with those of `encoder_again`."""
    first, second = map(network.init, jax.random.split(rng))
    return {
        name: tree | {"encoder_again": second[name]["encoder"]}
        for name, tree in first.items()
    }


def _forward(
    network: models.Autoencoder,
    variables: models.Variables,
    inputs: Inputs,
    noise: Noise,
    *,
    train: bool,
) -> Outputs:
    """Autoencodes, and encodes what came out with another encoder."""
    outputs = autoencoders.autoencode(
        network, variables, inputs, noise, train=train
    )
    again = {
        name: {"encoder": tree["encoder_again"]}
        for name, tree in variables.items()
    }
    z_again, stats = network.encode(
        again, outputs.x_hat, inputs.mask, train=train
    )
    return outputs._replace(
        batch_stats=outputs.batch_stats | {"encoder_again": stats},
        extra={"z_again": z_again},
    )


def _forward_alone(
    network: models.Autoencoder,
    variables: models.Variables,
    inputs: Inputs,
    noise: Noise,
) -> Outputs:
    """A pass in which each image has the statistics of itself alone."""

    def one(x, position):
        row = Inputs(x[None], None, position[None], inputs.rng)
        outputs = _forward(network, variables, row, noise, train=True)
        return jax.tree.map(lambda a: a[0], outputs._replace(batch_stats=()))

    outputs = jax.vmap(one)(inputs.x, inputs.positions)
    return outputs._replace(batch_stats=variables["batch_stats"])


def _losses(
    image_weight: float, latent_weight: float, x: jax.Array, outputs: Outputs
) -> dict[str, jax.Array]:
    """Squared errors of each image and of its latent, weighted."""
    error = autoencoders.squared_error(x, outputs)["reconstruction"]
    change = jnp.square(outputs.z - outputs.extra["z_again"])
    return {
        "reconstruction": image_weight * error,
        "latent": latent_weight * jnp.mean(change, axis=1),
    }


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
    discriminator: models.Discriminator,
    image_shape: tuple[int, int, int],
    weight: float,
) -> Adversary:
    """The discriminator as an adversary.

    Args:
      discriminator: the module.
      image_shape: `(H, W, C)`.
      weight: of its features in the loss of the other network.

    Returns:
      The adversary. Images and reconstructions are normalised apart, and its
      running statistics are of both in turn; no pass makes use of them.
    """

    def init(rng):
        x = jnp.zeros((1, *image_shape))
        return discriminator.init(rng, x, None, train=False)

    def look(variables, x, mask):
        return discriminator.apply(
            variables, x, mask, train=True, mutable=["batch_stats"]
        )

    def losses(variables, inputs, outputs):
        (_, real), _ = look(variables, inputs.x, inputs.mask)
        (_, fake), _ = look(variables, outputs.x_hat, inputs.mask)
        return {"feature": weight * jnp.mean(jnp.square(real - fake), axis=1)}

    def own_loss(variables, inputs, outputs):
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

    return Adversary(init, losses, own_loss, renew)


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
    network, alone = make_network(axis_name), make_network(None)

    def forward(variables, inputs, noise: Noise, *, train: bool) -> Outputs:
        if is_quirky and not train:
            return _forward_alone(alone, variables, inputs, noise)
        return _forward(network, variables, inputs, noise, train=train)

    discriminator = models.Discriminator(
        base_width=config.model.base_width,
        hidden_dim=config.model.hidden_dim,
        depth=config.model.depth,
        axis_name=axis_name,
    )
    return Method(
        init=functools.partial(_init, network),
        forward=forward,
        losses=functools.partial(
            _losses, group.image_weight, group.latent_weight
        ),
        score="latent_distance",
        latent_dim=network.latent_dim,
        extra=("z_again",),
        adversary=make_adversary(
            discriminator,
            (size, size, config.data.channels),
            group.feature_weight,
        ),
    )
