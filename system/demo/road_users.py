"""Shapes of road users, each within its annotated box, its origin on the ground below the box's centre."""

from __future__ import annotations

import numpy as np

from system.demo import materials as m
from system.demo.meshes import Colour, Mesh, ball, box, cylinder, flat, merged, moved, prism, tapered, wheel

_PAINTS: tuple[Colour, ...] = (
    (0.82, 0.83, 0.84), (0.12, 0.13, 0.15), (0.45, 0.47, 0.50), (0.55, 0.07, 0.08), (0.10, 0.22, 0.45),
    (0.62, 0.60, 0.52), (0.15, 0.32, 0.22), (0.75, 0.45, 0.10), (0.93, 0.93, 0.92),
)  # fmt: skip
_CLOTHES: tuple[Colour, ...] = (
    (0.65, 0.15, 0.15), (0.15, 0.25, 0.55), (0.85, 0.80, 0.65), (0.18, 0.18, 0.20), (0.25, 0.45, 0.30),
    (0.75, 0.55, 0.15),
)  # fmt: skip
_SKINS: tuple[Colour, ...] = ((0.85, 0.65, 0.52), (0.60, 0.42, 0.30), (0.40, 0.27, 0.20))
_GLASS: Colour = (0.10, 0.13, 0.16)


def road_user(kind: str, size: tuple[float, float, float], seed: int, stride: float, is_braking: bool) -> Mesh:
    """The mesh of one road user.

    Args:
        kind: car, truck, bus, motorcycle, bicycle, pedestrian, cone or barrier.
        size: length, width, height of its box (m).
        stride: phase of the legs, in steps; is_braking: whether its brake lamps are on.
    """
    rng = np.random.default_rng(seed)
    if kind == "car":
        return _car(size, _PAINTS[rng.integers(len(_PAINTS))], rng.random() < 0.4, is_braking)
    if kind in ("truck", "bus"):
        return _large(size, kind, rng, is_braking)
    if kind in ("motorcycle", "bicycle"):
        return _two_wheeler(size, kind, rng, stride)
    if kind == "pedestrian":
        return _person(size[2], rng, stride)
    if kind == "cone":
        body = cylinder(0.20, 0.04, size[2], (0.95, 0.35, 0.05), m.CONE, top=0.04)
        return merged([box(-0.2, 0.2, -0.2, 0.2, 0, 0.05, (0.1, 0.1, 0.1), m.CONE), body])
    return box(-size[0] / 2, size[0] / 2, -size[1] / 2, size[1] / 2, 0.1, size[2], (0.9, 0.3, 0.1), m.CONE)


def _lamps(length: float, width: float, z: float, is_braking: bool) -> list[Mesh]:
    front, rear, half = length / 2, -length / 2, width / 2
    lamp = m.BRAKE_LAMP if is_braking else m.TAIL_LAMP
    red: Colour = (1.0, 0.08, 0.05) if is_braking else (0.75, 0.05, 0.05)
    parts = []
    for side in (1, -1):
        inner, outer = side * (half - 0.42), side * (half - 0.06)
        y0, y1 = min(inner, outer), max(inner, outer)
        parts.append(box(front - 0.05, front, y0, y1, z, z + 0.16, (1.0, 0.97, 0.88), m.HEADLAMP))
        parts.append(box(rear, rear + 0.05, y0, y1, z + 0.08, z + 0.26, red, lamp))
    return parts


def _car(size: tuple[float, float, float], paint: Colour, is_estate: bool, is_braking: bool) -> Mesh:
    length, width, height = size
    f, r, h = length / 2, -length / 2, width / 2
    waist, floor = height * 0.56, height * 0.16
    bonnet = f - length * 0.27
    tail = r + (length * 0.02 if is_estate else length * 0.14)
    parts = [
        tapered((r, bonnet, -h, h), (r + 0.04, bonnet, -h + 0.03, h - 0.03), floor, waist, paint, m.CAR_PAINT),
        tapered((bonnet, f, -h, h), (bonnet, f - 0.12, -h + 0.05, h - 0.05), floor, waist * 0.92, paint, m.BONNET),
    ]
    roof0, roof1 = tail + length * (0.05 if is_estate else 0.16), bonnet - length * 0.17
    cabin = [(tail, -h + 0.06), (bonnet, -h + 0.06), (bonnet, h - 0.06), (tail, h - 0.06)]
    roof = [(roof0, -h + 0.22), (roof1, -h + 0.22), (roof1, h - 0.22), (roof0, h - 0.22)]
    glass = flat(prism(cabin, roof, waist, height * 0.97), _GLASS, m.WINDOW)
    lid = flat(prism(roof, roof, height * 0.96, height), paint, m.CAR_PAINT)
    # Door pillars split the glass.
    pillar = (roof0 + roof1) / 2
    foot = (pillar - 0.1, pillar + 0.06, -h + 0.055, h - 0.055)
    head = (pillar - 0.08, pillar + 0.04, -h + 0.215, h - 0.215)
    posts = [tapered(foot, head, waist, height * 0.97, paint, m.CAR_PAINT)]
    radius = min(0.33, height * 0.22)
    wheels = [wheel(x, y, radius, 0.2) for x in (r + length * 0.19, f - length * 0.18) for y in (h - 0.1, -h + 0.1)]
    plate = box(r - 0.005, r + 0.01, -0.26, 0.26, floor + 0.12, floor + 0.24, (0.92, 0.92, 0.85), m.METAL)
    exhaust = box(r - 0.01, r + 0.08, -h + 0.25, -h + 0.37, floor - 0.02, floor + 0.06, (0.15, 0.15, 0.15), m.EXHAUST)
    under = box(r + 0.25, f - 0.25, -h + 0.12, h - 0.12, 0.12, floor + 0.01, (0.05, 0.05, 0.05), m.METAL)
    return merged(
        [*parts, glass, lid, *posts, *wheels, plate, exhaust, under, *_lamps(length, width, waist * 0.72, is_braking)]
    )


def _large(size: tuple[float, float, float], kind: str, rng: np.random.Generator, is_braking: bool) -> Mesh:
    length, width, height = size
    f, r, h = length / 2, -length / 2, width / 2
    paint = _PAINTS[rng.integers(len(_PAINTS))]
    parts = []
    if kind == "bus":
        parts.append(box(r, f, -h, h, 0.35, height * 0.45, paint, m.CAR_PAINT))
        parts.append(box(r + 0.05, f - 0.02, -h + 0.02, h - 0.02, height * 0.45, height * 0.78, _GLASS, m.WINDOW))
        parts.append(box(r, f - 0.1, -h, h, height * 0.78, height, paint, m.CAR_PAINT))
        posts = np.linspace(r + 0.3, f - 0.3, 8)
        parts += [box(x - 0.06, x + 0.06, -h, h, height * 0.45, height * 0.78, paint, m.CAR_PAINT) for x in posts]
    else:
        cab = f - 2.1
        white: Colour = (0.86, 0.87, 0.86) if rng.random() < 0.6 else (0.55, 0.42, 0.25)
        parts.append(box(r, cab - 0.25, -h, h, 0.95, height, white, m.CARGO))
        parts.append(box(r, cab, -h + 0.25, h - 0.25, 0.5, 0.95, (0.12, 0.12, 0.13), m.METAL))
        parts.append(box(cab, f, -h + 0.05, h - 0.05, 0.45, 1.55, paint, m.BONNET))
        glass_base, glass_top = (cab, f - 0.02, -h + 0.08, h - 0.08), (cab, f - 0.3, -h + 0.12, h - 0.12)
        parts.append(tapered(glass_base, glass_top, 1.55, 2.45, _GLASS, m.WINDOW))
        parts.append(box(cab, f - 0.3, -h + 0.1, h - 0.1, 2.45, 2.65, paint, m.CAR_PAINT))
        parts.append(box(r - 0.01, r + 0.1, -h + 0.3, -h + 0.5, 0.5, 0.62, (0.2, 0.2, 0.2), m.EXHAUST))
    axles = (r + 1.4, r + 2.5, f - 1.3) if length > 7 else (r + 1.2, f - 1.1)
    parts += [wheel(x, y, 0.48, 0.3) for x in axles for y in (h - 0.15, -h + 0.15)]
    return merged([*parts, *_lamps(length, width, 0.75, is_braking)])


def _person(height: float, rng: np.random.Generator, stride: float) -> Mesh:
    shirt, trousers = _CLOTHES[rng.integers(len(_CLOTHES))], _CLOTHES[rng.integers(len(_CLOTHES))]
    skin = _SKINS[rng.integers(len(_SKINS))]
    hip, shoulder = height * 0.48, height * 0.82
    swing = 0.22 * np.sin(stride * np.pi)
    parts = []
    for side, step in ((1, swing), (-1, -swing)):
        y = side * 0.09
        leg = prism(
            [(step - 0.08, y - 0.07), (step + 0.10, y - 0.07), (step + 0.10, y + 0.07), (step - 0.08, y + 0.07)],
            [(-0.08, y - 0.08), (0.09, y - 0.08), (0.09, y + 0.08), (-0.08, y + 0.08)],
            0.0,
            hip,
        )
        parts.append(flat(leg, trousers, m.CLOTHES))
        y = side * 0.24
        arm = prism(
            [(-step - 0.05, y - 0.05), (-step + 0.05, y - 0.05), (-step + 0.05, y + 0.05), (-step - 0.05, y + 0.05)],
            [(-0.05, y - 0.06), (0.05, y - 0.06), (0.05, y + 0.06), (-0.05, y + 0.06)],
            hip,
            shoulder,
        )
        parts.append(flat(arm, shirt, m.CLOTHES))
        parts.append(ball(-step, y, hip - 0.03, 0.06, skin, m.SKIN))
    parts.append(
        tapered((-0.10, 0.11, -0.17, 0.17), (-0.11, 0.12, -0.21, 0.21), hip - 0.02, shoulder, shirt, m.CLOTHES)
    )
    parts.append(cylinder(0.06, shoulder, height * 0.88, skin, m.SKIN))
    parts.append(ball(0.02, 0, height * 0.93, height * 0.068, skin, m.SKIN, squash=1.15))
    hair: Colour = (0.15, 0.10, 0.07) if rng.random() < 0.7 else (0.55, 0.45, 0.3)
    parts.append(ball(-0.02, 0, height * 0.955, height * 0.066, hair, m.CLOTHES, squash=0.9))
    return merged(parts)


def _two_wheeler(size: tuple[float, float, float], kind: str, rng: np.random.Generator, stride: float) -> Mesh:
    length, _, height = size
    radius = 0.34 if kind == "bicycle" else 0.31
    tread = 0.05 if kind == "bicycle" else 0.14
    paint = _PAINTS[rng.integers(len(_PAINTS))]
    parts = [wheel(x, 0.001, radius, tread) for x in (-length / 2 + radius, length / 2 - radius)]
    if kind == "bicycle":
        parts.append(box(-0.42, 0.45, -0.025, 0.025, 0.52, 0.60, paint, m.METAL))
        parts.append(box(0.40, 0.48, -0.27, 0.27, 0.95, 1.00, (0.1, 0.1, 0.1), m.METAL))
    else:
        parts.append(tapered((-0.75, 0.6, -0.16, 0.16), (-0.6, 0.5, -0.12, 0.12), 0.35, 0.85, paint, m.BONNET))
        parts.append(box(0.62, 0.72, -0.1, 0.1, 0.7, 0.88, (1, 0.97, 0.88), m.HEADLAMP))
        parts.append(box(-0.8, -0.74, -0.08, 0.08, 0.68, 0.78, (0.8, 0.05, 0.05), m.TAIL_LAMP))
        parts.append(box(-0.85, -0.5, -0.22, -0.16, 0.3, 0.38, (0.2, 0.2, 0.2), m.EXHAUST))
    rider = _person(1.62, rng, stride)
    lift = height - 1.62
    parts.append(moved(rider, -0.12, 0.0, max(lift, 0.05)))
    return merged(parts)
