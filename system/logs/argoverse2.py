"""Argoverse 2 sensor logs: a folder a log with city_SE3_egovehicle.feather, and annotations, calibration and pictures.

World: the city's frame. The ego's reference point is the middle of the rear axle; annotated boxes come in the ego frame
of their moment and are carried into the city by its pose. Pictures: sensors/cameras/<camera>/<nanoseconds>.jpg.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.feather
from numpy.typing import NDArray

from system.errors import DataError
from system.logs import files
from system.logs.nuscenes import box_velocities
from system.logs.plain import rigid_transform
from system.logs.reader import BadLog, list_one
from system.records import NO_AGENTS, NO_PICTURES, DrivingLog, EgoTrack, Frame, LogRef, Track

# The recording car, a Ford Fusion: length, width, height; its centre ahead of the rear axle (av2's own constants).
EGO_SIZE_M, EGO_CENTER_AHEAD_M = (4.877, 2.0, 1.473), 1.422
_POSES = "city_SE3_egovehicle.feather"
_QUATERNION, _TRANSLATION = ("qw", "qx", "qy", "qz"), ("tx_m", "ty_m", "tz_m")


class Argoverse2Reader:
    """Reads Argoverse 2 sensor logs."""

    name = "argoverse2"
    looks_for = f"{_POSES} in the folder, or in folders one or two levels below"

    def recognise(self, uri: str) -> str | None:
        # A folder that holds other formats too is not claimed as a whole: they would be lost.
        if not files.is_folder(uri):
            return None
        entries = files.list_folder(uri)
        if files.join(uri, _POSES) in entries:
            return f"{_POSES} is there"
        folders = [entry.rstrip("/") for entry in entries if entry.endswith("/")]
        are_logs = all(files.is_file(files.join(folder, _POSES)) for folder in folders)
        return f"{_POSES} is in each of its {len(folders)} folders" if folders and are_logs else None

    def list_logs(self, uri: str) -> Iterator[LogRef | BadLog]:
        for folder in _log_folders(uri):
            yield list_one(folder, self.name, partial(_log_ref, folder))

    def read_log(self, ref: LogRef) -> DrivingLog:
        t_ns, poses = _read_poses(ref.uri)
        frames = _frames(ref.uri)
        agents = _agents(ref.uri, t_ns, poses)
        flags = {NO_PICTURES: not frames, NO_AGENTS: agents is None}
        return DrivingLog(
            ref=ref,
            frames=frames,
            ego=_ego_track(ref.uri, t_ns, poses),
            agents=agents,
            flags=tuple(flag for flag, is_missing in flags.items() if is_missing),
        )


def _log_folders(uri: str) -> Iterator[str]:
    def search(folder: str, depth: int) -> Iterator[str]:
        entries = files.list_folder(folder)
        if files.join(folder, _POSES) in entries:
            yield folder.rstrip("/")
        elif depth:
            for entry in entries:
                if entry.endswith("/"):
                    yield from search(entry.rstrip("/"), depth - 1)

    if files.is_folder(uri):
        yield from search(uri, 2)


def _log_ref(folder: str) -> LogRef:
    """The span is that of what was sensed: poses run on before and after it."""
    cameras = _camera_folders(folder)
    stamps = [_stamp(path) for camera in cameras for path in _ends(files.list_folder(camera))]
    annotations = _annotations_file(folder)
    if annotations is not None:
        t_ns = _read(annotations, ("timestamp_ns",))["timestamp_ns"].to_numpy()
        stamps += [int(t_ns.min()), int(t_ns.max())] if len(t_ns) else []
    if not stamps:
        t_ns = _read(files.join(folder, _POSES), ("timestamp_ns",))["timestamp_ns"].to_numpy()
        stamps = [int(t_ns.min()), int(t_ns.max())] if len(t_ns) else [0]
    return LogRef(Argoverse2Reader.name, folder, files.name(folder), "argoverse2", min(stamps), max(stamps))


def _ends(paths: list[str]) -> list[str]:
    pictures = [path for path in paths if path.endswith((".jpg", ".png"))]
    return [pictures[0], pictures[-1]] if pictures else []


def _stamp(path: str) -> int:
    stem = files.name(path).rpartition(".")[0]
    if not stem.isdigit():
        raise DataError("impossible_time", f"{path}: expected a picture named by its nanoseconds")
    return int(stem)


def _camera_folders(folder: str) -> list[str]:
    cameras = files.join(folder, "sensors", "cameras")
    if not files.is_folder(cameras):
        return []
    return [entry.rstrip("/") for entry in files.list_folder(cameras) if entry.endswith("/")]


def _annotations_file(folder: str) -> str | None:
    for name in ("annotations.feather", "annotations_with_ego.feather"):
        path = files.join(folder, name)
        if files.is_file(path):
            return path
    return None


def _read(path: str, columns: tuple[str, ...]) -> pa.Table:
    try:
        table = pa.feather.read_table(pa.BufferReader(files.read_bytes(path)))
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError("damaged_table", f"{path}: expected a feather table: {error}") from error
    missing = [column for column in columns if column not in table.column_names]
    if missing:
        raise DataError("missing_column", f"{path}: expected column {missing[0]!r}, found {table.column_names}")
    return table


def _values(table: pa.Table, columns: tuple[str, ...], path: str, code: str) -> NDArray[np.float64]:
    values = np.column_stack([table[column].to_numpy().astype(np.float64) for column in columns])
    if not np.isfinite(values).all():
        row = int(np.argmin(np.isfinite(values).all(1)))
        raise DataError(code, f"{path} row {row}: expected finite numbers in {columns}, found {values[row].tolist()}")
    return values


def _read_poses(folder: str) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """(t_ns [T] rising, poses [T, 7]: quaternion w, x, y, z and place)."""
    path = files.join(folder, _POSES)
    table = _read(path, ("timestamp_ns", *_QUATERNION, *_TRANSLATION))
    if not len(table):
        raise DataError("empty_table", f"{path}: expected poses, found none")
    t_ns = table["timestamp_ns"].to_numpy().astype(np.int64)
    poses = _values(table, (*_QUATERNION, *_TRANSLATION), path, "nan_pose")
    t_ns, first = np.unique(t_ns, return_index=True)
    return t_ns, poses[first]


def _ego_track(folder: str, t_ns: NDArray[np.int64], poses: NDArray[np.float64]) -> EgoTrack:
    """Poses at most 20 times a second; speeds are differences of places along the heading."""
    chosen = [0]
    for k in range(1, len(t_ns)):
        if t_ns[k] - t_ns[chosen[-1]] >= 45_000_000:
            chosen.append(k)
    t_ns, poses = t_ns[chosen], poses[chosen]
    yaw = np.unwrap(_yaw(poses[:, :4]))
    speed = np.zeros(len(t_ns))
    if len(t_ns) > 1:
        velocity = np.gradient(poses[:, 4:6], (t_ns - t_ns[0]) / 1e9, axis=0)
        speed = velocity[:, 0] * np.cos(yaw) + velocity[:, 1] * np.sin(yaw)
    states = np.column_stack([poses[:, 4:7], yaw, speed])
    return EgoTrack(t_ns, states, EGO_SIZE_M, EGO_CENTER_AHEAD_M)


def _agents(folder: str, pose_ns: NDArray[np.int64], poses: NDArray[np.float64]) -> tuple[Track, ...] | None:
    path = _annotations_file(folder)
    if path is None:
        return None
    size = ("length_m", "width_m", "height_m")
    table = _read(path, ("timestamp_ns", "track_uuid", "category", *size, *_QUATERNION, *_TRANSLATION))
    values = _values(table, (*_TRANSLATION, *_QUATERNION, *size), path, "nan_agent")
    if len(values) and values[:, 7:].min() <= 0:
        raise DataError("impossible_box", f"{path} row {int(values[:, 7:].min(1).argmin())}: a box without a size")
    t_ns = table["timestamp_ns"].to_numpy().astype(np.int64)
    at = np.searchsorted(pose_ns, t_ns)
    if len(t_ns) and ((at >= len(pose_ns)) | (pose_ns[np.minimum(at, len(pose_ns) - 1)] != t_ns)).any():
        raise DataError("missing_pose", f"{path}: an annotated moment has no ego pose in {_POSES}")
    turns = np.array([rigid_transform(pose[:4], pose[4:])[:3, :3] for pose in poses])
    place = np.einsum("nij,nj->ni", turns[at], values[:, :3]) + poses[at, 4:7]
    yaw = _yaw(values[:, 3:7]) + _yaw(poses[at, :4])
    ids = np.array(table["track_uuid"].to_pylist(), dtype=str)
    categories = table["category"].to_pylist()
    tracks = []
    for track_id in np.unique(ids):
        rows = np.flatnonzero(ids == track_id)
        rows = rows[np.argsort(t_ns[rows], kind="stable")]
        if (np.diff(t_ns[rows]) <= 0).any():
            raise DataError("impossible_time", f"{path}: track {track_id} is annotated twice at one moment")
        if str(categories[rows[0]]) == "EGO_VEHICLE":
            continue
        velocity = box_velocities((t_ns[rows] - t_ns[rows[0]]) / 1e9, place[rows, :2])
        states = np.column_stack([place[rows], yaw[rows], values[rows, 7:], velocity])
        tracks.append(Track(str(track_id), str(categories[rows[0]]), t_ns[rows], states))
    return tuple(tracks)


def _frames(folder: str) -> tuple[Frame, ...]:
    cameras = _camera_folders(folder)
    if not cameras:
        return ()
    intrinsics, extrinsics = _calibration(folder)
    frames = []
    for camera in cameras:
        name = files.name(camera)
        known: Any = intrinsics.get(name)
        for path in files.list_folder(camera):
            if path.endswith((".jpg", ".png")):
                frames.append(
                    Frame(
                        camera=name,
                        t_ns=_stamp(path),
                        uri=path,
                        width=known and known[1],
                        height=known and known[2],
                        intrinsics=known and known[0],
                        ego_from_camera=extrinsics.get(name),
                    )
                )
    return tuple(sorted(frames, key=lambda frame: (frame.t_ns, frame.camera)))


def _calibration(
    folder: str,
) -> tuple[dict[str, tuple[tuple[float, ...], int, int]], dict[str, tuple[float, ...]]]:
    """({camera: (intrinsics, width, height)}, {sensor: ego_from_sensor}); empty where the log has none."""
    path = files.join(folder, "calibration", "intrinsics.feather")
    place = files.join(folder, "calibration", "egovehicle_SE3_sensor.feather")
    if not (files.is_file(path) and files.is_file(place)):
        return {}, {}
    focal = ("fx_px", "fy_px", "cx_px", "cy_px", "width_px", "height_px")
    table = _read(path, ("sensor_name", *focal))
    intrinsics: dict[str, tuple[tuple[float, ...], int, int]] = {}
    for name, (fx, fy, cx, cy, width, height) in zip(
        table["sensor_name"].to_pylist(), _values(table, focal, path, "nan_calibration"), strict=True
    ):
        intrinsics[str(name)] = ((fx, 0.0, cx, 0.0, fy, cy, 0.0, 0.0, 1.0), int(width), int(height))
    table = _read(place, ("sensor_name", *_QUATERNION, *_TRANSLATION))
    poses = _values(table, (*_QUATERNION, *_TRANSLATION), place, "nan_calibration")
    extrinsics = {
        str(name): tuple(map(float, rigid_transform(pose[:4], pose[4:]).ravel()))
        for name, pose in zip(table["sensor_name"].to_pylist(), poses, strict=True)
    }
    return intrinsics, extrinsics


def _yaw(quaternions_wxyz: NDArray[np.float64]) -> NDArray[np.float64]:
    w, x, y, z = quaternions_wxyz.T
    return np.arctan2(2 * (w * z + x * y), 1 - 2 * (y * y + z * z))
