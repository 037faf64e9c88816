"""An installed package has all that it needs, without the checkout."""

import os
import pathlib
import shutil
import subprocess
import sys
import zipfile

import pytest
import training_support

ROOT = pathlib.Path(__file__).parents[2]
# The files that make a wheel.
SOURCES = (
    "aeent_jax",
    "configs",
    "LICENSE",
    "README.md",
    "pyproject.toml",
)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """A wheel, built of a copy: setuptools leaves files where it builds."""
    folder = tmp_path_factory.mktemp("wheel")
    for name in SOURCES:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, folder / name)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps"]
    command += ["--no-build-isolation", "--wheel-dir=out", "."]
    subprocess.run(command, cwd=folder, check=True, timeout=300)
    (path,) = (folder / "out").iterdir()
    return path


@pytest.fixture(scope="module")
def run(wheel, tmp_path_factory):
    """Runs `python -m aeent_jax` of the unpacked wheel, in an empty folder."""
    folder = tmp_path_factory.mktemp("installed")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "site")
    (folder / "here").mkdir()
    environment = os.environ | {
        "PYTHONPATH": str(folder / "site"),
        "XDG_CACHE_HOME": str(training_support.cache_home(tmp_path_factory)),
    }

    def call(*args):
        done = subprocess.run(
            [sys.executable, "-m", "aeent_jax", *args],
            cwd=folder / "here",
            env=environment,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        return done.returncode, done.stdout, done.stderr

    call.folder = folder
    return call


def test_wheel_has_code_presets_and_data_and_nothing_else(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = {pathlib.PurePosixPath(name) for name in archive.namelist()}
    inside = {name for name in names if name.parts[0] == "aeent_jax"}
    expected = {
        path.relative_to(ROOT)
        for path in (ROOT / "aeent_jax").rglob("*")
        if path.suffix in (".html", ".j2", ".json", ".py", ".typed")
    }
    expected |= {
        pathlib.Path("aeent_jax/configs", path.name)
        for path in (ROOT / "configs").glob("*.py")
    }
    assert {str(name) for name in inside} == {str(path) for path in expected}
    assert {name.parts[0].split("-")[0] for name in names} == {"aeent_jax"}


def test_installed_package_states_its_version_and_its_presets(run):
    status, out, err = run("--version")
    assert (status, err) == (0, "")
    assert out.startswith(f"aeent_jax {aeent_version()}, jax ")
    status, out, err = run("--help")
    assert (status, err) == (0, "")
    assert "\n  aeent train " in out
    # The default is there where no configuration is given.
    status, _, err = run("train", "--config.train.epochs=1")
    assert status == 1
    assert err == "error: give the folder of this run with --workdir=DIR.\n"
    status, _, err = run("train", "--config=nothing")
    assert status == 1
    assert "the presets are benchmark, dae, default, " in err


def aeent_version():
    text = (ROOT / "aeent_jax" / "__init__.py").read_text()
    return text.split('__version__ = "')[1].split('"')[0]


def test_installed_package_trains_on_a_preset(run):
    images = run.folder / "images"
    training_support.write_images(images, training_support.make_images(4))
    flags = training_support.tiny(images, run.folder / "prepared")
    flags |= {"train.epochs": 1, "parallel.num_devices": 1}
    args = [f"--config.{key}={value}" for key, value in flags.items()]
    status, out, err = run(
        "train", "--config=benchmark:folder", "--workdir=run", *args
    )
    assert status == 0, err
    assert out.endswith("Everything is in run\n")
    assert (run.folder / "here/run/metrics.jsonl").is_file()
