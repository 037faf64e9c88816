"""`aeent theory`: rates and errors of each kind of image, of finished runs.

aeent theory --runs=runs/plain,runs/controlled --out=runs/theory
    [--reference=0.1]

The runs are of one data set with normal and abnormal test images. Runs without
a channel have an infinite rate; with --reference they are measured through the
noise that raises their training error by that share.
"""

import sys
from collections.abc import Sequence

from absl import flags

from aeent_jax.cli import program

_RUNS = program.define_paths("runs", "Workdirs, separated by commas.")
_OUT = flags.DEFINE_string("out", None, "Folder of the page and figures.")
_REFERENCE = flags.DEFINE_float(
    "reference", 0.0, "Share of the error, for runs without a channel; 0: none."
)


_ROOT = program.define_root()


def main(argv: Sequence[str]) -> int:
    """Measures, writes and prints; returns the exit status."""
    program.refuse_positional(argv)
    if not _OUT.value:
        raise ValueError("give the folder of the results with --out=DIR.")
    program.configure_jax()
    from aeent_jax import theory
    from aeent_jax.runtime import storage

    out = storage.disk_path("--out", _OUT.value)
    theory.make_folder(out)
    found = theory.measure(
        _RUNS.value or [],
        reference=_REFERENCE.value,
        root=_ROOT.value,
        log=lambda line: print(line, file=sys.stderr),
    )
    print(theory.write_results(found, out))
    print(f"\nEverything is in {out}")
    return 0


if __name__ == "__main__":
    program.run(main)
