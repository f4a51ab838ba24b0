"""The physics of risk of a scene as it comes about, moment by moment."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from system.miner.alignment import pair_up
from system.miner.risk import RiskConfig
from system.miner.scene_risk import is_road_user, pair_hazards
from system.records import SceneWindow


@dataclass(frozen=True)
class RiskMoment:
    """hazard_hz: of all road users together at this moment (1/s). risk_so_far: 1 - exp(-its integral), in [0, 1].

    min_ttc_s: least time to collision, None where nobody is met within the horizon.
    """

    t_ns: int
    hazard_hz: float
    risk_so_far: float
    min_ttc_s: float | None


def risk_series(window: SceneWindow, config: RiskConfig) -> list[RiskMoment]:
    """Every moment at which a road user and the ego are known, in order; empty where the log knows no tracks.

    The last `risk_so_far` is the scene's physics risk by `scene_risk.score_scene`.
    """
    if window.ego is None or not window.agents or min(window.ego.size_m) <= 0:
        return []
    pairs = pair_up(window.ego, tuple(agent for agent in window.agents if is_road_user(agent.category)))
    if not len(pairs):
        return []
    hazard, ttc = pair_hazards(pairs, config)
    moments, index = np.unique(pairs.t_ns, return_inverse=True)
    integrated = np.bincount(index, weights=hazard, minlength=len(moments))
    rate = np.bincount(index, weights=hazard / pairs.dt_s, minlength=len(moments))
    least = np.full(len(moments), np.inf)
    np.minimum.at(least, index, ttc)
    risk = -np.expm1(-np.cumsum(integrated))
    return [
        RiskMoment(int(t_ns), float(rate[k]), float(risk[k]), float(least[k]) if np.isfinite(least[k]) else None)
        for k, t_ns in enumerate(moments)
    ]
