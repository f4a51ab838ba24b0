"""Drive one scene and take its pictures."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from system.demo.config import KEYFRAME_HZ, STEP_S, SceneConfig
from system.demo.hazards import Drive, stage
from system.demo.infrared import infrared_picture
from system.demo.meshes import Mesh, moved
from system.demo.renderer import GBuffer, Renderer
from system.demo.rig import HEIGHT, INFRARED, RIG, WIDTH, Camera
from system.demo.road_users import road_user
from system.demo.shading import Lights, headlights, shade
from system.demo.town import Town, make_town
from system.demo.town_mesh import signal_lights, town_mesh
from system.demo.traffic import Way

EGO_CENTER_AHEAD_M = 1.4
_DRAWN_WITHIN_M, _ANNOTATED_WITHIN_M = 110.0, 80.0
# Of the hull of its projected box, a road user's outline fills about this much.
_OUTLINE_SHARE = 0.7
_FOG_SEEN_M = 90.0


@dataclass(frozen=True)
class Box:
    """A road user at a keyframe, world frame; visible: its least occluded view's share, in [0, 1]."""

    user: str
    kind: str
    x: float
    y: float
    yaw: float
    size: tuple[float, float, float]
    visible: float


@dataclass(frozen=True)
class Outline:
    """A road user in the front pictures: (x, y, width, height) in pixels, and whether the RGB picture shows it too.

    runs: of its pixels, as COCO counts them: column by column, in turns what is not and what is of it.
    """

    user: str
    kind: str
    bbox: tuple[int, int, int, int]
    is_seen_in_rgb: bool
    runs: tuple[int, ...]


@dataclass(frozen=True)
class Keyframe:
    """One moment. pose: x, y, yaw of the rear axle; pictures: uint8 by channel."""

    t_s: float
    pose: tuple[float, float, float]
    speed: float
    pictures: dict[str, NDArray[np.uint8]]
    boxes: tuple[Box, ...]
    outlines: tuple[Outline, ...]


@dataclass(frozen=True)
class Recording:
    config: SceneConfig
    town: Town
    drive: Drive
    keyframes: tuple[Keyframe, ...]


def record(config: SceneConfig, folder: Path) -> Recording:
    """Drive and draw a scene.

    Args:
        folder: for the network and routes; may be thrown away afterwards.
    Raises:
        ConfigError: SUMO or panda3d is missing. DataError: nothing to stage.
    """
    town = make_town(folder, config.town_seed)
    drive = stage(town, folder, config)
    renderer = Renderer(town_mesh(town, config.town_seed))
    step = round(1 / (KEYFRAME_HZ * STEP_S))
    moments = range(0, len(drive.ego.rows), step)
    return Recording(config, town, drive, tuple(_keyframe(config, town, drive, renderer, k) for k in moments))


def _keyframe(config: SceneConfig, town: Town, drive: Drive, renderer: Renderer, step: int) -> Keyframe:
    t_s, x, y, yaw, speed, _ = drive.ego.rows[step]
    pose = (x - EGO_CENTER_AHEAD_M * np.cos(yaw), y - EGO_CENTER_AHEAD_M * np.sin(yaw), yaw)
    users = [
        (name, way, row)
        for name, way in sorted(drive.others.items())
        if (row := _row_at(way, t_s)) is not None and np.hypot(row[1] - x, row[2] - y) < _DRAWN_WITHIN_M
    ]
    meshes = [_drawn(name, way, row) for name, way, row in users]
    signals = signal_lights(town, drive.signals[min(step, len(drive.signals) - 1)])
    cameras = [camera for camera in RIG if camera.channel != INFRARED]
    views = renderer.draw(cameras, pose, [*meshes, signals])
    lights = _lights(town, drive.ego, users, (x, y, yaw))
    pictures = {
        camera.channel: shade(view, lights, config.light, config.weather, _generator(config, step, camera.channel))
        for camera, view in zip(cameras, views, strict=True)
    }
    # By object_id; 0 is the town, and the signals' lamps come last.
    moving = np.array([True, *(way.states[:, 4].max() > 0.5 for _, way, _ in users), True])
    front = views[0]
    rng = _generator(config, step, INFRARED)
    pictures[INFRARED] = infrared_picture(front, config.light, config.weather, moving, rng)
    boxes = tuple(
        _box(name, way, row, number, cameras, views, pose)
        for number, (name, way, row) in enumerate(users, start=1)
        if np.hypot(row[1] - x, row[2] - y) < _ANNOTATED_WITHIN_M
    )
    outlines = tuple(
        o for k, (n, w, _) in enumerate(users, start=1) if (o := _outline(n, w, k, front, config)) is not None
    )
    return Keyframe(t_s, (float(pose[0]), float(pose[1]), float(pose[2])), speed, pictures, boxes, outlines)


def _row_at(way: Way, t_s: float) -> tuple[float, ...] | None:
    k = round((t_s - way.rows[0][0]) / STEP_S)
    return way.rows[k] if 0 <= k < len(way.rows) else None


def _drawn(name: str, way: Way, row: tuple[float, ...]) -> Mesh:
    _, x, y, yaw, _, is_braking = row
    gone_m = row[0] * max(row[4], 0.0)
    mesh = road_user(way.kind, way.size, zlib.crc32(name.encode()), gone_m / 0.75, bool(is_braking))
    return moved(mesh, x, y, 0.0, yaw)


def _lights(
    town: Town, ego: Way, users: list[tuple[str, Way, tuple[float, ...]]], pose: tuple[float, float, float]
) -> Lights:
    x, y, yaw = pose
    near = town.lamps[np.hypot(town.lamps[:, 0] - x, town.lamps[:, 1] - y) < 55]
    heads = np.column_stack([near[:, 0] + 1.65 * np.cos(near[:, 2]), near[:, 1] + 1.65 * np.sin(near[:, 2])])
    cars = [
        (row[1], row[2], row[3], way.size[0])
        for _, way, row in users
        if way.kind not in ("pedestrian", "bicycle") and np.hypot(row[1] - x, row[2] - y) < 45
    ]
    boxes = [(row[1], row[2], row[3], way.size[0], way.size[1]) for _, way, row in users]
    return Lights(
        lamps=heads,
        beams=headlights([(x, y, yaw, ego.size[0]), *cars]),
        boxes=np.array([(x, y, yaw, ego.size[0], ego.size[1]), *boxes]),
    )


def _generator(config: SceneConfig, step: int, channel: str) -> np.random.Generator:
    return np.random.default_rng([config.seed, step, zlib.crc32(channel.encode())])


def _box(
    name: str, way: Way, row: tuple[float, ...], number: int, cameras: list[Camera], views: list[GBuffer],
    pose: tuple[float, float, float],
) -> Box:  # fmt: skip
    visible = 0.0
    for camera, view in zip(cameras, views, strict=True):
        hull = projected_hull(camera, pose, (row[1], row[2], row[3]), way.size)
        if hull is None:
            continue
        canvas = np.zeros((HEIGHT, WIDTH), np.uint8)
        cv2.fillConvexPoly(canvas, hull, 1)
        expected = float(canvas.sum()) * _OUTLINE_SHARE
        if expected >= 4:
            visible = max(visible, min(1.0, float((view.object_id == number).sum()) / expected))
    return Box(name, way.kind, row[1], row[2], row[3], way.size, visible)


def projected_hull(
    camera: Camera,
    ego_pose: tuple[float, float, float],
    at: tuple[float, float, float],
    size: tuple[float, float, float],
) -> NDArray[np.int32] | None:
    """Convex hull of a box in a camera's picture, pixels [K, 1, 2]; None where a corner lies behind the camera."""
    signs = np.array([(a, b, c) for a in (-0.5, 0.5) for b in (-0.5, 0.5) for c in (0, 1)])
    corners = signs * np.array(size)
    x, y, yaw = at
    world = np.column_stack(
        [
            x + np.cos(yaw) * corners[:, 0] - np.sin(yaw) * corners[:, 1],
            y + np.sin(yaw) * corners[:, 0] + np.cos(yaw) * corners[:, 1],
        ]
    )
    heading = ego_pose[2]
    dx, dy = world[:, 0] - ego_pose[0], world[:, 1] - ego_pose[1]
    ahead = np.cos(heading) * dx + np.sin(heading) * dy - camera.at_m[0]
    left = np.cos(heading) * dy - np.sin(heading) * dx - camera.at_m[1]
    forward = np.cos(camera.yaw_rad) * ahead + np.sin(camera.yaw_rad) * left
    leftward = np.cos(camera.yaw_rad) * left - np.sin(camera.yaw_rad) * ahead
    if (forward < 0.5).any():
        return None
    u = WIDTH / 2 - camera.focal_px * leftward / forward
    v = HEIGHT / 2 - camera.focal_px * (corners[:, 2] - camera.at_m[2]) / forward
    if u.max() < 0 or u.min() > WIDTH or v.max() < 0 or v.min() > HEIGHT:
        return None
    return np.asarray(cv2.convexHull(np.column_stack([u, v]).round().astype(np.int32)), np.int32)


def _outline(name: str, way: Way, number: int, front: GBuffer, config: SceneConfig) -> Outline | None:
    rows, columns = np.nonzero(front.object_id == number)
    if len(rows) < 12:
        return None
    x0, y0 = int(columns.min()), int(rows.min())
    distance = float(np.median(front.distance_m[rows, columns]))
    is_seen = config.weather != "fog" or distance < _FOG_SEEN_M
    bbox = (x0, y0, int(columns.max()) - x0 + 1, int(rows.max()) - y0 + 1)
    return Outline(name, way.kind, bbox, is_seen, run_lengths(front.object_id == number))


def run_lengths(mask_HW: NDArray[np.bool_]) -> tuple[int, ...]:
    """Lengths of runs, column by column, of what is not in a mask and what is, in turns: COCO's RLE."""
    flat = mask_HW.ravel(order="F")
    starts = np.flatnonzero(np.diff(flat, prepend=False))
    return tuple(np.diff(np.concatenate([[0], starts, [flat.size]])).tolist())
