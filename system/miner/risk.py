"""The continuous risk of a scene, in [0, 1), from tracks or, without them, from the ego's own motion.

    R = 1 - exp(- sum over agents of the integral of lambda0 * severity(t) * intensity(t) dt)

A survival probability: each agent is a hazard whose rate is the intensity of its worst encounter with the ego
(`system.miner.encounter`), which is exp(-TTCE / tau) exp(-DCE^2 / sigma^2) at a contact. Severity is
1 - exp(-(u / u0)^2) of the approach speed u, as the energy of an impact grows: 1 for all but the slowest, 0 for those
who stand or drive beside the ego. Units: metres, seconds, radians.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from pydantic import Field

from system.config import FrozenConfig
from system.miner.boxes import Array
from system.miner.encounter import (
    approach_speed,
    closest_encounter,
    time_to_collision,
    worst_encounter_intensity,
)
from system.miner.surrogates import time_exposed_ttc, time_integrated_ttc


class RiskConfig(FrozenConfig):
    """Constants of the risk score.

    time_scale_s (tau): 1.5 s, the TTC under which van der Horst and Hogema (1993) find drivers in danger.
    distance_scale_m (sigma): 0.5 m. In the logs that we have, parked cars are passed at 0.7 to 1 m; at 0.8 m they count
        for 8 % of a contact. With 1 m, about half of all risk in Argoverse 2 and NGSIM came from cars beside the ego
        that came no nearer, and the risk told NGSIM's critical scenarios apart less well (area under the ROC curve
        0.60 instead of 0.66). Between 0.4 and 0.7 m that hardly changes.
    harmless_speed_mps (u0): 1.1 m/s, the 4 km/h at which bumper standards (UN ECE R42) allow no damage that matters.
        0 switches severity off.
    rate_hz (lambda0): 0.5 /s, so that two seconds of imminent contact give R = 0.63.
    horizon_s: how far ahead both users are rolled out.
    ttc_threshold_s: TTC under which exposure (TET, TIT) is counted; 3 s, Hirst and Graham (1997).
    """

    time_scale_s: float = Field(default=1.5, gt=0, allow_inf_nan=False)
    distance_scale_m: float = Field(default=0.5, gt=0, allow_inf_nan=False)
    harmless_speed_mps: float = Field(default=1.1, ge=0, allow_inf_nan=False)
    rate_hz: float = Field(default=0.5, gt=0, allow_inf_nan=False)
    horizon_s: float = Field(default=3.0, gt=0, le=60)
    ttc_threshold_s: float = Field(default=3.0, gt=0, allow_inf_nan=False)


@dataclass(frozen=True)
class AgentRisk:
    """One agent's part in the risk of a scene: its hazard (integral of the rate) and its most critical values."""

    hazard: float
    min_ttc_s: float
    min_dce_m: float
    ttce_at_min_dce_s: float
    tet_s: float
    tit_s2: float


def hazard_rate(ego_boxes: Array, ego_velocities: Array, boxes: Array, velocities: Array, config: RiskConfig) -> Array:
    """lambda0 * severity * intensity of each pair of boxes, [...] (1/s).

    Args:
        ego_boxes, boxes: [..., 5]. ego_velocities, velocities: [..., 2] (m/s).
    """
    pair = ego_boxes, boxes, ego_velocities, velocities
    rate = config.rate_hz * worst_encounter_intensity(
        *pair, config.time_scale_s, config.distance_scale_m, config.horizon_s
    )
    if config.harmless_speed_mps > 0:
        rate *= -np.expm1(-((approach_speed(*pair) / config.harmless_speed_mps) ** 2))
    return rate


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
    rate = hazard_rate(ego_boxes, ego_velocities, boxes, velocities, config)
    nearest = int(np.argmin(dce))
    return AgentRisk(
        hazard=float((rate * dt_s).sum()),
        min_ttc_s=float(ttc.min()),
        min_dce_m=float(dce[nearest]),
        ttce_at_min_dce_s=float(ttce[nearest]),
        tet_s=float(time_exposed_ttc(ttc, dt_s, config.ttc_threshold_s)),
        tit_s2=float(time_integrated_ttc(ttc, dt_s, config.ttc_threshold_s)),
    )


def risk_from_hazards(hazards: Array) -> float:
    """R = 1 - exp(-sum of hazards), in [0, 1)."""
    return float(min(-np.expm1(-np.sum(hazards)), np.nextafter(1.0, 0.0)))
