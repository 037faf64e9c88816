"""Files for other runtimes."""

import json

import jax
import numpy as np
import pytest
import screening_support
import training_support

from aeent_jax.screening import export


@pytest.fixture(scope="module")
def detector(tmp_path_factory):
    return screening_support.load(screening_support.train(tmp_path_factory))


def new_images(count):
    return training_support.make_images(count, seed=7)


@pytest.mark.parametrize("count", [1, 5])
def test_stablehlo_gives_the_same_scores(detector, tmp_path, count):
    path = tmp_path / "model.stablehlo"
    export.export(detector, path, "stablehlo")
    loaded = jax.export.deserialize(path.read_bytes())
    images = new_images(count)
    found = loaded.call(images)
    np.testing.assert_allclose(
        found["anomaly_score"], detector.score(images[..., 0]), rtol=1e-5
    )
    assert found["score_map"].shape == (count, 16, 16)


def test_the_card_stands_beside_the_file(detector, tmp_path):
    path = tmp_path / "model.stablehlo"
    export.export(detector, path, "stablehlo")
    card = json.loads((tmp_path / "model.stablehlo.json").read_text())
    assert card["jax_may_refuse_after"] > "2026"
    assert len(card["calibration_scores"]) == 19
    assert card["model"] == detector.digest
    assert "secret_name" not in json.dumps(card)


def test_onnx_gives_the_same_scores(detector, tmp_path):
    runtime = pytest.importorskip("onnxruntime")
    pytest.importorskip("jax2onnx")
    path = tmp_path / "model.onnx"
    export.export(detector, path, "onnx")
    session = runtime.InferenceSession(str(path))
    images = new_images(5)
    score, score_map = session.run(None, {"images": images})
    np.testing.assert_allclose(score, detector.score(images[..., 0]), rtol=1e-4)
    assert score_map.shape == (5, 16, 16)


def test_a_missing_package_is_named(detector, tmp_path, monkeypatch):
    monkeypatch.setattr(export.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(ValueError, match="pip install --no-deps jax2onnx"):
        export.export(detector, tmp_path / "model.onnx", "onnx")
