"""Claims about the risk score of a scene."""

from __future__ import annotations

import numpy as np

from system.miner.kinematics import KinematicConfig, kinematic_hazard
from system.miner.risk import RiskConfig, agent_risk, risk_from_hazards

T = 21
DT_S = np.full(T, 0.1)
T_S = np.arange(T) * 0.1


def following(gap_m: float, closing_mps: float):
    """Hazard of a leader `gap_m` ahead that is `closing_mps` slower, seen for two seconds at 10 Hz."""
    x = T_S * -closing_mps + gap_m + 4.0
    boxes = np.stack([x, 0 * x, 0 * x, 0 * x + 4, 0 * x + 2], -1)
    ego = np.tile(np.array([0.0, 0.0, 0.0, 4.0, 2.0]), (T, 1))
    speeds = np.tile(np.array([closing_mps, 0.0]), (T, 1))
    return agent_risk(ego, speeds, boxes, np.zeros((T, 2)), DT_S, RiskConfig())


def test_risk_lies_in_zero_one_and_grows_with_every_agent():
    assert risk_from_hazards(np.array([])) == 0.0
    assert 0 < risk_from_hazards(np.array([0.2])) < risk_from_hazards(np.array([0.2, 0.1])) < 1
    assert risk_from_hazards(np.array([1e9])) < 1.0


def test_a_closing_leader_is_riskier_than_one_that_keeps_its_gap():
    assert following(20.0, 8.0).hazard > 10 * following(20.0, 0.0).hazard
    assert following(20.0, 8.0).min_ttc_s < 3.0 < following(20.0, 1.0).min_ttc_s


def test_comfortable_driving_has_no_kinematic_hazard_and_hard_braking_has():
    calm = np.full(T, 15.0)
    braking = 15.0 - np.clip(T_S - 0.5, 0, 1) * 8.0
    yaw = np.zeros(T)
    assert kinematic_hazard(T_S, calm, yaw, DT_S, KinematicConfig()) == 0.0
    assert kinematic_hazard(T_S, braking, yaw, DT_S, KinematicConfig()) > 0.5
    assert kinematic_hazard(T_S, calm, T_S * 0.5, DT_S, KinematicConfig()) > 0.0
