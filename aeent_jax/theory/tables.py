"""The page of the theory: the propositions, the measured tables, captions."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from aeent_jax.results import tables

PROPOSITIONS = """\
**Proposition 1: normal images need nats.** Whatever encoder, decoder and
channel: `E|X - X^|^2 >= D(R)`, where `R = I(X; Z~)` is what passes the channel
and D the distortion-rate function of X. For `X - Z - Z~ - X^` is a Markov
chain, so `I(X; X^) <= R` (data processing), and D(R) is by definition the least
error at which that is possible. To reconstruct normal images at an error delta
the channel must pass `R_n(delta)` nats of them. A Gaussian source has D in
closed form; any other source of the same covariance has at most this D. For
this the paper has that H(Z) must be at least H(X_n), in our words.

**Proposition 2: what is beyond that lets abnormal images through.** The first
proposition holds for abnormal images too: while the channel passes fewer nats
of them than they need at the normals' error, `R_a < R_a(delta)`, their error
must exceed it. Both kinds together pass `w R_n + (1-w) R_a + I(Y; Z~)` nats, Y
the kind, `0 <= I(Y; Z~) <= log 2`. In closed form, for the best linear code of
R nats: abnormal images have `sum_i min(1, level/v_i)^2 (m_i - v_i)` more error
than normal ones, v_i and m_i the energies of both along the normals' axes.
Where no m_i is below v_i it never rises with R, and falls to what lies where
normal images do not vary: the identical shortcut. For this the paper has that
H(Z) should be no more than H(X_n), in our words. Nothing here bounds R_a by
R_n, the only rate that training sees; R_a is measured below. Where abnormal
images have less energy than normal ones, the proposition promises nothing."""

_FIGURES = {
    "error_against_rate": (
        "Error through the channel (one draw of noise per image) against nats"
        " (coding rate of all training normals, an upper bound of the rate)."
        " Lines are the best linear code for the training images, no network:"
        " on the training images it is the Gaussian distortion-rate function of"
        " their covariance. It bounds the least possible error from above,"
        " not from below: a point below the line uses what is not Gaussian in"
        " the images, or has learned them by heart; a point above it could be"
        " a better code, unless its true rate is far below the coding rate."
        " Hollow points are runs without a channel, measured through the"
        " reference channel."
    ),
    "shortcut": (
        "The identical shortcut: errors as scored (without noise), by how much"
        " the abnormal error exceeds the normal one, and how well the errors"
        " rank the images. The excess is relative to the normal error, which"
        " falls too; proposition 2 is about the difference. Hollow, the same"
        " of errors decoded through the channel. Lines on the left are the best"
        " linear code; on the right they join the means of runs of one latent"
        " size."
    ),
}


def format_page(found: Mapping[str, Any], drawn: Sequence[str]) -> str:
    """The page in Markdown.

    Args:
      found: as `measuring.measure` returns.
      drawn: names of the figures beside it.

    Returns:
      The text, which also reads as plain text.
    """
    figures = [
        f"![{name.replace('_', ' ')}]({name}.png)\n\n{_FIGURES[name]}"
        for name in drawn
    ]
    return "\n\n".join(
        [
            f"# The theory on {found['data']}",
            PROPOSITIONS,
            "## Nats and errors",
            tables.markdown(rate_table(found["runs"])),
            _explain_rates(found),
            "## Predictions from the images alone",
            _explain_energy(found["linear"]),
            *figures,
        ]
    )


def rate_table(
    runs: Mapping[str, Mapping[str, Any]],
) -> tables.Table:
    """Nats and errors of each run: names of columns, rows of text."""
    header = [
        "run",
        "latent",
        "nats",
        "of test normals",
        "of abnormals",
        "error, train",
        "error, normal",
        "error, abnormal",
        "excess, %",
        "AUROC",
        "excess and AUROC, noisy",
    ]
    rows = []
    for name, run in runs.items():
        train, normal, abnormal = run["kinds"].values()
        mark = " (ref.)" if run["is_reference"] else ""
        infinite = run["rate_nats"] is None
        rows.append(
            [
                name,
                str(run["latent_dim"]),
                "infinite" if infinite else f"{run['rate_nats']:.1f}{mark}",
                tables.number(normal["rate_nats"], ".1f"),
                tables.number(abnormal["rate_nats"], ".1f"),
                *(f"{k['error']:.4f}" for k in (train, normal, abnormal)),
                _percent(run["excess"]),
                tables.percent(run["auroc"]),
                _through(run["through_channel"]),
            ]
        )
    return tables.Table(header, rows)


def _through(compared: Mapping[str, Any] | None) -> str:
    if compared is None:
        return tables.NOTHING
    auroc = tables.percent(compared["error_auroc"])
    return f"{_percent(compared['excess'])}, {auroc}"


def _explain_rates(found: Mapping[str, Any]) -> str:
    text = (
        "Errors are mean squares of images in [-1, 1], decoded without noise,"
        " as scored. Nats are coding rates: in the third column of all"
        " training normals, the one meter; in the next two on equally many test"
        " images of each kind. Excess: how much the abnormal error exceeds that"
        " of test normals. Noisy: both of errors decoded from z + sigma*eps,"
        " one draw per image."
    )
    count = next(iter(found["runs"].values()))["kinds"]["train_normal"]
    text += (
        f" {math.log(count['num_images']):.1f} nats name each of the"
        f" {count['num_images']} training images: from there on proposition 1"
        " says nothing of their errors, and something of unseen images alone."
    )
    if found["reference"]:
        text += (
            " (ref.): the run has no channel and its rate is infinite; it is"
            " measured through Gaussian noise on its latents that raises its"
            f" training error by {100 * found['reference']:g} %."
        )
    return text


def _explain_energy(linear: Mapping[str, Any]) -> str:
    train, normal, abnormal = linear["energy"].values()
    sign = "more" if abnormal >= normal else "less"
    aurocs = linear["error_auroc"]
    best = max(range(len(aurocs)), key=aurocs.__getitem__)
    return (
        "The mean squared distance to the mean training image is"
        f" {train:.4f} of training normals, {normal:.4f} of test normals and"
        f" {abnormal:.4f} of abnormals: they have {sign} energy than normal"
        " images. Without a nat their error would exceed that of test normals"
        f" by {_percent(abnormal / normal - 1)} %. Along the line of the best"
        " linear code the excess goes"
        f" from {_percent(linear['excess'][0])} % at"
        f" {linear['rates'][0]:.2g} nats to"
        f" {_percent(linear['excess'][-1])} % at {linear['rates'][-1]:.0f}, and"
        f" the AUROC from {tables.percent(aurocs[0])} to"
        f" {tables.percent(aurocs[-1])}, at best"
        f" {tables.percent(aurocs[best])} at {linear['rates'][best]:.2g}"
        " nats."
    )


def _percent(value: float | None) -> str:
    return tables.NOTHING if value is None else f"{100 * value:+.1f}"
