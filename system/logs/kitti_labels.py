"""KITTI's boxes: label_02 of the tracking set and tracklet_labels.xml of raw drives, as tracks in the world frame.

label_02: the middle of the box's floor in rectified camera 0 (x right, y down, z forward); rotation_y about the
camera's y, 0 when the box points along +x. Tracklets: the middle of the floor in the Velodyne frame, yaw about z.
Velocities are local lines through five frames, as KITTI labels none. A box seen in one frame only is left out: it has
no velocity, and none is invented.
Source: readmes of the tracking and raw development kits.
"""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree

import numpy as np
from numpy.typing import NDArray

from system.errors import DataError
from system.logs.kitti_geometry import Rig, read_text
from system.logs.motion import local_slopes
from system.records import Track

MAX_BOX_M, MAX_DISTANCE_M = 200.0, 10_000.0
_NO_OBJECT = "DontCare"


class _Boxes:
    """Boxes of one road user: sizes (length, width, height), places of the middle and headings, in the ego frame."""

    def __init__(self, category: str) -> None:
        self.category = category
        self.frames: list[int] = []
        self.sizes: list[tuple[float, float, float]] = []
        self.places: list[NDArray[np.float64]] = []
        self.headings: list[NDArray[np.float64]] = []

    def add(
        self, frame: int, size: tuple[float, float, float], place: NDArray[np.float64], heading: NDArray[np.float64]
    ) -> None:
        self.frames.append(frame)
        self.sizes.append(size)
        self.places.append(place)
        self.headings.append(heading)


def read_labels(path: str, rig: Rig, t_ns: NDArray[np.int64], world_from_ego: NDArray[np.float64]) -> tuple[Track, ...]:
    """Tracks of a label_02 file.

    Args:
        t_ns, world_from_ego: of each frame, [T] and [T, 4, 4].
    Raises:
        DataError: `damaged_table`, `nan_agent`, `impossible_box`, `impossible_time`.
    """
    boxes: dict[str, _Boxes] = {}
    for k, line in enumerate(read_text(path).splitlines()):
        words = line.split()
        if len(words) < 17:
            raise DataError("damaged_table", f"{path} line {k + 1}: expected 17 columns, found {len(words)}")
        if words[2] == _NO_OBJECT:
            continue
        try:
            frame = int(words[0])
            height, width, length, x, y, z, rotation_y = (float(word) for word in words[10:17])
        except ValueError as error:
            raise DataError("damaged_table", f"{path} line {k + 1}: {error}") from error
        where = f"{path} line {k + 1}"
        _check(where, frame, (length, width, height), (x, y, z, rotation_y), len(t_ns))
        middle = rig.ego_from_rectified @ np.array([x, y - height / 2, z, 1.0])
        heading = rig.ego_from_rectified[:3, :3] @ np.array([np.cos(rotation_y), 0.0, -np.sin(rotation_y)])
        boxes.setdefault(words[1], _Boxes(words[2])).add(frame, (length, width, height), middle[:3], heading)
    return _tracks(path, boxes, t_ns, world_from_ego)


def read_tracklets(
    path: str, rig: Rig, t_ns: NDArray[np.int64], world_from_ego: NDArray[np.float64]
) -> tuple[Track, ...]:
    """Tracks of a tracklet_labels.xml; arguments and errors as `read_labels`."""
    boxes: dict[str, _Boxes] = {}
    try:
        items = ElementTree.fromstring(read_text(path)).findall("./tracklets/item")
        for number, item in enumerate(items):
            size = _floats(item, "l", "w", "h")
            first = int(_text(item, "first_frame"))
            boxes[str(number)] = track = _Boxes(_text(item, "objectType"))
            for k, pose in enumerate(item.findall("./poses/item")):
                x, y, z, yaw = _floats(pose, "tx", "ty", "tz", "rz")
                _check(f"{path} tracklet {number} pose {k}", first + k, size, (x, y, z, yaw), len(t_ns))
                middle = rig.ego_from_velodyne @ np.array([x, y, z + size[2] / 2, 1.0])
                heading = rig.ego_from_velodyne[:3, :3] @ np.array([np.cos(yaw), np.sin(yaw), 0.0])
                track.add(first + k, (size[0], size[1], size[2]), middle[:3], heading)
    except (ElementTree.ParseError, ValueError) as error:
        raise DataError("damaged_table", f"{path}: expected KITTI tracklets: {error}") from error
    return _tracks(path, boxes, t_ns, world_from_ego)


def _text(item: ElementTree.Element, name: str) -> str:
    value = item.findtext(name)
    if value is None:
        raise ValueError(f"no <{name}> in an <item>")
    return value.strip()


def _floats(item: ElementTree.Element, *names: str) -> tuple[float, ...]:
    return tuple(float(_text(item, name)) for name in names)


def _check(where: str, frame: int, size: tuple[float, ...], numbers: tuple[float, ...], num_frames: int) -> None:
    if not np.isfinite([*size, *numbers]).all():
        raise DataError("nan_agent", f"{where}: expected finite numbers, found {[*size, *numbers]}")
    if max(abs(number) for number in numbers) > MAX_DISTANCE_M:
        raise DataError("impossible_value", f"{where}: place {list(numbers)}, expected within {MAX_DISTANCE_M:.0f} m")
    if not all(0 < side <= MAX_BOX_M for side in size):
        raise DataError("impossible_box", f"{where}: box size {list(size)} m, expected each in (0, {MAX_BOX_M:.0f}]")
    if not 0 <= frame < num_frames:
        raise DataError("impossible_time", f"{where}: frame {frame}, expected 0 to {num_frames - 1} as poses are known")


def _tracks(
    path: str, boxes: dict[str, _Boxes], t_ns: NDArray[np.int64], world_from_ego: NDArray[np.float64]
) -> tuple[Track, ...]:
    tracks = []
    for track_id, box in boxes.items():
        frames = np.array(box.frames, dtype=int)
        if len(frames) < 2:
            continue
        if (np.diff(frames) <= 0).any():
            raise DataError("impossible_time", f"{path} track {track_id}: expected rising frames, found {frames}")
        pose = world_from_ego[frames]
        place = np.einsum("tij,tj->ti", pose[:, :3, :3], np.array(box.places)) + pose[:, :3, 3]
        heading = np.einsum("tij,tj->ti", pose[:, :3, :3], np.array(box.headings))
        yaw = np.arctan2(heading[:, 1], heading[:, 0])
        velocity = local_slopes(t_ns[frames], place[:, :2])
        states = np.concatenate([place, yaw[:, None], np.array(box.sizes), velocity], axis=1)
        tracks.append(Track(track_id, box.category, t_ns[frames], states))
    return tuple(tracks)
