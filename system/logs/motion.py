"""Velocities from places, for logs that give places only."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

NS_PER_S = 1e9


def local_slopes(
    t_ns: NDArray[np.int64], values_TD: NDArray[np.float64], half_window_s: float = 0.25
) -> NDArray[np.float64]:
    """Rate of change by a least-squares line through the neighbours of each moment, which averages label noise.

    Args:
        t_ns: strictly increasing [T].
        values_TD: [T, D], in any unit; angles unwrapped.
        half_window_s: neighbours this near are used, and at least the next one on either side.
    Returns:
        [T, D] per second; not-a-number where there is a single moment.
    """
    count = len(t_ns)
    if count < 2:
        return np.full_like(values_TD, np.nan)
    t_s = (t_ns - t_ns[0]) / NS_PER_S
    first = np.minimum(np.searchsorted(t_s, t_s - half_window_s - 1e-6), np.maximum(np.arange(count) - 1, 0))
    last = np.maximum(
        np.searchsorted(t_s, t_s + half_window_s + 1e-6, "right"), np.minimum(np.arange(count) + 2, count)
    )
    number = (last - first).astype(float)[:, None]

    def sums(terms_TD: NDArray[np.float64]) -> NDArray[np.float64]:
        total = np.concatenate([np.zeros((1, terms_TD.shape[1])), np.cumsum(terms_TD, axis=0)])
        return total[last] - total[first]

    t, v = t_s[:, None], values_TD - values_TD.mean(axis=0)
    covariance = sums(t * v) - sums(t) * sums(v) / number
    return covariance / (sums(t * t) - sums(t) ** 2 / number)


def forward_speed_mps(
    t_ns: NDArray[np.int64], xy_m: NDArray[np.float64], yaw_rad: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Speed along the heading [T], negative when reversing; 0 where there is a single moment, which has no motion."""
    velocity = np.nan_to_num(local_slopes(t_ns, xy_m))
    return velocity[:, 0] * np.cos(yaw_rad) + velocity[:, 1] * np.sin(yaw_rad)
