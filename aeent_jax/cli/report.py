"""`aeent report`: runs side by side, as a table and as one HTML file.

aeent report --runs=runs/plain,runs/controlled --out=runs/report.html
"""

from collections.abc import Sequence

from absl import flags

from aeent_jax.cli import program
from aeent_jax.results import report

_RUNS = program.define_paths(
    "runs", "Workdirs, separated by commas; differences are to the first."
)
_OUT = flags.DEFINE_string("out", "report.html", "The HTML file to write.")


def main(argv: Sequence[str]) -> int:
    """Writes the report and prints its table; returns the exit status."""
    program.refuse_positional(argv)
    print(report.make_report(_RUNS.value or [], _OUT.value))
    print(f"\nWrote {_OUT.value}")
    return 0


if __name__ == "__main__":
    program.run(main)
