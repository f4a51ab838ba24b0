"""SUMO drives the town: who is where, ten times a second."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType

import numpy as np

from system.demo.config import STEP_S
from system.demo.town import Town
from system.errors import ConfigError

EGO_TYPE = "ego_car"
EGO_SIZE = (4.084, 1.730, 1.562)
# The streets fill up first.
WARM_UP_S = 45.0
_BRAKE_LIGHT = 8  # bit of libsumo's signals

# Name: SUMO class, length, width, height (m), acceleration, deceleration (m/s^2), top speed (m/s), imperfection.
_TYPES = {
    "ego_car": ("passenger", 4.084, 1.73, 1.562, 2.6, 4.5, 15, 0.3),
    "car": ("passenger", 4.6, 1.84, 1.5, 2.6, 4.5, 16, 0.5),
    "truck": ("truck", 8.2, 2.45, 3.3, 1.4, 4.0, 12, 0.5),
    "bus": ("bus", 11.8, 2.5, 3.1, 1.4, 4.0, 12, 0.4),
    "motorcycle": ("motorcycle", 2.2, 0.8, 1.75, 4.0, 6.0, 16, 0.5),
    "bicycle": ("bicycle", 1.75, 0.65, 1.75, 1.2, 3.0, 5.5, 0.5),
    "pedestrian": ("pedestrian", 0.5, 0.55, 1.75, 1.5, 2.0, 1.6, 0.5),
}
_MIX = (("ego_car", 0.34), ("car", 0.36), ("truck", 0.08), ("bus", 0.05), ("motorcycle", 0.08), ("bicycle", 0.09))


@dataclass
class Way:
    """One road user. rows: (t_s, x, y, yaw, speed, is_braking) of its box's centre; size: length, width, height."""

    kind: str
    size: tuple[float, float, float]
    rows: list[tuple[float, float, float, float, float, float]] = field(default_factory=list)

    @property
    def states(self) -> np.ndarray:
        return np.array(self.rows)


@dataclass
class Traffic:
    """What was recorded between two moments. signals: at each step, the state of each controller's links."""

    ways: dict[str, Way]
    signals: list[dict[str, str]]
    lanes: dict[str, list[str]]
    leaders: dict[str, list[tuple[str, float] | None]]


Control = Callable[[ModuleType, float], None]


def run_traffic(town: Town, folder: Path, seed: int, seconds: float, control: Control | None = None) -> Traffic:
    """Warm up, then record `seconds`; time 0 is the end of the warm-up.

    Args:
        control: called before every recorded step with libsumo and the time; how hazards are staged.
    """
    routes = folder / f"routes-{seed}.rou.xml"
    routes.write_text(_routes(town, seed, WARM_UP_S + seconds), encoding="utf-8")
    traffic = Traffic({}, [], {}, {})
    with _simulation(town, routes, seed) as sumo:
        while sumo.simulation.getTime() < WARM_UP_S:
            sumo.simulationStep()
        for k in range(round(seconds / STEP_S) + 1):
            t_s = k * STEP_S
            if control is not None:
                control(sumo, t_s)
            _record(sumo, t_s, traffic)
            sumo.simulationStep()
    return traffic


@contextmanager
def _simulation(town: Town, routes: Path, seed: int) -> Iterator[ModuleType]:
    try:
        # It prints that pyarrow is of another version than the one it can use; we use neither for the other.
        with redirect_stdout(None):
            import libsumo
    except ImportError as error:
        raise ConfigError("demo logs need SUMO; pip install eclipse-sumo libsumo") from error
    libsumo.start(
        [
            "sumo", "-n", str(town.net_file), "-r", str(routes), "--step-length", str(STEP_S), "--seed", str(seed),
            "--lanechange.duration", "1.6", "--collision.action", "none", "--no-step-log", "true",
            "--no-warnings", "true", "--ignore-route-errors", "true", "--time-to-teleport", "-1",
        ]
    )  # fmt: skip
    try:
        yield libsumo
    finally:
        libsumo.close()


def _routes(town: Town, seed: int, seconds: float) -> str:
    """Trips between random edges, and people on foot."""
    rng = np.random.default_rng(seed)
    edges = sorted({lane.edge for lane in town.lanes})
    kinds, shares = zip(*_MIX, strict=True)
    entries: list[tuple[float, str]] = []
    for k in range(int(seconds * 1.5)):
        start, end = rng.choice(edges, size=2, replace=False)
        depart = float(rng.uniform(0, seconds))
        kind = rng.choice(np.array(kinds), p=np.array(shares) / sum(shares))
        trip = {"id": f"v{k}", "type": kind, "depart": f"{depart:.1f}", "from": start, "to": end}
        place = {"departSpeed": "max", "departLane": "best", "departPos": "random_free"}
        entries.append((depart, _element("trip", trip | place)))
    for k in range(int(seconds * 1.1)):
        start, end = rng.choice(edges, size=2, replace=False)
        depart = float(rng.uniform(0, seconds * 0.8))
        person = {"id": f"p{k}", "type": "pedestrian", "depart": f"{depart:.1f}", "departPos": "random"}
        entries.append((depart, _element("person", person, _element("personTrip", {"from": start, "to": end}))))
    return "<routes>" + _vehicle_types() + "".join(text for _, text in sorted(entries)) + "</routes>"


def _vehicle_types() -> str:
    names = ("vClass", "length", "width", "height", "accel", "decel", "maxSpeed", "sigma")
    types = ({"id": kind} | dict(zip(names, values, strict=True)) for kind, values in _TYPES.items())
    return "".join(_element("vType", attributes) for attributes in types)


def _element(name: str, attributes: Mapping[str, object], inner: str = "") -> str:
    """An XML element; the values are our own names and numbers."""
    words = " ".join(f'{key}="{value}"' for key, value in attributes.items())
    return f"<{name} {words}>{inner}</{name}>"


def _record(sumo: ModuleType, t_s: float, traffic: Traffic) -> None:
    step = round(t_s / STEP_S)
    for vehicle in sumo.vehicle.getIDList():
        kind = sumo.vehicle.getTypeID(vehicle)
        size = (sumo.vehicle.getLength(vehicle), sumo.vehicle.getWidth(vehicle), sumo.vehicle.getHeight(vehicle))
        yaw = np.radians(90.0 - sumo.vehicle.getAngle(vehicle))
        x, y = sumo.vehicle.getPosition(vehicle)  # the middle of the front bumper
        x, y = x - np.cos(yaw) * size[0] / 2, y - np.sin(yaw) * size[0] / 2
        is_braking = float(bool(sumo.vehicle.getSignals(vehicle) & _BRAKE_LIGHT))
        way = traffic.ways.setdefault(vehicle, Way("car" if kind == EGO_TYPE else kind, size))
        way.rows.append((t_s, x, y, yaw, sumo.vehicle.getSpeed(vehicle), is_braking))
        if kind == EGO_TYPE:
            traffic.lanes.setdefault(vehicle, [""] * step).append(sumo.vehicle.getLaneID(vehicle))
            traffic.leaders.setdefault(vehicle, [None] * step).append(sumo.vehicle.getLeader(vehicle, 40.0) or None)
    for person in sumo.person.getIDList():
        yaw = np.radians(90.0 - sumo.person.getAngle(person))
        x, y = sumo.person.getPosition(person)
        way = traffic.ways.setdefault(person, Way("pedestrian", (0.5, 0.55, 1.75)))
        way.rows.append((t_s, x, y, yaw, sumo.person.getSpeed(person), 0.0))
    controllers = sumo.trafficlight.getIDList()
    traffic.signals.append({c: sumo.trafficlight.getRedYellowGreenState(c) for c in controllers})
