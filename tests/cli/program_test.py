"""The environment of a process, and its effect on a command."""

import os
import pathlib
import subprocess
import sys

import jax
import pytest

import aeent_jax
from aeent_jax.cli import main, program

ROOT = pathlib.Path(__file__).parents[2]
_START = """
from aeent_jax.cli import program

def main(_):
    program.configure_jax()
    import jax
    import jax.numpy as jnp

    print(jnp.ones(2, float).dtype, (jnp.ones((2, 2)) + jnp.arange(2)).dtype)
    print(jax.random.key(0).dtype, len(jax.devices()))

program.run(main, ["aeent"])
"""


def start(tmp_path, before="", **environment):
    """Status, stdout and stderr of a process that configures JAX."""
    own = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}
    result = subprocess.run(
        [sys.executable, "-c", before + _START],
        cwd=ROOT,
        env=own | {"XDG_CACHE_HOME": str(tmp_path)} | environment,
        capture_output=True,
        text=True,
    )
    return result.returncode, result.stdout.split(), result.stderr


def test_variables_of_jax_do_not_change_the_numbers(tmp_path):
    assert start(
        tmp_path,
        JAX_DEFAULT_PRNG_IMPL="rbg",
        JAX_ENABLE_X64="1",
        JAX_NUMPY_DTYPE_PROMOTION="strict",
        JAX_NUMPY_RANK_PROMOTION="raise",
        JAX_NUM_CPU_DEVICES="3",
    ) == (0, ["float32", "float32", "key<fry>", "3"], "")


def test_the_cpu_is_one_device(tmp_path):
    status, (*_, devices), err = start(tmp_path)
    assert (status, devices, err) == (0, "1", "")


def test_settings_are_the_defaults_of_jax():
    for setting, value in program._JAX_DEFAULTS.items():
        assert getattr(jax.config, setting) == value


@pytest.mark.parametrize("platform", ["cuda", "tpu", "nonsense"])
def test_platform_that_is_not_there_is_one_sentence(tmp_path, platform):
    status, out, err = start(tmp_path, JAX_PLATFORMS=platform)
    assert (status, out, err.count("\n")) == (1, [], 1)
    assert err.startswith(
        f"error: JAX_PLATFORMS={platform} asks for devices that JAX does not"
        " find here ("
    )
    assert err.endswith(
        "); unset it to take those that there are, or install the JAX of that"
        " platform.\n"
    )


def test_failure_of_the_network_ends_a_command_with_one_sentence(
    monkeypatch, capsys
):
    def fail(_):
        error = type("ClientError", (Exception,), {"__module__": "aiohttp"})
        raise error("no route")

    ended = []
    monkeypatch.setattr(
        program.app, "run", lambda main, **_: ended.append(main([]))
    )
    program.run(fail)
    assert ended == [1]
    assert capsys.readouterr().err == (
        "error: a bucket cannot be read or written (no route); see to the"
        " network and to access, then start again.\n"
    )


def test_paths_are_split_at_commas_that_no_path_has(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("a", "lr=0.1,wd=0", "x,y,z"):
        (tmp_path / name).mkdir()
    split = program._PathsParser().parse
    assert split("a") == ["a"]
    assert split("a,new") == ["a", "new"]
    assert split("lr=0.1,wd=0") == ["lr=0.1,wd=0"]
    assert split("new,~/lr=0.1,wd=0,a,x,y,z") == [
        "new",
        "~/lr=0.1,wd=0",
        "a",
        "x,y,z",
    ]
    assert split("x,y") == ["x", "y"]
    assert split("gs://bucket/a,gs://bucket/b") == [
        "gs://bucket/a",
        "gs://bucket/b",
    ]
    assert split("") == []


# As of a container that runs under a number without a name.
_NOBODY = """
import os, pwd

def unknown(*_):
    raise KeyError

pwd.getpwuid = unknown
os.environ.pop("HOME", None)
"""


def test_user_without_a_home_folder_needs_no_cache(tmp_path):
    before = f"{_NOBODY}\nos.chdir({str(tmp_path)!r})\n"
    status, out, err = start(tmp_path, before, XDG_CACHE_HOME="")
    assert (status, out[0], err) == (0, "float32", "")
    assert list(tmp_path.iterdir()) == []


def test_cache_that_cannot_be_written_is_done_without(tmp_path):
    (tmp_path / "file").touch()
    status, out, err = start(tmp_path, XDG_CACHE_HOME=str(tmp_path / "file"))
    assert (status, out[0], err) == (0, "float32", "")


@pytest.mark.parametrize("command", [["--help"], ["train", "--help"]])
def test_a_reader_that_leaves_early_is_no_error(command):
    process = subprocess.Popen(
        [sys.executable, "-m", "aeent_jax", *command],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    process.stdout.close()  # Before anything is written.
    assert process.stderr.read() == b""
    assert process.wait() == 1
    process.stderr.close()


def test_version_is_stated(capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["aeent", "--version"])
    with pytest.raises(SystemExit) as caught:
        main.main()
    assert caught.value.code == 0
    assert capsys.readouterr().out.startswith(
        f"aeent_jax {aeent_jax.__version__}, jax {jax.__version__}, Python 3."
    )
