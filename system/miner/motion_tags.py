"""Tags as facts: what the ego's and the other road users' tracks say, by stated rules. Free of torch.

A picture does not show that a car brakes or cuts in; tracks do. These answers are kept apart from the model's, and
stand in their place where they exist. A tag that the tracks of a scene cannot decide is left out, never guessed.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from system.config import FrozenConfig
from system.miner.boxes import Array
from system.miner.sightings import Sightings, sightings_from_ego
from system.records import EgoTrack, SceneWindow, Track


class MotionTagConfig(FrozenConfig):
    """Thresholds. Metres, seconds, radians.

    near_m: road users within this are around; beyond it a camera sees a few pixels of them.
    turning_rad: change of heading within the window: 30 degrees, more than a bend of a street in a few seconds.
    braking_mps2: mean deceleration over 0.5 s: 3.4, AASHTO's comfortable limit.
    close_headway_s: time headway to the leader under which following is close; 1 s, half of the two-second rule.
    moving_mps: slower counts as standing.
    lane_half_width_m: of the ego's lane, 1.75 (lanes are 3.5 m wide).
    leader_within_m: a vehicle further ahead in the lane leads nobody.
    cut_in_lateral_m, cut_in_within_m: a leader that came from the side has moved at least this far across, and lies
        within this gap. straight_rad: change of the ego's heading up to which it keeps to its lane meanwhile.
        cut_in_ego_mps: an ego slower than this waits.
    queue_gap_m: standing behind a vehicle that is nearer than this is standing in traffic.
    many_pedestrians, dense_vehicles, construction_objects: counts at one moment from which the tag holds.
    large_length_m: of a truck, bus or trailer, so that pick-ups do not count.
    crossing_within_m, crossing_mps: a pedestrian crosses who walks across the ego's lane this near ahead, this fast.
    """

    near_m: float = Field(default=40.0, gt=0)
    turning_rad: float = Field(default=np.pi / 6, gt=0)
    braking_mps2: float = Field(default=3.4, gt=0)
    close_headway_s: float = Field(default=1.0, gt=0)
    moving_mps: float = Field(default=0.5, gt=0)
    lane_half_width_m: float = Field(default=1.75, gt=0)
    leader_within_m: float = Field(default=60.0, gt=0)
    cut_in_lateral_m: float = Field(default=1.0, gt=0)
    cut_in_within_m: float = Field(default=25.0, gt=0)
    straight_rad: float = Field(default=0.15, gt=0)
    cut_in_ego_mps: float = Field(default=2.0, gt=0)
    queue_gap_m: float = Field(default=12.0, gt=0)
    many_pedestrians: int = Field(default=8, ge=1)
    dense_vehicles: int = Field(default=8, ge=1)
    construction_objects: int = Field(default=4, ge=1)
    large_length_m: float = Field(default=6.0, gt=0)
    crossing_within_m: float = Field(default=30.0, gt=0)
    crossing_mps: float = Field(default=0.5, gt=0)


def motion_tags(window: SceneWindow, config: MotionTagConfig | None = None) -> dict[str, float]:
    """Tags that the tracks of a scene decide.

    Returns:
        name -> 1.0 or 0.0. From the ego alone: turning, hard_braking. With agents, whose tracks are taken to be
        complete: close_lead, cut_in, stopped_in_traffic, pedestrian, many_pedestrians, pedestrian_crossing, cyclist,
        motorcycle, large_vehicle; dense_traffic unless standing vehicles, which may be parked or queueing, would
        decide it; construction only where cones or barriers are there, since most data sets do not label them.
    """
    config = config or MotionTagConfig()
    ego = window.ego
    if ego is None or len(ego.t_ns) < 2 or not np.isfinite(ego.states).all():
        return {}
    t_s = (ego.t_ns - ego.t_ns[0]) / 1e9
    yaw = np.unwrap(ego.states[:, 3])
    facts = {
        "turning": bool(np.ptp(yaw) > config.turning_rad and _travelled_m(ego) > 2.0),
        "hard_braking": _hardest_braking_mps2(t_s, ego.states[:, 4]) > config.braking_mps2,
    }
    if window.agents is not None:
        facts |= _agent_facts(ego, window.agents, config)
    return {name: float(holds) for name, holds in facts.items()}


def _agent_facts(ego: EgoTrack, agents: tuple[Track, ...], config: MotionTagConfig) -> dict[str, bool]:
    seen = sightings_from_ego(ego, agents)
    near = seen.distance_m <= config.near_m
    walker, on_wheels = seen.kind == "pedestrian", np.isin(seen.kind, ("vehicle", "large"))
    moving = seen.speed_mps > config.moving_mps
    facts = {
        "pedestrian": bool((near & walker).any()),
        "many_pedestrians": _most_at_once(seen, near & walker) >= config.many_pedestrians,
        "pedestrian_crossing": bool(
            (
                walker
                & (seen.ahead_m > 0)
                & (seen.ahead_m <= config.crossing_within_m)
                & (np.abs(seen.left_m) <= 2 * config.lane_half_width_m)
                & (np.abs(seen.leftward_mps) >= config.crossing_mps)
            ).any()
        ),
        "cyclist": bool((near & ((seen.kind == "rider") | ((seen.kind == "bicycle") & moving))).any()),
        "motorcycle": bool((near & (seen.kind == "motorcycle")).any()),
        "large_vehicle": bool((near & (seen.kind == "large") & (seen.length_m >= config.large_length_m)).any()),
    }
    # A vehicle that waits at a light and moves on within the window is traffic; one that never moves may be parked.
    ever_moving = np.isin(seen.agent, seen.agent[moving])
    if _most_at_once(seen, near & on_wheels & ever_moving) >= config.dense_vehicles:
        facts["dense_traffic"] = True
    elif _most_at_once(seen, near & on_wheels) < config.dense_vehicles:
        facts["dense_traffic"] = False
    if _most_at_once(seen, near & (seen.kind == "roadwork")) >= config.construction_objects:
        facts["construction"] = True
    return facts | _leader_facts(ego, seen, config)


def _leader_facts(ego: EgoTrack, seen: Sightings, config: MotionTagConfig) -> dict[str, bool]:
    t_s = (ego.t_ns - ego.t_ns[0]) / 1e9
    in_lane = (
        np.isin(seen.kind, ("vehicle", "large", "motorcycle"))
        & (np.abs(seen.left_m) <= config.lane_half_width_m)
        & (seen.ahead_m > 0)
        & (seen.gap_m <= config.leader_within_m)
    )
    # The nearest vehicle in the lane at each moment.
    leaders = np.flatnonzero(in_lane)
    leaders = leaders[np.lexsort((seen.gap_m[leaders], seen.t_s[leaders]))]
    leaders = leaders[np.unique(seen.t_s[leaders], return_index=True)[1]] if len(leaders) else leaders
    speed = np.interp(seen.t_s[leaders], t_s, ego.states[:, 4])
    gap = np.maximum(seen.gap_m[leaders], 0.0)
    close = (speed > 3.0) & (gap < config.close_headway_s * speed) & seen.is_aligned[leaders]
    standing = (speed < config.moving_mps) & (gap <= config.queue_gap_m) & seen.is_aligned[leaders]
    stopped_share = float((ego.states[:, 4] < config.moving_mps).mean())
    return {
        "close_lead": bool(close.any()),
        "stopped_in_traffic": stopped_share >= 0.5 and bool(standing.any()),
        "cut_in": any(_has_cut_in(ego, seen, int(row), config) for row in leaders),
    }


def _has_cut_in(ego: EgoTrack, seen: Sightings, row: int, config: MotionTagConfig) -> bool:
    """Whether a leader was beside the lane within the last 3 s and came over by its own motion, not by the ego's."""
    now_s = seen.t_s[row]
    t_s = (ego.t_ns - ego.t_ns[0]) / 1e9
    if np.interp(now_s, t_s, ego.states[:, 4]) < config.cut_in_ego_mps:
        return False  # at a stop line vehicles of the crossing road turn in ahead
    if seen.gap_m[row] > config.cut_in_within_m or not seen.is_aligned[row] or seen.speed_mps[row] < config.moving_mps:
        return False
    last = np.flatnonzero(seen.agent == seen.agent[row])[-1]
    if abs(seen.left_m[last]) > config.lane_half_width_m:
        return False  # it only crossed the lane
    before = np.flatnonzero((seen.agent == seen.agent[row]) & (seen.t_s < now_s) & (seen.t_s >= now_s - 3.0))
    aside = np.abs(seen.left_m[before]) / config.lane_half_width_m
    before = before[(aside > 1.0) & (aside <= 3.0)]  # in the lane beside
    if not len(before):
        return False
    past = before[-1] if len(before) == 1 else before[np.argmax(np.abs(seen.left_m[before]))]
    # Across the ego's heading at the earlier moment: how far the other came towards the ego's line, and the ego to it.
    yaw = np.unwrap(ego.states[:, 3])
    heading = np.interp(seen.t_s[past], t_s, yaw)
    if abs(np.interp(now_s, t_s, yaw) - heading) > config.straight_rad:
        return False  # in a turn everybody comes into the lane from the side
    across = np.array([-np.sin(heading), np.cos(heading)])
    towards = -np.sign(seen.left_m[past])
    ego_xy = np.stack([np.interp([seen.t_s[past], now_s], t_s, ego.states[:, k]) for k in (0, 1)], -1)
    other_came = towards * float((seen.xy[row] - seen.xy[past]) @ across)
    ego_went = -towards * float((ego_xy[1] - ego_xy[0]) @ across)
    return other_came >= config.cut_in_lateral_m and abs(ego_went) < 0.5 * other_came


def _most_at_once(seen: Sightings, which: NDArray[np.bool_]) -> int:
    """Largest number of the chosen sightings at one moment."""
    return int(np.unique(seen.t_s[which], return_counts=True)[1].max(initial=0))


def _hardest_braking_mps2(t_s: Array, speed_mps: Array) -> float:
    """Largest mean deceleration over half a second, or over a step where they are longer; at least 0."""
    step_s = max(0.5, float(np.median(np.diff(t_s))))
    if t_s[-1] < step_s:
        return 0.0
    starts = t_s[t_s <= t_s[-1] - step_s + 1e-9]
    fall = np.interp(starts, t_s, speed_mps) - np.interp(starts + step_s, t_s, speed_mps)
    return float(max(fall.max() / step_s, 0.0))


def _travelled_m(ego: EgoTrack) -> float:
    return float(np.hypot(*np.diff(ego.states[:, :2], axis=0).T).sum())
