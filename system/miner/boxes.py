"""Oriented boxes on the ground plane, vectorised over any leading shape.

A box is (x, y, yaw, length, width): centre in metres, yaw in radians counter-clockwise from +x, length along the
heading. Boxes are arrays whose last axis holds these five numbers.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

X, Y, YAW, LENGTH, WIDTH = range(5)
_CORNER_SIGNS = np.array([[1.0, 1.0], [-1.0, 1.0], [-1.0, -1.0], [1.0, -1.0]])


def heading_axes(yaw: Array) -> Array:
    """Unit vectors along and across the heading: [..., 2 (along, across), 2 (x, y)]."""
    cos, sin = np.cos(yaw), np.sin(yaw)
    return np.stack([np.stack([cos, sin], -1), np.stack([-sin, cos], -1)], -2)


def box_corners(boxes: Array) -> Array:
    """Corners in counter-clockwise order, front left first: [..., 5] -> [..., 4, 2] (m)."""
    half = 0.5 * boxes[..., None, [LENGTH, WIDTH]] * _CORNER_SIGNS
    return boxes[..., None, [X, Y]] + half @ heading_axes(boxes[..., YAW])


def point_to_box_distance(points: Array, boxes: Array) -> Array:
    """Distance from points [..., K, 2] to solid boxes [..., 5], zero inside: [..., K] (m)."""
    offsets = points - boxes[..., None, [X, Y]]
    local = np.abs(offsets @ np.swapaxes(heading_axes(boxes[..., YAW]), -1, -2))
    outside = np.maximum(local - 0.5 * boxes[..., None, [LENGTH, WIDTH]], 0.0)
    return np.hypot(outside[..., 0], outside[..., 1])


def corners_to_box_distance(boxes_a: Array, boxes_b: Array) -> Array:
    """Least distance from any corner of one box to the other box: [...] (m).

    It is the distance between the two boxes unless they cross without either holding a corner of the other.
    """
    a_to_b = point_to_box_distance(box_corners(boxes_a), boxes_b).min(-1)
    b_to_a = point_to_box_distance(box_corners(boxes_b), boxes_a).min(-1)
    return np.minimum(a_to_b, b_to_a)


def overlap_interval(boxes_a: Array, boxes_b: Array, velocities_a: Array, velocities_b: Array) -> tuple[Array, Array]:
    """When two boxes that keep velocity and heading overlap, by the separating-axis theorem in closed form.

    On each of the four face normals the projections overlap during one interval of time; the boxes overlap during
    the intersection of the four.

    Args:
        boxes_a, boxes_b: [..., 5].
        velocities_a, velocities_b: [..., 2] (m/s).
    Returns:
        (enter_s, leave_s), each [...]; enter_s > leave_s means that they never overlap. May be negative or infinite.
    """
    boxes_a, boxes_b = np.broadcast_arrays(boxes_a, boxes_b)
    axes = np.concatenate([heading_axes(boxes_a[..., YAW]), heading_axes(boxes_b[..., YAW])], -2)
    gap = np.einsum("...kd,...d->...k", axes, boxes_b[..., [X, Y]] - boxes_a[..., [X, Y]])
    speed = np.einsum("...kd,...d->...k", axes, velocities_b - velocities_a)
    reach = projected_half_extent(boxes_a, axes) + projected_half_extent(boxes_b, axes)
    moving = np.abs(speed) > 1e-12
    safe_speed = np.where(moving, speed, 1.0)
    first, second = (-reach - gap) / safe_speed, (reach - gap) / safe_speed
    touching = np.abs(gap) <= reach
    enter = np.where(moving, np.minimum(first, second), np.where(touching, -np.inf, np.inf))
    leave = np.where(moving, np.maximum(first, second), np.where(touching, np.inf, -np.inf))
    return enter.max(-1), leave.min(-1)


def box_distance(boxes_a: Array, boxes_b: Array) -> Array:
    """Distance between two solid boxes, zero when they overlap: [..., 5], [..., 5] -> [...] (m)."""
    still = np.zeros(2)
    enter, leave = overlap_interval(boxes_a, boxes_b, still, still)
    return np.where(enter <= leave, 0.0, corners_to_box_distance(boxes_a, boxes_b))


def projected_half_extent(boxes: Array, axes: Array) -> Array:
    """Half the length of the boxes' shadows on unit axes [..., K, 2]: [..., K] (m)."""
    along_across = np.abs(np.einsum("...kd,...hd->...kh", axes, heading_axes(boxes[..., YAW])))
    return 0.5 * (along_across * boxes[..., None, [LENGTH, WIDTH]]).sum(-1)
