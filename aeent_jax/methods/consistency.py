"""The method `constrained_ae`: reconstructions keep their latents.

Chen and Konukoglu (2018), "Unsupervised detection of lesions in brain MRI using
constrained adversarial auto-encoders", in the form of MedIAnomaly: without the
adversary.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import ml_collections

from aeent_jax import models
from aeent_jax.methods import autoencoders
from aeent_jax.methods.method import Encoded, Inputs, Method, Outputs


def _decode(
    network: models.Autoencoder,
    is_quirky: bool,
    variables: models.Variables,
    inputs: Inputs,
    encoded: Encoded,
    z_noisy: jax.Array,
    *,
    train: bool,
) -> Outputs:
    """Decodes, and encodes what came out."""
    outputs = autoencoders.decode(
        network, variables, inputs, encoded, z_noisy, train=train
    )
    # The second pass updates the running statistics after the first.
    after_first = variables | {"batch_stats": outputs.batch_stats}
    z_again, encoder_stats = network.apply(
        "encoder", after_first, outputs.x_hat, inputs.mask, train=train
    )
    outputs = outputs._replace(extra={"z_again": z_again})
    if not is_quirky:
        return outputs
    # The reference's second pass ends behind the decoder's first BatchNorm.
    _, decoder_stats = network.apply(
        "decoder", after_first, z_again, inputs.mask, train=train
    )
    first = outputs.batch_stats["decoder"]
    decoder_stats = first | {"hidden_norm": decoder_stats["hidden_norm"]}
    return outputs._replace(
        batch_stats={"encoder": encoder_stats, "decoder": decoder_stats}
    )


def consistency_losses(
    weight: float, x: jax.Array, outputs: Outputs
) -> dict[str, jax.Array]:
    """Mean squared errors, of each image and of its latent."""
    change = jnp.square(outputs.z - outputs.extra["z_again"])
    return autoencoders.squared_error(x, outputs) | {
        "consistency": weight * jnp.mean(change, axis=1)
    }


def make_constrained_ae(
    config: ml_collections.ConfigDict, axis_name: str | None
) -> Method:
    """`constrained_ae`: MSE, and that of the latents of x_hat, weighted.

    Running statistics are those of images and of their latents, which alone
    are passed on in evaluation. The reference updates those of the encoder and
    of the decoder's hidden layer from the reconstructions too.

    Args:
      config: the resolved configuration.
      axis_name: mapped axis that BatchNorm synchronises over, or None.

    Returns:
      The method.
    """
    weight = config.loss.consistency_weight
    network = autoencoders.make_network(config, axis_name)
    return dataclasses.replace(
        autoencoders.from_network(network),
        decode=functools.partial(
            _decode, network, config.compat == "medianomaly"
        ),
        losses=functools.partial(consistency_losses, weight),
        extra=("z_again",),
    )
