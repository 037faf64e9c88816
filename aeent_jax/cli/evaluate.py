"""`aeent evaluate`: evaluate a trained network again, without training.

aeent evaluate --workdir=runs/default [--best]
"""

from collections.abc import Sequence

from absl import flags

from aeent_jax.cli import program

_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run.")
_BEST = flags.DEFINE_bool(
    "best", False, "Take the checkpoint of the lowest validation error."
)


def main(argv: Sequence[str]) -> int:
    """Evaluates; returns the exit status."""
    program.refuse_positional(argv)
    if not _WORKDIR.value:
        raise ValueError("give the folder of a run with --workdir=DIR.")
    program.configure_jax()
    from aeent_jax import evaluate
    from aeent_jax import run as run_lib

    results = run_lib.evaluate_workdir(_WORKDIR.value, best=_BEST.value)
    print(evaluate.describe(results))
    return 0


if __name__ == "__main__":
    program.run(main)
