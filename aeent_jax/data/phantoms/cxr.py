"""Frontal chest X-rays: the anatomy of the phantom `phantom_cxr`.

The picture is a sum of soft layers of attenuation (bone bright, air dark) over
body coordinates: u to the image's right, where the heart's apex is, v down.
Every row of `ANATOMY` varies independently from one person to the next.
"""

import types
from typing import NamedTuple

import numpy as np

from aeent_jax.data.phantoms import fields

# Name: (mean, standard deviation). Lengths in half image widths, layers in
# fractions of the full intensity range.
ANATOMY = {
    "shift_x": (0.0, 0.028),
    "shift_y": (0.0, 0.032),
    "scale": (1.0, 0.04),  # of the whole body
    "aspect": (1.0, 0.035),  # width over height
    "rotation": (0.0, 0.025),  # radians
    "turn": (0.0, 0.03),  # midline against the chest wall, a turned patient
    "trunk": (0.86, 0.05),  # half width
    "axilla": (-0.30, 0.10),  # height at which the arms leave the trunk
    "shoulder": (-0.90, 0.05),
    "shoulder_slope": (0.30, 0.08),
    "neck": (0.22, 0.03),
    "apex": (-0.70, 0.028),  # of the lungs
    "base": (0.63, 0.04),  # costophrenic angles
    "dome_left": (0.24, 0.035),  # height of the diaphragm, image left
    "dome_right": (0.19, 0.035),
    "chest": (0.69, 0.03),  # half width of the rib cage
    "chest_taper": (0.58, 0.05),
    "mediastinum": (0.135, 0.02),  # half width
    "root": (0.10, 0.03),  # how much wider it is at the heart
    "knob": (0.075, 0.02),  # radius of the aortic knob
    "heart_x": (0.10, 0.035),
    "heart_y": (0.32, 0.035),
    "heart_width": (0.35, 0.055),
    "heart_height": (0.26, 0.025),
    "heart_angle": (0.45, 0.15),
    "clavicle": (-0.58, 0.035),
    "clavicle_slope": (0.20, 0.10),
    "rib_spacing": (0.165, 0.012),
    "rib_phase": (0.0, 0.35),  # of a spacing
    "rib_slope": (0.35, 0.12),
    "rib_curve": (0.75, 0.20),
    "rib_layer": (0.060, 0.027),
    "front_rib_layer": (0.025, 0.012),
    "tissue": (0.60, 0.05),  # layers from here on
    "air": (0.36, 0.045),
    "heart_layer": (0.02, 0.02),
    "abdomen_layer": (0.10, 0.04),
    "spine_layer": (0.10, 0.03),
    "disc_layer": (0.025, 0.012),
    "clavicle_layer": (0.07, 0.02),
    "trachea_layer": (0.07, 0.03),
    "hilum_layer": (0.07, 0.025),
    "vessel_layer": (0.030, 0.014),
    "mottle_layer": (0.014, 0.006),  # uneven soft tissue
    "haze_layer": (0.03, 0.03),  # soft tissue over the lower lungs
    "scapula_layer": (0.05, 0.03),
}


class Thorax(NamedTuple):
    """One rendered chest: the noise-free picture and the regions lesions need.

    Attributes:
      picture: [S, S] attenuation, about 0 (air) to 1 (bone over abdomen).
      lungs: [2, S, S] coverage of the image's left and right lung.
      u: [S, S] body coordinate to the right.
      v: [S, S] body coordinate downwards.
    """

    picture: np.ndarray
    lungs: np.ndarray
    u: np.ndarray
    v: np.ndarray


class Texture(NamedTuple):
    """Random fields of one person; they stay when a lesion comes."""

    warp_u: np.ndarray  # [S, S]
    warp_v: np.ndarray  # [S, S]
    density: np.ndarray  # [S, S]
    mottle: np.ndarray  # [S, S]
    vessels: np.ndarray  # [S, S]
    extras: np.ndarray  # [6] uniform numbers for stomach gas, chin, marker


def draw_texture(rng: np.random.Generator, image_size: int) -> Texture:
    """Draws the fields that vary within one body, at the given size."""
    return Texture(
        warp_u=0.018 * fields.smooth_field(rng, image_size, 2.5),
        warp_v=0.018 * fields.smooth_field(rng, image_size, 2.5),
        density=fields.smooth_field(rng, image_size, 4.0),
        mottle=fields.smooth_field(rng, image_size, 9.0, low=5.0),
        vessels=fields.smooth_field(rng, image_size, 14.0, low=7.0),
        extras=rng.uniform(size=6),
    )


def render(
    p: types.SimpleNamespace, texture: Texture, fill: np.ndarray | float = 0.0
) -> Thorax:
    """Draws one chest.

    Args:
      p: a draw of `ANATOMY`.
      texture: fields at the wanted image size.
      fill: [S, S] share of the lung's air that something else has replaced.

    Returns:
      The picture without exposure and noise.
    """
    x, y = fields.grid(texture.density.shape[0])
    u, v = fields.rotate(x - p.shift_x, y - p.shift_y, p.rotation)
    u = u / (p.scale * p.aspect) + texture.warp_u
    v = v / p.scale + texture.warp_v
    m = u - p.turn * (0.4 - v)  # distance from the turned midline
    body, depth = _body(p, u, v)
    lungs, below = _lungs(p, u, v, m)
    heart = _heart(p, m, v)
    lungs = lungs * (1 - heart) * (1 - fill)
    lung = lungs[0] + lungs[1]
    soft = p.tissue + p.abdomen_layer * below + p.heart_layer * heart
    soft = soft + p.scapula_layer * _scapulae(u, v)
    soft = soft + p.mottle_layer * texture.mottle
    air = p.air * (1 + 0.10 * texture.density) - p.haze_layer * fields.step(
        v - 0.15, 0.7
    )
    picture = depth * soft - air * lung * body
    picture += body * (_bones(p, u, v, m, lung) + _airways(p, m, v, lung))
    picture += p.vessel_layer * texture.vessels * lung * _central(m, v)
    picture = _extras(picture, texture.extras, m, v, below, p)
    return Thorax(picture, lungs, u, v)


def _body(p, u, v):
    """Coverage of the body and its thickness, which thins to the outline."""
    side = np.abs(u)
    half_width = p.trunk + 0.4 * fields.step(p.axilla - v, 0.25)
    top = p.shoulder + p.shoulder_slope * np.maximum(side - p.neck, 0) ** 1.5
    inside = np.minimum(half_width - side, v - top)
    inside = np.maximum(inside, np.minimum(p.neck - side, -0.5 - v))
    thickness = 0.25 + 0.75 * np.sqrt(np.clip(inside / 0.35, 0, 1))
    body = fields.step(inside, 0.05)
    return body, body * thickness


def _lungs(p, u, v, m):
    """Coverage of the two lungs [2, S, S], and of what lies below them."""
    t = np.clip((v - p.apex) / (p.base - p.apex), 0, 1)
    lungs, below = [], np.zeros_like(u)
    for sign, dome in ((-1, p.dome_left), (1, p.dome_right)):
        side, middle = sign * u, sign * m
        lateral = p.chest * (1 - p.chest_taper * (1 - t) ** 2.5)
        cap = p.apex + 1.6 * (side - 0.28) ** 2
        floor = p.base - dome * np.maximum(
            1 - ((side - 0.30) / 0.42) ** 2, -0.2
        )
        # The mediastinum widens from the aortic arch down to the heart.
        medial = p.mediastinum + p.root * fields.step(v - 0.02, 0.7)
        lung = (
            fields.step(lateral - side, 0.06)
            * fields.step(middle - medial, 0.07)
            * fields.step(v - cap, 0.08)
            * fields.step(floor - v, 0.06)
        )
        lungs.append(lung)
        below = below + fields.step(v - floor, 0.06) * (side > 0)
    return np.stack(lungs), below


def _heart(p, m, v):
    """Coverage of heart and aortic knob."""
    radii = (p.heart_width, p.heart_height)
    heart = fields.ellipse(m, v, (p.heart_x, p.heart_y), radii, p.heart_angle)
    knob = fields.ellipse(m, v, (p.mediastinum, -0.30), (p.knob, 1.3 * p.knob))
    return np.maximum(fields.step(heart, 0.15), fields.step(knob, 0.10))


def _bones(p, u, v, m, lung):
    """Layers of spine, ribs and clavicles."""
    side = np.abs(u)
    spine = p.spine_layer * fields.bump(m, 0.085)
    spine = spine - p.disc_layer * fields.bump(m, 0.07) * np.cos(
        2 * np.pi * v / (0.8 * p.rib_spacing)
    )
    back = v - p.rib_slope * side + p.rib_curve * (side - 0.25) ** 2
    back = (back / p.rib_spacing + p.rib_phase) * 2 * np.pi
    front = v + 1.2 * p.rib_slope * side - 0.3 * side**2
    front = (front / (1.25 * p.rib_spacing) + 1.7 * p.rib_phase) * 2 * np.pi
    cage = fields.step(p.chest + 0.04 - side, 0.06) * fields.step(v + 0.72, 0.2)
    cage = cage * fields.step(0.62 - v, 0.2) * fields.step(side - 0.08, 0.08)
    # Ribs show best against air.
    cage = cage * (0.35 + 0.65 * np.clip(lung, 0, 1))
    ribs = p.rib_layer * np.cos(back - 2.0 * side)
    ribs = ribs + p.front_rib_layer * np.cos(front) * fields.step(
        side - 0.3, 0.3
    )
    line = p.clavicle - p.clavicle_slope * side + 0.05 * np.sin(7 * side)
    clavicle = fields.bump(v - line, 0.032) * fields.step(side - 0.06, 0.06)
    clavicle = clavicle * fields.step(0.68 - side, 0.15)
    return spine + ribs * cage + p.clavicle_layer * clavicle


def _airways(p, m, v, lung):
    """Layers of the trachea (dark) and of the hila (bright)."""
    trachea = fields.bump(m, 0.04) * fields.step(-0.18 - v, 0.15)
    hila = fields.bump(np.hypot(np.abs(m) - 0.20, 0.7 * v), 0.085)
    return p.hilum_layer * hila * lung - p.trachea_layer * trachea


def _central(m, v):
    """Vessels thin out away from the hila."""
    return 0.3 + fields.bump(np.hypot(np.abs(m) - 0.18, 0.8 * (v - 0.05)), 0.22)


def _scapulae(u, v):
    """Coverage of the shoulder blades."""
    return fields.step(
        fields.ellipse(np.abs(u), v, (0.76, -0.45), (0.16, 0.30), -0.3), 0.28
    )


def _extras(picture, extras, m, v, below, p):
    """Adds what only some pictures show: stomach gas, chin, side marker."""
    gas, gas_size, chin, chin_size, marker, marker_y = extras
    if gas < 0.4:
        radii = (0.10 + 0.08 * gas_size, 0.06 + 0.05 * gas_size)
        bubble = fields.ellipse(m, v, (0.38 + gas - 0.2, p.base + 0.02), radii)
        picture = picture - 0.16 * below * fields.step(bubble, 0.06)
    if chin < 0.5:
        jaw = fields.ellipse(
            m, v, (0.2 * chin, -1.12), (0.28, 0.2 + 0.15 * chin_size)
        )
        picture = picture + 0.22 * fields.step(jaw, 0.08)
    if marker < 0.6:
        plate = fields.ellipse(m, v, (-0.9, marker_y - 0.6), (0.05, 0.05))
        picture = picture + 0.35 * fields.step(plate, 0.05)
    return picture


def expose(
    picture: np.ndarray, noisiness: float, rng: np.random.Generator
) -> np.ndarray:
    """Turns attenuation into an 8-bit radiograph.

    Args:
      picture: [S, S] attenuation.
      noisiness: from 0 (quiet) to 1, the quantile of the noise level.
      rng: draws illumination, gain, gamma, offset and noise.

    Returns:
      [S, S] uint8.
    """
    size = picture.shape[0]
    light = 1 + 0.05 * fields.smooth_field(rng, size, 1.5)
    gamma, gain, offset = rng.normal(size=3).clip(-2, 2) * (0.09, 0.09, 0.03)
    picture = np.clip(picture * light, 0, None) ** (1 + gamma)
    picture = offset + 0.02 + (1 + gain) * picture
    noise = 0.005 * (0.032 / 0.005) ** noisiness
    grain = fields.smooth_field(rng, size, size / 4)
    picture += noise * (0.7 * rng.normal(size=picture.shape) + 0.7 * grain)
    return np.rint(255 * np.clip(picture, 0, 1)).astype(np.uint8)
