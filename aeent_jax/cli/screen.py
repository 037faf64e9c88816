"""`aeent screen`: score new images and flag those that look abnormal.

aeent screen --model=runs/mine --images=DIR --out=screened
aeent screen --model=model.aeent --images=a.dcm --images=list.txt --out=DIR

--images is a file, a folder with its subfolders, or a text file with one path
per line, and can be given several times. DIR gets screening.csv, heat maps,
screening.json and worklist.html, a page to step through, the most suspicious
image first. Started again, a screening goes on.

An image is flagged where its p-value, the rank of its score among those of
normal images that were held out of training, is at most --alpha; at most that
share of new normal images is flagged on average, if they are like those. The
exit status is 0 if all files were scored, and 3 if some were refused.
"""

import sys
from collections.abc import Sequence

from absl import flags

from aeent_jax.cli import program

_MODEL = flags.DEFINE_string(
    "model", None, "Workdir of a run, or a file of `aeent export`."
)
_IMAGES = flags.DEFINE_multi_string(
    "images", [], "File, folder or list of paths; can be given several times."
)
_OUT = flags.DEFINE_string("out", None, "Folder of the results.")
_ALPHA = flags.DEFINE_float(
    "alpha", 0.05, "Share of new normal images that is flagged on average."
)
_FDR = flags.DEFINE_float(
    "fdr",
    None,
    "Share of normal ones among the flagged files, in place of --alpha.",
)
_CALIBRATION = flags.DEFINE_multi_string(
    "calibration",
    [],
    "Normal images, not trained on, that verdicts are ranked among in place of"
    " the model's own.",
)
_HEATMAPS = flags.DEFINE_enum(
    "heatmaps",
    "flagged",
    ["flagged", "all", "none"],
    "Which images get a heat map at their own resolution.",
)
_BEST = flags.DEFINE_bool(
    "best", False, "Take the checkpoint of the lowest validation error."
)

# Some files were refused; the others have their scores.
_REFUSED_STATUS = 3


_ROOT = program.define_root()


def main(argv: Sequence[str]) -> int:
    """Screens; returns the exit status."""
    program.refuse_positional(argv)
    for flag, name in ((_MODEL, "model=RUN"), (_OUT, "out=DIR")):
        if not flag.value:
            raise ValueError(f"give --{name}; see aeent screen --help.")
    if not _IMAGES.value:
        raise ValueError("give the images with --images=PATH.")
    if _FDR.value is not None and _ALPHA.present:
        raise ValueError("give --alpha or --fdr, and not both.")
    program.configure_jax()
    from aeent_jax import screening
    from aeent_jax.screening import reading

    detector = screening.Detector.load(
        _MODEL.value, best=_BEST.value, root=_ROOT.value
    )
    if _CALIBRATION.value:
        normals = list(reading.find(_CALIBRATION.value))
        detector = detector.calibrated(normals)
    settings = screening.Settings(_ALPHA.value, _FDR.value, _HEATMAPS.value)
    summary = screening.screen(detector, _IMAGES.value, _OUT.value, settings)
    counts = summary["counts"]
    print(summary["guarantee"])
    if summary["warning"]:
        print(f"WARNING: {summary['warning']}", file=sys.stderr)
    print(
        f"{counts['units']} screened: {counts['flagged']} flagged,"
        f" {counts['not_flagged']} not flagged, {counts['refused']} refused."
        f" Open {_OUT.value}/worklist.html"
    )
    return _REFUSED_STATUS if counts["refused"] else 0


if __name__ == "__main__":
    program.run(main)
