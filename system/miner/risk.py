"""The continuous risk of a scene, in [0, 1), from tracks or, without them, from the ego's own motion.

    R = 1 - exp(- sum over agents of the integral of lambda0 * intensity(t) dt)

A survival probability: each agent is a hazard whose rate is the intensity of its worst encounter with the ego
(`system.miner.encounter`). Units: metres, seconds, radians.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from system.config import FrozenConfig
from system.miner.boxes import Array
from system.miner.encounter import closest_encounter, time_to_collision, worst_encounter_intensity
from system.miner.surrogates import time_exposed_ttc, time_integrated_ttc


class RiskConfig(FrozenConfig):
    """Constants of the risk score.

    time_scale_s (tau): 1.5 s, the TTC under which van der Horst and Hogema (1993) find drivers in danger.
    distance_scale_m (sigma): 1.0 m, chosen so that ordinary traffic in the next lane (about 1.7 m between the boxes)
        counts for 6 % of a contact.
    rate_hz (lambda0): 0.5 /s, so that two seconds of imminent contact give R = 0.63.
    horizon_s: how far ahead both users are rolled out.
    ttc_threshold_s: TTC under which exposure (TET, TIT) is counted; 3 s, Hirst and Graham (1997).
    """

    time_scale_s: float = 1.5
    distance_scale_m: float = 1.0
    rate_hz: float = 0.5
    horizon_s: float = 3.0
    ttc_threshold_s: float = 3.0


@dataclass(frozen=True)
class AgentRisk:
    """One agent's part in the risk of a scene: its hazard (integral of the rate) and its most critical values."""

    hazard: float
    min_ttc_s: float
    min_dce_m: float
    ttce_at_min_dce_s: float
    tet_s: float
    tit_s2: float


def agent_risk(
    ego_boxes: Array, ego_velocities: Array, boxes: Array, velocities: Array, dt_s: Array, config: RiskConfig
) -> AgentRisk:
    """Risk of one agent over the frames in which it was seen.

    Args:
        ego_boxes, boxes: [T, 5] at the same times.
        ego_velocities, velocities: [T, 2] (m/s).
        dt_s: [T], the time that each frame stands for.
    """
    ttc = time_to_collision(ego_boxes, boxes, ego_velocities, velocities, config.horizon_s)
    ttce, dce = closest_encounter(ego_boxes, boxes, ego_velocities, velocities, config.horizon_s)
    intensity = worst_encounter_intensity(
        ego_boxes, boxes, ego_velocities, velocities, config.time_scale_s, config.distance_scale_m, config.horizon_s
    )
    nearest = int(np.argmin(dce))
    return AgentRisk(
        hazard=float(config.rate_hz * (intensity * dt_s).sum()),
        min_ttc_s=float(ttc.min()),
        min_dce_m=float(dce[nearest]),
        ttce_at_min_dce_s=float(ttce[nearest]),
        tet_s=float(time_exposed_ttc(ttc, dt_s, config.ttc_threshold_s)),
        tit_s2=float(time_integrated_ttc(ttc, dt_s, config.ttc_threshold_s)),
    )


def risk_from_hazards(hazards: Array) -> float:
    """R = 1 - exp(-sum of hazards), in [0, 1)."""
    return float(min(-np.expm1(-np.sum(hazards)), np.nextafter(1.0, 0.0)))
