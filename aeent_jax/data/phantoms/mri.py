"""Axial brain MR slices: the anatomy of the phantom `phantom_mri`.

The picture is a sum of soft layers over head coordinates: u to the image's
right, v down, with the forehead at the top. Fluid, gray and white matter each
have an intensity; a folded field places sulci and cortex. Every row of
`ANATOMY` varies independently from one person to the next.
"""

import types
from typing import NamedTuple

import numpy as np

from aeent_jax.data.phantoms import fields

# Name: (mean, standard deviation). Lengths in half image widths, intensities
# in fractions of the full range.
ANATOMY = {
    "shift_x": (0.0, 0.010),
    "shift_y": (0.0, 0.010),
    "rotation": (0.0, 0.03),  # radians
    "width": (0.70, 0.014),  # half axes of the head
    "length": (0.86, 0.014),
    "egg": (0.06, 0.03),  # the back is wider than the front
    "scalp": (0.055, 0.008),  # thickness
    "skull": (0.058, 0.008),
    "fluid_rim": (0.025, 0.012),  # between brain and skull
    "ventricle_y": (-0.02, 0.03),
    "ventricle_length": (0.32, 0.03),  # half length
    "ventricle_gap": (0.055, 0.012),  # from the midline
    "ventricle_flare": (0.14, 0.022),  # of the horns
    "ventricle_width": (0.055, 0.017),  # half width
    "ventricle_side": (0.0, 0.16),  # asymmetry, relative
    "third_width": (0.022, 0.008),
    "nuclei_size": (1.0, 0.10),
    "nuclei_y": (0.0, 0.025),
    "fissure": (0.022, 0.008),  # half width of the midline fissure
    "sylvian": (0.030, 0.012),  # half width
    "sylvian_y": (-0.03, 0.04),
    "sulcus": (0.17, 0.06),  # width, in units of the fold field
    "cortex": (0.62, 0.13),  # likewise
    "cortex_depth": (0.24, 0.04),  # how far the folds reach in
    "fluid_level": (0.10, 0.03),
    "gray_level": (0.43, 0.045),
    "white_gain": (0.14, 0.055),  # white matter minus gray
    "nuclei_mix": (0.75, 0.15),  # 1: as gray, 0: as white
    "scalp_level": (0.63, 0.07),
    "skull_level": (0.08, 0.025),
    "marrow_level": (0.12, 0.07),
}

# Directions, wave numbers and phases of the fold field that all people share.
_FOLD_WAVES = 8
_SHARED_FOLDS = np.random.default_rng(1868).uniform(size=(_FOLD_WAVES, 3))


class Head(NamedTuple):
    """One rendered head: the noise-free picture and the regions lesions need.

    Attributes:
      picture: [S, S] intensity, 0 to about 1.
      brain: [S, S] coverage of the brain with its inner fluid.
      depth: [S, S] distance into the brain from its surface.
      ventricles: [S, S] coverage.
      u: [S, S] head coordinate to the right.
      v: [S, S] head coordinate downwards.
    """

    picture: np.ndarray
    brain: np.ndarray
    depth: np.ndarray
    ventricles: np.ndarray
    u: np.ndarray
    v: np.ndarray


class Texture(NamedTuple):
    """Random fields of one person; they stay when a lesion comes."""

    warp_u: np.ndarray  # [S, S]
    warp_v: np.ndarray  # [S, S]
    tissue: np.ndarray  # [S, S]
    folds: np.ndarray  # [_FOLD_WAVES, 2, 2]: phase and height, left and right


def draw_texture(rng: np.random.Generator, image_size: int) -> Texture:
    """Draws the fields that vary within one head, at the given size."""
    return Texture(
        warp_u=0.009 * fields.smooth_field(rng, image_size, 2.5),
        warp_v=0.009 * fields.smooth_field(rng, image_size, 2.5),
        tissue=fields.smooth_field(rng, image_size, 6.0),
        folds=rng.normal(size=(_FOLD_WAVES, 2, 2)).clip(-2, 2),
    )


def render(
    p: types.SimpleNamespace,
    texture: Texture,
    push: tuple[np.ndarray, np.ndarray] | None = None,
) -> Head:
    """Draws one slice.

    Args:
      p: a draw of `ANATOMY`.
      texture: fields at the wanted image size.
      push: [S, S] displacements of the tissue in the brain, in u and v.

    Returns:
      The picture without bias field and noise.
    """
    x, y = fields.grid(texture.tissue.shape[0])
    u, v = fields.rotate(x - p.shift_x, y - p.shift_y, p.rotation)
    u, v = u + texture.warp_u, v + texture.warp_v
    inside = _head_distance(p, u, v)
    depth = inside - p.scalp - p.skull
    brain = fields.step(depth, 0.04)
    iu, iv = (u, v) if push is None else (u - push[0], v - push[1])
    ventricles = _ventricles(p, iu, iv)
    tissue = _tissue(p, texture, iu, iv, depth)
    fluid = np.maximum(ventricles, _fissures(p, iu, iv, depth))
    tissue = tissue + (p.fluid_level - tissue) * fluid
    picture = brain * tissue + _cover(p, inside) * (1 - brain)
    return Head(picture, brain, depth, ventricles, u, v)


def _head_distance(p, u, v):
    """Approximate distance into the head from its outline."""
    width = p.width * (1 + p.egg * v / p.length)
    rho = np.sqrt((u / width) ** 2 + (v / p.length) ** 2)
    return (1 - rho) * 0.5 * (p.width + p.length)


def _cover(p, inside):
    """Scalp (bright), skull (dark) with marrow, and the fluid below it."""
    scalp = fields.step(inside, 0.06) * fields.step(p.scalp - inside, 0.06)
    skull = fields.step(inside - p.scalp, 0.04)
    marrow = p.marrow_level * fields.bump(
        inside - p.scalp - 0.5 * p.skull, 0.02
    )
    return p.scalp_level * scalp + (p.skull_level + marrow) * skull


def _folds(texture, u, v):
    """Folded field of unit variance, nearly symmetric about the midline."""
    side = np.abs(u)
    right = u > 0
    total = np.zeros_like(u)
    for shared, own in zip(_SHARED_FOLDS, texture.folds, strict=True):
        angle, wave = np.pi * shared[0], 13.0 + 8.0 * shared[1]
        phase = 2 * np.pi * shared[2] + 0.25 * np.where(
            right, own[0, 1], own[0, 0]
        )
        height = 1 + 0.3 * np.where(right, own[1, 1], own[1, 0])
        direction = np.cos(angle) * side + np.sin(angle) * v
        total += height * np.cos(wave * direction + phase)
    return total * np.sqrt(2 / _FOLD_WAVES)


def _tissue(p, texture, u, v, depth):
    """Gray and white matter, sulci and the deep nuclei."""
    folds = np.abs(_folds(texture, u, v))
    reach = fields.step(p.cortex_depth - depth, 0.16)
    gray = np.maximum(
        fields.step(p.cortex * reach - folds, 0.5),
        fields.step(p.fluid_rim + 0.06 - depth, 0.05),
    )
    gray = np.maximum(gray, p.nuclei_mix * _nuclei(p, u, v))
    white = p.gray_level + p.white_gain * (1 - gray)
    white = white * (1 + 0.05 * texture.tissue)
    shallow = fields.step(0.75 * p.cortex_depth - depth, 0.12)
    sulci = np.maximum(
        0.75 * fields.step(p.sulcus * shallow - folds, 0.4) * shallow,
        fields.step(p.fluid_rim - depth, 0.04),
    )
    return white + (p.fluid_level - white) * sulci


def _nuclei(p, u, v):
    """Coverage of thalamus, lentiform nucleus and head of the caudate."""
    side, y = np.abs(u), v - p.nuclei_y
    total = np.zeros_like(u)
    for centre, radii, angle in (
        ((0.12, 0.07), (0.085, 0.13), -0.4),
        ((0.27, -0.03), (0.065, 0.15), 0.25),
        ((0.15, -0.20), (0.055, 0.10), 0.15),
    ):
        radii = (radii[0] * p.nuclei_size, radii[1] * p.nuclei_size)
        shape = fields.ellipse(side, y, centre, radii, angle)
        total = np.maximum(total, fields.step(shape, 0.05))
    return total


def _ventricles(p, u, v):
    """Coverage of the lateral ventricles (a butterfly) and the third one."""
    side = np.abs(u)
    width = p.ventricle_width * (1 + p.ventricle_side * np.sign(u))
    t = (v - p.ventricle_y) / p.ventricle_length
    centre = p.ventricle_gap + width + p.ventricle_flare * t**2 * (1 + 0.4 * t)
    profile = (
        width * (0.65 + 0.6 * np.abs(t)) * (1 - np.clip(np.abs(t), 0, 1) ** 6)
    )
    lateral = fields.step(profile - np.abs(side - centre), 0.045)
    lateral = lateral * fields.step(1.05 - np.abs(t), 0.12)
    third = fields.ellipse(u, v, (0.0, 0.08), (p.third_width, 0.12))
    return np.maximum(lateral, fields.step(third, 0.035))


def _fissures(p, u, v, depth):
    """Coverage of the midline fissure and of the Sylvian fissures."""
    ends = fields.step(np.abs(v - p.ventricle_y) - 0.36, 0.12)
    middle = 0.8 * fields.step(p.fissure - np.abs(u), 0.04) * ends
    line = v - p.sylvian_y - 0.25 * (np.abs(u) - 0.5)
    sylvian = fields.step(p.sylvian - np.abs(line), 0.05)
    return np.maximum(middle, sylvian * fields.step(0.17 - depth, 0.08))


def acquire(
    picture: np.ndarray, noisiness: float, rng: np.random.Generator
) -> np.ndarray:
    """Turns intensity into an 8-bit magnitude image.

    Args:
      picture: [S, S] intensity.
      noisiness: from 0 (quiet) to 1, the quantile of the noise level.
      rng: draws bias field, gain, gamma and Rician noise.

    Returns:
      [S, S] uint8.
    """
    size = picture.shape[0]
    bias = 1 + 0.12 * fields.smooth_field(rng, size, 2.0)
    gamma, gain = rng.normal(size=2).clip(-2, 2) * (0.08, 0.09)
    picture = (1 + gain) * np.clip(picture * bias, 0, None) ** (1 + gamma)
    noise = 0.005 * (0.05 / 0.005) ** noisiness
    real, imaginary = noise * rng.normal(size=(2, *picture.shape))
    picture = np.hypot(picture + real, imaginary)
    return np.rint(255 * np.clip(picture, 0, 1)).astype(np.uint8)
