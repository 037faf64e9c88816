"""The method `ae_perceptual`: errors between features instead of pixels.

The relative perceptual L1 loss of Tuluptceva et al. (2020) and Shvetsova et al.
(2021), "Anomaly Detection in Medical Imaging with Deep Perceptual
Autoencoders", in the form of MedIAnomaly. With f the relu4_2 features of VGG19,
normalised channel by channel with their mean and standard deviation on
ImageNet, the error at each place, in the mean over channels, is

    |f(x) - f(x_hat)| / mean |f(x)|,

the last mean over all places and channels of the image.

Neither file is part of this project. torchvision makes `loss.vgg_weights`,

    import numpy, torchvision
    vgg = torchvision.models.vgg19(weights="DEFAULT").features.state_dict()
    numpy.savez("vgg19.npz", **{f"features.{k}": v for k, v in vgg.items()})

(of which the layers up to conv4_2 are read), and `loss.vgg_statistics` from
the file that the authors published with their code,

    import numpy, torch
    both = torch.load("vgg19_ILSVRC2012_object_detection_mean_var.pt")["r42"]
    numpy.savez("statistics.npz", mean=both[0].ravel(), std=both[1].ravel())

whose second array their code divides by, though it is called a variance.
"""

import dataclasses
import functools
import os
import zipfile
import zlib
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from aeent_jax import models
from aeent_jax.methods import autoencoders
from aeent_jax.methods.method import Encoded, Inputs, Method, Outputs
from aeent_jax.models import vgg

# numpy raises these for a file that is damaged or none of its own; a
# TypeError for an .npy, which holds no named arrays.
_UNREADABLE = (
    OSError,
    ValueError,
    EOFError,
    TypeError,
    zipfile.BadZipFile,
    zlib.error,
)
_STATISTICS_SHAPES = {name: (vgg.NUM_FEATURES,) for name in ("mean", "std")}


def read_arrays(
    key: str, path: str, shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, np.ndarray]:
    """Reads named arrays of an `.npz` file, without unpickling anything.

    Args:
      key: of the configuration, for messages.
      path: of the file.
      shapes: of the arrays that are wanted, by name; others are left alone.

    Returns:
      float32 arrays by name, all finite.

    Raises:
      ValueError: no path, no such file, or not these arrays in it.
    """
    hint = "aeent_jax/methods/perceptual.py says how to make it"
    if not path:
        raise ValueError(
            f"{key} is empty, but ae_perceptual needs the path of an .npz file;"
            f" {hint}."
        )
    try:
        with np.load(os.path.expanduser(path), allow_pickle=False) as file:
            arrays = {name: file[name] for name in shapes if name in file}
    except _UNREADABLE as e:
        raise ValueError(
            f"{key}={path} is not a readable .npz file of arrays ({e}); {hint}."
        ) from e
    for name, shape in shapes.items():
        if name not in arrays:
            raise ValueError(f"{key}={path} has no array {name}; {hint}.")
        array = arrays[name]
        if array.shape != shape or array.dtype.kind != "f":
            raise ValueError(
                f"{key}={path} has {name} of {array.dtype} {array.shape}, but"
                f" floats {shape} are needed; {hint}."
            )
        if not np.all(np.isfinite(array)):
            raise ValueError(
                f"{key}={path} has numbers in {name} that are not finite; make"
                " it anew."
            )
    return {name: array.astype(np.float32) for name, array in arrays.items()}


@dataclasses.dataclass(frozen=True)
class Criterion:
    """The relative error of features.

    Attributes:
      weights: of VGG19.
      mean: of each feature, `[512]`.
      std: the same, above 0.
    """

    weights: vgg.Weights
    mean: np.ndarray
    std: np.ndarray

    def error(self, x: jax.Array, x_hat: jax.Array) -> jax.Array:
        """The error at each place, in the mean over channels.

        Args:
          x: images in [-1, 1], `[B, H, W, C]`.
          x_hat: reconstructions of them.

        Returns:
          `[B, H/8, W/8]`.
        """
        wanted, found = self._normalised(x), self._normalised(x_hat)
        size = jnp.mean(jnp.abs(wanted), axis=(1, 2, 3))
        error = jnp.mean(jnp.abs(wanted - found), axis=3)
        return error / size[:, None, None]

    def _normalised(self, x):
        features = vgg.features(self.weights, x)
        return (features - self.mean) / self.std


def read_criterion(weights: str, statistics: str) -> Criterion:
    """Reads both files.

    Args:
      weights: path of VGG19's weights.
      statistics: path of the features' `mean` and `std`.

    Returns:
      The criterion.

    Raises:
      ValueError: a file is missing, or does not hold what it should.
    """
    arrays = read_arrays("loss.vgg_weights", weights, vgg.SHAPES)
    found = read_arrays("loss.vgg_statistics", statistics, _STATISTICS_SHAPES)
    if not np.all(found["std"] > 0):
        raise ValueError(
            f"loss.vgg_statistics={statistics} has a std that is not above 0;"
            " make it anew."
        )
    return Criterion(vgg.make_weights(arrays), **found)


def _decode(
    network: models.Autoencoder,
    criterion: Criterion,
    variables: models.Variables,
    inputs: Inputs,
    encoded: Encoded,
    z_noisy: jax.Array,
    *,
    train: bool,
) -> Outputs:
    outputs = autoencoders.decode(
        network, variables, inputs, encoded, z_noisy, train=train
    )
    error = criterion.error(inputs.x, outputs.x_hat)
    return outputs._replace(extra={"perceptual_error": error})


def perceptual_error(x: jax.Array, outputs: Outputs) -> dict[str, jax.Array]:
    """The mean over all places of each image."""
    del x
    error = jnp.mean(outputs.extra["perceptual_error"], axis=(1, 2))
    return {"reconstruction": error}


def make_ae_perceptual(
    config: ml_collections.ConfigDict, axis_name: str | None
) -> Method:
    """`ae_perceptual`: the relative error of features, as loss and score.

    Features are constants of the program: a checkpoint does not hold them, and
    whoever evaluates needs the files too.

    Args:
      config: the resolved configuration.
      axis_name: mapped axis that BatchNorm synchronises over, or None.

    Returns:
      The method.

    Raises:
      ValueError: a file is missing, or does not hold what it should.
    """
    criterion = read_criterion(
        config.loss.vgg_weights, config.loss.vgg_statistics
    )
    network = autoencoders.make_network(config, axis_name)
    return dataclasses.replace(
        autoencoders.from_network(network),
        decode=functools.partial(_decode, network, criterion),
        losses=perceptual_error,
        score="perceptual",
        extra=("perceptual_error",),
    )
