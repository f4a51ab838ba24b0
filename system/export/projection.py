"""Boxes of road users, metres in the world, as boxes in the pictures of cameras.

A box is projected from the moment of the picture: tracks and ego are brought there. Poses know no roll and pitch of the
car, so that on slopes and while braking boxes lie some pixels high or low. Boxes are those of whole users: what stands
before them is not known. Lens distortion is not modelled.
Legend: T moments of a track, D columns of its states.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from system.records import EgoTrack, Frame, Track

Array = NDArray[np.float64]

# States are interpolated over gaps up to this, of 1 Hz labels with some jitter, as in `system.miner.alignment`.
LONGEST_GAP_S = 1.1
# Before the first and after the last sample a track keeps its velocity for so long.
EXTRAPOLATED_S = 0.1
NEAR_M = 0.1  # what is nearer to the camera's plane is cut off
MIN_SIDE_PX = 2.0

_YAW = 3
_CORNERS = np.array([(a, b, c) for a in (-0.5, 0.5) for b in (-0.5, 0.5) for c in (-0.5, 0.5)])
_EDGES = np.array([(a, b) for a in range(8) for b in range(a + 1, 8) if bin(a ^ b).count("1") == 1])


@dataclass(frozen=True)
class ProjectedBox:
    """A road user in a picture.

    bbox_xywh: pixels, cut at the picture's edges. shown: share of the projected box that lies within the picture.
    distance_m: from the camera to the middle of the box.
    """

    track_id: str
    category: str
    bbox_xywh: tuple[float, float, float, float]
    shown: float
    distance_m: float


def project_boxes(
    frame: Frame, width: int, height: int, ego: EgoTrack | None, agents: tuple[Track, ...] | None
) -> list[ProjectedBox]:
    """The agents that lie in a picture, nearest first; none where calibration, ego or agents are unknown.

    Args:
        width, height: of the picture that the intrinsics are of, in pixels.
    """
    if frame.intrinsics is None or frame.ego_from_camera is None or ego is None or not agents:
        return []
    pose = state_at(ego.t_ns, ego.states, ego_velocity(ego), frame.t_ns)
    if pose is None:
        return []
    matrix = np.array(frame.intrinsics).reshape(3, 3)
    camera_from_world = np.linalg.inv(np.array(frame.ego_from_camera).reshape(4, 4)) @ _ego_from_world(pose)
    found = []
    for agent in agents:
        box = state_at(agent.t_ns, agent.states, agent.states[:, 7:9], frame.t_ns)
        if box is None or not np.isfinite(box[:7]).all():
            continue
        corners = box_corners_83(box) @ camera_from_world[:3, :3].T + camera_from_world[:3, 3]
        seen = _bounds(corners, matrix, width, height)
        if seen is not None:
            distance_m = float(np.linalg.norm(corners.mean(0)))
            found.append(ProjectedBox(agent.track_id, agent.category, seen[0], seen[1], distance_m))
    return sorted(found, key=lambda box: box.distance_m)


def state_at(t_ns: NDArray[np.int64], states: Array, velocity: Array, at_ns: int) -> Array | None:
    """A track's state at a moment [D], or None where it is not known there.

    Args:
        states: [T, D], columns x, y, z, yaw first. velocity: [T, 2], m/s in the world.
    """
    after = int(np.searchsorted(t_ns, at_ns, "left"))
    if 0 < after < len(t_ns) and t_ns[after] - t_ns[after - 1] <= LONGEST_GAP_S * 1e9:
        before, share = after - 1, (at_ns - t_ns[after - 1]) / (t_ns[after] - t_ns[after - 1])
        state = states[before] + share * (states[after] - states[before])
        turn = np.angle(np.exp(1j * (states[after, _YAW] - states[before, _YAW])))
        state[_YAW] = states[before, _YAW] + share * turn
        return state
    nearest = min((k for k in (after - 1, after) if 0 <= k < len(t_ns)), key=lambda k: abs(int(t_ns[k]) - at_ns))
    ahead_s = (at_ns - int(t_ns[nearest])) / 1e9
    if abs(ahead_s) > EXTRAPOLATED_S:
        return None
    state = states[nearest].copy()
    state[:2] += np.nan_to_num(velocity[nearest]) * ahead_s
    return state


def box_corners_83(box: Array) -> Array:
    """Corners [8, 3] in the world of a state of TRACK_COLUMNS."""
    corners = _CORNERS * box[4:7]
    cos, sin = np.cos(box[_YAW]), np.sin(box[_YAW])
    turned = np.column_stack([cos * corners[:, 0] - sin * corners[:, 1], sin * corners[:, 0] + cos * corners[:, 1]])
    return np.column_stack([turned, corners[:, 2]]) + box[:3]


def ego_velocity(ego: EgoTrack) -> Array:
    """The ego's velocity in the world, [T, 2] m/s: along its heading."""
    yaw, speed = ego.states[:, _YAW], ego.states[:, 4]
    return np.column_stack([speed * np.cos(yaw), speed * np.sin(yaw)])


def _ego_from_world(pose: Array) -> Array:
    cos, sin = np.cos(pose[_YAW]), np.sin(pose[_YAW])
    rotation = np.array([[cos, sin, 0.0], [-sin, cos, 0.0], [0.0, 0.0, 1.0]])
    matrix = np.eye(4)
    matrix[:3, :3], matrix[:3, 3] = rotation, -rotation @ pose[:3]
    return matrix


def _bounds(
    corners_83: Array, matrix: Array, width: int, height: int
) -> tuple[tuple[float, float, float, float], float] | None:
    """((x, y, w, h) within the picture, share of it shown), or None where it is behind the camera or outside."""
    starts, ends = corners_83[_EDGES[:, 0]], corners_83[_EDGES[:, 1]]
    points = [corners_83[corners_83[:, 2] >= NEAR_M]]
    crossing = (starts[:, 2] >= NEAR_M) != (ends[:, 2] >= NEAR_M)
    if crossing.any():
        a, b = starts[crossing], ends[crossing]
        points.append(a + ((NEAR_M - a[:, 2]) / (b[:, 2] - a[:, 2]))[:, None] * (b - a))
    ahead = np.concatenate(points)
    if not len(ahead):
        return None
    pixels = ahead @ matrix.T
    pixels = pixels[:, :2] / pixels[:, 2:]
    low, high = pixels.min(0), pixels.max(0)
    left, top = np.clip(low, 0, (width, height))
    right, bottom = np.clip(high, 0, (width, height))
    if right - left < MIN_SIDE_PX or bottom - top < MIN_SIDE_PX:
        return None
    shown = (right - left) * (bottom - top) / max(float(np.prod(high - low)), 1e-9)
    return (float(left), float(top), float(right - left), float(bottom - top)), float(shown)
