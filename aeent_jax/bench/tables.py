"""The training benchmark as a table for people."""

from collections.abc import Mapping
from typing import Any

_PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy")
_PHASES = ("imports", "data", "init", "first step")


def format_training(result: Mapping[str, Any]) -> str:
    """Formats what `training.measure` returns."""
    entries = result["entries"].values()
    lines = [
        _describe_size(result["size"]),
        _describe_machine(result["environment"]),
        "",
        f"{'images/s and times plain flax':>60}{'first step, s':>26}",
        f"{'devices':>28}{'step':>9}{'epoch':>23}{'compiled':>24}{'cached':>9}",
        *map(_row, entries),
        "",
        *_second_start(result["second_start_seconds"]),
        *_notes(result),
    ]
    return "\n".join(line.rstrip() for line in lines)


def _describe_size(size: Mapping[str, Any]) -> str:
    return (
        f"{size['image_size']} px, {size['channels']} channel(s), latent"
        f" {size['latent_dim']}, base width {size['base_width']}, batch"
        f" {size['batch_size']}, {size['train_images']} images an epoch"
    )


def _describe_machine(environment: Mapping[str, Any]) -> str:
    devices, packages = environment["devices"], environment["packages"]
    versions = ", ".join(f"{name} {packages[name]}" for name in _PACKAGES)
    return (
        f"{len(devices)} device(s) of kind {devices[0]},"
        f" {environment['cores']} cores of {environment['processor']}\n"
        f"Python {environment['python']}, {versions}"
    )


def _row(entry: Mapping[str, Any]) -> str:
    cells = [f"{entry['name']:<21}{entry['num_devices']:>7}"]
    for measured in (entry["step"], entry["epoch"]):
        times = _range(measured["over_plain_flax"])
        cells.append(f"{measured['images_per_second']:9.0f}  {times:<12}")
    startup = entry["startup_seconds"]
    cells.append(f"{startup['first step']:10.1f}")
    cells.append(f"{startup['first step, cached']:9.1f}")
    return "".join(cells)


def _range(ratio: Mapping[str, float]) -> str:
    """Formats a median with its range: 2.31 (2.2-2.4)."""
    low, high = ratio["low"], ratio["high"]
    return f"{ratio['median']:.2f} ({low:.1f}-{high:.1f})"


def _second_start(startup: Mapping[str, float] | None) -> list[str]:
    if startup is None:
        return []
    seconds = [startup[phase] for phase in _PHASES]
    parts = ", ".join(
        f"{phase} {value:.1f}"
        for phase, value in zip(_PHASES, seconds, strict=True)
    )
    return [
        f"Second start: first step done after {sum(seconds):.1f} s ({parts})."
    ]


def _notes(result: Mapping[str, Any]) -> list[str]:
    size = result["size"]
    plain = result["entries"]["plain"]
    step_rounds, epochs = (len(plain[k]["rounds"]) for k in ("step", "epoch"))
    return [
        f"Images per second are medians of {step_rounds} rounds of"
        f" {size['steps_per_round']} steps, and of {epochs} epochs of the real",
        "loop; all take turns. Times plain flax: median (least-largest) of the"
        " rounds. Only a line",
        "that names an estimator has channel and rate; the others do what"
        " plain flax does.",
    ]
