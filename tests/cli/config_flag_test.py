"""Where --config finds a configuration, and what a file may import."""

import pathlib

import pytest

from aeent_jax.cli import config_flag

ROOT = pathlib.Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("args", "place", "rest"),
    [
        ([], "configs/default.py", []),
        (["--config=quickstart"], "configs/quickstart.py", []),
        (["-config", "table1:rsna"], "configs/table1.py:rsna", []),
        (
            ["--out=a", "--config", "table2:rsna,8", "--only=x"],
            "configs/table2.py:rsna,8",
            ["--out=a", "--only=x"],
        ),
    ],
)
def test_presets_are_found_by_name(args, place, rest):
    found = config_flag._take_config(["aeent", *args])
    assert found == (str(ROOT / place), rest)


def test_a_file_goes_before_a_preset_and_its_path_may_have_a_tilde(
    tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "default").write_text("")
    assert config_flag._find("default") == "default"
    assert config_flag._find("~/default:a") == f"{tmp_path}/default:a"


def test_an_unknown_name_lists_the_presets():
    with pytest.raises(ValueError, match=r"no preset; the .* benchmark, dae,"):
        config_flag._find("rnsa:plain")


def test_a_file_can_import_one_beside_it(tmp_path):
    (tmp_path / "beside_it.py").write_text("EPOCHS = 7\n")
    (tmp_path / "own.py").write_text(
        "import beside_it\n"
        "from aeent_jax import config\n"
        "def get_config(name='folder'):\n"
        "    made = config.benchmark(name, 'plain')\n"
        "    made.train.epochs = beside_it.EPOCHS\n"
        "    return made\n"
    )
    made = config_flag._load(f"{tmp_path}/own.py:rsna")
    assert (made.data.name, made.train.epochs) == ("rsna", 7)
