"""`aeent export`: write a trained network into one file.

aeent export --workdir=runs/mine --out=model.aeent

The file holds all that `aeent screen` needs on a machine without the training
images: configuration, weights, the scores of the held-out normals and a card
in JSON. It holds no name of a training file and no value of a header.

--format=stablehlo writes the network alone, for jax.export, with any number of
images; --format=onnx writes it for other runtimes, with 'aeent-jax[onnx]'
installed. Both map uint8 images [N, S, S, C] to anomaly scores [N] and, where
the score has one, maps [N, S, S].
"""

from collections.abc import Sequence

from absl import flags

from aeent_jax.cli import program

_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run.")
_OUT = flags.DEFINE_string("out", None, "The file, such as model.aeent.")
_BEST = flags.DEFINE_bool(
    "best", False, "Take the checkpoint of the lowest validation error."
)
_FORMAT = flags.DEFINE_enum(
    "format", "aeent", ["aeent", "onnx", "stablehlo"], "Kind of file."
)


_ROOT = program.define_root()


def main(argv: Sequence[str]) -> int:
    """Exports; returns the exit status."""
    program.refuse_positional(argv)
    if not _WORKDIR.value or not _OUT.value:
        raise ValueError("give --workdir=RUN and --out=FILE.")
    program.configure_jax()
    from aeent_jax import screening
    from aeent_jax.screening import export

    detector = screening.Detector.load(
        _WORKDIR.value, best=_BEST.value, root=_ROOT.value
    )
    export.export(detector, _OUT.value, _FORMAT.value)
    print(f"Written: {_OUT.value} (model {detector.digest[:12]})")
    if detector.calibration is None:
        print(
            "It has no calibration normals, so it gives scores and no verdicts"
            " unless aeent screen is given --calibration."
        )
    return 0


if __name__ == "__main__":
    program.run(main)
