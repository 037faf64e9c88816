"""Lesions of the phantom brain slices, each with the region that it changes.

A lesion takes a rendered head and returns the changed picture (still without
bias field and noise) and its footprint [S, S] in [0, 1]. Most families are
brighter than their surroundings as often as darker.
"""

import types

import numpy as np

from aeent_jax.data.phantoms import fields, mri


def glioma(
    p: types.SimpleNamespace,
    texture: mri.Texture,
    head: mri.Head,
    rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:
    """A bright irregular mass with a fainter halo of oedema."""
    radius = rng.uniform(0.16, 0.36)
    centre = _place(head, rng, 0.12)
    mass = fields.blob(head.u, head.v, centre, (radius, radius), rng)
    halo = fields.step(mass + 0.35 * radius, 1.9 * radius)
    core = fields.step(mass, 1.2 * radius)
    footprint = head.brain * np.maximum(core, 0.6 * halo)
    gain = rng.uniform(0.14, 0.38) * (1 + 0.2 * texture.tissue)
    return head.picture + gain * footprint, footprint


def dark_mass(
    p: types.SimpleNamespace,
    texture: mri.Texture,
    head: mri.Head,
    rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:
    """A dark mass of blurred outline, as in T1-weighted images."""
    radius = rng.uniform(0.17, 0.38)
    radii = (radius, radius * rng.uniform(0.7, 1.3))
    mass = fields.blob(head.u, head.v, _place(head, rng, 0.10), radii, rng)
    footprint = head.brain * fields.step(mass, 1.4 * radius)
    share = rng.uniform(0.6, 1.0)
    level = p.fluid_level + 0.03
    return head.picture + share * (level - head.picture) * footprint, footprint


def ring(
    p: types.SimpleNamespace,
    texture: mri.Texture,
    head: mri.Head,
    rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:
    """A bright ring around a dark centre, in a dark halo."""
    radius = rng.uniform(0.16, 0.30)
    centre = _place(head, rng, 0.12)
    mass = fields.blob(head.u, head.v, centre, (radius, radius), rng, 0.08)
    footprint = head.brain * fields.step(mass + 0.3 * radius, 0.5 * radius)
    inside = fields.step(mass - 0.25 * radius, 0.8 * radius)
    share = rng.uniform(0.45, 0.9)
    level = p.fluid_level + 0.08
    picture = (
        head.picture + share * (level - head.picture) * inside * head.brain
    )
    rim = fields.bump(mass, 0.38 * radius) * head.brain
    return picture + rng.uniform(0.08, 0.22) * rim, footprint


def infarct(
    p: types.SimpleNamespace,
    texture: mri.Texture,
    head: mri.Head,
    rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:
    """A wedge that widens to the cortex, darker or brighter than the tissue."""
    angle, half = rng.uniform(0, 2 * np.pi), rng.uniform(0.5, 1.0)
    a, b = fields.rotate(head.u, head.v, angle)
    wedge = np.minimum(half * (a - 0.12) - np.abs(b), a - 0.22)
    footprint = head.brain * fields.step(wedge, 0.2) * (1 - head.ventricles)
    if rng.uniform() < 0.5:
        change = rng.uniform(0.14, 0.34)
    else:
        change = -rng.uniform(0.5, 1.0) * (p.gray_level - p.fluid_level)
    return head.picture + change * footprint, footprint


def wide_ventricle(
    p: types.SimpleNamespace,
    texture: mri.Texture,
    head: mri.Head,
    rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:
    """One lateral ventricle, or both, much wider than usual."""
    growth = rng.uniform(0.03, 0.075)
    side = rng.choice([-1.0, 0.0, 1.0])
    width = p.ventricle_width + growth * (1 - 0.5 * abs(side))
    changes = {
        "ventricle_width": width,
        "ventricle_side": side * 0.5 * growth / width,
        "ventricle_length": p.ventricle_length + 0.6 * growth,
    }
    wider = mri.render(types.SimpleNamespace(**{**vars(p), **changes}), texture)
    return wider.picture, np.clip(wider.ventricles - head.ventricles, 0, 1)


def mass_effect(
    p: types.SimpleNamespace,
    texture: mri.Texture,
    head: mri.Head,
    rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:
    """A mass of nearly the tissue's level that pushes its surroundings away.

    The footprint is the mass together with the tissue that it displaces.
    """
    radius = rng.uniform(0.18, 0.32)
    centre = _place(head, rng, 0.14)
    du, dv = head.u - centre[0], head.v - centre[1]
    distance = np.hypot(du, dv)
    near = np.clip(1 - (distance / (2.2 * radius)) ** 2, 0, None) ** 2
    strength = (
        rng.uniform(0.25, 0.5) * near * fields.step(head.depth - 0.06, 0.12)
    )
    pushed = mri.render(p, texture, (strength * du, strength * dv))
    mass = fields.blob(head.u, head.v, centre, (radius, radius), rng)
    core = head.brain * fields.step(mass, 1.2 * radius)
    level = p.gray_level + rng.choice([-1, 1]) * rng.uniform(0.15, 0.32)
    picture = pushed.picture + 0.85 * (level - pushed.picture) * core
    moved = np.clip(strength * distance / 0.08, 0, 1)
    return picture, np.maximum(core, moved)


def _place(head, rng, least_depth):
    """Draws a head coordinate inside the brain, below its surface."""
    inside = np.where(head.depth > least_depth, head.brain, 0)
    return fields.place(inside, head.u, head.v, rng, 0.05)


LESIONS = {
    "dark_mass": dark_mass,
    "glioma": glioma,
    "infarct": infarct,
    "mass_effect": mass_effect,
    "ring": ring,
    "wide_ventricle": wide_ventricle,
}
