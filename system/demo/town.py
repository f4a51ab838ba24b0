"""A town: its streets, and what stands along them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import shapely
from numpy.typing import NDArray
from shapely.affinity import rotate, translate
from shapely.geometry import Polygon
from shapely.geometry.base import BaseGeometry

from system.demo.config import SIZES_M
from system.demo.network import Lane, Network, make_network

# By what of a facade's walls and windows: see `system.demo.surfaces`.
FACADE_KINDS = ("brick", "plaster", "glass")
_WALLS = {
    "brick": ((0.56, 0.36, 0.28), (0.48, 0.33, 0.28), (0.62, 0.45, 0.34), (0.42, 0.30, 0.26)),
    "plaster": ((0.82, 0.76, 0.64), (0.80, 0.78, 0.74), (0.78, 0.66, 0.52), (0.70, 0.74, 0.72), (0.84, 0.72, 0.60)),
    "glass": ((0.48, 0.51, 0.54), (0.36, 0.40, 0.44), (0.58, 0.58, 0.56)),
}
_JUNCTION_FREE_M = 9.0


@dataclass(frozen=True)
class Building:
    footprint: Polygon
    height: float
    colour: tuple[float, float, float]
    kind: str


@dataclass(frozen=True)
class Town:
    """Everything that stands still. Metres, x east, y north.

    trees: (x, y, size). lamps: (x, y, yaw towards the road). cones: (x, y). barriers: (x, y, yaw).
    parked: (x, y, yaw, number of its size in SIZES_M).
    """

    network: Network
    buildings: tuple[Building, ...]
    trees: NDArray[np.float64]
    lamps: NDArray[np.float64]
    cones: NDArray[np.float64]
    barriers: NDArray[np.float64]
    parked: NDArray[np.float64]

    @cached_property
    def carriageway(self) -> BaseGeometry:
        """Where vehicles drive and park."""
        return _carriageway(self.network)

    @cached_property
    def pavement(self) -> BaseGeometry:
        """Where people walk, raised by a kerb."""
        return _pavement(self.network)


def make_town(folder: Path, seed: int) -> Town:
    """Generate the streets into `folder` and dress them.

    Raises:
        ConfigError: SUMO is not installed.
    """
    network = make_network(folder, seed)
    rng = np.random.default_rng([seed, 1])
    buildings = _buildings(network, rng)
    lamps = _lamps(network)
    cones, barriers, works = _works(network, rng)
    trees = _trees(network, lamps, rng)
    return Town(network, buildings, trees, lamps, cones, barriers, _parked(network, works, rng))


def _carriageway(network: Network) -> BaseGeometry:
    parts = [lane.line.buffer(lane.width / 2, cap_style="flat") for lane in network.lanes if lane.use != "walk"]
    return shapely.union_all([*parts, *network.junctions]).buffer(0.05)


def _pavement(network: Network) -> BaseGeometry:
    parts = [lane.line.buffer(lane.width / 2 + 0.9, cap_style="square") for lane in network.lanes if lane.use == "walk"]
    corners = [shape.buffer(3.4) for shape in network.junctions]
    return shapely.union_all([*parts, *corners]).difference(_carriageway(network))


def _spots(lane: Lane, at_m: NDArray[np.float64]) -> NDArray[np.float64]:
    """(x, y, yaw of the lane) at distances along it, [K, 3]."""
    rows = []
    for at in at_m:
        here, ahead = lane.line.interpolate(at), lane.line.interpolate(at + 0.5)
        back = lane.line.interpolate(max(at - 0.5, 0.0))
        rows.append((here.x, here.y, np.arctan2(ahead.y - back.y, ahead.x - back.x)))
    return np.array(rows).reshape(-1, 3)


def _of_use(network: Network, use: str) -> list[Lane]:
    return [lane for lane in network.lanes if lane.use == use]


def _buildings(network: Network, rng: np.random.Generator) -> tuple[Building, ...]:
    """Houses in a row along every street, now and then a gap."""
    roads = shapely.union_all([_carriageway(network), _pavement(network)])
    taken = roads.buffer(0.6)
    shapely.prepare(taken)
    placed: list[Polygon] = []
    buildings = []
    for lane in _of_use(network, "walk"):
        at = float(rng.uniform(1, 4))
        while at < lane.line.length - 6:
            width, depth = float(rng.uniform(10, 21)), float(rng.uniform(10, 14))
            ((x, y, yaw),) = _spots(lane, np.array([min(at + width / 2, lane.line.length - 1)]))
            setback = float(rng.choice([2.9, 2.9, 3.4, 4.6]))
            house = rotate(shapely.box(-width / 2, -depth, width / 2, 0), np.degrees(yaw), origin=(0, 0))
            house = translate(house, x + np.sin(yaw) * setback, y - np.cos(yaw) * setback)
            at += width + float(rng.choice([0.0, 0.0, 0.0, 7.0]))
            if not taken.intersects(house) and not any(house.intersects(other) for other in placed):
                placed.append(house.buffer(-0.1))
                kind = FACADE_KINDS[rng.choice(3, p=(0.42, 0.43, 0.15))]
                wall = _WALLS[kind][rng.integers(len(_WALLS[kind]))]
                colour = np.clip(np.array(wall) * rng.uniform(0.88, 1.1), 0, 1)
                floors = int(rng.integers(3, 6) if kind != "glass" else rng.integers(5, 10))
                buildings.append(Building(house, floors * 3.1 + 1.2, tuple(colour.tolist()), kind))
    return tuple(buildings)


def _trees(network: Network, lamps: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.float64]:
    """Street trees at the kerb, between the lamps."""
    trees = []
    for lane in _of_use(network, "walk"):
        if rng.random() < 0.3:
            continue
        for x, y, yaw in _spots(lane, np.arange(9, lane.line.length - 9, 9.5)):
            place = (x - np.sin(yaw) * 0.85, y + np.cos(yaw) * 0.85)
            clear = np.hypot(lamps[:, 0] - place[0], lamps[:, 1] - place[1]).min(initial=9) > 3.0
            if clear and rng.random() < 0.62:
                trees.append((*place, rng.uniform(0.8, 1.3)))
    return np.array(trees).reshape(-1, 3)


def _lamps(network: Network) -> NDArray[np.float64]:
    """Street lamps at the kerb every 26 m."""
    lamps = []
    for lane in _of_use(network, "walk"):
        for x, y, yaw in _spots(lane, np.arange(6, lane.line.length - 2, 26)):
            lamps.append((x - np.sin(yaw) * 0.95, y + np.cos(yaw) * 0.95, yaw + np.pi / 2))
    return np.array(lamps).reshape(-1, 3)


_Works = dict[str, tuple[float, float]]


def _works(
    network: Network, rng: np.random.Generator
) -> tuple[NDArray[np.float64], NDArray[np.float64], _Works]:
    """Cones and barriers around works on some parking lanes; and where on them nobody can park."""
    lanes = _of_use(network, "park")
    cones, barriers, spans = [], [], {}
    for number in rng.choice(len(lanes), size=min(7, len(lanes)), replace=False):
        lane = lanes[int(number)]
        start = float(rng.uniform(12, max(13, lane.line.length - 40)))
        spans[lane.lane_id] = (start, start + 20.0)
        for x, y, yaw in _spots(lane, np.arange(start + 1, start + 19, 2.2)):
            cones.append((x - np.sin(yaw) * 1.15, y + np.cos(yaw) * 1.15))
        for x, y, yaw in _spots(lane, np.array([start + 1.5, start + 18.0])):
            barriers.append((x, y, yaw))
        for x, y, yaw in _spots(lane, np.arange(start + 5.5, start + 16, 3.2)):
            barriers.append((x - np.sin(yaw) * 0.3, y + np.cos(yaw) * 0.3, yaw + np.pi / 2))
    return np.array(cones).reshape(-1, 2), np.array(barriers).reshape(-1, 3), spans


def _parked(network: Network, works: _Works, rng: np.random.Generator) -> NDArray[np.float64]:
    """Cars at the kerb, away from junctions and works."""
    kinds = ("sedan", "hatchback", "suv", "van")
    numbers = [list(SIZES_M).index(kind) for kind in kinds]
    parked = []
    for lane in _of_use(network, "park"):
        begin, end = works.get(lane.lane_id, (-1.0, -1.0))
        at = _JUNCTION_FREE_M + float(rng.uniform(0, 4))
        share = float(rng.uniform(0.35, 0.85))
        while at < lane.line.length - _JUNCTION_FREE_M - 3:
            if rng.random() < share and not begin - 4 < at < end + 4:
                ((x, y, yaw),) = _spots(lane, np.array([at]))
                aside = rng.uniform(0.0, 0.18)
                turned = rng.normal(0, 0.015)
                kind = numbers[int(rng.choice(4, p=(0.36, 0.3, 0.24, 0.1)))]
                parked.append((x + np.sin(yaw) * aside, y - np.cos(yaw) * aside, yaw + turned, kind))
            at += float(rng.uniform(5.8, 6.8))
    return np.array(parked).reshape(-1, 4)

