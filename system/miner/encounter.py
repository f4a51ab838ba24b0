"""What happens if two road users keep velocity and heading: first contact, closest encounter, worst encounter.

Everything is vectorised; contacts and closest encounters are exact. The distance between two boxes that translate is a
convex function of time (it is the distance from a moving point to the Minkowski difference of the boxes), so that its
minimum is found in closed form and the maximum of the encounter intensity, a concave problem, by golden-section search.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from system.miner.boxes import (
    LENGTH,
    WIDTH,
    YAW,
    Array,
    X,
    Y,
    box_corners,
    corners_to_box_distance,
    heading_axes,
    overlap_interval,
    projected_half_extent,
)

HORIZON_S = 3.0
_GOLDEN = (np.sqrt(5.0) - 1.0) / 2.0
_SEARCH_STEPS = 32  # shrinks a 3 s horizon to under 1 microsecond


def time_to_collision(
    ego: Array, other: Array, ego_velocity: Array, other_velocity: Array, horizon_s: float = HORIZON_S
) -> Array:
    """Time to the first overlap of the two boxes, both keeping velocity and heading.

    Args:
        ego, other: boxes [..., 5] (x, y, yaw, length, width; m and rad).
        ego_velocity, other_velocity: [..., 2] (m/s).
        horizon_s: contacts later than this count as none.
    Returns:
        [...] seconds in [0, horizon_s], 0 where they overlap already, inf where they do not meet.
    Source: two-dimensional TTC as in CommonRoad-CriMe's TTC*; here solved exactly and not on a time grid.
    """
    enter, leave = overlap_interval(ego, other, ego_velocity, other_velocity)
    meets = (enter <= leave) & (leave >= 0.0) & (enter <= horizon_s)
    return np.where(meets, np.maximum(enter, 0.0), np.inf)


def closest_encounter(
    ego: Array, other: Array, ego_velocity: Array, other_velocity: Array, horizon_s: float = HORIZON_S
) -> tuple[Array, Array]:
    """Time (TTCE, s) and distance (DCE, m) of the closest encounter of the two constant-velocity rollouts.

    Args: as `time_to_collision`.
    Returns:
        (ttce_s, dce_m), each [...]. Of several equally close times the earliest counts; DCE is 0 at a contact.
    Source: DCE and TTCE of Eggert (2014), Predictive risk estimation for intelligent ADAS functions.
    """
    relative_velocity = np.broadcast_to(
        other_velocity - ego_velocity, np.broadcast_shapes(ego.shape, other.shape)[:-1] + (2,)
    )
    # Every corner of one box seen from every corner of the other: the 16 points that span the Minkowski difference.
    points = (box_corners(other)[..., :, None, :] - box_corners(ego)[..., None, :, :]).reshape(
        *relative_velocity.shape[:-1], 16, 2
    )
    speed_sq = np.maximum((relative_velocity**2).sum(-1), 1e-12)[..., None]
    t_points = np.clip(-np.einsum("...kd,...d->...k", points, relative_velocity) / speed_sq, 0.0, horizon_s)
    at_points = points + t_points[..., None] * relative_velocity[..., None, :]
    d_points = np.hypot(at_points[..., 0], at_points[..., 1])
    zeros, ends = np.zeros(t_points.shape[:-1] + (1,)), np.full(t_points.shape[:-1] + (1,), horizon_s)
    times = np.concatenate([zeros, t_points, ends], -1)
    distances = np.concatenate(
        [
            corners_to_box_distance(ego, other)[..., None],
            d_points,
            corners_to_box_distance(ego, _moved(other, relative_velocity, horizon_s))[..., None],
        ],
        -1,
    )
    ttc = time_to_collision(ego, other, ego_velocity, other_velocity, horizon_s)
    closest = distances.min(-1, keepdims=True)
    earliest = np.where(distances <= closest + 1e-9, times, np.inf).min(-1)
    return np.where(np.isfinite(ttc), ttc, earliest), np.where(np.isfinite(ttc), 0.0, closest[..., 0])


def encounter_intensity(ttce_s: Array, dce_m: Array, time_scale_s: float, distance_scale_m: float) -> Array:
    """exp(-TTCE / tau) exp(-DCE^2 / sigma^2), in [0, 1]: how dangerous a closest encounter is.

    The formula as it is usually given. The score takes its maximum over the rollout instead
    (`worst_encounter_intensity`, which says why).
    """
    return np.exp(-np.asarray(ttce_s) / time_scale_s - (np.asarray(dce_m) / distance_scale_m) ** 2)


def worst_encounter_intensity(
    ego: Array,
    other: Array,
    ego_velocity: Array,
    other_velocity: Array,
    time_scale_s: float,
    distance_scale_m: float,
    horizon_s: float = HORIZON_S,
) -> Array:
    """Largest exp(-t / tau) exp(-d(t)^2 / sigma^2) over the rollout, in [0, 1].

    The usual intensity takes t = TTCE and d = DCE. That pair jumps: a follower that keeps its gap has TTCE 0, one that
    closes by a hair has TTCE = horizon, so that closing faster would *lower* the risk. The maximum over the rollout
    equals the usual value at a contact, is never less than it, and never falls when the other comes nearer or closes
    faster: whatever lowers d(t) at every t cannot lower it.

    Args: as `time_to_collision`; `time_scale_s` is tau, `distance_scale_m` is sigma.
    Returns: [...].
    """
    distance_at = _rollout_distance(ego, other, ego_velocity, other_velocity)

    def log_intensity(t_s: Array) -> Array:
        return -t_s / time_scale_s - (distance_at(t_s) / distance_scale_m) ** 2

    shape = np.broadcast_shapes(ego.shape[:-1], other.shape[:-1], ego_velocity.shape[:-1], other_velocity.shape[:-1])
    low, high = np.zeros(shape), np.full(shape, horizon_s)
    left, right = high - _GOLDEN * (high - low), low + _GOLDEN * (high - low)
    f_left, f_right = log_intensity(left), log_intensity(right)
    for _ in range(_SEARCH_STEPS):
        keep_left = f_left >= f_right
        low, high = np.where(keep_left, low, left), np.where(keep_left, right, high)
        probe = np.where(keep_left, high - _GOLDEN * (high - low), low + _GOLDEN * (high - low))
        f_probe = log_intensity(probe)
        left, right, f_left, f_right = (
            np.where(keep_left, probe, right),
            np.where(keep_left, left, probe),
            np.where(keep_left, f_probe, f_right),
            np.where(keep_left, f_left, f_probe),
        )
    best = log_intensity(0.5 * (low + high))
    for end_s in (0.0, horizon_s):
        best = np.maximum(best, log_intensity(np.full(shape, end_s)))
    ttc = time_to_collision(ego, other, ego_velocity, other_velocity, horizon_s)
    return np.exp(np.maximum(best, np.where(np.isfinite(ttc), -ttc / time_scale_s, -np.inf)))


def approach_speed(ego: Array, other: Array, ego_velocity: Array, other_velocity: Array) -> Array:
    """How fast the other slides past or towards the ego, whatever moves away left out: [...] (m/s).

    Along each of the ego's two axes: the relative speed where the boxes lie beside each other on it, its closing part
    where they lie apart; for a leader it is the closing speed. Where they lie apart on an axis, closing faster along it
    never lowers it; beside each other, sliding by either way counts.
    """
    ego, other = np.broadcast_arrays(ego, other)
    axes = heading_axes(ego[..., YAW])
    gap = np.einsum("...kd,...d->...k", axes, other[..., [X, Y]] - ego[..., [X, Y]])
    speed = np.einsum("...kd,...d->...k", axes, other_velocity - ego_velocity)
    is_apart = np.abs(gap) > projected_half_extent(ego, axes) + projected_half_extent(other, axes)
    counted = np.where(is_apart, np.maximum(-np.sign(gap) * speed, 0.0), np.abs(speed))
    return np.hypot(counted[..., 0], counted[..., 1])


def _rollout_distance(ego: Array, other: Array, ego_velocity: Array, other_velocity: Array) -> Callable[[Array], Array]:
    """A function from times [...] to the distance [...] of the two boxes then; headings are worked out only once."""
    enter, leave = overlap_interval(ego, other, ego_velocity, other_velocity)
    ego, other = np.broadcast_arrays(ego, other)
    relative = np.broadcast_to(other_velocity - ego_velocity, (*enter.shape, 2))[..., None, :]
    starts, speeds, halves = [], [], []
    for box, guest, velocity in ((ego, other, relative), (other, ego, -relative)):
        axes = np.swapaxes(heading_axes(box[..., YAW]), -1, -2)
        starts.append((box_corners(guest) - box[..., None, [X, Y]]) @ axes)
        speeds.append(np.broadcast_to(velocity @ axes, starts[-1].shape))
        halves.append(np.broadcast_to(0.5 * box[..., None, [LENGTH, WIDTH]], starts[-1].shape))
    # Eight corners, each in the frame of the box that it is seen from: [2 (axes), ..., 8].
    start, speed, half = (np.moveaxis(np.concatenate(part, -2), -1, 0) for part in (starts, speeds, halves))

    def distance_at(t_s: Array) -> Array:
        outside = np.maximum(np.abs(start + speed * t_s[..., None]) - half, 0.0)
        nearest_sq = (outside[0] ** 2 + outside[1] ** 2).min(-1)
        return np.where((enter <= t_s) & (t_s <= leave), 0.0, np.sqrt(nearest_sq))

    return distance_at


def _moved(boxes: Array, velocity: Array, t_s: Array | float) -> Array:
    """Boxes after moving for t_s seconds at `velocity`."""
    moved = np.array(np.broadcast_to(boxes, np.broadcast_shapes(boxes.shape, velocity.shape[:-1] + (1,))), copy=True)
    moved[..., [X, Y]] += velocity * np.asarray(t_s)[..., None]
    return moved
