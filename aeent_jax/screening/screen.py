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
from collections.abc import Iterator, Sequence
from concurrent import futures
from typing import Any

import numpy as np

from aeent_jax.data import images, medical, prefetch
from aeent_jax.evaluation import conformal
from aeent_jax.figures import heatmaps
from aeent_jax.runtime import progress as progress_lib
from aeent_jax.runtime import workdir
from aeent_jax.screening import calibration, outputs, reading
from aeent_jax.screening.detector import Detector
from aeent_jax.screening.outputs import FLAGGED, NOT_FLAGGED, REFUSED, Unit

HEATMAPS = ("flagged", "all", "none")
# The batch test needs files enough, and a p-value that few batches reach.
_BATCH_FILES = 20
_BATCH_LEVEL = 1e-3
_PROGRESS = "progress.jsonl"
# Threads that read files and draw strips.
_THREADS = min(4, os.cpu_count() or 1)
# Files whose heat maps are drawn at a time, and pixels beyond which fewer are.
_DRAWN_FILES = 64
_DRAWN_PIXELS = 2**25
# How the names of groups and volumes begin that a file has for itself.
_FILE = "file:"
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
    units = _score_files(detector, found, out)
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


def _score_files(detector, found, out) -> list[Unit]:
    """Scores what an earlier start has not; `found` are paths to identities."""
    path = out / _PROGRESS
    # Other normals rank the same scores.
    network = dataclasses.replace(detector, calibration=None).digest
    known = _read_progress(path, network)
    for file, identity in found.items():
        if known.get(identity, {}).get("patient"):
            _link_again(file, known[identity])
    left = {f: i for f, i in found.items() if i not in known}
    shown = progress_lib.Progress(len(found))
    done = len(found) - len(left)
    begun = time.monotonic()
    with path.open("a", encoding="utf-8") as file:
        # A process that was killed may have left half a line.
        file.write("\n" if file.tell() else "")
        _append(file, {"model": network})
        for entry in _scored(detector, left, out):
            known[entry["identity"]] = entry
            _append(file, entry)
            done += 1
            now = time.monotonic()
            shown.work(1, now - begun)
            begun = now
            shown.show(done, entry["path"])
    shown.finish()
    return _gather(found, known)


def _link_again(path: pathlib.Path, entry: dict[str, Any]) -> None:
    """Reads a header again: names of patients change from start to start."""
    try:
        facts = reading.describe(path)
    except ValueError:
        return  # It stays alone, and its score is kept.
    entry["patient"] = facts.group
    entry["series"] = facts.volume


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
            frames = reading.read(path, detector.config, detector.about)
            return path, frames, ""
        except Exception as error:
            # Whatever a decoder raises, the other files are read.
            return path, [], _reason(path, error)

    # A file that is read is as small as the network's input, or as that times
    # the slices of its volumes.
    size = 2 * detector.config.eval.batch_size
    if any(medical.kind(path) == medical.NIFTI for path in left):
        size = _THREADS
    ahead = prefetch.Prefetch(read, left, ahead=size, threads=_THREADS)
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


def _score_batch(detector, waiting, identities, out) -> list[dict[str, Any]]:
    """Scores the images of some files, and draws what the worklist shows."""
    entries = [
        _new_entry(path, identities[path], prepared, error)
        for path, prepared, error in waiting
    ]
    sound = [
        (f"{entry['identity'][:16]}_{number}", shown, frame)
        for entry, (_, prepared, _) in zip(entries, waiting, strict=True)
        for number, shown in enumerate(entry["frames"])
        if not (frame := prepared[number]).problem
    ]
    if not sound:
        return entries
    pixels = np.stack([frame.pixels for _, _, frame in sound])
    scored = detector.score_pixels(pixels, keep_reconstructions=True)
    near = detector.is_nearly_training_image(pixels)

    def save_strip(i):
        maps = scored.score_maps
        drawn = heatmaps.strip(
            pixels[i],
            scored.reconstructions[i],
            None if maps is None else maps[i],
            detector.map_scale,
        )
        path = out / outputs.thumbnail(sound[i][0])
        path.parent.mkdir(parents=True, exist_ok=True)
        # PNG took nine times as long, longer than reading a small image.
        drawn.save(path, quality=90, subsampling=0)

    is_finite = np.isfinite(scored.anomaly_scores)
    with futures.ThreadPoolExecutor(_THREADS) as pool:
        # Encoding takes as long as the network does.
        list(pool.map(save_strip, np.flatnonzero(is_finite)))
    for i, (key, shown, _) in enumerate(sound):
        if is_finite[i]:
            score = float(scored.anomaly_scores[i])
            shown |= {"score": score, "key": key, "near": bool(near[i])}
        else:
            shown["problem"] = "has a score that is not finite"
    return entries


def _new_entry(path, identity, prepared, error) -> dict[str, Any]:
    """The entry of a file before it is scored."""
    volumes = list(dict.fromkeys(f.volume for f in prepared))
    is_linked = prepared and not prepared[0].group.startswith(_FILE)
    return {
        "identity": identity,
        "path": str(path),
        "error": error,
        "patient": prepared[0].group if is_linked else "",
        "series": volumes[0] if is_linked else "",
        "frames": [
            {
                "name": frame.name,
                "volume": volumes.index(frame.volume),
                "notes": list(frame.notes),
                "problem": frame.problem,
            }
            for frame in prepared
        ],
    }


def _gather(found, known) -> list[Unit]:
    """Makes the units of all files; a series of slices has several."""
    parts: dict[str, list[tuple[str, dict, dict]]] = {}
    units = []
    for file, identity in found.items():
        path, entry = str(file), known[identity]
        if entry["error"]:
            units.append(_refused(path, "", [entry["error"]]))
        for frame in entry["frames"]:
            unit = entry["series"] or f"{identity}:{frame['volume']}"
            parts.setdefault(unit, []).append((path, entry, frame))
    return [*units, *map(_make_unit, parts.values())]


def _make_unit(parts: list[tuple[str, dict, dict]]) -> Unit:
    """Makes a unit of its frames, each with its path and its file's entry."""
    path, entry, first = parts[0]
    name = ""
    if any(frame["volume"] for frame in entry["frames"]):
        name = f"volume {first['volume']}"
    sound = [(path, frame) for path, _, frame in parts if not frame["problem"]]
    problems = sorted({frame["problem"] for _, _, frame in parts} - {""})
    if not sound:
        return _refused(path, name, problems)
    frames = [frame for _, frame in sound]
    notes = dict.fromkeys(n for f in frames for n in f["notes"])
    if np.mean([f["near"] for f in frames]) > calibration.NEARLY_SHARE:
        notes[_NEARLY] = None
    if problems:
        skipped = len(parts) - len(sound)
        notes[f"{skipped} frames are left out: {problems[0]}"] = None
    paths = [path for path, _ in sound]
    if (count := len(set(paths))) > 1:
        name = f"series of {count} files"
    return Unit(
        paths=paths,
        name=name or (frames[0]["name"] if len(parts) == 1 else ""),
        frames=[f["name"] for f in frames],
        scores=np.array([f["score"] for f in frames]),
        keys=[f["key"] for f in frames],
        group=entry["patient"] or path,
        reasons=list(notes),
    )


def _refused(path: str, name: str, reasons: list[str]) -> Unit:
    return Unit(
        [path], name, [], np.zeros(0), [], path, reasons, verdict=REFUSED
    )


# --- The second pass.


def _decide(detector, units, settings) -> None:
    """Sets p-values and verdicts."""
    scored = [u for u in units if u.verdict != REFUSED]
    if detector.calibration is None:
        return
    largest = np.array([u.score for u in scored])
    counts = np.array([len(u.scores) for u in scored], int)
    p = detector.calibration.p_values(largest, counts)
    least = detector.calibration.p_values(np.full(len(p), np.inf), counts)
    for unit, p_value in zip(scored, p.tolist(), strict=True):
        unit.p_value = p_value
        if len(unit.scores) > 1 and not detector.calibration.has_volumes:
            unit.reasons.append(
                "its p-value is the smallest of its frames times their number,"
                " since no volume calibrates"
            )
    if settings.fdr is None:
        flags = [u.p_value <= settings.alpha for u in scored]
    else:
        flags = _flag_groups(scored, settings.fdr)
    level = settings.alpha if settings.fdr is None else settings.fdr
    for unit, flag, low in zip(scored, flags, least, strict=True):
        unit.verdict = FLAGGED if flag else NOT_FLAGGED
        if low > level:
            unit.verdict = ""
            unit.reasons.append(
                f"has no verdict, since its p-value cannot be below {low:.3g}"
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
        key = unit.keys[unit.worst]
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
    scores, normal = _alike(detector, units)
    summary["calibration"] = {
        "num_normal": len(detector.calibration.scores),
        "source": detector.calibration.source,
    }
    summary["guarantee"] = calibration.guarantee(
        len(normal), settings.alpha, settings.fdr
    )
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
    if len(volumes) > len(single) and detector.calibration.has_volumes:
        return volumes, detector.calibration.of_volumes()
    return single, detector.calibration.scores
