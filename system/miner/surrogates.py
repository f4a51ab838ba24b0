"""Surrogate safety measures of traffic engineering, as pure functions. Metres, seconds, m/s, m/s^2.

Sources: Hayward (1972) for TTC; Minderhoud and Bovy (2001) for TET and TIT; Almqvist et al. (1991) for DRAC;
Allen et al. (1978) for PET.
"""

from __future__ import annotations

import numpy as np
import shapely
from numpy.typing import NDArray

from system.miner.boxes import Array, box_corners

ACCELERATION_TOLERANCE_MPS2 = 0.1


def lead_time_to_collision(
    gap_m: Array, ego_speed_mps: Array, lead_speed_mps: Array, ego_accel_mps2: Array, lead_accel_mps2: Array
) -> Array:
    """Time until the ego reaches a leader on the same line, both keeping their acceleration.

    With dv = lead - ego speed and da likewise: -d/dv where |da| <= 0.1 m/s^2 and dv < 0, else the first positive root
    of d + dv t + da t^2 / 2 = 0, which is (-dv - sqrt(dv^2 - 2 d da)) / da.

    Returns: seconds; inf where the gap never closes; 0 where it is closed already.
    """
    gap, ve, vo, ae, ao = np.broadcast_arrays(
        *(
            np.asarray(v, dtype=np.float64)
            for v in (gap_m, ego_speed_mps, lead_speed_mps, ego_accel_mps2, lead_accel_mps2)
        )
    )
    dv, da = vo - ve, ao - ae
    steady = np.abs(da) <= ACCELERATION_TOLERANCE_MPS2
    steady_ttc = np.where(dv < 0, gap / np.where(dv < 0, -dv, 1.0), np.inf)
    discriminant = dv**2 - 2.0 * gap * da
    root = (-dv - np.sqrt(np.maximum(discriminant, 0.0))) / np.where(steady, 1.0, da)
    accelerated_ttc = np.where((discriminant >= 0) & (root >= 0), root, np.inf)
    return np.where(gap <= 0, 0.0, np.where(steady, steady_ttc, accelerated_ttc))


def deceleration_rate_to_avoid_crash(gap_m: Array, ego_speed_mps: Array, lead_speed_mps: Array) -> Array:
    """DRAC = dv^2 / (2 d): the steady braking that just avoids a slower leader. 0 where not closing, inf at no gap."""
    closing = np.maximum(np.asarray(ego_speed_mps, dtype=np.float64) - lead_speed_mps, 0.0)
    gap = np.asarray(gap_m, dtype=np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        drac = closing**2 / (2.0 * np.maximum(gap, 0.0))
    return np.where(closing > 0, drac, 0.0)


def time_headway(gap_m: Array, ego_speed_mps: Array) -> Array:
    """THW = d / v: seconds until the ego is where the leader's rear is now; inf for a standing ego."""
    gap, speed = np.broadcast_arrays(np.asarray(gap_m, dtype=np.float64), np.asarray(ego_speed_mps, dtype=np.float64))
    return np.where(speed > 0, np.maximum(gap, 0.0) / np.where(speed > 0, speed, 1.0), np.inf)


def time_exposed_ttc(ttc_s: Array, dt_s: Array | float, threshold_s: float) -> Array:
    """TET: time spent with TTC at or under the threshold, summed over the last axis (s)."""
    return ((np.asarray(ttc_s) <= threshold_s) * dt_s).sum(-1)


def time_integrated_ttc(ttc_s: Array, dt_s: Array | float, threshold_s: float) -> Array:
    """TIT: integral of how far TTC is under the threshold, over the last axis (s^2)."""
    return (np.maximum(threshold_s - np.asarray(ttc_s, dtype=np.float64), 0.0) * dt_s).sum(-1)


def post_encroachment_time(t_a_s: Array, boxes_a: Array, t_b_s: Array, boxes_b: Array) -> float:
    """PET: time between the first user leaving the area that both paths share and the second entering it.

    The shared area is where the two swept paths cross. Both tracks are interpolated in time, so that PET is as fine as
    the tracks are smooth and not as coarse as they were sampled.

    Args:
        t_a_s, t_b_s: increasing times [A], [B] (s), at least two each.
        boxes_a, boxes_b: boxes [A, 5], [B, 5] at these times.
    Returns:
        Seconds; inf where the paths share nothing; 0 where both were inside at once.
    """
    steps_a, hulls_a = _swept_hulls(boxes_a)
    steps_b, hulls_b = _swept_hulls(boxes_b)
    shared = shapely.intersection(shapely.union_all(hulls_a), shapely.union_all(hulls_b))
    best = np.inf
    for area in shapely.get_parts(shared):
        if area.area <= 0.0:
            continue
        a_in, a_out = _stay(t_a_s, steps_a, hulls_a, boxes_a, area)
        b_in, b_out = _stay(t_b_s, steps_b, hulls_b, boxes_b, area)
        first_out, second_in = (a_out, b_in) if a_in <= b_in else (b_out, a_in)
        best = min(best, max(second_in - first_out, 0.0))
    return float(best)


def _swept_hulls(boxes: Array) -> tuple[NDArray[np.intp], list[shapely.Polygon]]:
    """Convex hull of each pair of neighbouring boxes, standing stretches left out, and the steps they belong to."""
    corners = box_corners(boxes)
    moved = np.hypot(*(boxes[1:, :2] - boxes[:-1, :2]).T) > 1e-6
    steps = np.flatnonzero(moved) if moved.any() else np.array([0])
    pairs = np.concatenate([corners[steps], corners[steps + 1]], axis=1)
    return steps, list(shapely.convex_hull(shapely.multipoints(pairs)))


def _stay(t_s: Array, steps: NDArray[np.intp], hulls: list, boxes: Array, area: shapely.Polygon) -> tuple[float, float]:
    """First and last moment at which an interpolated track touches an area that it is known to sweep over."""
    touching = np.flatnonzero(shapely.intersects(hulls, area))
    first, last = steps[touching[0]], steps[touching[-1]]

    def at(step: int, share: float) -> shapely.Polygon:
        return shapely.Polygon(box_corners((1 - share) * boxes[step] + share * boxes[step + 1]))

    def bisect(step: int, want_entry: bool) -> float:
        low, high = 0.0, 1.0
        if shapely.intersects(at(step, low if want_entry else high), area):
            # It stood there before its first step, or stands there after its last.
            if want_entry:
                return float(t_s[0 if step == steps[0] else step])
            return float(t_s[-1 if step == steps[-1] else step + 1])
        for _ in range(20):
            middle = 0.5 * (low + high)
            inside = shapely.intersects(at(step, middle), area)
            if inside == want_entry:
                high = middle
            else:
                low = middle
        return float(t_s[step] + 0.5 * (low + high) * (t_s[step + 1] - t_s[step]))

    return bisect(int(first), True), bisect(int(last), False)
