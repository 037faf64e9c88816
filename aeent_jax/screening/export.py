"""Model files of three kinds; `archive` has the one that `screen` reads."""

import datetime
import importlib.metadata
import importlib.util
import json
import pathlib
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import export as jax_export

from aeent_jax.evaluation import score_sums, scoring
from aeent_jax.screening.detector import Detector
from aeent_jax.training import experiment

FORMATS = ("aeent", "onnx", "stablehlo")
# JAX promises to read what jax.export wrote for so long.
_DAYS_READABLE = 180


def export(detector: Detector, path: str | pathlib.Path, kind: str) -> None:
    """Writes a model into one file.

    Args:
      detector: the network with its calibration.
      path: the file; its folder is made where there is none. The card of
        "onnx" and "stablehlo" goes beside it, into `<path>.json`.
      kind: one of `FORMATS`.

    Raises:
      ValueError: the model cannot be written in this format, or a package is
        missing.
    """
    path = pathlib.Path(path).expanduser()
    if kind == "aeent":
        detector.save(path)
        return
    function = network(detector)
    path.parent.mkdir(parents=True, exist_ok=True)
    writers = {"onnx": _write_onnx, "stablehlo": _write_stablehlo}
    card = writers[kind](function, detector, path)
    _write_card(detector, path, card | {"kind": kind})


def network(detector: Detector) -> Callable[[jax.Array], dict]:
    """Returns the network as one function of images.

    Args:
      detector: the network.

    Returns:
      From `[N, S, S, C]` uint8 to `anomaly_score` `[N]` and, where the score
      has one, `score_map` `[N, S, S]`.

    Raises:
      ValueError: the score needs the training latents.
    """
    config = detector.config
    method = experiment.make_step_config(config, 10**6).method
    terms = score_sums.parse(config.eval.score or method.score, config, method)
    if score_sums.needs_latents(terms):
        raise ValueError(
            f"the score {config.eval.score} needs the latents of the training"
            " images, which this format does not hold; export with"
            " --format=aeent."
        )
    score = score_sums.of_images(terms)

    def function(images):
        positions = jnp.arange(images.shape[0])
        _, found, _, _ = scoring.score_step(
            method, score, detector.variables, images, positions
        )
        value = found.value
        if value is None:
            value = jnp.mean(found.map, axis=(1, 2))
        outputs = {"anomaly_score": value}
        if found.map is not None:
            outputs["score_map"] = found.map
        return outputs

    return function


def _write_stablehlo(function, detector, path):
    exported = jax_export.export(
        jax.jit(function), platforms=("cpu", "cuda", "tpu")
    )(_shape(detector))
    path.write_bytes(exported.serialize())
    until = datetime.date.today() + datetime.timedelta(_DAYS_READABLE)
    return {
        "calling_convention_version": exported.calling_convention_version,
        "jax_may_refuse_after": until.isoformat(),
    }


def _shape(detector: Detector) -> jax.ShapeDtypeStruct:
    """The network's input, with any number of images."""
    group = detector.config.data
    (count,) = jax_export.symbolic_shape("N")
    return jax.ShapeDtypeStruct(
        (count, group.image_size, group.image_size, group.channels), jnp.uint8
    )


def _write_onnx(function, detector, path):
    if importlib.util.find_spec("jax2onnx") is None:
        raise ValueError(
            "the format onnx needs jax2onnx, which asks for another Orbax than"
            " is needed here; install it with pip install 'aeent-jax[onnx]' and"
            " then pip install --no-deps jax2onnx."
        )
    import jax2onnx

    outputs = list(jax.eval_shape(function, _shape(detector)))
    jax2onnx.to_onnx(
        lambda images: tuple(function(images).values()),
        [_shape(detector)],
        input_names=["images"],
        output_names=outputs,
        return_mode="file",
        output_path=str(path),
    )
    return {
        "outputs": outputs,
        "jax2onnx": importlib.metadata.version("jax2onnx"),
    }


def _write_card(detector: Detector, path: pathlib.Path, card: dict) -> None:
    """Writes facts, configuration and calibration scores beside the file."""
    content = detector.card() | card | {"model": detector.digest}
    if detector.calibration is not None:
        scores = detector.calibration.scores
        content["calibration_scores"] = sorted(scores.tolist())
    text = json.dumps(content, indent=1, sort_keys=True)
    path.with_name(f"{path.name}.json").write_text(text, encoding="utf-8")
