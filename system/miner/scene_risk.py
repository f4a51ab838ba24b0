"""The risk of a scene window from its tracks, or from the ego's motion alone; which of the two is always said.

All pairs of an agent and a moment are computed at once. Metres, seconds, radians.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

from system.errors import DataError
from system.miner.alignment import Pairs, pair_up, steps_s
from system.miner.boxes import Array
from system.miner.encounter import closest_encounter, time_to_collision
from system.miner.kinematics import KinematicConfig, ego_derivatives, kinematic_hazard
from system.miner.risk import RiskConfig, hazard_rate, risk_from_hazards
from system.miner.sightings import sightings_from_ego
from system.miner.surrogates import deceleration_rate_to_avoid_crash, time_headway
from system.records import EgoTrack, SceneWindow, Track

MAX_AGENTS_KEPT = 5
# A pair whose boxes stay this many distance scales apart adds under exp(-16) = 1e-7 of a contact; it is left out.
_FAR_SCALES = 4.0
# A leader is a vehicle in the ego's own path: this near to the middle of its lane, and this near ahead.
_LANE_HALF_WIDTH_M, _LEADER_WITHIN_M = 1.5, 80.0
_VEHICLES = ("vehicle", "large", "motorcycle")
# Agents that were not seen at quite the same moment are compared within this time.
_SAME_MOMENT_S = 0.1
# Faster is a fault of the log, or no road vehicle; the plain reader draws the same line.
_MAX_SPEED_MPS = 150.0
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
        DataError: `nan_pose`, `nan_agent`, `impossible_value`, `impossible_box`; a risk of such numbers would rank
            anywhere.
    """
    ego = window.ego
    if ego is None:
        return SceneRisk(None, None)
    _check_ego(ego, window.scene_id)
    braking = _max_braking(ego)
    if window.agents is None or min(ego.size_m) <= 0:
        return _ego_only(ego, kinematics, braking)
    for agent in window.agents:
        _check_agent(agent, window.scene_id)
    agents = tuple(agent for agent in window.agents if is_road_user(agent.category))
    pairs = pair_up(ego, agents)
    if agents and not len(pairs):
        # Others were there, but never when it is known where the ego was: that is not the same as an empty road.
        return _ego_only(ego, kinematics, braking)
    hazard, ttc = pair_hazards(pairs, risk)
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


def _check_ego(ego: EgoTrack, scene_id: str) -> None:
    if not np.isfinite(ego.states).all() or not np.isfinite([*ego.size_m, ego.center_ahead_m]).all():
        raise DataError("nan_pose", f"scene {scene_id}: expected a finite ego track, found not-a-number or infinity")
    fastest = float(np.abs(ego.states[:, 4]).max(initial=0.0))
    if fastest > _MAX_SPEED_MPS:
        message = f"ego speed {fastest:.0f} m/s, expected at most {_MAX_SPEED_MPS:.0f}"
        raise DataError("impossible_value", f"scene {scene_id}: {message}")


def _check_agent(agent: Track, scene_id: str) -> None:
    where = f"scene {scene_id}, track {agent.track_id}"
    if not np.isfinite(agent.states).all():
        raise DataError("nan_agent", f"{where}: expected finite boxes, found not-a-number or infinity")
    size = agent.states[:, 4:6]
    if size.min(initial=1.0) <= 0:
        raise DataError("impossible_box", f"{where}: length or width {size.min():.2f} m, expected more than 0")
    fastest = float(np.hypot(*agent.states[:, 7:9].T).max(initial=0.0))
    if fastest > _MAX_SPEED_MPS:
        message = f"speed {fastest:.0f} m/s, expected at most {_MAX_SPEED_MPS:.0f}"
        raise DataError("impossible_value", f"{where}: {message}")


def is_road_user(category: str) -> bool:
    """Whether a category name means somebody who takes part in traffic, and no cone, barrier or sign."""
    return _CLUTTER.search(category) is None


def pair_hazards(pairs: Pairs, config: RiskConfig) -> tuple[Array, Array]:
    """(lambda0 * severity * intensity * dt, TTC in s) of each pair, each [P].

    Only pairs whose boxes can come within reach of each other inside the horizon are computed; the others get hazard 0
    and no contact. Each adds less than rate_hz * dt * exp(-_FAR_SCALES^2), which is why R is low by less than
    1e-7 of the seconds that agents were seen.
    """
    relative = pairs.other_velocity - pairs.ego_velocity
    reach = 0.5 * (np.hypot(*pairs.ego[:, 3:5].T) + np.hypot(*pairs.other[:, 3:5].T))
    closest = np.hypot(*(pairs.other - pairs.ego)[:, :2].T) - reach - np.hypot(*relative.T) * config.horizon_s
    rows = np.flatnonzero(closest < _FAR_SCALES * config.distance_scale_m)
    near = pairs.at(rows)
    hazard, ttc = np.zeros(len(pairs)), np.full(len(pairs), np.inf)
    hazard[rows] = hazard_rate(near.ego, near.ego_velocity, near.other, near.other_velocity, config) * near.dt_s
    ttc[rows] = time_to_collision(near.ego, near.other, near.ego_velocity, near.other_velocity, config.horizon_s)
    return hazard, ttc


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
    hazard = kinematic_hazard(t_s, ego.states[:, 4], ego.states[:, 3], steps_s(ego.t_ns), config)
    return SceneRisk(risk_from_hazards(np.array([hazard])), "ego", max_braking_mps2=braking)


def _leader(ego: EgoTrack, agents: tuple[Track, ...]) -> tuple[float | None, float | None]:
    """(largest DRAC in m/s^2, least time headway in s) behind the vehicle ahead in the ego's path; None without one."""
    seen = sightings_from_ego(ego, agents)
    ahead = (seen.gap_m > 0) & (seen.gap_m <= _LEADER_WITHIN_M) & (np.abs(seen.left_m) <= _LANE_HALF_WIDTH_M)
    ahead &= np.isin(seen.kind, _VEHICLES) & seen.is_aligned
    if not ahead.any():
        return None, None
    # Only the nearest at each moment leads.
    moment = np.floor(seen.t_s / _SAME_MOMENT_S + 1e-6).astype(np.int64)
    order = np.lexsort((seen.gap_m[ahead], moment[ahead]))
    chosen = np.flatnonzero(ahead)[order]
    chosen = chosen[np.r_[True, np.diff(moment[chosen]) > 0]]
    speed = np.interp(seen.t_s[chosen], (ego.t_ns - ego.t_ns[0]) / 1e9, ego.states[:, 4])
    drac = deceleration_rate_to_avoid_crash(seen.gap_m[chosen], speed, seen.speed_mps[chosen])
    return _finite(drac.max()), _finite(time_headway(seen.gap_m[chosen], speed).min())


def _max_braking(ego: EgoTrack) -> float | None:
    if len(ego.t_ns) < 2:
        return None
    accel, _, _ = ego_derivatives((ego.t_ns - ego.t_ns[0]) / 1e9, ego.states[:, 4], ego.states[:, 3])
    return float(max(-accel.min(), 0.0))


def _finite(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
