"""Writes the measurements: a page of Markdown, JSON, and two figures."""

import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from aeent_jax import figures
from aeent_jax.runtime import workdir
from aeent_jax.theory import measuring, tables

_NATS = "rate on the training normals, nats"
_SIZE = "latent size, without a channel"


def write_results(found: Mapping[str, Any], out: pathlib.Path) -> str:
    """Writes `theory.md`, `theory.json` and the figures that can be drawn.

    Args:
      found: as `measuring.measure` returns.
      out: the folder; made where there is none.

    Returns:
      The text of `theory.md`.

    Raises:
      OSError: the folder cannot be written.
    """
    make_folder(out)
    drawn = draw(found)
    for name, fig in drawn.items():
        figures.save(fig, out / f"{name}.png")
    text = tables.format_page(found, list(drawn))
    workdir.write_json(out / "theory.json", found)
    (out / "theory.md").write_text(text + "\n", encoding="utf-8")
    return text


def make_folder(out: pathlib.Path) -> None:
    """Makes the folder of the results, before they are worked for.

    Args:
      out: the folder, which may be there.

    Raises:
      OSError: it cannot be made.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OSError(
            f"--out={out} cannot be written ({error.strerror}); give a folder"
            " that can."
        ) from error


def draw(found: Mapping[str, Any]) -> dict[str, Any]:
    """The figures by name.

    Args:
      found: as `measuring.measure` returns.

    Returns:
      `shortcut`, and where some run has a finite rate `error_against_rate`.
    """
    runs = list(found["runs"].values())
    rated = [run for run in runs if run["rate_nats"] is not None]
    drawn = {}
    if rated:
        drawn["error_against_rate"] = _draw_errors(rated, found["linear"])
    drawn["shortcut"] = figures.shortcut(_columns(runs, rated, found["linear"]))
    return drawn


def _draw_errors(rated, linear):
    rates = np.array([run["rate_nats"] for run in rated])
    networks = {
        kind: (
            rates,
            np.array([r["kinds"][kind]["noisy_error"] for r in rated]),
        )
        for kind in rated[0]["kinds"]
    }
    lines = {measuring.TRAIN: linear["bound"], **linear["noisy_error"]}
    return figures.error_against_rate(
        networks,
        {kind: (linear["rates"], line) for kind, line in lines.items()},
        np.array([run["is_reference"] for run in rated]),
    )


def _columns(runs, rated, linear):
    """Runs with a channel of their own by nats, the others by latent size."""
    columns = {}
    own = [run for run in rated if not run["is_reference"]]
    plain = [run for run in runs if run not in own]
    if own:
        code = figures.Points(
            np.array(linear["rates"]),
            {kind: np.array(y) for kind, y in linear["error"].items()},
            np.array(linear["excess"]),
            np.array(linear["error_auroc"]),
        )
        columns[_NATS] = (
            _points(own, "rate_nats")._replace(through=_through(own)),
            code,
        )
    if plain:
        columns[_SIZE] = (_points(plain, "latent_dim"), None)
    return columns


def _points(runs, key):
    return figures.Points(
        np.array([run[key] for run in runs], np.float64),
        {
            kind: np.array([run["kinds"][kind]["error"] for run in runs])
            for kind in runs[0]["kinds"]
        },
        # A network without an error has no excess.
        np.array([run["excess"] for run in runs], np.float64),
        np.array([run["error_auroc"] for run in runs]),
    )


def _through(runs):
    compared = [run["through_channel"] for run in runs]
    return (
        np.array([c["excess"] for c in compared], np.float64),
        np.array([c["error_auroc"] for c in compared]),
    )
