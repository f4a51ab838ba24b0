"""Where the ego may go in the next seconds: six kinematic modes, and how far apart they end.

The modes are priors that need nothing but the ego's present motion; the forecast head adds to them what it sees.
Ego frame at the window's end: x forward, y left. Legend: N scenes, M modes, T steps.
"""

from __future__ import annotations

import torch
from torch import Tensor

MODES = ("keep", "accelerate_as_now", "brake", "speed_up", "bear_left", "bear_right")
NUM_MODES = len(MODES)

BRAKING_MPS2 = 3.0  # firm but comfortable; AASHTO designs stopping-sight distance for 3.4
SPEED_UP_MPS2 = 1.5  # ordinary acceleration in town
LATERAL_MPS2 = 2.0  # how hard drivers take a bend that they chose, well under the 4 they accept
MOST_YAW_RATE_RADPS = 0.4  # a turn at a junction
# How far a driver's acceleration and lateral acceleration usually stray from their present values within 3 s.
_ACCELERATION_SPREAD_MPS2 = 2.0
_LATERAL_SPREAD_MPS2 = 1.5
_LEAST_SPEED_MPS = 1.0  # slower than this a yaw rate says nothing of the path's curvature


def kinematic_modes(ego_N3: Tensor, horizon_s: float, num_steps: int) -> tuple[Tensor, Tensor]:
    """The prior forecast.

    Each mode keeps an acceleration, never beyond standstill, and a curvature.

    Args:
        ego_N3: speed (m/s, negative in reverse), yaw rate (rad/s), acceleration (m/s^2). NaN: an unknown speed gives
            NaN; an unknown yaw rate or acceleration counts as zero.
    Returns:
        (paths_NMT2 in m, logits_NM). A mode's logit is the log-likelihood of its change of acceleration and of lateral
        acceleration under normal distributions around the present motion.
    """
    speed, yaw_rate, accel = ego_N3[:, 0], ego_N3[:, 1].nan_to_num(), ego_N3[:, 2].nan_to_num().clamp(-8.0, 4.0)
    sign = torch.where(speed < 0, -1.0, 1.0)
    pace = speed.abs()
    accel = accel * sign
    extra_yaw = (LATERAL_MPS2 / pace.clamp_min(_LEAST_SPEED_MPS)).clamp_max(MOST_YAW_RATE_RADPS)
    still = torch.zeros_like(accel)
    accel_NM = torch.stack([still, accel, still - BRAKING_MPS2, still + SPEED_UP_MPS2, still, still], -1)
    turn_NM = torch.stack([still, still, still, still, extra_yaw, -extra_yaw], -1)
    curvature = (yaw_rate[:, None] + turn_NM) / pace.clamp_min(_LEAST_SPEED_MPS)[:, None]

    time_s = torch.arange(1, num_steps + 1, device=ego_N3.device, dtype=ego_N3.dtype) * (horizon_s / num_steps)
    a = accel_NM[..., None]
    stop_s = torch.where(a < 0, pace[:, None, None] / -a.clamp_max(-1e-6), torch.inf)
    moving_s = torch.minimum(time_s, stop_s)
    length = sign[:, None, None] * (pace[:, None, None] * moving_s + 0.5 * a * moving_s**2)
    # A circular arc of that length; torch.sinc(x) is sin(pi x) / (pi x), which stays exact on a straight line.
    half_turn = 0.5 * curvature[..., None] * length
    x = length * torch.sinc(2 * half_turn / torch.pi)
    y = length * half_turn * torch.sinc(half_turn / torch.pi) ** 2
    lateral_NM = turn_NM * pace[:, None]
    logits = -0.5 * (
        ((accel_NM - accel[:, None]) / _ACCELERATION_SPREAD_MPS2) ** 2 + (lateral_NM / _LATERAL_SPREAD_MPS2) ** 2
    )
    return torch.stack([x, y], -1), torch.where(speed.isnan()[:, None], torch.nan, logits)


def ambiguity_m(paths_NMT2: Tensor, probability_NM: Tensor) -> Tensor:
    """Trajectory ambiguity [N]: root mean square distance of the modes' ends from their mean, by probability (m)."""
    ends, weight = paths_NMT2[:, :, -1], probability_NM[..., None]
    mean = (weight * ends).sum(1, keepdim=True)
    return (weight * (ends - mean) ** 2).sum((1, 2)).sqrt()
