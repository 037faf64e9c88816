"""Units of verdict, and their files: a table, a summary, the worklist."""

import csv
import dataclasses
import importlib.resources
import io
import json
import math
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

FLAGGED, NOT_FLAGGED, REFUSED = "flagged", "not_flagged", "refused"
COLUMNS = ("path", "frame", "anomaly_score", "p_value", "verdict", "reason")
# A page of more rows than a person looks at only gets slow.
_MOST_ROWS = 5000
# Spreadsheets take cells that begin so for formulas.
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


@dataclasses.dataclass
class Unit:
    """A unit of verdict: an image, a volume, or a series of DICOM files.

    Attributes:
      paths: of the files, one per frame; one alone where it is refused.
      name: of the image or the volume in its file; empty for a whole file.
      frames: names of the frames in their file, or else in the unit.
      scores: one per frame.
      keys: names of the frames' thumbnails, one per frame.
      group: equal for the units of one patient; the file otherwise.
      reasons: phrases for the table.
      p_value: NaN without calibration.
      verdict: one of `FLAGGED`, `NOT_FLAGGED`, `REFUSED`, or empty.
      heatmap: the file of the heat map, below the folder of results; or empty.
    """

    paths: list[str]
    name: str
    frames: list[str]
    scores: np.ndarray
    keys: list[str]
    group: str
    reasons: list[str]
    p_value: float = math.nan
    verdict: str = ""
    heatmap: str = ""

    @property
    def worst(self) -> int:
        """The place of the most suspicious frame."""
        return int(self.scores.argmax()) if len(self.scores) else 0

    @property
    def path(self) -> str:
        """The file of the most suspicious frame."""
        return self.paths[self.worst]

    @property
    def score(self) -> float:
        """The largest score of the frames; NaN where there is none."""
        return float(self.scores.max()) if len(self.scores) else math.nan


def thumbnail(key: str) -> str:
    """Returns the file of a frame's strip, below the folder of results."""
    return f"thumbnails/{key[:2]}/{key}.jpg"


def heatmap(key: str) -> str:
    """Returns the file of a frame's heat map, below the folder of results."""
    return f"heatmaps/{key}.png"


def write(
    out: pathlib.Path, units: Sequence[Unit], summary: Mapping[str, Any]
) -> None:
    """Writes `screening.csv`, `screening.json` and `worklist.html`.

    Args:
      out: the folder of results.
      units: what was screened, the most suspicious first.
      summary: what `screening.json` is to hold.
    """
    _replace(out / "screening.csv", _table(units))
    text = json.dumps(summary, indent=1, allow_nan=False)
    _replace(out / "screening.json", text)
    _replace(out / "worklist.html", _page(units, summary))


def _replace(path: pathlib.Path, text: str) -> None:
    """Writes a file in whole, so that a reader never sees half of one."""
    partial = path.with_name(f"{path.name}.partial")
    # Names on disk may be any bytes.
    partial.write_text(
        text, encoding="utf-8", errors="backslashreplace", newline=""
    )
    partial.replace(path)


def _table(units: Sequence[Unit]) -> str:
    """A row per unit; the frames of a volume follow it, without verdicts.

    The row of a series names the file of its most suspicious slice.
    """
    table = io.StringIO(newline="")
    writer = csv.writer(table)
    writer.writerow(COLUMNS)
    for unit in units:
        row = (_number(unit.score), _number(unit.p_value), unit.verdict)
        reason = "; ".join(unit.reasons)
        writer.writerow(map(_cell, (unit.path, unit.name, *row, reason)))
        if len(unit.frames) > 1:
            in_file = unit.name if len(set(unit.paths)) == 1 else ""
            for path, name, score in zip(
                unit.paths, unit.frames, unit.scores, strict=True
            ):
                frame = f"{in_file} {name}".strip()
                writer.writerow(
                    map(_cell, (path, frame, _number(score), "", "", ""))
                )
    return table.getvalue()


def _number(value: float) -> str:
    """Full precision; empty for NaN."""
    return "" if math.isnan(value) else repr(float(value))


def _cell(text: str) -> str:
    """Keeps a spreadsheet from taking a file name for a formula."""
    return (
        f"'{text}"
        if text.startswith(_FORMULA) and not _is_number(text)
        else text
    )


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _page(units: Sequence[Unit], summary: Mapping[str, Any]) -> str:
    """Fills the template; names reach the page as JSON text, never as HTML."""
    rows = [_row(unit) for unit in units[:_MOST_ROWS]]
    content = {
        "summary": dict(summary),
        "rows": rows,
        "left_out": max(0, len(units) - _MOST_ROWS),
    }
    text = json.dumps(content, allow_nan=False, ensure_ascii=True)
    # In a script element only "<" could end it or begin another.
    text = text.replace("<", "\\u003c").replace(">", "\\u003e")
    package = importlib.resources.files("aeent_jax.screening")
    template = package.joinpath("worklist.html").read_text(encoding="utf-8")
    return template.replace("{{ content }}", text.replace("&", "\\u0026"))


def _row(unit: Unit) -> dict[str, Any]:
    has_score = len(unit.scores) > 0
    has_p = not math.isnan(unit.p_value)
    return {
        "path": unit.path,
        "file": os.path.basename(unit.path),
        "frame": unit.name
        or (unit.frames[unit.worst] if len(unit.frames) > 1 else ""),
        "score": unit.score if has_score else None,
        "p": unit.p_value if has_p else None,
        "verdict": unit.verdict,
        "reason": "; ".join(unit.reasons),
        "strip": thumbnail(unit.keys[unit.worst]) if has_score else "",
        "heatmap": unit.heatmap,
    }
