"""A scene from above, in the ego's frame at its first moment: x forward (up in the plot), y left. Metres."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from system.miner.scene_risk import SceneRisk
from system.miner.sightings import kind_of
from system.records import EgoTrack, SceneWindow

REACH_M = 60.0
_MOST_AGENTS = 60
_MOST_STEPS = 9


@dataclass(frozen=True)
class PlottedTrack:
    """A road user's way. steps: (x, y, yaw) at some moments; size: (length, width)."""

    kind: str
    is_worst: bool
    size: tuple[float, float]
    steps: tuple[tuple[float, float, float], ...]


@dataclass(frozen=True)
class BirdsEye:
    """What is drawn: the ego's way and the others', thinned to a few moments."""

    ego: PlottedTrack
    agents: tuple[PlottedTrack, ...]

    def to_json(self) -> str:
        """Compact, for a column of the store."""
        return json.dumps(
            {"ego": _as_list(self.ego), "agents": [_as_list(a) for a in self.agents]}, separators=(",", ":")
        )

    @classmethod
    def from_json(cls, text: str) -> BirdsEye:
        values = json.loads(text)
        return cls(_from_list(values["ego"]), tuple(_from_list(agent) for agent in values["agents"]))


def birds_eye_of(window: SceneWindow, risk: SceneRisk) -> BirdsEye | None:
    """The plot of a window; None where the ego's way is not known."""
    ego = window.ego
    if ego is None:
        return None
    origin = ego.states[0]
    worst = risk.agents[0].track_id if risk.agents else None
    agents = [
        (
            float(np.hypot(*way[:, :2].T).min()),
            PlottedTrack(kind_of(a.category), a.track_id == worst, size, _steps(way)),
        )
        for a in window.agents or ()
        for way, size in [(_in_frame(a.states[:, [0, 1, 3]], origin), (float(a.states[0, 4]), float(a.states[0, 5])))]
    ]
    agents.sort(key=lambda pair: (not pair[1].is_worst, pair[0]))
    near = tuple(track for distance, track in agents[:_MOST_AGENTS] if distance <= REACH_M or track.is_worst)
    way = _in_frame(_ego_centres(ego), origin)
    return BirdsEye(PlottedTrack("ego", False, (ego.size_m[0], ego.size_m[1]), _steps(way)), near)


def _ego_centres(ego: EgoTrack) -> NDArray[np.float64]:
    x, y, yaw = ego.states[:, 0], ego.states[:, 1], ego.states[:, 3]
    return np.stack([x + ego.center_ahead_m * np.cos(yaw), y + ego.center_ahead_m * np.sin(yaw), yaw], -1)


def _in_frame(way_T3: NDArray[np.float64], origin: NDArray[np.float64]) -> NDArray[np.float64]:
    cos, sin = np.cos(origin[3]), np.sin(origin[3])
    dx, dy = way_T3[:, 0] - origin[0], way_T3[:, 1] - origin[1]
    return np.stack([cos * dx + sin * dy, cos * dy - sin * dx, way_T3[:, 2] - origin[3]], -1)


def _steps(way_T3: NDArray[np.float64]) -> tuple[tuple[float, float, float], ...]:
    chosen = np.unique(np.linspace(0, len(way_T3) - 1, min(_MOST_STEPS, len(way_T3))).round().astype(int))
    return tuple((round(float(x), 2), round(float(y), 2), round(float(yaw), 3)) for x, y, yaw in way_T3[chosen])


def _as_list(track: PlottedTrack) -> list[Any]:
    length, width = (round(side, 2) for side in track.size)
    return [track.kind, int(track.is_worst), length, width, [list(step) for step in track.steps]]


def _from_list(values: list[Any]) -> PlottedTrack:
    kind, is_worst, length, width, steps = values
    return PlottedTrack(str(kind), bool(is_worst), (length, width), tuple((x, y, yaw) for x, y, yaw in steps))
