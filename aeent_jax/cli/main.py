"""The console script `aeent`: starts one of the programs beside it."""

import importlib
import sys

from aeent_jax.cli import program

# Imported when chosen: each defines flags of its own.
COMMANDS = {
    "train": "train or resume, evaluate, write a workdir",
    "evaluate": "evaluate a trained network again",
    "report": "set runs side by side: a table and one HTML file",
    "data": "list, prepare and check data sets",
    "bench": "measure speed on this hardware",
}


def main() -> None:
    """Runs `aeent COMMAND ...`."""
    name = sys.argv[1] if len(sys.argv) > 1 else ""
    if name not in COMMANDS:
        lines = [f"  aeent {c:<9} {text}" for c, text in COMMANDS.items()]
        text = "\n".join(["usage:", *lines, "  aeent COMMAND --help"])
        if name in ("", "-h", "--help", "--helpfull"):
            print(text)
            sys.exit(0)
        sys.exit(f"aeent: there is no command {name!r}.\n{text}")
    module = importlib.import_module(f"aeent_jax.cli.{name}")
    program.run(module.main, [f"aeent {name}", *sys.argv[2:]])


if __name__ == "__main__":
    main()
