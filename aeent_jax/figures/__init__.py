"""Figures of runs: curves, score histograms, intervals, panels of images.

Functions return a `matplotlib.figure.Figure`, which pyplot does not hold;
`save` writes it as PNG, `to_svg` returns it for a page. The colours are those
of Okabe and Ito, which colour-blind readers tell apart; vermilion marks
abnormal images. Metrics are drawn in percent.
"""

from aeent_jax.figures.panels import panel, panels, save_panel
from aeent_jax.figures.plots import curves, intervals, score_histograms
from aeent_jax.figures.rate_curves import rate_curves
from aeent_jax.figures.size_curves import SizeCurve, size_curves
from aeent_jax.figures.style import ABNORMAL, INK, NORMAL, RUNS, save, to_svg
from aeent_jax.figures.theory_plots import Points, error_against_rate, shortcut

__all__ = [
    "ABNORMAL",
    "INK",
    "NORMAL",
    "RUNS",
    "Points",
    "SizeCurve",
    "curves",
    "error_against_rate",
    "intervals",
    "panel",
    "panels",
    "rate_curves",
    "save",
    "save_panel",
    "score_histograms",
    "shortcut",
    "size_curves",
    "to_svg",
]
