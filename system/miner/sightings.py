"""Other road users as the ego sees them: kind, place along and across its path, gap. Free of torch."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from system.miner.boxes import Array
from system.records import EgoTrack, Track

# Words of a category name, whatever the data set writes around them; the first kind that matches counts.
_KINDS = (
    ("rider", r"cyclist|bicyclist|rider"),
    ("motorcycle", r"motor_?cycle|motorbike|moped|scooter"),
    ("bicycle", r"bicycle|bike"),
    ("pedestrian", r"pedestrian|person|people|walker|construction_worker|officer"),
    ("roadwork", r"cone|barrier|construction"),
    ("large", r"bus|truck|trailer|tram|lorry|large_vehicle"),
    ("vehicle", r"vehicle|car|van|taxi|suv"),
)


def kind_of(category: str) -> str:
    """The kind of road user that a data set's category name means, or "other"."""
    name = category.lower()
    return next((kind for kind, words in _KINDS if re.search(words, name)), "other")


@dataclass(frozen=True, eq=False)
class Sightings:
    """All boxes of all agents [S], seen from the ego at the same moment.

    ahead_m, left_m: of the box centre from the ego's reference point; left is measured from the circle that the ego
        drives on. gap_m: ahead, bumper to bumper.
    """

    t_s: Array
    agent: NDArray[np.int64]
    kind: NDArray[np.str_]
    ahead_m: Array
    left_m: Array
    gap_m: Array
    distance_m: Array
    length_m: Array
    speed_mps: Array
    leftward_mps: Array
    is_aligned: NDArray[np.bool_]
    xy: Array


def sightings_from_ego(ego: EgoTrack, agents: tuple[Track, ...]) -> Sightings:
    """Every agent's boxes within the ego's time; a velocity that is not a number counts as none."""
    t_ego = (ego.t_ns - ego.t_ns[0]) / 1e9
    parts = [(k, kind_of(a.category), (a.t_ns - ego.t_ns[0]) / 1e9, a.states) for k, a in enumerate(agents)]
    states = np.concatenate([np.zeros((0, 9)), *(part[3] for part in parts)])
    t_s = np.concatenate([np.zeros(0), *(part[2] for part in parts)])
    sizes = [len(part[2]) for part in parts]
    agent = np.repeat(np.array([part[0] for part in parts], np.int64), sizes)
    kind = np.repeat(np.array([part[1] for part in parts], np.str_), sizes)
    keep = (t_s >= t_ego[0]) & (t_s <= t_ego[-1]) & np.isfinite(states[:, [0, 1, 3, 4]]).all(-1)
    states, t_s, agent, kind = states[keep], t_s[keep], agent[keep], kind[keep]
    yaw_ego = np.unwrap(ego.states[:, 3])
    x, y, yaw = (np.interp(t_s, t_ego, v) for v in (ego.states[:, 0], ego.states[:, 1], yaw_ego))
    cos, sin = np.cos(yaw), np.sin(yaw)
    dx, dy = states[:, 0] - x, states[:, 1] - y
    ahead, left = cos * dx + sin * dy, cos * dy - sin * dx
    velocity = np.nan_to_num(states[:, 7:9])
    curvature = _curvature_pm(t_s, t_ego, yaw_ego, ego.states[:, :2])
    reach = ego.center_ahead_m + 0.5 * ego.size_m[0]
    return Sightings(
        t_s=t_s,
        agent=agent,
        kind=kind,
        ahead_m=ahead,
        left_m=left - 0.5 * curvature * ahead**2,
        gap_m=ahead - reach - 0.5 * states[:, 4],
        distance_m=np.hypot(dx, dy),
        length_m=states[:, 4],
        speed_mps=np.hypot(velocity[:, 0], velocity[:, 1]),
        leftward_mps=cos * velocity[:, 1] - sin * velocity[:, 0],
        is_aligned=np.cos(states[:, 3] - yaw) > np.cos(np.pi / 4),
        xy=states[:, :2],
    )


def _curvature_pm(t_s: Array, t_ego: Array, yaw_ego: Array, xy_ego: Array) -> Array:
    """Curvature of the ego's path (1/m) over the second before and after each moment; 0 where it hardly moves.

    Two seconds, because 40 m ahead half a degree a second of noise in the yaw rate is a lane.
    """
    path = np.concatenate([[0.0], np.cumsum(np.hypot(*np.diff(xy_ego, axis=0).T))])
    turn, way = (np.interp(t_s + 1.0, t_ego, v) - np.interp(t_s - 1.0, t_ego, v) for v in (yaw_ego, path))
    return np.where(way > 2.0, turn / np.maximum(way, 2.0), 0.0)
