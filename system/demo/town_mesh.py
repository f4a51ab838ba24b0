"""The solid form of a town: streets, markings, kerbs, houses, trees, lamps, signals."""

from __future__ import annotations

import itertools

import numpy as np
import shapely
from numpy.typing import NDArray
from shapely.geometry import LineString
from shapely.geometry.base import BaseGeometry
from shapely.ops import substring

from system.demo import materials as m
from system.demo.materials import Material
from system.demo.meshes import Colour, Mesh, ball, box, cylinder, flat, merged, moved, prism
from system.demo.road_users import road_user
from system.demo.town import Building, Town

KERB_M = 0.12
_MARKING_M = 0.012


def town_mesh(town: Town, seed: int) -> Mesh:
    """All of a town that does not change."""
    rng = np.random.default_rng(seed)
    ground = shapely.union_all([town.carriageway, town.pavement]).envelope.buffer(150, join_style="mitre")
    parts = [
        _sheet(ground.difference(town.carriageway), -0.02, (0.30, 0.38, 0.20), m.GRASS),
        _sheet(town.carriageway, 0.0, (0.26, 0.26, 0.27), m.ROAD),
        _sheet(town.pavement, KERB_M, (0.52, 0.51, 0.49), m.PAVEMENT),
        _kerbs(town.pavement),
        *_markings(town),
        *(_building(house) for house in town.buildings),
        *(moved(_tree(size, rng), x, y) for x, y, size in town.trees),
        *(moved(_lamp(), x, y, KERB_M, yaw) for x, y, yaw in town.lamps),
        *(moved(_signal_post(), s.x, s.y, KERB_M, s.yaw) for s in town.signals),
        *(moved(road_user("cone", (0.4, 0.4, 0.75), 0, 0.0, False), x, y, KERB_M) for x, y in town.cones),
    ]
    return merged([part for part in parts if len(part.triangles)])


def signal_lights(town: Town, states: dict[str, str]) -> Mesh:
    """The lit lamps of every signal."""
    colours: dict[str, tuple[Colour, float]] = {
        "r": ((1.0, 0.12, 0.08), 3.02),
        "y": ((1.0, 0.75, 0.1), 2.72),
        "g": ((0.2, 1.0, 0.45), 2.42),
    }
    parts = []
    for signal in town.signals:
        state = states.get(signal.controller, "")
        colour, z = colours.get(state[signal.link].lower() if signal.link < len(state) else "r", colours["r"])
        lamp = box(-0.24, -0.19, -0.11, 0.11, z - 0.11, z + 0.11, colour, m.SIGNAL_LIT)
        parts.append(moved(lamp, signal.x, signal.y, KERB_M, signal.yaw))
    return merged(parts)


def _sheet(area: BaseGeometry, z: float, colour: Colour, material: Material) -> Mesh:
    """A flat area, facing up, in triangles small enough for the software renderer's perspective."""
    triangles = []
    for polygon in getattr(area, "geoms", [area]):
        for triangle in shapely.constrained_delaunay_triangles(polygon).geoms:
            corners = np.array(triangle.exterior.coords[:3])
            if triangle.exterior.is_ccw is False:
                corners = corners[::-1]
            triangles.append(np.column_stack([corners, np.full(3, z)]))
    if not triangles:
        return flat(np.zeros((0, 3, 3)), colour, material)
    return flat(np.array(triangles), colour, material)


def _kerbs(area: BaseGeometry) -> Mesh:
    quads = []
    for polygon in getattr(area, "geoms", [area]):
        for ring in (polygon.exterior, *polygon.interiors):
            points = np.array(ring.simplify(0.05).coords)
            if ring.is_ccw == (ring is not polygon.exterior):
                points = points[::-1]
            for a, b in itertools.pairwise(points):
                low_a, low_b, high_a, high_b = (*a, 0.0), (*b, 0.0), (*a, KERB_M), (*b, KERB_M)
                quads += [(low_a, low_b, high_b), (low_a, high_b, high_a)]
    return flat(np.array(quads).reshape(-1, 3, 3), (0.62, 0.61, 0.58), m.PAVEMENT)


def _strip(line: LineString, width: float, colour: Colour) -> Mesh:
    return _sheet(line.buffer(width / 2, cap_style="flat"), _MARKING_M, colour, m.MARKING)


def _markings(town: Town) -> list[Mesh]:
    white: Colour = (0.88, 0.88, 0.86)
    by_edge: dict[str, list[LineString]] = {}
    for lane in sorted(town.lanes, key=lambda lane: lane.index):
        if not lane.is_sidewalk:
            by_edge.setdefault(lane.edge, []).append(lane.line)
    parts = []
    for lines in by_edge.values():
        for right in lines[:-1]:
            between = right.parallel_offset(1.6, "left")
            for at in np.arange(3, between.length - 6, 7):
                parts.append(_strip(substring(between, at, at + 3), 0.13, white))
        middle = lines[-1].parallel_offset(1.6, "left")
        parts.append(_strip(middle, 0.14, (0.85, 0.70, 0.25)))
        for line in lines:
            (x0, y0), (x1, y1) = line.coords[-2], line.coords[-1]
            yaw = np.arctan2(y1 - y0, x1 - x0)
            stop = box(-0.35, 0.05, -1.5, 1.5, 0, _MARKING_M, white, m.MARKING)
            parts.append(moved(stop, x1 - 0.3 * np.cos(yaw), y1 - 0.3 * np.sin(yaw), 0, yaw))
    for line, width in town.crossings:
        for at in np.arange(0.4, line.length - 0.5, 1.1):
            stripe = substring(line, at, min(at + 0.5, line.length))
            parts.append(_strip(stripe, width * 0.85, white))
    return parts


def _building(house: Building) -> Mesh:
    corners = list(house.footprint.exterior.coords[:-1])
    if not house.footprint.exterior.is_ccw:
        corners = corners[::-1]
    walls: NDArray = prism(corners, corners, 0.0, house.height)
    count = 2 * len(corners)
    rim = [(x, y) for x, y in house.footprint.buffer(0.25, join_style="mitre").exterior.coords[:-1]]
    if not house.footprint.buffer(0.25, join_style="mitre").exterior.is_ccw:
        rim = rim[::-1]
    return merged(
        [
            flat(walls[:count], house.colour, m.FACADE),
            flat(prism(rim, rim, house.height, house.height + 0.5), (0.36, 0.34, 0.33), m.ROOF),
        ]
    )


def _tree(size: float, rng: np.random.Generator) -> Mesh:
    green = np.array([0.20, 0.34, 0.13]) * rng.uniform(0.8, 1.25)
    crown = []
    for _ in range(5):
        x, y = rng.normal(0, 0.65, 2)
        shade = np.clip(green * rng.uniform(0.85, 1.15), 0, 1)
        crown.append(ball(x, y, rng.uniform(3.2, 4.9), rng.uniform(1.0, 1.6), tuple(shade), m.LEAVES))
    tree = merged([cylinder(0.16, 0, 3.4, (0.28, 0.20, 0.14), m.TRUNK, top=0.11), *crown])
    return Mesh(tree.triangles * np.float32(size), tree.colour, tree.material)


def _lamp() -> Mesh:
    grey: Colour = (0.35, 0.36, 0.38)
    return merged(
        [
            cylinder(0.08, 0, 6.4, grey, m.METAL, top=0.06),
            box(0, 1.9, -0.04, 0.04, 6.3, 6.4, grey, m.METAL),
            box(1.3, 2.0, -0.14, 0.14, 6.22, 6.3, (1.0, 0.9, 0.72), m.STREET_LAMP),
        ]
    )


def _signal_post() -> Mesh:
    dark: Colour = (0.10, 0.11, 0.11)
    return merged(
        [
            cylinder(0.07, 0, 2.3, (0.4, 0.4, 0.4), m.METAL),
            box(-0.18, 0.12, -0.17, 0.17, 2.22, 3.22, dark, m.SIGNAL_DARK),
        ]
    )
