"""The numbers of the theory, measured on finished runs of one data set.

Errors are mean squares over pixels of images in [-1, 1], rates are nats.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from aeent_jax import data, entropy
from aeent_jax.evaluation import baselines, metrics
from aeent_jax.results import runs as runs_lib
from aeent_jax.theory import gaussian, networks

TRAIN, NORMAL, ABNORMAL = networks.KINDS
_CURVE_POINTS = 48
_CURVE_FROM, _CURVE_TO = 0.25, 100.0


def measure(
    workdirs: Sequence[str],
    *,
    reference: float = 0.0,
    root: str = "",
    log: Callable[[str], None] = lambda text: None,
) -> dict[str, Any]:
    """Measures runs, and what the best linear code does on their images.

    Args:
      workdirs: of finished runs, all on the same images.
      reference: 0 leaves the rate of runs without a channel infinite. Else
        they are measured through Gaussian noise on their latents that raises
        the training images' error by this share of itself: `Z + sigma*eps` is
        then a channel that the decoder reads, nearly as well as it reads Z.
      root: folder of the images; empty for where training found them.
      log: is told of each run before it is measured.

    Returns:
      `reference`; `data`, the set's name; `runs`, by name as `measure_network`
      returns; and `linear` as `measure_linear_code` returns.

    Raises:
      FileNotFoundError: a folder is not the workdir of a run.
      ValueError: the runs are of different images, or a run cannot be used.
    """
    if not 0 <= reference < float("inf"):
        raise ValueError(
            f"reference is {reference}, and a share of the error is needed,"
            " such as 0.1, or 0 for none."
        )
    found, first = {}, None
    for run in runs_lib.read(workdirs):
        log(f"{run.name}: encodes and decodes")
        network = networks.load(run.workdir, root=root)
        first = first or (run.name, network.dataset.fingerprint)
        if network.dataset.fingerprint != first[1]:
            raise ValueError(
                f"{run.name} and {first[0]} were trained or tested on different"
                " images, and one set is needed: give runs of one data set,"
                " image size and validation split."
            )
        found[run.name] = measure_network(network, reference)
    rates = [r["rate_nats"] or 0.0 for r in found.values()]
    most = max(_CURVE_TO, *(1.2 * rate for rate in rates))
    return {
        "reference": reference,
        "data": network.config.data.name,
        "runs": found,
        "linear": measure_linear_code(network.images, most),
    }


def measure_network(
    network: networks.Network, reference: float = 0.0
) -> dict[str, Any]:
    """Measures a network's rate and error on each kind of image.

    Args:
      network: restored.
      reference: as in `measure`.

    Returns:
      `latent_dim`; `sigma` of the channel measured, None without one, and
      `is_reference`; `rate_nats`, the coding rate of all training normals;
      `auroc` of the anomaly scores; `error_auroc` of the squared errors;
      `excess`, the abnormal error less the normal one over the normal one;
      `through_channel`, both of these for errors with noise, one draw per
      image; and `kinds`, each with `num_images`, `error` and `noisy_error`,
      and on `num_latents` images of each its coding rate `rate_nats` and its
      bracket `rate_low`, `rate_up`. None where the rate is infinite.
    """
    rows = min(
        network.config.eval.diagnostic_latents,
        *(len(z) for z in network.latents.values()),
    )
    sigma, is_reference = network.config.channel.sigma, False
    if sigma == 0 and reference:
        sigma = network.tolerated_noise(reference, rows) or 0.0
        is_reference = sigma > 0
    errors = {kind: network.error(kind, 0.0) for kind in networks.KINDS}
    noisy, rate, through = {}, None, None
    if sigma:
        noisy = {kind: network.error(kind, sigma) for kind in networks.KINDS}
        through = compare_errors(noisy[NORMAL], noisy[ABNORMAL])
        z = network.latents[TRAIN]
        rate = float(entropy.coding_rate(z, sigma=sigma).value)
    labels = network.dataset.splits["test"].labels
    return {
        "latent_dim": network.config.model.latent_dim,
        "sigma": sigma or None,
        "is_reference": is_reference,
        "rate_nats": rate,
        "auroc": metrics.image_metrics(network.scores, labels)["auroc"],
        **compare_errors(errors[NORMAL], errors[ABNORMAL]),
        "through_channel": through,
        "num_latents": rows,
        "kinds": {
            kind: {
                "num_images": len(errors[kind]),
                "error": float(errors[kind].mean()),
                "noisy_error": float(noisy[kind].mean()) if sigma else None,
                **_rates(network.latents[kind], sigma, rows),
            }
            for kind in networks.KINDS
        },
    }


def compare_errors(normal: np.ndarray, abnormal: np.ndarray) -> dict[str, Any]:
    """How far the abnormal error is from having fallen to the normal one.

    Args:
      normal: `[n]` errors of normal images.
      abnormal: `[m]` errors of abnormal images.

    Returns:
      `excess`, (abnormal - normal) / normal of the means: 0 where the shortcut
      is complete, None where the normal error is 0. `error_auroc`: how often a
      random abnormal image has the larger error, a half where it is complete.
    """
    labels = np.repeat(
        [data.NORMAL, data.ABNORMAL], [len(normal), len(abnormal)]
    )
    scores = np.concatenate([normal, abnormal])
    mean = float(np.mean(normal))
    return {
        "excess": (float(np.mean(abnormal)) - mean) / mean if mean else None,
        "error_auroc": metrics.image_metrics(scores, labels)["auroc"],
    }


def _rates(latents, sigma, rows) -> dict[str, float | None]:
    keys = ("rate_low", "rate_up")
    if not sigma:
        return dict.fromkeys(("rate_nats", *keys))
    z = networks.choose(latents, rows)
    found = entropy.channel_diagnostics(z, jax.random.key(0), sigma)
    return {
        "rate_nats": float(found["coding_rate"]),
        **{key: float(found[key]) for key in keys},
    }


def measure_linear_code(
    images: Mapping[str, np.ndarray], most: float = _CURVE_TO
) -> dict[str, Any]:
    """The best linear code for the training images, on each kind of image.

    Nothing is trained: `gaussian.linear_code_error` on the eigenvalues of the
    training images' covariance, and the other images' coordinates on its axes.

    Args:
      images: kind -> `[N, H, W, C]` in [-1, 1].
      most: the largest rate of the curves, nats.

    Returns:
      `rates` `[k]`; `bound` `[k]`, the Gaussian distortion-rate function of the
      training images; `energy` by kind, the mean squared distance to the mean
      training image; by test kind `error` and `noisy_error` `[k]`, and
      `error_auroc` and `excess` `[k]` as in `compare_errors`.
    """
    variances, squares = _principal(images)
    pixels = int(np.prod(images[TRAIN].shape[1:]))
    rates = np.geomspace(_CURVE_FROM, most, _CURVE_POINTS)
    bound = jax.vmap(gaussian.gaussian_distortion_rate, (None, 0))
    code = jax.jit(gaussian.linear_code_error)
    found = {"error": {}, "noisy_error": {}}
    clean = {}
    for kind in (NORMAL, ABNORMAL):
        pairs = [code(variances, rate, squares[kind]) for rate in rates]
        clean[kind], noisy = np.array(pairs, np.float64).swapaxes(0, 1) / pixels
        found["error"][kind] = clean[kind].mean(1).tolist()
        found["noisy_error"][kind] = noisy.mean(1).tolist()
    compared = [
        compare_errors(n, a)
        for n, a in zip(clean[NORMAL], clean[ABNORMAL], strict=True)
    ]
    return {
        "rates": rates.tolist(),
        "bound": (
            np.asarray(bound(variances, jnp.asarray(rates))) / pixels
        ).tolist(),
        "energy": {
            kind: float(values.sum(1).mean()) / pixels
            for kind, values in squares.items()
        },
        **found,
        "error_auroc": [c["error_auroc"] for c in compared],
        "excess": [c["excess"] for c in compared],
    }


def _principal(images):
    """Variances of the training images' axes, and squared coordinates.

    The last axis stands for all on which the training images do not vary; its
    coordinate is the distance to their span.
    """
    flat = {
        k: x.reshape(len(x), -1).astype(np.float64) for k, x in images.items()
    }
    train = flat[TRAIN]
    mean = train.mean(0)
    centred = {kind: x - mean for kind, x in flat.items()}
    components = min(len(train) - 1, train.shape[1])
    sums, axes = baselines.principal_axes(train, mean, components)
    variances = np.append(sums / len(train), 0.0)
    squares = {}
    for kind, y in centred.items():
        inside = (y @ axes) ** 2
        beyond = np.sum(y**2, 1, keepdims=True) - inside.sum(1, keepdims=True)
        squares[kind] = np.hstack([inside, np.maximum(beyond, 0)])
    return variances, squares
