"""The methods: each has its own network, losses and score.

`METHODS` is the closed table; `--config.method` chooses by name, and
`make_method` builds what it names from a configuration.

With `--config.compat=medianomaly` a method has the quirks of the reference:

- `ae_ssim`: the anomaly score is the mean of the map after its interpolation to
  the image size, which weighs places unevenly; the default is that before.
- `constrained_ae`: each step updates running statistics of BatchNorm twice,
  from the images and then from their reconstructions, in the encoder and in the
  decoder's hidden layer; the default is from the images alone, as they alone
  are encoded in evaluation.
- `dae`: it trains on images that are darker by 1 than their noise makes them.
- `ganomaly`: each image is scored with the statistics of BatchNorm of itself
  alone; the default is with the running ones of training.
- `vae`: a sample of the latents is scored; the default is their means.
"""

import dataclasses
from collections.abc import Callable

import ml_collections

from aeent_jax.methods import (
    autoencoders,
    ceae,
    consistency,
    dae,
    ganomaly,
    memae,
    perceptual,
    ssim,
    uncertainty,
    vae,
)
from aeent_jax.methods.method import (
    Adversary,
    Encoded,
    Inputs,
    Method,
    Noise,
    Outputs,
    no_noise,
    normalise,
)
from aeent_jax.methods.scores import SCORES, Score, check_score, get_score

__all__ = [
    "COMPATS",
    "METHODS",
    "SCORES",
    "Adversary",
    "Encoded",
    "Inputs",
    "Method",
    "Noise",
    "Outputs",
    "Score",
    "check_score",
    "get_score",
    "make_method",
    "normalise",
    "no_noise",
]

COMPATS = ("", "medianomaly")

# From a configuration and the mapped axis, or None, to the method.
Maker = Callable[[ml_collections.ConfigDict, str | None], Method]


def _scored_by(make: Maker, score: str) -> Maker:
    """A method that is trained as another and scored in its own way."""

    def make_scored(config, axis_name):
        return dataclasses.replace(make(config, axis_name), score=score)

    return make_scored


METHODS: dict[str, Maker] = {
    "ae": autoencoders.make_ae,
    "ae_grad": _scored_by(autoencoders.make_ae, "gradient"),
    "ceae": ceae.make_ceae,
    "dae": dae.make_dae,
    "ganomaly": ganomaly.make_ganomaly,
    "memae": memae.make_memae,
    "vae": vae.make_vae,
    "vae_combi": _scored_by(vae.make_vae, "gradient_combined"),
    "vae_elbo": _scored_by(vae.make_vae, "gradient"),
    "vae_kl": _scored_by(vae.make_vae, "gradient_kl"),
    "vae_rec": _scored_by(vae.make_vae, "gradient_reconstruction"),
    "ae_l1": autoencoders.make_ae_l1,
    "ae_ssim": ssim.make_ae_ssim,
    "ae_perceptual": perceptual.make_ae_perceptual,
    "ae_spatial": autoencoders.make_ae_spatial,
    "aeu": uncertainty.make_aeu,
    "constrained_ae": consistency.make_constrained_ae,
}


def make_method(
    config: ml_collections.ConfigDict, axis_name: str | None
) -> Method:
    """Builds the method that a configuration names.

    Args:
      config: the resolved configuration.
      axis_name: mapped axis that BatchNorm synchronises over, or None.

    Returns:
      The method.

    Raises:
      ValueError: an unknown name, a value that the method does not take, or a
        channel or an estimator where it has no latent vector.
    """
    if config.method not in METHODS:
        raise ValueError(
            f"method is {config.method!r}; choose one of {', '.join(METHODS)}."
        )
    if config.compat not in COMPATS:
        raise ValueError(
            f"compat is {config.compat!r}; leave it empty, or set it to"
            f" {COMPATS[1]} for the reference's quirks."
        )
    method = METHODS[config.method](config, axis_name)
    if method.latent_dim is None:
        _refuse_control(config)
    return method


def _refuse_control(config: ml_collections.ConfigDict) -> None:
    if (
        config.channel.sigma
        or config.channel.normalisation != "none"
        or config.entropy.estimator != "none"
    ):
        raise ValueError(
            f"{config.method} has no latent vector, so it carries no channel"
            " and no rate; set channel.sigma=0, channel.normalisation=none,"
            " entropy.estimator=none and entropy.weight=0, or choose another"
            " method."
        )
