"""Stage what mining has to find: a hard-braking lead, a cut-in, a jaywalker, a red-light runner.

A first run without control shows who could take part; the second, equal up to that moment, stages it. Those who do
not follow traffic rules (the jaywalker, the runner) are moved along straight lines by us; everybody else is SUMO's, the
ego's late reaction included.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import ModuleType

import numpy as np
from shapely.geometry import Point

from system.demo.config import SIZES_M, STEP_S, Hazard, SceneConfig
from system.demo.town import Town
from system.demo.traffic import Control, Traffic, Way, pedestrian_size, run_traffic
from system.errors import DataError
from system.miner.boxes import box_distance
from system.miner.encounter import time_to_collision

_STAGED = "staged"  # the id of a road user whom we move ourselves
_REACTION_S = 0.9
_HARD_BRAKING_MPS2 = 7.5
_MOST_TRIES = 60
# A staged hazard must come nearer than this, and an ordinary drive must not.
_DANGEROUS_TTC_S, _ORDINARY_TTC_S = 1.4, 2.5
_PARKED_WITHIN_M = 120.0


@dataclass
class Drive:
    """A scene's traffic with its ego. hazard_actor: the id of who endangers it; hazard_s: when it begins."""

    ego: Way
    others: dict[str, Way]
    signals: list[dict[str, str]]
    hazard: Hazard
    hazard_actor: str | None = None
    hazard_s: float | None = None


@dataclass
class _Candidate:
    ego: str
    at_s: float
    actor: str | None = None
    places: dict[str, float] = field(default_factory=dict)


def stage(town: Town, folder: Path, config: SceneConfig) -> Drive:
    """Drive a scene, its hazard staged; traffic that offers no occasion for it is replaced by other traffic.

    Raises:
        DataError: `no_candidate`, where none of the tries offered one.
    """
    for attempt in range(_MOST_TRIES):
        seed = config.seed + 7919 * attempt
        plain = run_traffic(town, folder, seed, config.seconds)
        egos = _driving_egos(plain, config.seconds)
        drive = _try(config.model_copy(update={"seed": seed}), town, folder, plain, egos) if egos else None
        if drive is not None and not _collides(drive):
            return drive
    raise DataError("no_candidate", f"{config.name}: {_MOST_TRIES} seeds of traffic offered no {config.hazard}")


def _collides(drive: Drive) -> bool:
    """Whether the ego, or whoever we move ourselves, ever drives through somebody."""
    if any(_touch(drive.ego, way) for way in drive.others.values()):
        return True
    staged = drive.others.get(_STAGED)
    return staged is not None and any(
        _touch(staged, way) for way in drive.others.values() if way is not staged and way.kind != "pedestrian"
    )


def _touch(one: Way, other: Way) -> bool:
    a, b = _together(one, other)
    return bool(len(a) and (box_distance(_boxes(a, one), _boxes(b, other)) <= 0.0).any())


def _together(one: Way, other: Way) -> tuple[np.ndarray, np.ndarray]:
    """The states of two at the moments that both have, [K, 6] each."""
    a, b = one.states, other.states
    start_a, start_b = round(a[0, 0] / STEP_S), round(b[0, 0] / STEP_S)
    begin, end = max(start_a, start_b), min(start_a + len(a), start_b + len(b))
    if begin >= end:
        return a[:0], b[:0]
    return a[begin - start_a : end - start_a], b[begin - start_b : end - start_b]


def least_ttc(ego: Way, others: dict[str, Way]) -> tuple[float, str | None]:
    """Least time to collision of anybody with the ego (s, within 5), and with whom."""
    least: tuple[float, str | None] = (np.inf, None)
    for name, way in others.items():
        a, b = _together(ego, way)
        near = np.hypot(a[:, 1] - b[:, 1], a[:, 2] - b[:, 2]) < 80.0
        a, b = a[near], b[near]
        if len(a):
            ttc = time_to_collision(_boxes(a, ego), _boxes(b, way), _velocity(a), _velocity(b), horizon_s=5.0)
            least = min(least, (float(ttc.min()), name), key=lambda pair: pair[0])
    return least


def _boxes(states: np.ndarray, way: Way) -> np.ndarray:
    return np.column_stack([states[:, 1:4], np.tile(way.size[:2], (len(states), 1))])


def _velocity(states: np.ndarray) -> np.ndarray:
    return states[:, 4:5] * np.column_stack([np.cos(states[:, 3]), np.sin(states[:, 3])])


def _try(config: SceneConfig, town: Town, folder: Path, plain: Traffic, egos: list[str]) -> Drive | None:
    if config.hazard == "none":
        return _ordinary(town, plain, egos)
    find = {
        "hard_braking_lead": _with_lead,
        "cut_in": _with_neighbour,
        "jaywalker": _with_clear_road,
        "red_light_runner": partial(_at_green_light, town),
    }[config.hazard]
    found = find(plain, egos, config.seconds)
    if found is None:
        return None
    control: Control
    if config.hazard == "hard_braking_lead":
        control = partial(_brake_lead, found)
    elif config.hazard == "cut_in":
        control = partial(_cut_in, found)
    else:
        # The ego sees the jaywalker step off the kerb, and the runner two seconds before they would meet.
        control = partial(_late_brake, found.ego, found.at_s + (0.5 if config.hazard == "jaywalker" else -2.0))
    staged = run_traffic(town, folder, config.seed, config.seconds, control)
    actor = found.actor or _STAGED
    if config.hazard == "jaywalker":
        staged.ways[_STAGED] = _jaywalker(plain, town, found, config)
    if config.hazard == "red_light_runner":
        staged.ways[_STAGED] = _runner(found, config)
    drive = _drive(town, staged, found.ego, config.hazard, actor, found.at_s)
    ttc_s, _ = least_ttc(drive.ego, {actor: drive.others[actor]})
    return drive if ttc_s <= _DANGEROUS_TTC_S else None


def _ordinary(town: Town, plain: Traffic, egos: list[str]) -> Drive | None:
    for ego in egos[:6]:
        drive = _drive(town, plain, ego, "none")
        if least_ttc(drive.ego, drive.others)[0] >= _ORDINARY_TTC_S:
            return drive
    return None


def _drive(
    town: Town, traffic: Traffic, ego: str, hazard: Hazard, actor: str | None = None, at_s: float | None = None
) -> Drive:
    others = {name: way for name, way in traffic.ways.items() if name != ego}
    way = traffic.ways[ego]
    others |= _parked(town, way, None if hazard != "jaywalker" else others[_STAGED])
    return Drive(way, others, traffic.signals, hazard, actor, at_s)


def _parked(town: Town, ego: Way, jaywalker: Way | None) -> dict[str, Way]:
    """The parked cars that the ego passes; where the jaywalker steps out, nobody has parked."""
    sizes = list(SIZES_M.values())
    route = ego.states
    ways = {}
    for number, (x, y, yaw, kind) in enumerate(town.parked):
        if np.hypot(route[:, 1] - x, route[:, 2] - y).min() < _PARKED_WITHIN_M:
            way = Way("car", sizes[int(kind)], [(row[0], x, y, yaw, 0.0, 0.0) for row in ego.rows])
            if jaywalker is None or not _touch(jaywalker, Way("car", (8.0, 2.4, 1.5), way.rows)):
                ways[f"parked{number}"] = way
    return ways


def _driving_egos(traffic: Traffic, seconds: float) -> list[str]:
    """Cars of the ego's kind that are there throughout and drive, those that drive longest first."""
    steps = round(seconds / STEP_S) + 1
    egos = [name for name in traffic.lanes if len(traffic.ways[name].rows) == steps]
    moving = {name: float((traffic.ways[name].states[:, 4] > 3.0).mean()) for name in egos}
    return sorted((name for name in egos if moving[name] > 0.3), key=lambda name: -moving[name])


def _with_lead(traffic: Traffic, egos: list[str], seconds: float) -> _Candidate | None:
    """An ego that follows somebody closely at speed, with time left to see what comes of it."""
    best: tuple[float, _Candidate] | None = None
    for ego in egos:
        speed = traffic.ways[ego].states[:, 4]
        for k in range(round(1.0 / STEP_S), round((seconds - 3.5) / STEP_S)):
            lead = traffic.leaders[ego][k]
            if lead is None or not 5.0 < lead[1] < 22.0 or speed[k] < 6.5:
                continue
            if traffic.ways[lead[0]].states[:, 4].max(initial=0) < 5.0:
                continue
            badness = abs(lead[1] - 11.0)
            if best is None or badness < best[0]:
                best = (badness, _Candidate(ego, k * STEP_S, lead[0]))
    return None if best is None else best[1]


def _with_neighbour(traffic: Traffic, egos: list[str], seconds: float) -> _Candidate | None:
    """An ego with a car one lane over that is a little ahead."""
    for ego in egos:
        states = traffic.ways[ego].states
        for k in range(round(1.0 / STEP_S), round((seconds - 3.5) / STEP_S)):
            _, x, y, yaw, speed, _ = states[k]
            if speed < 6.0:
                continue
            for name, way in traffic.ways.items():
                rows = way.states
                if name == ego or way.kind not in ("car", "truck") or not rows[0, 0] <= k * STEP_S <= rows[-1, 0]:
                    continue
                other = rows[round((k * STEP_S - rows[0, 0]) / STEP_S)]
                ahead = np.cos(yaw) * (other[1] - x) + np.sin(yaw) * (other[2] - y)
                left = np.cos(yaw) * (other[2] - y) - np.sin(yaw) * (other[1] - x)
                turned = abs((other[3] - yaw + np.pi) % (2 * np.pi) - np.pi)
                if 4.5 < ahead < 14 and 2.4 < abs(left) < 4.2 and turned < 0.1 and other[4] > 4:
                    return _Candidate(ego, k * STEP_S, name, {"speed": float(speed)})
    return None


def _with_clear_road(traffic: Traffic, egos: list[str], seconds: float) -> _Candidate | None:
    """An ego that drives straight and fast."""
    for ego in egos:
        states = traffic.ways[ego].states
        for k in range(round(1.0 / STEP_S), round((seconds - 4.0) / STEP_S)):
            ahead = states[k : k + round(4.0 / STEP_S)]
            lead = traffic.leaders[ego][k]
            is_straight = np.ptp(np.unwrap(ahead[:, 3])) < 0.03
            if is_straight and ahead[:, 4].min() > 7.0 and (lead is None or lead[1] > 30):
                return _Candidate(ego, k * STEP_S)
    return None


def _at_green_light(town: Town, traffic: Traffic, egos: list[str], seconds: float) -> _Candidate | None:
    """An ego that drives over a junction, straight on and at speed, while somebody from its right has red.

    The candidate's places: where the two would meet, (x, y), and `yaw` of who comes from the right.
    """
    entries = [(signal, lane) for signal in town.network.signals for lane in town.network.lanes
               if lane.edge == signal.edge and lane.use == "drive"]  # fmt: skip
    for ego in egos:
        states = traffic.ways[ego].states
        for signal, lane in entries:
            x0, y0 = lane.line.coords[-1]
            yaw = lane.yaw_at_end
            # How far the ego is to the left of the lane's line, and how far past the stop line.
            left = np.cos(yaw) * (states[:, 2] - y0) - np.sin(yaw) * (states[:, 1] - x0)
            past = np.cos(yaw) * (states[:, 1] - x0) + np.sin(yaw) * (states[:, 2] - y0)
            for k in np.flatnonzero((left[:-1] * left[1:] <= 0) & (past[:-1] > 2) & (past[:-1] < 25)):
                around = states[max(k - 15, 0) : k + 15]
                turned = np.cos(states[k, 3] - (yaw - np.pi / 2))
                if not round(3.5 / STEP_S) <= k < round((seconds - 2.0) / STEP_S) or turned < 0.94:
                    continue
                is_straight = np.ptp(np.unwrap(around[:, 3])) < 0.05 and around[:, 4].min() > 6.0
                is_red = all(
                    traffic.signals[j][signal.controller][signal.link] in "rR" for j in range(k - 15, k + 5)
                )
                if is_straight and is_red:
                    meet = {"x": float(x0 + np.cos(yaw) * past[k]), "y": float(y0 + np.sin(yaw) * past[k]), "yaw": yaw}
                    return _Candidate(ego, k * STEP_S, places=meet)
    return None


def _brake_lead(found: _Candidate, sumo: ModuleType, t_s: float) -> None:
    """The lead brakes as hard as it can; the ego keeps its speed for its reaction time, then brakes too."""
    lead, ego = found.actor, found.ego
    if abs(t_s - found.at_s) < STEP_S / 2:
        sumo.vehicle.setSpeedMode(lead, 0)
        sumo.vehicle.setDecel(lead, _HARD_BRAKING_MPS2)
        sumo.vehicle.setSpeed(lead, 0.0)
    _react(sumo, t_s, ego, found.at_s)


def _cut_in(found: _Candidate, sumo: ModuleType, t_s: float) -> None:
    """The neighbour moves into the ego's lane without looking, and slows down."""
    actor, ego = found.actor, found.ego
    if abs(t_s - found.at_s) < STEP_S / 2:
        sumo.vehicle.setLaneChangeMode(actor, 0)
        sumo.vehicle.changeLane(actor, sumo.vehicle.getLaneIndex(ego), 10.0)
        sumo.vehicle.setSpeedMode(actor, 0)
        sumo.vehicle.setSpeed(actor, 0.55 * found.places["speed"])
    _react(sumo, t_s, ego, found.at_s + 0.6)


def _late_brake(ego: str, seen_s: float, sumo: ModuleType, t_s: float) -> None:
    _react(sumo, t_s, ego, seen_s)


def _react(sumo: ModuleType, t_s: float, ego: str, seen_s: float) -> None:
    if abs(t_s - seen_s) < STEP_S / 2:
        sumo.vehicle.setSpeedMode(ego, 0)
        sumo.vehicle.setSpeed(ego, sumo.vehicle.getSpeed(ego))
    if abs(t_s - seen_s - _REACTION_S) < STEP_S / 2:
        sumo.vehicle.setDecel(ego, _HARD_BRAKING_MPS2)
        sumo.vehicle.setSpeed(ego, 0.0)


def _jaywalker(traffic: Traffic, town: Town, found: _Candidate, config: SceneConfig) -> Way:
    """Steps off the kerb on the right and walks across, there when the ego would be, had it not braked."""
    states = traffic.ways[found.ego].states
    now = states[round(found.at_s / STEP_S)]
    meet = states[min(round((found.at_s + 2.6) / STEP_S), len(states) - 1)]
    yaw, walk_mps = now[3], 1.9
    here = Point(meet[1], meet[2])
    kerb_m = min(lane.line.distance(here) for lane in town.network.lanes if lane.use == "walk") - 0.8
    way = Way("pedestrian", pedestrian_size(_STAGED))
    for k in range(round(config.seconds / STEP_S) + 1):
        t_s = k * STEP_S
        # In the ego's path 2.6 s after the start; before it, waiting at the kerb.
        left = float(np.clip(walk_mps * (t_s - found.at_s - 2.6), -kerb_m, 11.0))
        speed = walk_mps if -kerb_m < left < 11.0 else 0.0
        x, y = meet[1] - np.sin(yaw) * left, meet[2] + np.cos(yaw) * left
        way.rows.append((t_s, x, y, yaw + np.pi / 2, speed, 0.0))
    return way


def _runner(found: _Candidate, config: SceneConfig) -> Way:
    """Crosses the junction from the right at a red light, and would hit the ego, had it not braked."""
    yaw, speed = found.places["yaw"], 12.5
    way = Way("car", SIZES_M["sedan"])
    for k in range(round(config.seconds / STEP_S) + 1):
        t_s = k * STEP_S
        along = speed * (t_s - found.at_s) + 1.0
        if abs(along) < 110:
            x, y = found.places["x"] + np.cos(yaw) * along, found.places["y"] + np.sin(yaw) * along
            way.rows.append((t_s, x, y, yaw, speed, 0.0))
    return way
