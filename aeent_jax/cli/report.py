"""aeent report: runs side by side, as a table and as one HTML file.

aeent report --runs=DIR/plain,DIR/controlled --out=DIR/report.html
"""

import sys
from collections.abc import Sequence

from absl import app, flags

from aeent_jax import report

_RUNS = flags.DEFINE_list(
    "runs", [], "Workdirs, separated by commas; differences are to the first."
)
_OUT = flags.DEFINE_string("out", "report.html", "The HTML file to write.")


def main(argv: Sequence[str]) -> None:
    """Writes the report and prints its table.

    Args:
      argv: The program's name; all else are flags.

    Raises:
      app.UsageError: If an argument is left over.
    """
    if len(argv) > 1:
        raise app.UsageError(
            f"Found the argument {argv[1]!r}; separate workdirs with commas: "
            "--runs=DIR/a,DIR/b."
        )
    try:
        table = report.make_report(_RUNS.value, _OUT.value)
    except (FileNotFoundError, ValueError) as error:
        sys.exit(f"aeent report: {error}")
    print(f"{table}\n\nWrote {_OUT.value}")


if __name__ == "__main__":
    app.run(main)
