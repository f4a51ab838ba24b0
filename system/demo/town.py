"""A town: a street network from SUMO's netgenerate, and what stands along it."""

from __future__ import annotations

import subprocess
import xml.etree.ElementTree as ET
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import shapely
from numpy.typing import NDArray
from shapely.affinity import rotate, translate
from shapely.geometry import LineString, Point, Polygon
from shapely.geometry.base import BaseGeometry

from system.errors import ConfigError

LANE_WIDTH_M = 3.2


@dataclass(frozen=True)
class Lane:
    """A lane's middle line and width (m)."""

    lane_id: str
    edge: str
    index: int
    line: LineString
    width: float
    is_sidewalk: bool


@dataclass(frozen=True)
class Signal:
    """A traffic light's post at (x, y), facing drivers who come along `yaw`; its link in the controller's state."""

    x: float
    y: float
    yaw: float
    controller: str
    link: int


@dataclass(frozen=True)
class Building:
    footprint: Polygon
    height: float
    colour: tuple[float, float, float]


@dataclass(frozen=True)
class Town:
    """Everything that stands still. Metres, x east, y north."""

    net_file: Path
    lanes: tuple[Lane, ...]
    crossings: tuple[tuple[LineString, float], ...]
    junctions: tuple[Polygon, ...]
    junction_centres: NDArray[np.float64]
    signals: tuple[Signal, ...]
    buildings: tuple[Building, ...]
    trees: NDArray[np.float64]
    lamps: NDArray[np.float64]
    cones: NDArray[np.float64]

    @cached_property
    def carriageway(self) -> BaseGeometry:
        """Where vehicles drive."""
        parts = [lane.line.buffer(lane.width / 2, cap_style="flat") for lane in self.lanes if not lane.is_sidewalk]
        return shapely.union_all([*parts, *self.junctions]).buffer(0.05)

    @cached_property
    def pavement(self) -> BaseGeometry:
        """Where people walk, raised by a kerb."""
        parts = [lane.line.buffer(lane.width / 2 + 0.6, cap_style="square") for lane in self.lanes if lane.is_sidewalk]
        corners = [shape.buffer(4.0) for shape in self.junctions]
        return shapely.union_all([*parts, *corners]).difference(self.carriageway)


def make_town(folder: Path, seed: int) -> Town:
    """Generate the network into `folder` and dress it.

    Raises:
        ConfigError: SUMO is not installed.
    """
    rng = np.random.default_rng(seed)
    net_file = folder / f"town-{seed}.net.xml"
    run_sumo_tool(
        "netgenerate", "--grid", "--grid.x-number", "4", "--grid.y-number", "3",
        "--grid.x-length", str(int(rng.integers(95, 140))), "--grid.y-length", str(int(rng.integers(95, 140))),
        "--default.lanenumber", "2", "--sidewalks.guess", "true", "--default.sidewalk-width", "2.5",
        "--crossings.guess", "true", "--tls.guess", "true", "--default-junction-type", "traffic_light",
        "--no-turnarounds", "true", "--default.speed", "13.8", "--tls.cycle.time", "50",
        "--seed", str(seed), "--output-file", str(net_file),
    )  # fmt: skip
    root = ET.parse(net_file).getroot()
    lanes, crossings = _lanes(root)
    shapes = [j for j in root.findall("junction") if j.get("type") in ("traffic_light", "priority", "dead_end")]
    junctions = tuple(Polygon(_points(j.get("shape", ""))) for j in shapes if len(_points(j.get("shape", ""))) > 2)
    centres = np.array([(float(j.get("x", 0)), float(j.get("y", 0))) for j in shapes])
    bare = Town(
        net_file, lanes, crossings, junctions, centres, _signals(root, lanes), (), np.zeros((0, 3)), np.zeros((0, 3)),
        np.zeros((0, 2)),
    )  # fmt: skip
    buildings = _buildings(bare, rng)
    return Town(
        net_file, lanes, crossings, junctions, centres, bare.signals, buildings,
        _trees(bare, buildings, rng), _lamps(bare), _cones(bare, rng),
    )  # fmt: skip


def run_sumo_tool(tool: str, *arguments: str) -> None:
    """Run one of SUMO's programs.

    Raises:
        ConfigError: SUMO is not installed, or refuses the arguments.
    """
    try:
        import sumo
    except ImportError as error:
        raise ConfigError("demo logs need SUMO; pip install eclipse-sumo libsumo") from error
    command = [str(Path(sumo.SUMO_HOME) / "bin" / tool), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)  # noqa: S603
    if done.returncode:
        raise ConfigError(f"{tool} failed: {done.stderr.strip()[-500:]}")


def _points(text: str) -> list[tuple[float, float]]:
    return [(float(p.split(",")[0]), float(p.split(",")[1])) for p in text.split()]


def _lanes(root: ET.Element) -> tuple[tuple[Lane, ...], tuple[tuple[LineString, float], ...]]:
    lanes, crossings = [], []
    for edge in root.findall("edge"):
        function = edge.get("function")
        for lane in edge.findall("lane"):
            line = LineString(_points(lane.get("shape", "")))
            width = float(lane.get("width", LANE_WIDTH_M))
            if function == "crossing":
                crossings.append((line, width))
            elif function is None:
                is_sidewalk = lane.get("allow") == "pedestrian"
                edge_id = edge.get("id", "")
                lanes.append(Lane(lane.get("id", ""), edge_id, int(lane.get("index", 0)), line, width, is_sidewalk))
    return tuple(lanes), tuple(crossings)


def _signals(root: ET.Element, lanes: tuple[Lane, ...]) -> tuple[Signal, ...]:
    """One post an approach, to the right of its outer lane."""
    outer = {lane.edge: lane for lane in sorted(lanes, key=lambda lane: -lane.index) if not lane.is_sidewalk}
    straight: dict[str, tuple[str, int]] = {}
    for connection in root.findall("connection"):
        edge, controller = connection.get("from", ""), connection.get("tl")
        if controller and edge in outer and (connection.get("dir") == "s" or edge not in straight):
            straight[edge] = (controller, int(connection.get("linkIndex", 0)))
    signals = []
    for edge, (controller, link) in straight.items():
        lane = outer[edge]
        (x0, y0), (x1, y1) = lane.line.coords[-2], lane.line.coords[-1]
        yaw = float(np.arctan2(y1 - y0, x1 - x0))
        right = lane.width / 2 + 0.7
        signals.append(Signal(x1 + np.sin(yaw) * right, y1 - np.cos(yaw) * right, yaw, controller, link))
    return tuple(signals)


def _free_ground(town: Town, margin: float) -> BaseGeometry:
    roads = shapely.union_all([town.carriageway, town.pavement])
    return roads.envelope.buffer(70).difference(roads.buffer(margin))


def _buildings(town: Town, rng: np.random.Generator) -> tuple[Building, ...]:
    """Houses in a row along every street, now and then a gap."""
    free = _free_ground(town, 1.5)
    placed: list[Polygon] = []
    buildings = []
    palette = (
        (0.62, 0.50, 0.42),
        (0.70, 0.66, 0.58),
        (0.50, 0.42, 0.38),
        (0.58, 0.60, 0.62),
        (0.66, 0.56, 0.46),
        (0.45, 0.47, 0.52),
    )
    for lane in town.lanes:
        if not lane.is_sidewalk:
            continue
        at = float(rng.uniform(4, 9))
        while at < lane.line.length - 6:
            width, depth = float(rng.uniform(11, 22)), float(rng.uniform(10, 14))
            middle, ahead = lane.line.interpolate(at + width / 2), lane.line.interpolate(at + width / 2 + 0.5)
            yaw = np.arctan2(ahead.y - middle.y, ahead.x - middle.x)
            setback = float(rng.uniform(3.2, 5.5))
            house = rotate(shapely.box(-width / 2, -depth, width / 2, 0), np.degrees(yaw), origin=(0, 0))
            house = translate(house, middle.x + np.sin(yaw) * setback, middle.y - np.cos(yaw) * setback)
            at += width + float(rng.choice([0.0, 0.0, 0.0, 9.0]))
            if free.contains(house) and not any(house.intersects(other) for other in placed[-60:]):
                placed.append(house.buffer(-0.1))
                colour = np.clip(np.array(palette[rng.integers(len(palette))]) * rng.uniform(0.85, 1.1), 0, 1)
                buildings.append(Building(house, float(rng.integers(2, 8) * 3.1 + 1.0), tuple(colour.tolist())))
    return tuple(buildings)


def _trees(town: Town, buildings: tuple[Building, ...], rng: np.random.Generator) -> NDArray[np.float64]:
    """(x, y, size) of trees on the verge between pavement and houses."""
    houses = shapely.union_all([b.footprint for b in buildings]) if buildings else Point(1e6, 1e6)
    shapely.prepare(houses)
    trees = []
    for lane in town.lanes:
        if lane.is_sidewalk:
            for at in np.arange(9, lane.line.length - 6, 14) + rng.uniform(-3, 3):
                middle, ahead = lane.line.interpolate(at), lane.line.interpolate(at + 0.5)
                yaw = np.arctan2(ahead.y - middle.y, ahead.x - middle.x)
                place = Point(middle.x + np.sin(yaw) * 2.4, middle.y - np.cos(yaw) * 2.4)
                if rng.random() < 0.6 and houses.distance(place) > 0.7:
                    trees.append((place.x, place.y, rng.uniform(0.75, 1.2)))
    return np.array(trees).reshape(-1, 3)


def _lamps(town: Town) -> NDArray[np.float64]:
    """(x, y, yaw towards the road) of street lamps, at the kerb every 28 m."""
    lamps = []
    for lane in town.lanes:
        if lane.is_sidewalk:
            for at in np.arange(14, lane.line.length - 4, 28):
                middle, ahead = lane.line.interpolate(at), lane.line.interpolate(at + 0.5)
                yaw = np.arctan2(ahead.y - middle.y, ahead.x - middle.x)
                lamps.append((middle.x - np.sin(yaw) * 0.9, middle.y + np.cos(yaw) * 0.9, yaw + np.pi / 2))
    return np.array(lamps).reshape(-1, 3)


def _cones(town: Town, rng: np.random.Generator) -> NDArray[np.float64]:
    """(x, y) of traffic cones around works on some pavements."""
    walks = [lane for lane in town.lanes if lane.is_sidewalk]
    cones = []
    for lane in rng.choice(np.array(walks, dtype=object), size=min(4, len(walks)), replace=False):
        start = rng.uniform(20, max(21, lane.line.length - 30))
        for at in np.arange(start, start + 14, 2.0):
            middle, ahead = lane.line.interpolate(at), lane.line.interpolate(at + 0.5)
            yaw = np.arctan2(ahead.y - middle.y, ahead.x - middle.x)
            cones.append((middle.x - np.sin(yaw) * 0.9, middle.y + np.cos(yaw) * 0.9))
    return np.array(cones).reshape(-1, 2)
