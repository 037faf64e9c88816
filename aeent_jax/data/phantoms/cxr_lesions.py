"""Lesions of the phantom chest X-rays, each with the region that it changes.

A lesion takes a rendered chest and returns the changed picture (still without
exposure and noise) and its footprint [S, S] in [0, 1]. Opacities replace a
part of the air of the lung that they lie in, and hide its ribs and vessels;
free air (pneumothorax) takes tissue away.
"""

import types

import numpy as np

from aeent_jax.data.phantoms import cxr, fields


def consolidation(
    p: types.SimpleNamespace,
    texture: cxr.Texture,
    chest: cxr.Thorax,
    rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:
    """A cloudy opacity somewhere in one lung, or in both."""
    footprint = np.zeros_like(chest.picture)
    lungs = chest.lungs if rng.uniform() < 0.4 else [_lung(chest, rng)]
    for lung in lungs:
        radius = rng.uniform(0.28, 0.60)
        radii = (radius, radius * rng.uniform(0.7, 1.4))
        centre = _place(chest, lung, rng)
        cloud = fields.blob(chest.u, chest.v, centre, radii, rng)
        footprint = footprint + lung * fields.step(cloud, radius * 1.6)
    share = rng.uniform(0.45, 1.0) * (1 + 0.15 * texture.density)
    return _fill(p, texture, share, footprint), footprint


def effusion(
    p: types.SimpleNamespace,
    texture: cxr.Texture,
    chest: cxr.Thorax,
    rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:
    """Fluid at the base of one lung; its surface climbs the chest wall."""
    lung = _lung(chest, rng)
    level = p.base - rng.uniform(0.35, 0.9)
    climb = rng.uniform(0.1, 0.5)
    surface = level - climb * (np.abs(chest.u) - 0.35) * (
        np.abs(chest.u) > 0.35
    )
    footprint = lung * fields.step(chest.v - surface, rng.uniform(0.12, 0.35))
    share = rng.uniform(0.5, 1.0)
    return _fill(p, texture, share, footprint), footprint


def nodules(
    p: types.SimpleNamespace,
    texture: cxr.Texture,
    chest: cxr.Thorax,
    rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:
    """One mass or a few round nodules."""
    footprint = np.zeros_like(chest.picture)
    count = int(rng.choice([1, 1, 2, 3, 5]))
    largest = 0.26 if count == 1 else 0.15
    for _ in range(count):
        radius = rng.uniform(0.10, largest)
        lung = _lung(chest, rng)
        centre = _place(chest, lung, rng)
        ball = fields.blob(chest.u, chest.v, centre, (radius, radius), rng)
        footprint = np.maximum(
            footprint, lung * fields.step(ball, 1.4 * radius)
        )
    share = rng.uniform(0.3, 0.75)
    return _fill(p, texture, share, footprint), footprint


def cardiomegaly(
    p: types.SimpleNamespace,
    texture: cxr.Texture,
    chest: cxr.Thorax,
    rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:
    """An enlarged heart; the footprint is where it displaces the lung."""
    growth = rng.uniform(0.10, 0.26)
    changes = {
        "heart_width": p.heart_width + growth,
        "heart_height": p.heart_height + growth * rng.uniform(0.3, 0.7),
        "heart_x": p.heart_x + growth * rng.uniform(0.1, 0.5),
    }
    larger = cxr.render(
        types.SimpleNamespace(**{**vars(p), **changes}), texture
    )
    lost = chest.lungs.sum(0) - larger.lungs.sum(0)
    return larger.picture, np.clip(lost, 0, 1)


def atelectasis(
    p: types.SimpleNamespace,
    texture: cxr.Texture,
    chest: cxr.Thorax,
    rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:
    """A collapsed upper or lower lobe, bounded by a slanted fissure."""
    lung = _lung(chest, rng)
    slope = rng.uniform(-0.5, 0.5)
    if rng.uniform() < 0.5:
        fissure = p.apex + rng.uniform(0.40, 0.80)
        inside = fissure + slope * (np.abs(chest.u) - 0.35) - chest.v
    else:
        # The lower lobe collapses towards the spine.
        edge = rng.uniform(0.42, 0.60)
        inside = edge + 0.5 * (chest.v - 0.3) - np.abs(chest.u)
        inside = np.minimum(inside, chest.v + 0.15 + 0.2 * slope)
    footprint = lung * fields.step(inside, rng.uniform(0.12, 0.3))
    share = rng.uniform(0.5, 1.0)
    return _fill(p, texture, share, footprint), footprint


def pneumothorax(
    p: types.SimpleNamespace,
    texture: cxr.Texture,
    chest: cxr.Thorax,
    rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:
    """Free air around one lung: darker, without vessels, widest at the apex."""
    lung = _lung(chest, rng)
    gap = rng.uniform(0.12, 0.36)
    t = np.clip((chest.v - p.apex) / (p.base - p.apex), 0, 1)
    wall = p.chest * (1 - p.chest_taper * (1 - t) ** 2.5)
    edge = wall - gap * (1.2 - 0.7 * t)
    inside = np.maximum(np.abs(chest.u) - edge, p.apex + 1.1 * gap - chest.v)
    footprint = lung * fields.step(inside, rng.uniform(0.15, 0.35))
    share = rng.uniform(0.2, 0.55)
    change = p.air * share + p.vessel_layer * texture.vessels * 0.4
    return chest.picture - change * footprint, footprint


def _fill(p, texture, share, footprint):
    """Replaces a share of the air, by something denser than soft tissue."""
    fill = np.clip(share * footprint, 0, 1)
    return cxr.render(p, texture, fill).picture + 0.12 * fill


def _lung(chest, rng):
    """Picks one of the two lungs."""
    return chest.lungs[int(rng.integers(2))]


def _place(chest, lung, rng):
    """Draws a body coordinate inside a lung."""
    inside = np.where(lung > 0.5, lung, 0)
    return fields.place(inside, chest.u, chest.v, rng, 0.1)


LESIONS = {
    "atelectasis": atelectasis,
    "cardiomegaly": cardiomegaly,
    "consolidation": consolidation,
    "effusion": effusion,
    "nodules": nodules,
    "pneumothorax": pneumothorax,
}
