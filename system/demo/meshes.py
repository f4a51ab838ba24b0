"""Solid shapes from triangles: the parts of a town and its road users. Metres; x forward, y left, z up."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from system.demo import materials as m
from system.demo.materials import Material

Colour = tuple[float, float, float]


@dataclass(frozen=True, eq=False)
class Mesh:
    """F flat triangles. triangles: [F, 3, 3]; colour: [F, 3] in [0, 1]; material: [F]."""

    triangles: NDArray[np.float32]
    colour: NDArray[np.float32]
    material: NDArray[np.uint8]

    @property
    def normals(self) -> NDArray[np.float32]:
        """Unit normals [F, 3] of counter-clockwise triangles."""
        a, b, c = (self.triangles[:, k] for k in range(3))
        normal = np.cross(b - a, c - a)
        return normal / np.maximum(np.linalg.norm(normal, axis=1, keepdims=True), 1e-9)


def merged(parts: Sequence[Mesh]) -> Mesh:
    return Mesh(
        np.concatenate([part.triangles for part in parts]),
        np.concatenate([part.colour for part in parts]),
        np.concatenate([part.material for part in parts]),
    )


def flat(triangles: NDArray[np.floating], colour: Colour, material: Material) -> Mesh:
    """Triangles [F, 3, 3] of one colour and material."""
    count = len(triangles)
    return Mesh(
        np.asarray(triangles, np.float32),
        np.tile(np.array(colour, np.float32), (count, 1)),
        np.full(count, material.number, np.uint8),
    )


def moved(mesh: Mesh, x: float, y: float, z: float = 0.0, yaw: float = 0.0) -> Mesh:
    cos, sin = np.cos(yaw), np.sin(yaw)
    turn = np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]], np.float32)
    return Mesh(mesh.triangles @ turn.T + np.array([x, y, z], np.float32), mesh.colour, mesh.material)


def prism(base: Sequence[tuple[float, float]], top: Sequence[tuple[float, float]], z0: float, z1: float) -> NDArray:
    """Triangles of a solid between two polygons of equally many corners, counter-clockwise from above."""
    lower = np.array([(x, y, z0) for x, y in base], np.float32)
    upper = np.array([(x, y, z1) for x, y in top], np.float32)
    count = len(lower)
    sides = []
    for k in range(count):
        n = (k + 1) % count
        sides += [(lower[k], lower[n], upper[n]), (lower[k], upper[n], upper[k])]
    lid = [(upper[0], upper[k], upper[k + 1]) for k in range(1, count - 1)]
    return np.array(sides + lid, np.float32)


def box(x0: float, x1: float, y0: float, y1: float, z0: float, z1: float, colour: Colour, material: Material) -> Mesh:
    """An upright box."""
    base = [(x0, y0), (x1, y0), (x1, y1), (x0, y1)]
    return flat(prism(base, base, z0, z1), colour, material)


def tapered(
    base: tuple[float, float, float, float], top: tuple[float, float, float, float], z0: float, z1: float,
    colour: Colour, material: Material,
) -> Mesh:  # fmt: skip
    """A box whose base and top are rectangles (x0, x1, y0, y1) of their own."""
    (a, b, c, d), (e, f, g, h) = base, top
    return flat(prism([(a, c), (b, c), (b, d), (a, d)], [(e, g), (f, g), (f, h), (e, h)], z0, z1), colour, material)


def cylinder(radius: float, z0: float, z1: float, colour: Colour, material: Material, top: float | None = None) -> Mesh:
    """An upright cylinder, or a cone frustum, of eight sides."""
    angles = np.arange(8) / 8 * 2 * np.pi
    base = [(radius * np.cos(a), radius * np.sin(a)) for a in angles]
    upper = [
        ((radius if top is None else top) * np.cos(a), (radius if top is None else top) * np.sin(a)) for a in angles
    ]
    return flat(prism(base, upper, z0, z1), colour, material)


def ball(x: float, y: float, z: float, radius: float, colour: Colour, material: Material, squash: float = 1.0) -> Mesh:
    """A sphere of 8 x 5 patches, squashed in height."""
    rings = []
    for k in range(6):
        polar = -np.pi / 2 + k / 5 * np.pi
        angles = np.arange(8) / 8 * 2 * np.pi
        around = np.stack([np.cos(angles) * np.cos(polar), np.sin(angles) * np.cos(polar)], -1)
        rings.append(np.column_stack([around * radius, np.full(8, np.sin(polar) * radius * squash)]))
    triangles = []
    for lower, upper in itertools.pairwise(rings):
        for k in range(8):
            n = (k + 1) % 8
            triangles += [(lower[k], lower[n], upper[n]), (lower[k], upper[n], upper[k])]
    return flat(np.array(triangles) + np.array([x, y, z]), colour, material)


def wheel(x: float, y: float, radius: float, width: float) -> Mesh:
    """A tyre on its axle along y, with a lighter hub."""
    angles = np.arange(10) / 10 * 2 * np.pi
    ring = np.stack([np.cos(angles) * radius, np.sin(angles) * radius], -1)
    triangles: list[tuple[tuple[float, float, float], ...]] = []
    for k in range(10):
        n = (k + 1) % 10
        a, b = ring[k], ring[n]
        inner, outer = -width / 2, width / 2
        corners = [(a[0], inner, a[1]), (b[0], inner, b[1]), (b[0], outer, b[1]), (a[0], outer, a[1])]
        triangles += [(corners[0], corners[3], corners[2]), (corners[0], corners[2], corners[1])]
        for side, order in ((inner, 1), (outer, -1)):
            face = [(0, side, 0), (b[0], side, b[1]), (a[0], side, a[1])]
            triangles.append(tuple(face[::order]))
    tyre = flat(np.array(triangles, np.float32) + np.array([x, y, radius], np.float32), (0.07, 0.07, 0.08), m.TYRE)
    sign = 1 if y > 0 else -1
    hub_y = y + sign * (width / 2 + 0.01)
    hub = box(
        x - radius * 0.5,
        x + radius * 0.5,
        hub_y - 0.01,
        hub_y + 0.01,
        radius * 0.55,
        radius * 1.45,
        (0.55,) * 3,
        m.METAL,
    )
    return merged([tyre, hub])
