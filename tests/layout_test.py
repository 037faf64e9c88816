"""The shape of the project: who imports whom, and where things are."""

import ast
import importlib.util
import inspect
import pathlib
import subprocess

import pytest

import aeent_jax
from aeent_jax import config

ROOT = pathlib.Path(__file__).parents[1]
PACKAGE = ROOT / "aeent_jax"
MODULES = sorted(PACKAGE.rglob("*.py"))
PRESETS = sorted(
    path
    for path in (ROOT / "configs").glob("*.py")
    if path.name != "__init__.py"
)

# The import law: the layers of aeent_jax from the bottom to the top, and which
# parts of lower layers each part may import.
LAW = (
    {"__init__": set(), "config": set()},
    {"entropy": set(), "models": set(), "runtime": {"config"}},
    {
        "data": {"runtime"},
        "figures": {"runtime"},
        "methods": {"models"},
    },
    {
        "evaluation": {
            "data",
            "entropy",
            "figures",
            "methods",
            "models",
            "runtime",
        },
    },
    {
        "training": {
            "config",
            "data",
            "entropy",
            "evaluation",
            "methods",
            "models",
            "runtime",
        },
    },
    {"results": {"config", "evaluation", "figures", "runtime"}},
    {
        "bench": {
            "data",
            "entropy",
            "methods",
            "results",
            "runtime",
            "training",
        },
        "screening": {
            "config",
            "data",
            "evaluation",
            "figures",
            "models",
            "runtime",
            "training",
        },
        "sweep": {
            "config",
            "entropy",
            "evaluation",
            "figures",
            "results",
            "runtime",
            "training",
        },
        "theory": {
            "data",
            "entropy",
            "evaluation",
            "figures",
            "methods",
            "results",
            "runtime",
            "training",
        },
    },
    {
        "cli": {
            "__init__",
            "bench",
            "config",
            "data",
            "evaluation",
            "results",
            "runtime",
            "screening",
            "sweep",
            "theory",
            "training",
        },
    },
    {"__main__": {"cli"}},
)
ALLOWED = {part: others for layer in LAW for part, others in layer.items()}


def module_id(path):
    return str(path.relative_to(ROOT))


def part_of(path):
    """The part of aeent_jax that a file belongs to, e.g. `entropy`."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported_names(tree):
    """All absolute dotted names that a module imports."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def load_config(path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("path", MODULES, ids=module_id)
def test_imports_obey_the_law(path):
    part = part_of(path)
    assert part in ALLOWED, f"{part} is new: say in LAW what it may import."
    others = {
        name.split(".")[1]
        for name in imported_names(ast.parse(path.read_text()))
        if name.startswith("aeent_jax.")
    }
    if part == "__init__":
        others -= {"screening"}  # Detector, imported when it is asked for.
    assert others - {part} <= ALLOWED[part]


def test_layers_import_only_layers_below():
    below = set()
    for layer in LAW:
        for part, others in layer.items():
            assert others <= below, f"{part} imports {others - below}"
        below |= set(layer)


def test_the_top_of_the_package_holds_folders():
    modules = {path.stem for path in PACKAGE.glob("*.py")}
    assert modules <= {"__init__", "__main__", "config"}


@pytest.mark.parametrize("path", MODULES, ids=module_id)
def test_modules_import_nothing_forbidden(path):
    roots = {
        name.split(".")[0]
        for name in imported_names(ast.parse(path.read_text()))
    }
    # Pickles run code when loaded; the others are not dependencies.
    pickles = {"pickle", "cloudpickle", "dill", "joblib", "shelve"}
    # A benchmark measures torch beside ours, where it is installed.
    torch = set() if part_of(path) == "bench" else {"torch"}
    assert not roots & (pickles | torch | {"tensorflow", "clu"})
    assert "allow_pickle=True" not in path.read_text()


@pytest.mark.parametrize("path", MODULES, ids=module_id)
def test_only_parallel_knows_how_steps_are_mapped(path):
    if path == PACKAGE / "runtime" / "parallel.py":
        return
    tree = ast.parse(path.read_text())
    used = {n.attr for n in ast.walk(tree) if isinstance(n, ast.Attribute)}
    used |= {name.split(".")[-1] for name in imported_names(tree)}
    assert not used & {"pmap", "shard_map", "make_mesh", "Mesh"}


@pytest.mark.parametrize("path", MODULES, ids=module_id)
def test_modules_are_at_most_600_lines_with_a_docstring(path):
    text = path.read_text()
    assert len(text.splitlines()) <= 600
    assert ast.get_docstring(ast.parse(text))


@pytest.mark.parametrize("path", MODULES, ids=module_id)
def test_library_code_does_not_print(path):
    if part_of(path) == "cli":
        return
    calls = [
        n
        for n in ast.walk(ast.parse(path.read_text()))
        if isinstance(n, ast.Call)
    ]
    names = {c.func.id for c in calls if isinstance(c.func, ast.Name)}
    assert "print" not in names


def test_top_level_holds_no_other_folder():
    listing = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True
    )
    if listing.returncode != 0:
        pytest.skip("not a git checkout")
    folders = {p.split("/")[0] for p in listing.stdout.split() if "/" in p}
    assert folders <= {"aeent_jax", "configs", "tests", "launch", ".ci"}


@pytest.mark.parametrize(
    "name",
    ["LICENSE", "CHANGELOG.md", "CITATION.cff", "requirements.lock"],
)
def test_top_level_has(name):
    assert (ROOT / name).read_text()


def test_version_is_the_same_everywhere():
    version = aeent_jax.__version__
    assert f"\nversion: {version}\n" in (ROOT / "CITATION.cff").read_text()
    changes = (ROOT / "CHANGELOG.md").read_text()
    assert changes.split("\n## ")[1].split("\n")[0] == version


def test_tests_are_in_folders_of_the_same_names():
    tests = ROOT / "tests"
    folders = {path.parent.relative_to(tests) for path in _test_files()}
    # These are about the project itself, or one module.
    assert {path.name for path in tests.glob("*_test.py")} <= {
        "config_test.py",
        "launch_test.py",
        "launch_pod_test.py",
        "layout_test.py",
    }
    for folder in folders - {pathlib.Path(".")}:
        assert (PACKAGE / folder).is_dir(), f"{folder} mirrors nothing"


def _test_files():
    return (ROOT / "tests").rglob("*_test.py")


@pytest.mark.parametrize("path", PRESETS, ids=module_id)
def test_every_preset_overrides_the_default(path):
    module = load_config(path)
    assert module.__doc__
    parameters = inspect.signature(module.get_config).parameters.values()
    assert all(p.default is not p.empty for p in parameters)
    # Presets override; only the table of aeent_jax.config introduces keys.
    config.check(module.get_config().to_dict(), path.name)
    # They are loaded by their paths, in an installed package and in a checkout.
    ours = {
        name
        for name in imported_names(ast.parse(path.read_text()))
        if name.startswith(("aeent_jax", "configs"))
    }
    assert ours == {"aeent_jax.config"}


def test_lock_pins_exact_versions_of_all_requirements():
    lines = (ROOT / "requirements.lock").read_text().splitlines()
    pins = [line for line in lines if line and not line.startswith("#")]
    assert all(pin.count("==") == 1 and "/" not in pin for pin in pins)
    locked = {pin.split("==")[0].lower().replace("_", "-") for pin in pins}
    project = (ROOT / "pyproject.toml").read_text()
    dependencies = project.split("dependencies = [")[1].split("]")[0]
    wanted = {
        line.strip().strip('",').split(">")[0].lower()
        for line in dependencies.splitlines()
        if line.strip()
    }
    assert len(wanted) > 8
    tools = {"pytest", "pytest-xdist", "ruff", "pyright", "setuptools"}
    assert wanted | tools <= locked
