"""Colours, type and output of all figures."""

import io
import pathlib
import re
from typing import Any

import matplotlib as mpl
from matplotlib import figure, font_manager

from aeent_jax.runtime import storage

INK = "#1f2328"
MUTED = "#6e7781"
NORMAL = "#8c959f"
ABNORMAL = "#d55e00"
RUNS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#8a6d3b")

# In a page these follow its light or dark scheme.
_CSS_NAMES = {INK: "ink", MUTED: "muted", NORMAL: "normal"}
RC: dict[Any, Any] = {
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.6,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "figure.facecolor": "white",
    "axes.facecolor": "none",
    "font.size": 9,
    "legend.frameon": False,
    "text.color": INK,
    # Names of runs are text, never formulas.
    "text.parse_math": False,
    "xtick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.color": MUTED,
    "ytick.labelcolor": INK,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    # Text stays text, so that a page can set it in its own font.
    "svg.fonttype": "none",
    "svg.hashsalt": "aeent",
}
# Quantile of the pooled values; larger ones are drawn at the end of a scale.
TOP_QUANTILE = 0.995

# As large as its contents: a layout does not count the text beside an image.
_WHOLE = {"bbox_inches": "tight", "pad_inches": 0.05}


def drawable(text: str) -> str:
    """Replaces characters that the figures' font lacks by question marks."""
    path = font_manager.findfont(font_manager.FontProperties())
    font = font_manager.get_font(path)
    return "".join(c if font.get_char_index(ord(c)) else "?" for c in text)


def save(fig: figure.Figure, path: str | pathlib.Path) -> None:
    """Writes a figure as PNG on white, two pixels per point."""
    with mpl.rc_context(RC), storage.to_path(path).open("wb") as file:
        fig.savefig(file, format="png", dpi=144, **_WHOLE)


def to_svg(fig: figure.Figure) -> str:
    """One `<svg>` element on transparent ground, to be put into a page.

    Ink follows the page's CSS variables `--ink`, `--muted` and `--normal`.

    Args:
      fig: the figure.

    Returns:
      The element, without XML declaration, date or external reference.
    """
    buffer = io.StringIO()
    metadata = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    with mpl.rc_context(RC):
        fig.savefig(
            buffer,
            format="svg",
            transparent=True,
            metadata=metadata,
            **_WHOLE,
        )
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(
        r"<metadata>.*?</metadata>|<!--.*?-->", "", svg, flags=re.DOTALL
    )
    # Running numbers of groups, the same in every figure of a page.
    svg = re.sub(r' id="[A-Za-z0-9]+_\d+"', "", svg)
    for colour, name in _CSS_NAMES.items():
        svg = svg.replace(colour, f"var(--{name}, {colour})")
    return svg.strip()
