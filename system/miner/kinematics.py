"""A kinematic score for logs that know the ego's motion and no other road user."""

from __future__ import annotations

import numpy as np

from system.config import FrozenConfig
from system.miner.boxes import Array


class KinematicConfig(FrozenConfig):
    """What motion counts as harsh.

    braking_mps2: 3.4 m/s^2, AASHTO's comfortable deceleration for stopping-sight distance; harsher braking counts.
    lateral_mps2: 4.0 m/s^2, near the limit that drivers accept in curves (Reymond et al., 2001).
    jerk_mps3: 10 m/s^3, the near-crash trigger used with naturalistic-driving data (Bagdadi and Varhelyi, 2011: 9.9).
    rate_hz: hazard a second per unit of excess ratio.
    """

    braking_mps2: float = 3.4
    lateral_mps2: float = 4.0
    jerk_mps3: float = 10.0
    rate_hz: float = 0.5


def ego_derivatives(t_s: Array, speed_mps: Array, yaw_rad: Array) -> tuple[Array, Array, Array]:
    """Longitudinal acceleration (m/s^2), lateral acceleration (m/s^2) and jerk (m/s^3), each [T].

    Args:
        t_s: strictly increasing times [T], at least two.
        speed_mps, yaw_rad: [T]; yaw may wrap.
    """
    if len(t_s) < 2:
        zero = np.zeros(len(t_s))
        return zero, zero, zero
    accel = np.gradient(speed_mps, t_s)
    yaw_rate = np.gradient(np.unwrap(yaw_rad), t_s)
    return accel, speed_mps * yaw_rate, np.gradient(accel, t_s)


def kinematic_hazard(t_s: Array, speed_mps: Array, yaw_rad: Array, dt_s: Array, config: KinematicConfig) -> float:
    """Integral of how far braking, lateral acceleration and jerk exceed what is comfortable.

    The rate is rate_hz times the sum of max(value / limit - 1, 0) over the three, so that driving within all
    limits has hazard 0 and the score 1 - exp(-hazard) never falls when any of them grows.
    """
    accel, lateral, jerk = ego_derivatives(t_s, speed_mps, yaw_rad)
    excess = (
        np.maximum(-accel / config.braking_mps2 - 1.0, 0.0)
        + np.maximum(np.abs(lateral) / config.lateral_mps2 - 1.0, 0.0)
        + np.maximum(np.abs(jerk) / config.jerk_mps3 - 1.0, 0.0)
    )
    return float(config.rate_hz * (excess * dt_s).sum())
