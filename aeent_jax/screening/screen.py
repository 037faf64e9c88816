"""Screens files: scores, p-values, verdicts, heat maps and a worklist.

Two passes. The first reads and scores every file and appends what it finds to
`progress.jsonl`, so that a screening that was stopped goes on. The second
decides, which may need all p-values, and reads the files again that get a heat
map. A table holds no pixels, so memory does not grow with the images.
"""

import dataclasses
import hashlib
import json
import math
import os
import pathlib
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from aeent_jax.data import images, medical, prefetch
from aeent_jax.evaluation import conformal
from aeent_jax.figures import heatmaps
from aeent_jax.runtime import progress as progress_lib
from aeent_jax.runtime import workdir
from aeent_jax.screening import outputs, reading
from aeent_jax.screening.detector import Detector

HEATMAPS = ("flagged", "all", "none")
FLAGGED, NOT_FLAGGED, REFUSED = "flagged", "not_flagged", "refused"
# The batch test needs files enough, and a p-value that few batches reach.
_BATCH_FILES = 20
_BATCH_LEVEL = 1e-3
_PROGRESS = "progress.jsonl"
# Files whose heat maps are drawn at a time, and pixels beyond which fewer are.
_DRAWN_FILES = 64
_DRAWN_PIXELS = 2**25
_NEARLY = "is nearly equal to a training image, so its p-value means nothing"


@dataclasses.dataclass(frozen=True)
class Settings:
    """How a screening decides.

    Attributes:
      alpha: images whose p-value is at most this are flagged.
      fdr: False-discovery rate of Benjamini and Hochberg, in place of alpha;
        None for alpha.
      heatmaps: which images get a heat map, one of `HEATMAPS`.
    """

    alpha: float = 0.05
    fdr: float | None = None
    heatmaps: str = "flagged"


@dataclasses.dataclass
class Unit:
    """A unit of verdict: an image, a volume, or the frames of one file.

    Attributes:
      path: of the file.
      name: of the image or the volume in its file; empty for a whole file.
      frames: names of the frames.
      scores: one per frame.
      keys: names of the frames' thumbnails, one per frame.
      group: equal for the units of one patient; the file otherwise.
      reasons: phrases for the table.
      p_value: NaN without calibration.
      verdict: one of `FLAGGED`, `NOT_FLAGGED`, `REFUSED`, or empty.
      heatmap: the file of the heat map, below the folder of results; or empty.
    """

    path: str
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
    def score(self) -> float:
        """The largest score of the frames; NaN where there is none."""
        return float(self.scores.max()) if len(self.scores) else math.nan


def screen(
    detector: Detector,
    paths: Sequence[str],
    out: str | os.PathLike[str],
    settings: Settings | None = None,
) -> dict[str, Any]:
    """Screens files into a folder.

    Args:
      detector: the network and its calibration.
      paths: files, folders, or text files with one path per line.
      out: the folder of results; made where there is none. One that holds a
        screening by the same model goes on.
      settings: of the verdicts; None for `Settings()`.

    Returns:
      The content of `screening.json`.

    Raises:
      FileNotFoundError: a path is not there.
      ValueError: the settings do not fit the calibration, or the folder holds
        a screening by another model.
    """
    settings = settings or Settings()
    check(detector, settings)
    out = pathlib.Path(out).expanduser()
    # An earlier start may have left heat maps in a folder of the images.
    inside = os.path.realpath(out)
    found = {
        path: _identity(path)
        for path in reading.find(paths)
        if not pathlib.Path(os.path.realpath(path)).is_relative_to(inside)
    }
    if not found:
        raise ValueError(
            f"there is no image in {', '.join(paths)}; give files or folders of"
            " images."
        )
    out.mkdir(parents=True, exist_ok=True)
    units = _score_files(detector, found, out, settings)
    _decide(detector, units, settings)
    _draw_heatmaps(detector, units, out, settings)
    units.sort(key=_suspicion)
    summary = _summarise(detector, units, settings)
    outputs.write(out, units, summary)
    return summary


def check(detector: Detector, settings: Settings) -> None:
    """Refuses settings that the calibration cannot serve.

    Args:
      detector: the network and its calibration.
      settings: of the verdicts.

    Raises:
      ValueError: as `screen`.
    """
    if settings.heatmaps not in HEATMAPS:
        raise ValueError(
            f"heatmaps is {settings.heatmaps!r}; choose one of"
            f" {', '.join(HEATMAPS)}."
        )
    if detector.calibration is None:
        return
    n = len(detector.calibration.scores)
    if settings.fdr is None:
        conformal.check_alpha(settings.alpha, n)
    else:
        conformal.check_fdr(settings.fdr, n, 1)


def _suspicion(unit: Unit) -> tuple:
    """Sorts by verdict and score; refused files come last."""
    missing = math.isnan(unit.score)
    return missing, unit.p_value, -unit.score if not missing else 0, unit.path


# --- The first pass.


def _score_files(detector, found, out, settings) -> list[Unit]:
    """Scores what an earlier start has not; `found` are paths to identities."""
    path = out / _PROGRESS
    known = _read_progress(path, detector.digest)
    if settings.fdr is not None:
        # The names of patients' groups change from process to process.
        known = {k: e for k, e in known.items() if not e["patients"]}
    left = {f: i for f, i in found.items() if i not in known}
    shown = progress_lib.Progress(len(found))
    done = len(found) - len(left)
    begun = time.monotonic()
    with path.open("a", encoding="utf-8") as file:
        # A process that was killed may have left half a line.
        file.write("\n" if file.tell() else "")
        _append(file, {"model": detector.digest})
        for entry in _scored(detector, left, out):
            known[entry["identity"]] = entry
            _append(file, entry)
            done += 1
            now = time.monotonic()
            shown.work(1, now - begun)
            begun = now
            shown.show(done, entry["path"])
    shown.finish()
    return [
        unit
        for path, identity in found.items()
        for unit in _units_of(str(path), known[identity])
    ]


def _append(file, entry) -> None:
    file.write(json.dumps(entry) + "\n")
    file.flush()


def _read_progress(path: pathlib.Path, digest: str) -> dict[str, Any]:
    """Returns the entries of an earlier start by the identity of the file.

    Files that were refused are read again: what was in the way, such as a
    missing package or a permission, need not change the file.
    """
    if not path.exists():
        return {}
    entries = {}
    for line in path.read_text(encoding="utf-8").split("\n"):
        try:
            entry = json.loads(line)
        except ValueError:
            continue  # The last line of a process that was killed.
        if entry.get("model", digest) != digest:
            raise ValueError(
                f"{path.parent} holds a screening by another model; give"
                " another folder with --out."
            )
        if "identity" in entry and not entry["error"]:
            entries[entry["identity"]] = entry
    return entries


def _identity(path: pathlib.Path) -> str:
    """Changes where the file does."""
    try:
        state = os.stat(path)
        known = [state.st_size, state.st_mtime_ns]
    except OSError:
        known = []
    text = json.dumps([os.path.abspath(path), known])
    return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()


def _scored(detector: Detector, left, out) -> Iterator[dict[str, Any]]:
    """Yields an entry per file, in order; batches span files."""
    size = detector.config.eval.batch_size
    waiting, frames = [], 0
    for path, prepared, error in _read_ahead(detector, left):
        waiting.append((path, prepared, error))
        frames += len(prepared)
        if frames >= size:
            yield from _score_batch(detector, waiting, left, out)
            waiting, frames = [], 0
    yield from _score_batch(detector, waiting, left, out)


def _read_ahead(detector, left):
    def read(path):
        try:
            about = detector.about
            return path, reading.read(path, detector.config, about), ""
        except Exception as error:
            # Whatever a decoder raises, the other files are read.
            return path, [], _reason(path, error)

    # A file that is read is as small as the network's input, or as that times
    # the slices of its volumes.
    threads = min(4, os.cpu_count() or 1)
    size = 2 * detector.config.eval.batch_size
    if any(medical.kind(path) == medical.NIFTI for path in left):
        size = threads
    ahead = prefetch.Prefetch(read, left, ahead=size, threads=threads)
    try:
        for _ in left:
            yield ahead.next()
    finally:
        ahead.close()


def _reason(path: pathlib.Path, error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    text = " ".join(str(error).split())
    return text.removeprefix(f"{path}: ") or type(error).__name__


def _score_batch(
    detector, waiting, identities, out
) -> Iterator[dict[str, Any]]:
    frames = [f for _, prepared, _ in waiting for f in prepared]
    sound = [f for f in frames if not f.problem]
    scores: Iterable = iter(())
    if sound:
        pixels = np.stack([f.pixels for f in sound])
        scored = detector.score_pixels(pixels, keep_reconstructions=True)
        near = detector.is_nearly_training_image(pixels)
        scores = iter(zip(range(len(sound)), near, strict=True))
    for path, prepared, error in waiting:
        entry = {
            "identity": identities[path],
            "path": str(path),
            "error": error,
            "patients": any(not f.group.startswith("file:") for f in prepared),
            "frames": [],
        }
        volumes = list(dict.fromkeys(f.volume for f in prepared))
        for number, frame in enumerate(prepared):
            listed = {
                "name": frame.name,
                "volume": volumes.index(frame.volume),
                "group": frame.group,
                "notes": list(frame.notes),
                "problem": frame.problem,
            }
            if not frame.problem:
                i, is_near = next(scores)
                listed["score"] = float(scored.anomaly_scores[i])
                listed["key"] = f"{entry['identity'][:16]}_{number}"
                if not math.isfinite(listed["score"]):
                    listed["problem"] = "has a score that is not finite"
                    entry["frames"].append(listed)
                    continue
                if is_near:
                    listed["notes"].append(_NEARLY)
                _save_strip(detector, frame, scored, i, out, listed["key"])
            entry["frames"].append(listed)
        yield entry


def _save_strip(detector, frame, scored, i, out, key) -> None:
    maps = scored.score_maps
    drawn = heatmaps.strip(
        frame.pixels,
        scored.reconstructions[i],
        None if maps is None else maps[i],
        detector.map_scale,
    )
    path = out / outputs.thumbnail(key)
    path.parent.mkdir(parents=True, exist_ok=True)
    drawn.save(path, compress_level=1)


def _units_of(path: str, entry: dict[str, Any]) -> Iterator[Unit]:
    """Yields the units of one file; one that is refused if it has none."""
    if entry["error"]:
        yield _refused(path, "", [entry["error"]])
        return
    frames = entry["frames"]
    volumes = sorted({frame["volume"] for frame in frames})
    for volume in volumes:
        own = [f for f in frames if f["volume"] == volume]
        sound = [f for f in own if not f["problem"]]
        name = f"volume {volume}" if len(volumes) > 1 else ""
        problems = sorted({f["problem"] for f in own} - {""})
        if not sound:
            yield _refused(path, name, problems)
            continue
        notes = dict.fromkeys(n for f in sound for n in f["notes"])
        if problems:
            skipped = len(own) - len(sound)
            notes[f"{skipped} frames are left out: {problems[0]}"] = None
        yield Unit(
            path=path,
            name=name or (sound[0]["name"] if len(own) == 1 else ""),
            frames=[f["name"] for f in sound],
            scores=np.array([f["score"] for f in sound]),
            keys=[f["key"] for f in sound],
            group=sound[0]["group"],
            reasons=list(notes),
        )


def _refused(path: str, name: str, reasons: list[str]) -> Unit:
    return Unit(path, name, [], np.zeros(0), [], path, reasons, verdict=REFUSED)


# --- The second pass.


def _decide(detector, units, settings) -> None:
    """Sets p-values and verdicts."""
    scored = [u for u in units if u.verdict != REFUSED]
    if detector.calibration is None:
        return
    for unit in scored:
        unit.p_value = detector.group_p_value(unit.scores)
        if len(unit.scores) > 1 and not detector.has_calibration_volumes:
            unit.reasons.append(
                "its p-value is the smallest of its frames times their number,"
                " since no volume calibrates"
            )
    if settings.fdr is None:
        flags = [u.p_value <= settings.alpha for u in scored]
    else:
        flags = _flag_groups(scored, settings.fdr)
    level = settings.alpha if settings.fdr is None else settings.fdr
    for unit, flag in zip(scored, flags, strict=True):
        unit.verdict = FLAGGED if flag else NOT_FLAGGED
        least = detector.least_p_value(len(unit.scores))
        if least > level:
            unit.verdict = ""
            unit.reasons.append(
                f"has no verdict, since its p-value cannot be below {least:.3g}"
                " with so few normals: calibrate with more"
            )


def _flag_groups(units: Sequence[Unit], fdr: float) -> list[bool]:
    """Flags by one p-value per patient or file, Bonferroni's of its units."""
    groups: dict[str, list[float]] = {}
    for unit in units:
        groups.setdefault(unit.group, []).append(unit.p_value)
    p = np.array([min(1.0, len(v) * min(v)) for v in groups.values()])
    flags = conformal.benjamini_hochberg(p, fdr)
    by_group = dict(zip(groups, flags, strict=True))
    # A flagged patient's files are named that would pass alone.
    limit = max(p[flags], default=0.0)
    return [bool(by_group[u.group] and u.p_value <= limit) for u in units]


def _draw_heatmaps(detector, units, out, settings) -> None:
    """Draws the most suspicious frame of each chosen unit at its own size."""
    chosen = [
        unit
        for unit in units
        if unit.verdict != REFUSED
        and settings.heatmaps != "none"
        and (unit.verdict == FLAGGED or settings.heatmaps == "all")
    ]
    waiting, pixels = [], 0
    for unit in chosen:
        key = unit.keys[int(unit.scores.argmax())]
        if (out / outputs.heatmap(key)).exists():
            unit.heatmap = outputs.heatmap(key)
            continue
        number = int(key.rpartition("_")[2])
        try:
            source = pathlib.Path(unit.path)
            frame = reading.frame_at(source, detector.config, number)
        except Exception:
            unit.reasons.append("was gone when its heat map was to be drawn")
            continue
        waiting.append((unit, key, frame))
        pixels += frame.image.width * frame.image.height
        if len(waiting) >= _DRAWN_FILES or pixels > _DRAWN_PIXELS:
            _draw(detector, waiting, out)
            waiting, pixels = [], 0
    if waiting:
        _draw(detector, waiting, out)


def _draw(detector, waiting, out) -> None:
    """Draws the heat maps of several frames; none where scores have no map."""
    group = detector.config.data
    pixels = [
        images.to_network(f, group.image_size, group.channels, group.resize)
        for _, _, f in waiting
    ]
    maps = detector.score_pixels(np.stack(pixels)).score_maps
    if maps is None:
        return
    for (unit, key, frame), score_map in zip(waiting, maps, strict=True):
        full = images.from_network(score_map, frame.size, group.resize)
        drawn = heatmaps.overlay(frame.image, full, detector.map_scale)
        path = out / outputs.heatmap(key)
        path.parent.mkdir(parents=True, exist_ok=True)
        drawn.save(path, compress_level=1)
        unit.heatmap = outputs.heatmap(key)


def _summarise(detector, units, settings) -> dict[str, Any]:
    """Returns what `screening.json` holds."""
    counts = {"units": len(units)}
    for verdict in (FLAGGED, NOT_FLAGGED, REFUSED):
        counts[verdict] = sum(u.verdict == verdict for u in units)
    counts["without_verdict"] = sum(not u.verdict for u in units)
    summary = {
        "model": detector.digest,
        "packages": workdir.environment()["packages"],
        "counts": counts,
        "alpha": settings.alpha if settings.fdr is None else None,
        "fdr": settings.fdr,
        "use": "research; this is no medical device",
        "calibration": None,
        "guarantee": (
            "The model has no calibration normals, so there are scores and no"
            " verdicts; give normal images that the network was not trained"
            " on with --calibration=FOLDER."
        ),
        "warning": "",
    }
    if detector.calibration is None:
        return summary
    calibration = detector.calibration
    scores, normal = _alike(detector, units)
    summary["calibration"] = {
        "num_normal": len(calibration.scores),
        "source": calibration.source,
    }
    summary["guarantee"] = guarantee(len(normal), settings)
    if len(scores) >= _BATCH_FILES:
        p = conformal.rank_sum_p_value(np.array(scores), normal)
        summary["batch_p_value"] = p
        if p < _BATCH_LEVEL:
            summary["warning"] = (
                f"These {len(scores)} files score unlike the calibration"
                f" normals (rank-sum test, p = {p:.1g}): either many of them"
                " are abnormal, or they come from another source or were"
                " prepared in another way, and then the p-values mean nothing."
            )
    return summary


def _alike(detector, units) -> tuple[list[float], np.ndarray]:
    """Scores of the batch, and those of normals that they compare with.

    The largest score of a volume compares with those of volumes alone.
    """
    scored = [u for u in units if u.verdict != REFUSED]
    single = [u.score for u in scored if len(u.scores) == 1]
    volumes = [u.score for u in scored if len(u.scores) > 1]
    calibration = detector.calibration
    if len(volumes) > len(single) and detector.has_calibration_volumes:
        return volumes, calibration.of_volumes()
    return single, calibration.scores


def guarantee(n: int, settings: Settings) -> str:
    """Says what a verdict promises, in sentences.

    Args:
      n: calibration normals, or volumes of normals where volumes are ranked.
      settings: of the verdicts.
    """
    if settings.fdr is not None:
        return (
            f"At most {100 * settings.fdr:.3g} % of the flagged files are"
            " normal on average, if calibration normals and new normals are"
            " exchangeable (Benjamini and Hochberg)."
        )
    if not conformal.flagged_ranks(n, settings.alpha):
        return (
            f"There are {n} calibration volumes, and verdicts on volumes need"
            f" {conformal.normals_for(settings.alpha)}: calibrate with more, or"
            " raise alpha."
        )
    bound = conformal.false_alarm_bound(n, settings.alpha)
    expected = conformal.flagged_ranks(n, settings.alpha) / (n + 1)
    return (
        f"If the {n} calibration normals and new normals are exchangeable,"
        f" {100 * expected:.2g} % of new normals are flagged on average, which"
        f" is at most alpha = {settings.alpha:.3g}. If all are independent and"
        f" alike, the false-alarm rate is below {100 * bound:.1f} % for 95 % of"
        " calibration sets."
    )
