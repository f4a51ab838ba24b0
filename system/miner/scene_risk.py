"""The risk of a scene window from its tracks, or from the ego's motion alone; which of the two is always said.

All pairs of an agent and a moment are computed at once. Metres, seconds, radians.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from system.errors import DataError
from system.miner.boxes import Array
from system.miner.encounter import closest_encounter, time_to_collision, worst_encounter_intensity
from system.miner.kinematics import KinematicConfig, ego_derivatives, kinematic_hazard
from system.miner.risk import RiskConfig, risk_from_hazards
from system.miner.sightings import sightings_from_ego
from system.miner.surrogates import deceleration_rate_to_avoid_crash, time_headway
from system.records import EgoTrack, SceneWindow, Track

MAX_AGENTS_KEPT = 5
# A pair whose boxes stay this many distance scales apart adds under exp(-16) = 1e-7 of a contact; it is left out.
_FAR_SCALES = 4.0
# A track that was seen once stands for this long; so does a gap in a track at most.
_LONGEST_STEP_S = 0.5
# A leader is a vehicle in the ego's own path: this near to the middle of its lane, and this near ahead.
_LANE_HALF_WIDTH_M, _LEADER_WITHIN_M = 1.5, 80.0
_VEHICLES = ("vehicle", "large", "motorcycle")
# Things that stand beside every road and meet every straight rollout in a bend: no road users, no hazard.
# CommonRoad-CriMe's scenes, by which this is judged, leave them out too.
_CLUTTER = re.compile(
    r"cone|barrier|bollard|\bsign\b|_sign|sign_|debris|pushable|bicycle_rack|message_board", re.IGNORECASE
)


@dataclass(frozen=True)
class AgentRiskRow:
    """One agent's part. t_ns: its worst moment; min_ttc_s is None where the two never meet within the horizon."""

    track_id: str
    category: str
    hazard: float
    min_ttc_s: float | None
    min_dce_m: float
    t_ns: int


@dataclass(frozen=True)
class SceneRisk:
    """The physics of a scene; None where the log does not know enough.

    Attributes:
        risk: in [0, 1). source: "tracks" of other road users, "ego" motion alone, or None.
        agents: at most MAX_AGENTS_KEPT, most dangerous first, those without any hazard left out.
        min_ttc_s: least TTC of any agent. tet_s, tit_s2: exposure of the most exposed agent.
        max_drac_mps2, min_thw_s: of the leader, where there was one.
        max_braking_mps2: of the ego, positive; 0 if it never slowed down.
    """

    risk: float | None
    source: str | None
    agents: tuple[AgentRiskRow, ...] = ()
    min_ttc_s: float | None = None
    tet_s: float | None = None
    tit_s2: float | None = None
    max_drac_mps2: float | None = None
    min_thw_s: float | None = None
    max_braking_mps2: float | None = None


def score_scene(window: SceneWindow, risk: RiskConfig, kinematics: KinematicConfig) -> SceneRisk:
    """Score a window from the best that it knows.

    Raises:
        DataError: `nan_pose` or `nan_agent`; a risk of not-a-number would rank anywhere.
    """
    ego = window.ego
    if ego is None:
        return SceneRisk(None, None)
    if not np.isfinite(ego.states).all():
        raise DataError("nan_pose", f"scene {window.scene_id}: the ego track is not finite")
    braking = _max_braking(ego)
    if window.agents is None or min(ego.size_m) <= 0:
        return _ego_only(ego, kinematics, braking)
    for agent in window.agents:
        if not np.isfinite(agent.states).all():
            raise DataError("nan_agent", f"scene {window.scene_id}: track {agent.track_id} is not finite")
    agents = tuple(agent for agent in window.agents if is_road_user(agent.category))
    pairs = pair_up(ego, agents)
    hazard = pair_hazards(pairs, risk)
    ttc = time_to_collision(pairs.ego, pairs.other, pairs.ego_velocity, pairs.other_velocity, risk.horizon_s)
    count = len(agents)
    by_agent = np.bincount(pairs.agent, weights=hazard, minlength=count).astype(np.float64)
    exposed = np.bincount(pairs.agent, weights=(ttc <= risk.ttc_threshold_s) * pairs.dt_s, minlength=count)
    shortfall = np.maximum(risk.ttc_threshold_s - ttc, 0.0) * pairs.dt_s
    integrated = np.bincount(pairs.agent, weights=shortfall, minlength=count)
    drac, thw = _leader(ego, agents)
    return SceneRisk(
        risk=risk_from_hazards(by_agent),
        source="tracks",
        agents=_worst_agents(agents, pairs, hazard, ttc, by_agent, risk),
        min_ttc_s=_finite(ttc.min(initial=np.inf)),
        tet_s=float(exposed.max(initial=0.0)),
        tit_s2=float(integrated.max(initial=0.0)),
        max_drac_mps2=drac,
        min_thw_s=thw,
        max_braking_mps2=braking,
    )


def is_road_user(category: str) -> bool:
    """Whether a category name means somebody who takes part in traffic, and no cone, barrier or sign."""
    return _CLUTTER.search(category) is None


@dataclass(frozen=True, eq=False)
class Pairs:
    """The ego and one agent at one moment, P pairs.

    ego, other: boxes [P, 5]. ego_velocity, other_velocity: [P, 2]. dt_s: the time that each pair stands for.
    agent: index of the agent. t_ns: the moment, one of the agent's own.
    """

    ego: Array
    other: Array
    ego_velocity: Array
    other_velocity: Array
    dt_s: Array
    agent: NDArray[np.int64]
    t_ns: NDArray[np.int64]


def pair_up(ego: EgoTrack, agents: tuple[Track, ...]) -> Pairs:
    """Every moment of every agent within the ego's time, the ego interpolated to it."""
    sizes = [len(agent.t_ns) for agent in agents]
    t_ns = np.concatenate([np.zeros(0, np.int64), *(agent.t_ns for agent in agents)])
    states = np.concatenate([np.zeros((0, 9)), *(agent.states for agent in agents)])
    dt_s = np.concatenate([np.zeros(0), *(_steps_s(agent.t_ns) for agent in agents)])
    index = np.repeat(np.arange(len(agents), dtype=np.int64), sizes)
    keep = (t_ns >= ego.t_ns[0]) & (t_ns <= ego.t_ns[-1])
    t_ns, states, dt_s, index = t_ns[keep], states[keep], dt_s[keep], index[keep]
    t_ego, t_s = (ego.t_ns - ego.t_ns[0]) / 1e9, (t_ns - ego.t_ns[0]) / 1e9
    x, y, yaw, speed = (
        np.interp(t_s, t_ego, column)
        for column in (ego.states[:, 0], ego.states[:, 1], np.unwrap(ego.states[:, 3]), ego.states[:, 4])
    )
    heading = np.stack([np.cos(yaw), np.sin(yaw)], -1)
    centre = np.stack([x, y], -1) + ego.center_ahead_m * heading
    size = np.broadcast_to(np.array(ego.size_m[:2]), (len(t_s), 2))
    return Pairs(
        ego=np.concatenate([centre, yaw[:, None], size], -1),
        other=states[:, [0, 1, 3, 4, 5]],
        ego_velocity=speed[:, None] * heading,
        other_velocity=states[:, 7:9],
        dt_s=dt_s,
        agent=index,
        t_ns=t_ns,
    )


def pair_hazards(pairs: Pairs, config: RiskConfig) -> Array:
    """lambda0 * intensity * dt of each pair, [P]. Pairs that stay far apart for the whole horizon are 0."""
    relative = pairs.other_velocity - pairs.ego_velocity
    reach = 0.5 * (np.hypot(*pairs.ego[:, 3:5].T) + np.hypot(*pairs.other[:, 3:5].T))
    closest = np.hypot(*(pairs.other - pairs.ego)[:, :2].T) - reach - np.hypot(*relative.T) * config.horizon_s
    near = np.flatnonzero(closest < _FAR_SCALES * config.distance_scale_m)
    hazard = np.zeros(len(pairs.dt_s))
    intensity = worst_encounter_intensity(
        pairs.ego[near],
        pairs.other[near],
        pairs.ego_velocity[near],
        pairs.other_velocity[near],
        config.time_scale_s,
        config.distance_scale_m,
        config.horizon_s,
    )
    hazard[near] = config.rate_hz * intensity * pairs.dt_s[near]
    return hazard


def _worst_agents(
    agents: tuple[Track, ...], pairs: Pairs, hazard: Array, ttc: Array, by_agent: Array, config: RiskConfig
) -> tuple[AgentRiskRow, ...]:
    rows = []
    for k in np.argsort(-by_agent, kind="stable")[:MAX_AGENTS_KEPT]:
        mine = np.flatnonzero(pairs.agent == k)
        if not len(mine) or by_agent[k] <= 1e-6:
            continue
        _, dce = closest_encounter(
            pairs.ego[mine],
            pairs.other[mine],
            pairs.ego_velocity[mine],
            pairs.other_velocity[mine],
            config.horizon_s,
        )
        worst = mine[np.argmax(hazard[mine])]
        rows.append(
            AgentRiskRow(
                track_id=agents[k].track_id,
                category=agents[k].category,
                hazard=float(by_agent[k]),
                min_ttc_s=_finite(ttc[mine].min()),
                min_dce_m=float(dce.min()),
                t_ns=int(pairs.t_ns[worst]),
            )
        )
    return tuple(rows)


def _ego_only(ego: EgoTrack, config: KinematicConfig, braking: float | None) -> SceneRisk:
    if len(ego.t_ns) < 2:
        return SceneRisk(None, None)
    t_s = (ego.t_ns - ego.t_ns[0]) / 1e9
    hazard = kinematic_hazard(t_s, ego.states[:, 4], ego.states[:, 3], _steps_s(ego.t_ns), config)
    return SceneRisk(risk_from_hazards(np.array([hazard])), "ego", max_braking_mps2=braking)


def _leader(ego: EgoTrack, agents: tuple[Track, ...]) -> tuple[float | None, float | None]:
    """(largest DRAC in m/s^2, least time headway in s) behind the vehicle ahead in the ego's path; None without one."""
    seen = sightings_from_ego(ego, agents)
    ahead = (seen.gap_m > 0) & (seen.gap_m <= _LEADER_WITHIN_M) & (np.abs(seen.left_m) <= _LANE_HALF_WIDTH_M)
    ahead &= np.isin(seen.kind, _VEHICLES) & seen.is_aligned
    if not ahead.any():
        return None, None
    # Only the nearest at each moment leads.
    order = np.lexsort((seen.gap_m[ahead], seen.t_s[ahead]))
    chosen = np.flatnonzero(ahead)[order]
    chosen = chosen[np.r_[True, np.diff(seen.t_s[chosen]) > 1e-6]]
    speed = np.interp(seen.t_s[chosen], (ego.t_ns - ego.t_ns[0]) / 1e9, ego.states[:, 4])
    drac = deceleration_rate_to_avoid_crash(seen.gap_m[chosen], speed, seen.speed_mps[chosen])
    return _finite(drac.max()), _finite(time_headway(seen.gap_m[chosen], speed).min())


def _max_braking(ego: EgoTrack) -> float | None:
    if len(ego.t_ns) < 2:
        return None
    accel, _, _ = ego_derivatives((ego.t_ns - ego.t_ns[0]) / 1e9, ego.states[:, 4], ego.states[:, 3])
    return float(max(-accel.min(), 0.0))


def _steps_s(t_ns: NDArray[np.int64]) -> Array:
    """The time that each sample stands for: half the way to either neighbour."""
    if len(t_ns) < 2:
        return np.full(len(t_ns), _LONGEST_STEP_S)
    steps = np.minimum(np.diff(t_ns) / 1e9, _LONGEST_STEP_S)
    return 0.5 * (np.r_[steps[0], steps] + np.r_[steps, steps[-1]])


def _finite(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
