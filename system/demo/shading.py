"""From what each pixel sees to an RGB picture: light, surfaces, sky, weather, lamps.

Works like a fragment shader, in numpy, on whole pictures. Metres; colours linear in [0, 1] until the end.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from system.demo import materials as m
from system.demo.config import Light, Weather
from system.demo.renderer import GBuffer

Image = NDArray[np.float32]


@dataclass(frozen=True)
class Sky:
    """sun: direction towards it. sun_colour, ambient, zenith, horizon: linear RGB. exposure: of the camera."""

    sun: tuple[float, float, float]
    sun_colour: tuple[float, float, float]
    ambient: tuple[float, float, float]
    zenith: tuple[float, float, float]
    horizon: tuple[float, float, float]
    exposure: float
    is_dark: bool


_SKIES: dict[Light, Sky] = {
    "day": Sky(
        sun=(0.45, 0.35, 0.82),
        sun_colour=(1.05, 1.0, 0.92),
        ambient=(0.42, 0.46, 0.54),
        zenith=(0.22, 0.42, 0.78),
        horizon=(0.68, 0.78, 0.88),
        exposure=1.0,
        is_dark=False,
    ),
    "dusk": Sky(
        sun=(0.93, 0.28, 0.13),
        sun_colour=(0.85, 0.42, 0.18),
        ambient=(0.16, 0.16, 0.24),
        zenith=(0.12, 0.16, 0.36),
        horizon=(0.95, 0.48, 0.22),
        exposure=1.15,
        is_dark=False,
    ),
    "night": Sky(
        sun=(0.2, -0.5, 0.8),
        sun_colour=(0.010, 0.013, 0.022),
        ambient=(0.010, 0.012, 0.020),
        zenith=(0.004, 0.006, 0.014),
        horizon=(0.030, 0.030, 0.042),
        exposure=2.0,
        is_dark=True,
    ),
}
_FOG_RANGE_M = 38.0
_LAMP_COLOUR = np.array([1.0, 0.80, 0.52], np.float32)
_HEADLIGHT_COLOUR = np.array([1.0, 0.96, 0.86], np.float32)


@dataclass(frozen=True, eq=False)
class Lights:
    """What shines at night: lamps (x, y) of the streets, beams (x, y, yaw) of the cars' fronts.

    boxes: (x, y, yaw, length, width) of road users, for the shadow below them.
    """

    lamps: NDArray[np.float64]
    beams: NDArray[np.float64]
    boxes: NDArray[np.float64]


def shade(seen: GBuffer, lights: Lights, light: Light, weather: Weather, rng: np.random.Generator) -> NDArray[np.uint8]:
    """The picture of one camera, uint8 [H, W, 3].

    Args:
        rng: of sensor noise and rain; one a picture, so that pictures do not depend on their order.
    """
    sky = _overcast(_SKIES[light]) if weather != "clear" else _SKIES[light]
    ground = np.isin(seen.material, (m.ROAD.number, m.MARKING.number, m.PAVEMENT.number, m.GRASS.number))
    albedo, glow = _surfaces(seen, sky)
    if weather == "rain":
        albedo = np.where(ground[..., None], albedo * 0.55, albedo)
    radiance = albedo * _illumination(seen, lights, sky, ground, weather) + glow
    radiance = _glossy(radiance, seen, sky)
    radiance = np.where((seen.material == 0)[..., None], _sky_colour(seen.ray, sky), radiance)
    if weather == "rain":
        radiance = _wet_mirror(radiance, seen, ground)
    if weather == "fog":
        radiance = _fogged(radiance, seen, sky)
    else:
        radiance = _hazed(radiance, seen, sky)
    radiance = _bloom(radiance, 0.55 if sky.is_dark else 0.12)
    if weather == "rain":
        radiance = _rain_streaks(radiance, sky, rng)
    return _develop(radiance * sky.exposure, sky, rng)


def _overcast(sky: Sky) -> Sky:
    grey = tuple(float(c) for c in np.mean(sky.horizon) * 0.72 * np.array([0.98, 1.0, 1.03]))
    sun = tuple(c * 0.18 for c in sky.sun_colour)
    ambient = tuple(c * 1.25 for c in sky.ambient)
    return Sky(sky.sun, sun, ambient, grey, grey, sky.exposure, sky.is_dark)  # type: ignore[arg-type]


def _hash(x: NDArray, y: NDArray) -> NDArray[np.float32]:
    """A number in [0, 1) for every cell of a grid, always the same."""
    mixed = (x.astype(np.int64) * 374761393 + y.astype(np.int64) * 668265263) & 0xFFFFFFFF
    mixed = ((mixed ^ (mixed >> 13)) * 1274126177) & 0xFFFFFFFF
    return ((mixed ^ (mixed >> 16)) & 0xFFFF).astype(np.float32) / 65536.0


def ground_noise(place: NDArray[np.floating], cell_m: float) -> NDArray[np.float32]:
    """Smooth noise over the ground, in [0, 1): place [..., 2 or 3] in metres, the noise's grain of cell_m."""
    x, y = place[..., 0] / cell_m, place[..., 1] / cell_m
    x0, y0 = np.floor(x), np.floor(y)
    u, v = x - x0, y - y0
    u, v = u * u * (3 - 2 * u), v * v * (3 - 2 * v)
    a, b = _hash(x0, y0), _hash(x0 + 1, y0)
    c, d = _hash(x0, y0 + 1), _hash(x0 + 1, y0 + 1)
    return ((a * (1 - u) + b * u) * (1 - v) + (c * (1 - u) + d * u) * v).astype(np.float32)


def _surfaces(seen: GBuffer, sky: Sky) -> tuple[Image, Image]:
    """(albedo with its texture, light that surfaces send out)."""
    albedo = seen.albedo.astype(np.float32) ** 2.2
    glow = np.zeros_like(albedo)
    near = np.exp(-seen.distance_m / 25.0)
    for material, coarse_m, strength in ((m.ROAD, 2.3, 0.35), (m.PAVEMENT, 1.2, 0.25), (m.GRASS, 1.6, 0.55)):
        chosen = seen.material == material.number
        if chosen.any():
            place = seen.place[chosen]
            grain = ground_noise(place, coarse_m) * 0.6 + ground_noise(place, coarse_m / 9) * 0.4 * near[chosen]
            albedo[chosen] *= (1 + strength * (grain - 0.5) * 2)[:, None]
    walk = seen.material == m.PAVEMENT.number
    if walk.any():
        place = seen.place[walk]
        joint = (np.mod(place[:, 0], 1.2) < 0.03) | (np.mod(place[:, 1], 1.2) < 0.03)
        albedo[walk] *= np.where(joint & (seen.distance_m[walk] < 18), 0.72, 1.0)[:, None]
    _facades(seen, sky, albedo, glow)
    send = m.EMISSIVE[seen.material] * (1.0 if sky.is_dark else 0.75)
    lit = send > 0
    glow[lit] += (albedo[lit] * 1.6 + 0.02) * send[lit][:, None] * (0.9 if sky.is_dark else 0.5)
    return albedo, glow


def _facades(seen: GBuffer, sky: Sky, albedo: Image, glow: Image) -> None:
    """Windows in rows and columns on the houses' walls; some are lit when it is dark."""
    wall = (seen.material == m.FACADE.number) & (np.abs(seen.normal[..., 2]) < 0.5)
    if not wall.any():
        return
    place, normal = seen.place[wall], seen.normal[wall]
    along = place[:, 1] * normal[:, 0] - place[:, 0] * normal[:, 1]
    up = place[:, 2]
    column, row = np.floor(along / 2.6), np.floor((up - 0.4) / 3.1)
    u, v = along / 2.6 - column, (up - 0.4) / 3.1 - row
    shop = row == 0
    window = np.where(
        shop, (u > 0.07) & (u < 0.93) & (v > 0.12) & (v < 0.78), (u > 0.24) & (u < 0.76) & (v > 0.30) & (v < 0.78)
    )
    frame = ~window & (u > 0.20) & (u < 0.80) & (v > 0.26) & (v < 0.82) & ~shop
    texture = 0.93 + 0.14 * _hash(np.floor(along * 3), np.floor(up * 6))
    albedo[wall] *= np.where(seen.distance_m[wall] < 45, texture, 1.0)[:, None]
    colours = albedo[wall]
    colours[frame] = colours[frame] * 0.6 + 0.16
    colours[window] = np.array([0.045, 0.06, 0.075], np.float32)
    albedo[wall] = colours
    chance = _hash(column + 77 * row, np.round(normal[:, 0] * 8) + 31 * np.floor(place[:, 0] / 40) + 57)
    is_lit = window & (chance < (0.32 if sky.is_dark else 0.05)) & ((row > 0) | (chance < 0.2))
    tint = np.array([1.0, 0.78, 0.48], np.float32) * (0.16 if sky.is_dark else 0.35)
    added = glow[wall]
    added[is_lit] += tint * (0.5 + chance[is_lit] * 1.5)[:, None]
    # By day the glass mirrors the sky.
    if not sky.is_dark:
        added[window & ~is_lit] += np.array(sky.horizon, np.float32) * 0.16
    glow[wall] = added


def _illumination(seen: GBuffer, lights: Lights, sky: Sky, ground: NDArray[np.bool_], weather: Weather) -> Image:
    """Light that falls on each pixel."""
    facing = np.clip(seen.normal @ np.array(sky.sun, np.float32), 0, 1)
    above = 0.55 + 0.45 * np.clip(seen.normal[..., 2], -1, 1)
    light = facing[..., None] * np.array(sky.sun_colour, np.float32) + above[..., None] * np.array(
        sky.ambient, np.float32
    )
    light = light * _shadow(seen, lights.boxes, ground, sky)[..., None]
    if not (sky.is_dark or sky.sun[2] < 0.3):
        return light
    power = 1.0 if sky.is_dark else 0.18
    for x, y in lights.lamps:
        offset = np.array([x, y, 6.2], np.float32) - seen.place
        square = _dot(offset, offset)
        down = offset[..., 2] / np.sqrt(square)
        lit = np.clip(_dot(seen.normal, offset) / np.sqrt(square), 0.08, 1)
        light += (power * 7.0 * np.clip(down, 0, 1) ** 1.5 * lit / (square + 2.0))[..., None] * _LAMP_COLOUR
    for x, y, yaw in lights.beams:
        offset = seen.place - np.array([x, y, 0.65], np.float32)
        reach = np.sqrt(_dot(offset, offset)) + 1e-3
        ahead = (offset[..., 0] * np.cos(yaw) + offset[..., 1] * np.sin(yaw)) / reach
        cone = np.clip((ahead - 0.86) / 0.12, 0, 1) ** 1.5
        below = np.clip(1.0 - (offset[..., 2] / reach) * 9.0, 0.05, 1)
        towards = np.clip(-_dot(seen.normal, offset) / reach, 0.10, 1)
        light += (power * 60.0 * cone * below * towards / (reach**1.6 + 12.0))[..., None] * _HEADLIGHT_COLOUR
    return light


def _dot(a: Image, b: Image) -> NDArray[np.float32]:
    """Scalar products over the last axis of three."""
    return a[..., 0] * b[..., 0] + a[..., 1] * b[..., 1] + a[..., 2] * b[..., 2]


def _shadow(seen: GBuffer, boxes: NDArray[np.float64], ground: NDArray[np.bool_], sky: Sky) -> NDArray[np.float32]:
    """Darkness below and beside road users, on the ground only; longer with a low sun."""
    shadow = np.ones(seen.material.shape, np.float32)
    if not ground.any():
        return shadow
    place = seen.place[ground][:, :2].astype(np.float32)
    dim = np.ones(len(place), np.float32)
    slant = 0.0 if sky.is_dark else min(2.5, np.hypot(sky.sun[0], sky.sun[1]) / max(sky.sun[2], 0.1)) * 0.7
    depth = 0.62 if max(sky.sun_colour) > 0.4 else 0.4
    for x, y, yaw, length, width in boxes:
        near = np.flatnonzero((np.abs(place[:, 0] - x) < length + 4) & (np.abs(place[:, 1] - y) < length + 4))
        if not len(near):
            continue
        offset = place[near] - (x, y) + np.array(sky.sun[:2]) * slant * 0.5
        along = offset[:, 0] * np.cos(yaw) + offset[:, 1] * np.sin(yaw)
        across = offset[:, 1] * np.cos(yaw) - offset[:, 0] * np.sin(yaw)
        soft = 0.35
        outside = np.maximum(np.abs(along) - length / 2, np.abs(across) - width / 2)
        dim[near] *= 1 - depth * np.clip(0.5 - outside / soft, 0, 1).astype(np.float32)
    shadow[ground] = dim
    return shadow


def _glossy(radiance: Image, seen: GBuffer, sky: Sky) -> Image:
    gloss = m.GLOSS[seen.material]
    shiny = gloss > 0.1
    if shiny.any():
        normal, ray = seen.normal[shiny], seen.ray[shiny]
        cosine = -np.einsum("nk,nk->n", normal, ray)
        mirrored = ray + 2 * cosine[:, None] * normal
        fresnel = gloss[shiny] * (0.25 + 0.75 * (1 - np.clip(cosine, 0, 1)) ** 3)
        up = np.clip(mirrored[:, 2:3] * 1.4 + 0.15, 0, 1)
        colour = (1 - up) * np.array(sky.horizon, np.float32) * 0.45 + up * np.array(sky.zenith, np.float32) * 1.1
        radiance[shiny] = radiance[shiny] * (1 - fresnel[:, None]) + colour * fresnel[:, None]
    return radiance


def _sky_colour(ray: Image, sky: Sky) -> Image:
    height = np.clip(ray[..., 2:3], 0, 1)
    mix = 1 - np.exp(-height * 3.2)
    colour = (1 - mix) * np.array(sky.horizon, np.float32) + mix * np.array(sky.zenith, np.float32)
    if max(sky.sun_colour) > 0.3 and sky.zenith != sky.horizon:
        near_sun = np.clip(ray @ np.array(sky.sun, np.float32), 0, 1)
        colour = colour + (0.35 * near_sun**12 + 1.5 * near_sun**900)[..., None] * np.array(sky.sun_colour, np.float32)
        # A few long clouds.
        with np.errstate(divide="ignore", invalid="ignore"):
            plane = ray[..., :2] / np.maximum(ray[..., 2:3], 0.04) * np.array([9.0, 22.0], np.float32)
        cloud = ground_noise(plane, 14.0) * 0.6 + ground_noise(plane, 5.0) * 0.4
        cover = np.clip((cloud - 0.55) * 3, 0, 1) * np.clip(ray[..., 2] * 6 - 0.3, 0, 1) * 0.6
        white = np.array([0.95, 0.95, 0.97], np.float32) * (0.95 if sky.sun[2] > 0.3 else 0.5) + 0.12 * np.array(
            sky.sun_colour, np.float32
        )
        colour = colour * (1 - cover[..., None]) + white * cover[..., None]
    return colour.astype(np.float32)


def _hazed(radiance: Image, seen: GBuffer, sky: Sky) -> Image:
    share = (1 - np.exp(-np.where(np.isfinite(seen.distance_m), seen.distance_m, 0) / 420.0))[..., None]
    return radiance * (1 - share) + np.array(sky.horizon, np.float32) * share


def _fogged(radiance: Image, seen: GBuffer, sky: Sky) -> Image:
    reach = np.where(np.isfinite(seen.distance_m), seen.distance_m, 400.0)
    share = (1 - np.exp(-reach / _FOG_RANGE_M))[..., None]
    return radiance * (1 - share) + np.array(sky.horizon, np.float32) * 1.02 * share


def _wet_mirror(radiance: Image, seen: GBuffer, ground: NDArray[np.bool_]) -> Image:
    """Wet ground mirrors what stands behind it: the picture turned over at the horizon, smeared downwards."""
    height = radiance.shape[0]
    smeared = cv2.blur(radiance[: height // 2][::-1], (3, 45))
    mirror = np.zeros_like(radiance)
    mirror[height // 2 :] = smeared[: height - height // 2]
    grazing = np.clip(1 + seen.ray[..., 2] * 2.2, 0, 1) ** 2
    puddles = 0.35 + 0.65 * (ground_noise(seen.place, 3.7) > 0.45)
    share = np.where(ground, 0.42 * grazing * puddles, 0)[..., None].astype(np.float32)
    return radiance * (1 - share) + mirror * share


def _bloom(radiance: Image, strength: float) -> Image:
    bright = np.maximum(radiance - 0.65, 0)
    return radiance + strength * (
        cv2.GaussianBlur(bright, (0, 0), 3) * 0.6 + cv2.GaussianBlur(bright, (0, 0), 11) * 0.8
    )


def _rain_streaks(radiance: Image, sky: Sky, rng: np.random.Generator) -> Image:
    height, width = radiance.shape[:2]
    drops = (rng.random((height, width), dtype=np.float32) > 0.9965).astype(np.float32)
    kernel = np.zeros((19, 19), np.float32)
    cv2.line(kernel, (10, 0), (8, 18), 1.0)
    streaks = cv2.filter2D(drops, -1, kernel / kernel.sum()) * 6.0
    veil = np.mean(sky.horizon) * 0.9 + 0.04
    share = np.clip(streaks, 0, 1)[..., None] * 0.22
    return radiance * (1 - share) + veil * share


def _develop(radiance: Image, sky: Sky, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Filmic curve, vignette, sensor noise (stronger in the dark), gamma."""
    height, width = radiance.shape[:2]
    x = (np.arange(width) - width / 2) / (width / 2)
    y = (np.arange(height) - height / 2) / (height / 2)
    vignette = 1 - 0.16 * (x[None, :] ** 2 + y[:, None] ** 2) / 2
    value = radiance * vignette[..., None].astype(np.float32)
    value = value * (1 + value * 0.18) / (1 + value * 0.62)
    noise = rng.standard_normal(value.shape, dtype=np.float32)
    value = value + noise * (0.006 if sky.is_dark else 0.0025) * np.sqrt(np.clip(value, 0, None) + 0.12)
    return (np.clip(value, 0, 1) ** (1 / 2.2) * 255 + 0.5).astype(np.uint8)


def headlights(boxes: Sequence[tuple[float, float, float, float]]) -> NDArray[np.float64]:
    """Beams of cars given as (x, y, yaw, length)."""
    beams = [(x + np.cos(yaw) * length / 2, y + np.sin(yaw) * length / 2, yaw) for x, y, yaw, length in boxes]
    return np.array(beams).reshape(-1, 3)
