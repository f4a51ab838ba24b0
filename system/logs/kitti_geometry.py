"""KITTI's frames of reference, brought to those of `system.records`.

OXTS (the inertial unit, x forward, y left, z up) gives latitude and longitude, which a Mercator projection at the first
latitude turns into metres; x east, y north, z up, the origin at the first place; yaw 0 is east, counter-clockwise.
Our ego frame has OXTS's axes; its origin is on the ground and on the car's centre line (where the Velodyne is),
abreast of the OXTS unit.
Camera 0, rectified: x right, y down, z forward; the other rectified cameras are shifted by K^-1 P[:, 3].
Source: Geiger et al., "Vision meets Robotics: The KITTI Dataset", IJRR 2013, sections 2-4, and the readme of its kit.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from system.errors import DataError
from system.logs import files

EARTH_RADIUS_M = 6_378_137.0
VELODYNE_HEIGHT_M = 1.73  # over the ground, same source
# From OXTS to the ego's origin where no calibration says it: the nominal rig of the same source.
NOMINAL_LEVER_M = (0.0, -0.32, -0.93)
# The recording car, a VW Passat B6 Variant (maker's data), and where its middle is ahead of OXTS: the rear axle is
# 0.60 m behind OXTS and 1.28 m behind the middle. Read off the drawing of the rig, so good to about 0.1 m.
EGO_SIZE_M, EGO_CENTER_AHEAD_M = (4.77, 1.82, 1.52), 0.68
MAX_TEXT_BYTES = 256 * 1024**2
OXTS_COLUMNS = 30
# Beyond these a number is a fault and not a place, an angle or a speed on Earth.
_LIMITS = {0: 89.0, 1: 180.0, 2: 1e5, 3: 10.0, 4: 10.0, 5: 10.0, 8: 150.0}
_LAT, _LON, _ALT, _ROLL, _PITCH, _YAW, _VF = 0, 1, 2, 3, 4, 5, 8


@dataclass(frozen=True, eq=False)
class Rig:
    """Fixed transforms of the car: all [4, 4]; intrinsics and shifts by camera number."""

    ego_from_imu: NDArray[np.float64]
    ego_from_velodyne: NDArray[np.float64]
    ego_from_rectified: NDArray[np.float64]
    projections: Mapping[int, NDArray[np.float64]]

    def camera(self, number: int) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
        """(intrinsics 3x3, ego_from_camera 4x4), row-major, of a rectified camera, or None where it is unknown."""
        projection = self.projections.get(number)
        if projection is None:
            return None
        rectified_from_camera = np.eye(4)
        rectified_from_camera[:3, 3] = -np.linalg.solve(projection[:, :3], projection[:, 3])
        pose = self.ego_from_rectified @ rectified_from_camera
        return tuple(map(float, projection[:, :3].ravel())), tuple(map(float, pose.ravel()))


def read_text(path: str) -> str:
    """A text file of bounded size.

    Raises:
        DataError: `missing_file`, `too_large`, `damaged_table`.
    """
    raw = files.read_bytes(path, 0, MAX_TEXT_BYTES + 1)
    if len(raw) > MAX_TEXT_BYTES:
        raise DataError("too_large", f"{path}: expected at most {MAX_TEXT_BYTES} bytes")
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        raise DataError("damaged_table", f"{path}: expected text: {error}") from error


def read_numbers(path: str, columns: int) -> NDArray[np.float64]:
    """A table of blank-separated finite numbers, [rows, columns].

    Raises:
        DataError: `damaged_table`, `nan_pose`.
    """
    lines = read_text(path).splitlines()
    table = np.empty((len(lines), columns))
    for k, line in enumerate(lines):
        words = line.split()
        try:
            table[k] = [float(word) for word in words[:columns]]
        except ValueError as error:
            raise DataError(
                "damaged_table", f"{path} line {k + 1}: expected {columns} numbers, found {len(words)} words: {error}"
            ) from error
        if not np.isfinite(table[k]).all():
            raise DataError("nan_pose", f"{path} line {k + 1}: expected finite numbers, found {line.strip()[:200]!r}")
    return table


def read_calibration(*paths: str) -> dict[str, NDArray[np.float64]]:
    """Named lists of numbers ("P2: 7.2e+02 ...", colon or not) of calibration files, the later over the earlier.

    Raises:
        DataError: `damaged_calibration`.
    """
    found: dict[str, NDArray[np.float64]] = {}
    for path in paths:
        for line in read_text(path).splitlines():
            name, *words = line.replace(":", " ", 1).split() or [""]
            try:
                numbers = np.array([float(word) for word in words])
            except ValueError:
                continue  # dates of calibration and the like
            if not np.isfinite(numbers).all():
                raise DataError("damaged_calibration", f"{path}: expected finite numbers after {name!r}")
            found[name] = numbers
    return found


def rigid(numbers: NDArray[np.float64], where: str) -> NDArray[np.float64]:
    """[4, 4] of a row-major 3x4 (12 numbers) or a rotation alone (9 numbers).

    Raises:
        DataError: `damaged_calibration`: another count of numbers, or no rotation.
    """
    if len(numbers) not in (9, 12):
        raise DataError("damaged_calibration", f"{where}: expected 9 or 12 numbers, found {len(numbers)}")
    pose = np.eye(4)
    pose[:3, : len(numbers) // 3] = numbers.reshape(3, -1)
    if not np.allclose(pose[:3, :3] @ pose[:3, :3].T, np.eye(3), atol=1e-3):
        raise DataError("damaged_calibration", f"{where}: expected a rotation, found {pose[:3, :3].tolist()}")
    return pose


def build_rig(
    velodyne_from_imu: NDArray[np.float64],
    camera_from_velodyne: NDArray[np.float64],
    rectified_from_camera: NDArray[np.float64],
    projections: Mapping[int, NDArray[np.float64]],
) -> Rig:
    """The rig from its calibration, each [4, 4]; projections [3, 4] by camera number."""
    imu_from_velodyne = np.linalg.inv(velodyne_from_imu)
    ego_from_imu = np.eye(4)
    ego_from_imu[1:3, 3] = -imu_from_velodyne[1, 3], VELODYNE_HEIGHT_M - imu_from_velodyne[2, 3]
    ego_from_velodyne = ego_from_imu @ imu_from_velodyne
    ego_from_rectified = ego_from_velodyne @ np.linalg.inv(rectified_from_camera @ camera_from_velodyne)
    return Rig(ego_from_imu, ego_from_velodyne, ego_from_rectified, projections)


def world_from_imu(oxts: NDArray[np.float64]) -> NDArray[np.float64]:
    """Poses [T, 4, 4] of the OXTS unit from its packets [T, 30]; the origin is at the first.

    Raises:
        DataError: `impossible_value`.
    """
    for column, limit in _LIMITS.items():
        wrong = np.abs(oxts[:, column]) > limit
        if wrong.any():
            row = int(np.argmax(wrong))
            raise DataError(
                "impossible_value", f"oxts packet {row} column {column}: {oxts[row, column]}, expected at most {limit}"
            )
    scale = np.cos(np.radians(oxts[0, _LAT])) * EARTH_RADIUS_M
    east = scale * np.radians(oxts[:, _LON])
    north = scale * np.log(np.tan(np.radians(90 + oxts[:, _LAT]) / 2))
    place = np.stack([east, north, oxts[:, _ALT]], axis=1)
    roll, pitch, yaw = oxts[:, _ROLL], oxts[:, _PITCH], oxts[:, _YAW]
    poses = np.tile(np.eye(4), (len(oxts), 1, 1))
    poses[:, :3, :3] = _about(2, yaw) @ _about(1, pitch) @ _about(0, roll)
    poses[:, :3, 3] = place - place[0]
    return poses


def ego_states(oxts: NDArray[np.float64], world_from_ego: NDArray[np.float64]) -> NDArray[np.float64]:
    """[T, 5], columns EGO_COLUMNS; the speed is OXTS's own forward velocity."""
    place = world_from_ego[:, :3, 3]
    return np.concatenate([place, oxts[:, [_YAW]], oxts[:, [_VF]]], axis=1)


def _about(axis: int, angle_rad: NDArray[np.float64]) -> NDArray[np.float64]:
    """Right-handed rotations [T, 3, 3] about x (0), y (1) or z (2)."""
    a, b = (axis + 1) % 3, (axis + 2) % 3
    turn = np.tile(np.eye(3), (len(angle_rad), 1, 1))
    turn[:, a, a] = turn[:, b, b] = np.cos(angle_rad)
    turn[:, b, a] = np.sin(angle_rad)
    turn[:, a, b] = -np.sin(angle_rad)
    return turn
