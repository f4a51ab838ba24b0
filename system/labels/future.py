"""Where the ego really went after a scene: what a forecast is trained on and judged by."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from system.miner.miner_config import SceneMinerConfig
from system.records import EgoTrack

# Longer holes in a track are not bridged.
_LARGEST_GAP_NS = 1_100_000_000


def future_path(ego: EgoTrack | None, from_ns: int, config: SceneMinerConfig) -> NDArray[np.float32] | None:
    """The ego's path after a moment.

    Args:
        ego: track of the whole log. from_ns: the moment, a sample of the track.
        config: horizon and steps.
    Returns:
        [T, 2] in m, x forward and y left of the ego at that moment; None where the track does not go that far or has
        holes.
    """
    if ego is None:
        return None
    steps_ns = from_ns + np.arange(1, config.forecast_steps + 1) * (
        config.forecast_horizon_s * 1e9 / config.forecast_steps
    )
    after = (ego.t_ns >= from_ns) & (ego.t_ns <= steps_ns[-1] + _LARGEST_GAP_NS)
    t_ns, states = ego.t_ns[after], ego.states[after]
    if len(t_ns) < 2 or t_ns[0] != from_ns or t_ns[-1] < steps_ns[-1] - 1_000_000:
        return None
    if np.diff(t_ns).max() > _LARGEST_GAP_NS:
        return None
    dx, dy = (np.interp(steps_ns, t_ns, states[:, k]) - states[0, k] for k in (0, 1))
    cos, sin = np.cos(states[0, 3]), np.sin(states[0, 3])
    return np.stack([cos * dx + sin * dy, cos * dy - sin * dx], -1).astype(np.float32)
