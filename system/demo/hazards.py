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

from system.demo.config import HAZARDS, STEP_S, Hazard, SceneConfig
from system.demo.town import Town
from system.demo.traffic import Traffic, Way, run_traffic
from system.errors import DataError
from system.miner.boxes import box_distance
from system.miner.encounter import time_to_collision

_REACTION_S = 0.9
_HARD_BRAKING_MPS2 = 7.5
_TRIES_OF_A_KIND = 20
_DANGEROUS_TTC_S = 1.5


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

    A town that never offers one, as one without a fitting junction, gets the next kind of hazard.

    Raises:
        DataError: `no_candidate`, where none of the tries offered any.
    """
    kinds = [config.hazard]
    if config.hazard != "none":
        first = HAZARDS.index(config.hazard)
        kinds = [*HAZARDS[first:], *HAZARDS[:first]]
    for attempt in range(_TRIES_OF_A_KIND * len(kinds)):
        seed = config.seed + 7919 * attempt
        plain = run_traffic(town, folder, seed, config.seconds)
        egos = _driving_egos(plain, config.seconds)
        kind = kinds[attempt // _TRIES_OF_A_KIND]
        drive = _try(kind, town, folder, config.model_copy(update={"seed": seed}), plain, egos) if egos else None
        if drive is not None and not _collides(drive) and _is_dangerous(drive):
            return drive
    raise DataError("no_candidate", f"{config.name}: {_TRIES_OF_A_KIND} seeds of traffic each offered no {kinds}")


def _is_dangerous(drive: Drive) -> bool:
    """Whether the staged one really endangers the ego; always true where nothing was staged."""
    if drive.hazard_actor is None:
        return True
    return least_ttc(drive.ego, {drive.hazard_actor: drive.others[drive.hazard_actor]})[0] <= _DANGEROUS_TTC_S


def _collides(drive: Drive) -> bool:
    """Whether the ego ever drives through somebody."""
    ego = drive.ego.states
    for way in drive.others.values():
        states = way.states
        k = np.round(states[:, 0] / STEP_S).astype(int)
        states, k = states[k < len(ego)], k[k < len(ego)]
        if len(k) and (box_distance(_boxes(ego[k], drive.ego), _boxes(states, way)) <= 0.0).any():
            return True
    return False


def least_ttc(ego: Way, others: dict[str, Way]) -> tuple[float, str | None]:
    """Least time to collision of anybody with the ego (s, within 5), and with whom."""
    states = ego.states
    least: tuple[float, str | None] = (np.inf, None)
    for name, way in others.items():
        rows = way.states
        k = np.round(rows[:, 0] / STEP_S).astype(int)
        rows, k = rows[k < len(states)], k[k < len(states)]
        if len(k):
            boxes = _boxes(states[k], ego), _boxes(rows, way)
            ttc = time_to_collision(*boxes, _velocity(states[k]), _velocity(rows), horizon_s=5.0)
            least = min(least, (float(ttc.min()), name), key=lambda pair: pair[0])
    return least


def _boxes(states: np.ndarray, way: Way) -> np.ndarray:
    return np.column_stack([states[:, 1:4], np.tile(way.size[:2], (len(states), 1))])


def _velocity(states: np.ndarray) -> np.ndarray:
    return states[:, 4:5] * np.column_stack([np.cos(states[:, 3]), np.sin(states[:, 3])])


def _try(
    hazard: Hazard, town: Town, folder: Path, config: SceneConfig, plain: Traffic, egos: list[str]
) -> Drive | None:
    if hazard == "none":
        return _drive(plain, egos[0], hazard)
    if hazard == "hard_braking_lead":
        found = _with_lead(plain, egos, config.seconds)
        if found is None:
            return None
        staged = run_traffic(town, folder, config.seed, config.seconds, partial(_brake_lead, found))
        return _drive(staged, found.ego, hazard, found.actor, found.at_s)
    if hazard == "cut_in":
        found = _with_neighbour(plain, egos, config.seconds)
        if found is None:
            return None
        staged = run_traffic(town, folder, config.seed, config.seconds, partial(_cut_in, found))
        return _drive(staged, found.ego, hazard, found.actor, found.at_s)
    found = (
        _with_clear_road(plain, egos, config.seconds)
        if hazard == "jaywalker"
        else _at_junction(plain, town, egos, config.seconds)
    )
    if found is None:
        return None
    actor = _jaywalker(plain, found, config) if hazard == "jaywalker" else _runner(plain, found, config)
    # The ego sees the jaywalker step off the kerb, and the runner two seconds before they would meet.
    seen_s = found.at_s + 0.5 if hazard == "jaywalker" else found.at_s - 2.0
    staged = run_traffic(town, folder, config.seed, config.seconds, partial(_late_brake, found.ego, seen_s))
    staged.ways["staged"] = actor
    return _drive(staged, found.ego, hazard, "staged", found.at_s)


def _drive(traffic: Traffic, ego: str, hazard: Hazard, actor: str | None = None, at_s: float | None = None) -> Drive:
    others = {name: way for name, way in traffic.ways.items() if name != ego}
    return Drive(traffic.ways[ego], others, traffic.signals, hazard, actor, at_s)


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


def _at_junction(traffic: Traffic, town: Town, egos: list[str], seconds: float) -> _Candidate | None:
    """An ego that crosses the middle of a junction straight on and at speed."""
    for ego in egos:
        states = traffic.ways[ego].states
        for k in range(round(3.5 / STEP_S), round((seconds - 2.0) / STEP_S)):
            near = np.hypot(*(town.junction_centres - states[k, 1:3]).T).min()
            around = states[k - 15 : k + 15]
            if near < 3.5 and np.ptp(np.unwrap(around[:, 3])) < 0.05 and around[:, 4].min() > 6.0:
                return _Candidate(ego, k * STEP_S)
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


def _jaywalker(traffic: Traffic, found: _Candidate, config: SceneConfig) -> Way:
    """Steps off the kerb on the right and walks across, there when the ego would be, had it not braked."""
    states = traffic.ways[found.ego].states
    now = states[round(found.at_s / STEP_S)]
    meet = states[min(round((found.at_s + 2.6) / STEP_S), len(states) - 1)]
    yaw, walk_mps = now[3], 1.9
    way = Way("pedestrian", (0.5, 0.55, 1.75))
    for k in range(round(config.seconds / STEP_S) + 1):
        t_s = k * STEP_S
        # In the ego's path 2.6 s after the start; before it, waiting at the kerb 5 m to the right.
        left = float(np.clip(walk_mps * (t_s - found.at_s - 2.6), -5.0, 9.0))
        speed = walk_mps if -5.0 < left < 9.0 else 0.0
        x, y = meet[1] - np.sin(yaw) * left, meet[2] + np.cos(yaw) * left
        way.rows.append((t_s, x, y, yaw + np.pi / 2, speed, 0.0))
    return way


def _runner(traffic: Traffic, found: _Candidate, config: SceneConfig) -> Way:
    """Crosses the junction from the right at a red light, and would hit the ego, had it not braked."""
    states = traffic.ways[found.ego].states
    meet = states[round(found.at_s / STEP_S)]
    yaw, speed = meet[3] + np.pi / 2, 12.5
    way = Way("car", (4.6, 1.84, 1.5))
    for k in range(round(config.seconds / STEP_S) + 1):
        t_s = k * STEP_S
        along = speed * (t_s - found.at_s) + 1.0
        if abs(along) < 110:
            way.rows.append((t_s, meet[1] + np.cos(yaw) * along, meet[2] + np.sin(yaw) * along, yaw, speed, 0.0))
    return way
