"""The console script `aeent`: starts one of the programs beside it."""

import difflib
import importlib
import importlib.metadata
import platform
import sys

import aeent_jax
from aeent_jax.cli import program

# Imported when chosen: each defines flags of its own.
COMMANDS = {
    "train": "train or resume, evaluate, write a workdir",
    "evaluate": "evaluate a trained network again",
    "screen": "score new images and flag those that look abnormal",
    "export": "write a trained network into one file",
    "entropy": "measure latents with every estimator",
    "sweep": "train the members of a sweep: tables and a figure",
    "report": "set runs side by side: a table and one HTML file",
    "theory": "rates and errors of each kind of image",
    "data": "list, prepare and check data sets",
    "cost": "parameters, FLOP, bytes and memory of a step",
    "bench": "measure speed on this hardware",
}


def main() -> None:
    """Runs `aeent COMMAND ...`."""
    with program.leaving_closed_pipes():
        _run()


def _run() -> None:
    name = sys.argv[1] if len(sys.argv) > 1 else ""
    if name not in COMMANDS:
        if name == "--version":
            print(_version())
            sys.exit(0)
        if name in ("", "-h", "--help", "--helpfull"):
            lines = [f"  aeent {c:<9} {text}" for c, text in COMMANDS.items()]
            lines += ["  aeent COMMAND --help", "  aeent --version"]
            print("\n".join(["usage:", *lines]))
            sys.exit(0)
        near = difflib.get_close_matches(name, COMMANDS, n=1)
        hint = f" did you mean {near[0]}?" if near else ""
        sys.exit(
            f"error: there is no command {name!r};{hint} `aeent --help` lists"
            " them."
        )
    module = importlib.import_module(f"aeent_jax.cli.{name}")
    program.run(module.main, [f"aeent {name}", *sys.argv[2:]])


def _version() -> str:
    """Returns the versions that a bug report needs."""
    return (
        f"aeent_jax {aeent_jax.__version__},"
        f" jax {importlib.metadata.version('jax')},"
        f" Python {platform.python_version()}, {platform.platform()}"
    )


if __name__ == "__main__":
    main()
