"""The measurement of finished runs, from workdirs to the page."""

import json
import math
import shutil

import numpy as np
import process_support
import pytest
import training_support

from aeent_jax import theory
from aeent_jax.theory import networks, results
from aeent_jax.training import loop

TRAIN, NORMAL, ABNORMAL = networks.KINDS


@pytest.fixture(scope="module", autouse=True)
def compilation_cache(tmp_path_factory):
    yield from training_support.use_compilation_cache(
        training_support.cache_home(tmp_path_factory)
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Finished runs: `controlled`, and `plain`, the same without a channel."""
    made = tmp_path_factory.mktemp("theory")
    root = training_support.make_class_folders(made / "images")
    # Fewer steps leave a decoder that heeds no latent.
    config = training_support.make_config(
        root, made / "cache", train__epochs=20
    )
    loop.train(config, made / "controlled")
    shutil.copytree(made / "controlled", made / "plain")
    path = made / "plain/config.json"
    plain = json.loads(path.read_text())
    plain["channel"]["sigma"] = 0.0
    plain["entropy"] |= {"weight": 0.0, "estimator": "none"}
    path.write_text(json.dumps(plain))
    return made


@pytest.fixture(scope="module")
def found(folder):
    runs = [str(folder / name) for name in ("controlled", "plain")]
    return theory.measure(runs, reference=0.1)


def test_numbers_are_those_of_the_evaluation(found, folder):
    path = folder / "controlled/eval/test/metrics.json"
    recorded = json.loads(path.read_text())
    run = found["runs"]["controlled"]
    # The same formulas, compiled apart, in float32.
    for key in ("rate_nats", "auroc"):
        assert run[key] == pytest.approx(recorded[key], rel=1e-5)
    for kind in networks.KINDS:
        error = recorded["reconstruction_error"][kind]
        assert run["kinds"][kind]["error"] == pytest.approx(error, rel=1e-5)
        for ours, theirs in (
            ("rate_nats", "coding_rate"),
            ("rate_low", "rate_low"),
            ("rate_up", "rate_up"),
        ):
            value = recorded["diagnostics"][kind][theirs]
            assert run["kinds"][kind][ours] == pytest.approx(value, rel=1e-4)
    errors = [run["kinds"][kind]["error"] for kind in (NORMAL, ABNORMAL)]
    assert run["excess"] == pytest.approx(errors[1] / errors[0] - 1, rel=1e-6)
    noisy = [run["kinds"][kind]["noisy_error"] for kind in (NORMAL, ABNORMAL)]
    excess = run["through_channel"]["excess"]
    assert excess == pytest.approx(noisy[1] / noisy[0] - 1, rel=1e-6)
    # The score of this method is the squared error.
    assert run["error_auroc"] == pytest.approx(run["auroc"], abs=1e-12)


def test_run_without_channel_is_null_unless_a_reference_is_asked_for(
    found, folder
):
    network = networks.load(folder / "plain")
    run = theory.measuring.measure_network(network)
    for key in ("sigma", "rate_nats", "through_channel"):
        assert run[key] is None
    for kind in run["kinds"].values():
        assert kind["rate_nats"] is None
        assert kind["noisy_error"] is None
        assert kind["error"] > 0
    referred = found["runs"]["plain"]
    assert referred["is_reference"]
    assert math.isfinite(referred["rate_nats"])
    clean, noisy = (
        network.error(TRAIN, sigma, 5).mean()
        for sigma in (0.0, referred["sigma"])
    )
    # sigma is found to 1e-4 of itself, and the rise to twice that.
    assert noisy == pytest.approx(1.1 * clean, rel=1e-4)


def test_noise_that_nothing_heeds_has_no_reference(folder):
    network = networks.load(folder / "plain")
    assert network.tolerated_noise(1e9, 5) is None


def random_images(count, seed, scale=1.0, size=4):
    rng = np.random.default_rng(seed)
    spread = np.linspace(1, 0.1, size * size).reshape(size, size, 1)
    return scale * spread * rng.normal(size=(count, size, size, 1))


@pytest.mark.parametrize("count", [9, 60])
def test_linear_code_on_its_own_images_meets_the_bound(count):
    x = random_images(count, seed=0)
    found = theory.measure_linear_code(
        {TRAIN: x, NORMAL: x, ABNORMAL: random_images(20, 1, scale=2.0)}
    )
    # float32
    np.testing.assert_allclose(
        found["noisy_error"][NORMAL], found["bound"], rtol=1e-3, atol=1e-6
    )
    variances = np.linalg.eigvalsh(np.cov(x.reshape(count, -1).T, bias=True))
    direct = theory.gaussian_distortion_rate(
        np.maximum(variances, 0), found["rates"][20]
    )
    assert found["bound"][20] == pytest.approx(float(direct) / 16, rel=1e-4)
    assert found["energy"][TRAIN] == pytest.approx(variances.sum() / 16)
    assert found["energy"][ABNORMAL] > 2 * found["energy"][NORMAL]
    assert found["error_auroc"][0] > 0.7


def test_excess_is_nothing_where_the_shortcut_is_complete():
    errors = np.array([0.1, 0.2, 0.3])
    assert theory.compare_errors(errors, errors) == {
        "excess": pytest.approx(0, abs=1e-12),
        "error_auroc": pytest.approx(0.5),
    }
    found = theory.compare_errors(errors, errors * 10)
    assert found == {"excess": pytest.approx(9), "error_auroc": 1.0}
    assert theory.compare_errors(0 * errors, errors)["excess"] is None


def test_figures_need_a_finite_rate_only_where_they_draw_one(found):
    assert list(results.draw(found)) == ["error_against_rate", "shortcut"]
    run = found["runs"]["plain"] | {"rate_nats": None, "is_reference": False}
    assert list(results.draw(found | {"runs": {"plain": run}})) == ["shortcut"]


def command(folder, tmp_path_factory, *args):
    home = training_support.cache_home(tmp_path_factory)
    args = [arg.replace("FOLDER", str(folder)) for arg in args]
    return process_support.run(folder / "process", home, "theory", *args)


def test_command_writes_page_numbers_and_figures(folder, tmp_path_factory):
    status, out, err = command(
        folder,
        tmp_path_factory,
        "--runs=FOLDER/controlled,FOLDER/plain",
        "--out=FOLDER/out",
    )
    assert status == 0, err
    assert "controlled: encodes and decodes" in err
    assert out.endswith(f"Everything is in {folder / 'out'}\n")
    page = (folder / "out/theory.md").read_text()
    assert page in out
    assert "| plain " in page
    assert " infinite " in page
    found = json.loads((folder / "out/theory.json").read_text())
    assert found["runs"]["plain"]["rate_nats"] is None
    for name in ("error_against_rate", "shortcut"):
        assert f"]({name}.png)" in page
        assert (folder / f"out/{name}.png").stat().st_size > 10_000


@pytest.fixture(scope="module")
def others(folder):
    """Runs that cannot be measured beside the others."""
    images = training_support.make_images(14)
    training_support.write_images(folder / "bare/train/normal", images)
    training_support.make_class_folders(folder / "images2", seed=9)
    for name, root in (("normals", "bare"), ("other", "images2")):
        shutil.copytree(folder / "plain", folder / name)
        path = folder / name / "config.json"
        config = json.loads(path.read_text())
        config["data"]["root"] = str(folder / root)
        path.write_text(json.dumps(config))
    places = training_support.make_config(
        str(folder / "images"),
        folder / "cache",
        train__epochs=1,
        method="ae_spatial",
        channel__sigma=0.0,
        entropy__estimator="none",
        entropy__weight=0.0,
    )
    loop.train(places, folder / "places")
    return folder


@pytest.mark.parametrize(
    ("names", "reference", "error", "sentence"),
    [
        ([], 0.0, ValueError, "Found no run to report"),
        (["none"], 0.0, FileNotFoundError, "Found no folder"),
        (["plain"], -0.1, ValueError, "reference is -0.1, and a share"),
        (["plain", "plain"], 0.0, ValueError, "twice"),
        (
            ["plain", "other"],
            0.0,
            ValueError,
            "was trained on other images than there are now",
        ),
        (
            ["normals"],
            0.0,
            ValueError,
            "has 0 normal and 0 abnormal test images, and some of each",
        ),
        (
            ["places"],
            0.0,
            ValueError,
            "the method of .*places, ae_spatial, has no latent vector",
        ),
    ],
)
def test_what_cannot_be_measured_is_refused_in_a_sentence(
    others, names, reference, error, sentence
):
    with pytest.raises(error, match=sentence):
        theory.measure(
            [str(others / name) for name in names], reference=reference
        )


def test_folder_that_cannot_be_made_is_refused_before_measuring(
    folder, tmp_path_factory
):
    status, out, err = command(
        folder,
        tmp_path_factory,
        "--runs=FOLDER/plain",
        "--out=FOLDER/plain/config.json",
    )
    assert (status, out) == (1, "")
    assert err == (
        f"error: --out={folder / 'plain/config.json'} cannot be written (File"
        " exists); give a folder that can.\n"
    )


def test_command_needs_a_folder(folder, tmp_path_factory):
    status, out, err = command(folder, tmp_path_factory, "--runs=FOLDER/plain")
    assert (status, out) == (1, "")
    assert err == "error: give the folder of the results with --out=DIR.\n"
