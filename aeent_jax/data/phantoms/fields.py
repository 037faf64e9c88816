"""Shapes and random fields that the phantoms are drawn with.

Everything is a float64 numpy array over the pixel grid [S, S]. Lengths are in
half image widths: x runs from -1 (left) to 1 (right), y from -1 (top) to 1.
Sums run over short Python loops or `einsum` without BLAS, so that the same
seed gives the same bytes everywhere.
"""

import functools
import types

import numpy as np


def grid(image_size: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns the pixel centres x and y, each [S, S], in half image widths."""
    centres = (2 * np.arange(image_size) + 1) / image_size - 1
    return np.meshgrid(centres, centres)


def step(distance: np.ndarray, width: float) -> np.ndarray:
    """Rises smoothly from 0 to 1 as a signed distance crosses zero.

    Args:
      distance: [S, S] signed distance to an edge, positive inside.
      width: length over which the edge is blurred.

    Returns:
      [S, S] coverage in [0, 1]; the cubic smoothstep, 0.5 on the edge.
    """
    t = np.clip(distance / width + 0.5, 0.0, 1.0)
    return t * t * (3 - 2 * t)


def bump(distance: np.ndarray, width: float) -> np.ndarray:
    """Gaussian profile exp(-d^2 / 2 w^2) of a ridge along distance = 0."""
    return np.exp(-0.5 * (distance / width) ** 2)


def ellipse(
    x: np.ndarray,
    y: np.ndarray,
    centre: tuple[float, float],
    radii: tuple[float, float],
    angle: float = 0.0,
) -> np.ndarray:
    """Approximate signed distance to an ellipse, positive inside, [S, S]."""
    u, v = rotate(x - centre[0], y - centre[1], angle)
    rho = np.sqrt((u / radii[0]) ** 2 + (v / radii[1]) ** 2)
    return (1 - rho) * min(radii)


def blob(
    x: np.ndarray,
    y: np.ndarray,
    centre: tuple[float, float],
    radii: tuple[float, float],
    rng: np.random.Generator,
    irregularity: float = 0.12,
) -> np.ndarray:
    """Signed distance to an ellipse with a wavy outline and random rotation.

    Args:
      x: [S, S] horizontal coordinate.
      y: [S, S] vertical coordinate.
      centre: of the blob.
      radii: mean half axes.
      rng: draws the rotation and the outline.
      irregularity: standard deviation of each outline harmonic, relative.

    Returns:
      [S, S] approximate distance to the outline, positive inside.
    """
    u, v = rotate(x - centre[0], y - centre[1], rng.uniform(0, np.pi))
    u, v = u / radii[0], v / radii[1]
    theta = np.arctan2(v, u)
    outline = np.ones_like(theta)
    for order in (2, 3, 4, 5):
        height = irregularity * np.clip(rng.normal(), -2, 2) * 2 / order
        outline += height * np.cos(order * theta + rng.uniform(0, 2 * np.pi))
    return (np.maximum(outline, 0.3) - np.hypot(u, v)) * min(radii)


def rotate(
    x: np.ndarray, y: np.ndarray, angle: float
) -> tuple[np.ndarray, np.ndarray]:
    """Coordinates of the points in a frame turned by `angle` radians."""
    c, s = np.cos(angle), np.sin(angle)
    return c * x + s * y, c * y - s * x


def place(
    region: np.ndarray,
    x: np.ndarray,
    y: np.ndarray,
    rng: np.random.Generator,
    margin: float,
) -> tuple[float, float]:
    """Draws a point inside a region.

    Args:
        region: [S, S] coverage; not empty.
        x: [S, S] horizontal coordinate.
        y: [S, S] vertical coordinate.
        rng: draws the quantiles of the row and of the column in that row.
        margin: share of the region left out at either end.

    Returns:
        The coordinates of the point.
    """
    row = _quantile(region.sum(1), rng.uniform(margin, 1 - margin))
    column = _quantile(region[row], rng.uniform(margin, 1 - margin))
    return float(x[row, column]), float(y[row, column])


def _quantile(weights: np.ndarray, q: float) -> int:
    """Index at which the running sum of the weights passes a share q."""
    total = np.cumsum(weights)
    return int(np.searchsorted(total, q * total[-1]))


def smooth_field(
    rng: np.random.Generator, image_size: int, waves: float, low: float = 0.0
) -> np.ndarray:
    """Draws a Gaussian random field with unit variance on average.

    Args:
      rng: source of the coefficients.
      image_size: S.
      waves: half waves per image at which the spectrum has fallen by exp(-1/2).
      low: half waves per image below which the spectrum is empty; the constant
        is always left out.

    Returns:
      [S, S] sum of separable cosines with independent normal coefficients.
    """
    count = int(2.5 * waves) + 1
    k = np.arange(count)
    squared = k[:, None] ** 2 + k[None, :] ** 2
    weight = np.exp(-0.5 * squared / waves**2) * (squared > low**2)
    weight /= np.sqrt(np.sum(weight**2))
    cosines = _cosines(image_size, count)
    coefficients = weight * rng.normal(size=(count, count))
    rows = np.einsum("kl,lj->kj", coefficients, cosines)
    return np.einsum("ki,kj->ij", cosines, rows)


@functools.lru_cache(maxsize=32)
def _cosines(image_size: int, count: int) -> np.ndarray:
    """The first `count` cosines [count, S], each of unit mean square."""
    phase = np.pi * (np.arange(image_size) + 0.5) / image_size
    waves = np.cos(np.arange(count)[:, None] * phase) * np.sqrt(2)
    waves[0] = 1.0
    return waves


def draw(
    rng: np.random.Generator, table: dict[str, tuple[float, float]]
) -> types.SimpleNamespace:
    """Draws one value per row of a table of (mean, standard deviation).

    Values are normal and clipped at two standard deviations, so that no anatomy
    is impossible and none is at its limit more often than in one case of 20.
    """
    values = np.clip(rng.normal(size=len(table)), -2, 2)
    return types.SimpleNamespace(
        **{
            name: mean + deviation * value
            for (name, (mean, deviation)), value in zip(
                table.items(), values.tolist(), strict=True
            )
        }
    )
