"""KITTI raw drives and the KITTI tracking set, in the folders they are unpacked to.

    raw       <root>/2011_09_26/{calib_*.txt, 2011_09_26_drive_0005_sync/{oxts, image_00..03, tracklet_labels.xml}}
    tracking  <root>/{training,testing}/{calib,oxts,label_02}/0001.txt and image_02, image_03/0001/000000.png
    one       <folder>/{calib.txt, oxts.txt, label_02.txt, image_02_000000.png}: a single sequence of the tracking set

Raw drives carry civil times of the recording computer, taken as UTC. The tracking set carries none: a scan took
0.1036 s (the median over the raw drives that it was cut from), and the log is flagged so.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime
from functools import partial

import numpy as np
from numpy.typing import NDArray

from system.errors import DataError
from system.logs import files
from system.logs import kitti_geometry as geometry
from system.logs.kitti_labels import read_labels, read_tracklets
from system.logs.plain import EGO_REFERENCE_ASSUMED
from system.logs.reader import BadLog, list_one
from system.records import (
    NO_AGENTS,
    NO_EGO,
    NO_PICTURES,
    TIME_ASSUMED,
    DrivingLog,
    EgoTrack,
    Frame,
    LogRef,
    Track,
)

TRACKING_STEP_NS = 103_600_000
_PICTURES = (".png", ".jpg", ".jpeg")
_RAW_CALIBRATION = ("calib_imu_to_velo.txt", "calib_velo_to_cam.txt", "calib_cam_to_cam.txt")
# Folders that KITTI's archives make and that hold logs: splits, dates, drives.
_FOLDER = re.compile(r"training|testing|\d{4}_\d\d_\d\d(_drive_\d+_(sync|extract))?")
_STAMP = re.compile(r"(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d)(?:\.(\d{1,9}))?")


class KittiReader:
    """Reads KITTI raw drives (uri: the drive's folder) and tracking sequences (uri: the calib file)."""

    name = "kitti"
    looks_for = (
        "raw: calib_cam_to_cam.txt or oxts/timestamps.txt; tracking: calib/ beside label_02/, oxts/ or image_02/"
    )

    def recognise(self, uri: str) -> str | None:
        found = next(_log_uris(uri), None)
        if found is None or _holds_others(uri, found):
            return None
        return f"{found} is a KITTI {'sequence' if _is_tracking(found) else 'drive'}"

    def list_logs(self, uri: str) -> Iterator[LogRef | BadLog]:
        for log_uri in _log_uris(uri):
            yield list_one(log_uri, self.name, partial(_tracking_ref if _is_tracking(log_uri) else _raw_ref, log_uri))

    def read_log(self, ref: LogRef) -> DrivingLog:
        return _read_tracking(ref) if _is_tracking(ref.uri) else _read_raw(ref)


def _is_tracking(log_uri: str) -> bool:
    return log_uri.endswith(".txt")


def _log_uris(uri: str) -> Iterator[str]:
    """Drives and sequences at a path or in the folders below that KITTI's own archives make."""
    if not files.is_folder(uri):
        return
    entries = {files.name(entry): entry for entry in files.list_folder(uri)}
    if "calib.txt" in entries and ("label_02.txt" in entries or "oxts.txt" in entries):
        yield entries["calib.txt"]
    elif entries.get("calib", "").endswith("/") and {"label_02", "oxts", "image_02"} & set(entries):
        calib = files.list_folder(entries["calib"].rstrip("/"))
        yield from (entry for entry in calib if re.fullmatch(r"\d{4}\.txt", files.name(entry)))
    elif _is_drive(uri, entries):
        yield uri.rstrip("/")
    else:
        for name, entry in entries.items():
            if not entry.endswith("/"):
                continue
            if _FOLDER.fullmatch(name):
                yield from _log_uris(entry.rstrip("/"))


def _holds_others(uri: str, found: str) -> bool:
    """Whether folders beside KITTI's lie in one that only holds KITTI's: it is not claimed, or they would be lost."""
    depth = found.removeprefix(uri.rstrip("/")).count("/")
    is_root = depth > (2 if _is_tracking(found) else 1)
    names = [files.name(entry) for entry in files.list_folder(uri) if entry.endswith("/")]
    return is_root and not all(_FOLDER.fullmatch(name) for name in names)


def _is_drive(uri: str, entries: dict[str, str]) -> bool:
    sensors = [name for name in entries if name == "oxts" or re.fullmatch(r"image_0\d", name)]
    return any(files.is_file(files.join(uri, sensor, "timestamps.txt")) for sensor in sensors)


def _raw_ref(drive: str) -> LogRef:
    span: list[int] = []
    for sensor in _sensors(drive):
        times = _timestamps(files.join(drive, sensor, "timestamps.txt"))
        span += [int(times[0]), int(times[-1])]
    if not span:
        raise DataError("empty_log", f"{drive}: expected timestamps of oxts or of a camera, found none")
    return LogRef(KittiReader.name, drive, files.name(drive), "kitti_raw", min(span), max(span))


def _sensors(drive: str) -> list[str]:
    names = [files.name(entry) for entry in files.list_folder(drive) if entry.endswith("/")]
    wanted = [name for name in names if name == "oxts" or re.fullmatch(r"image_0\d", name)]
    return [name for name in wanted if files.is_file(files.join(drive, name, "timestamps.txt"))]


def _read_raw(ref: LogRef) -> DrivingLog:
    rig, sizes = _raw_rig(files.parent(ref.uri))
    sensors = _sensors(ref.uri)
    frames: list[Frame] = []
    for camera in (name for name in sensors if name != "oxts"):
        times = _timestamps(files.join(ref.uri, camera, "timestamps.txt"))
        number = int(camera[-2:])
        width, height = sizes.get(number, (None, None))
        intrinsics, pose = (rig.camera(number) if rig else None) or (None, None)
        for index, picture in _numbered(files.join(ref.uri, camera, "data")):
            if index >= len(times):
                raise DataError("impossible_time", f"{picture}: expected one of {len(times)} stamped frames")
            stamp = int(times[index])
            frames.append(Frame(camera, stamp, picture, "file", "", width, height, intrinsics, pose))
    ego = agents = None
    if "oxts" in sensors:
        t_ns = _timestamps(files.join(ref.uri, "oxts", "timestamps.txt"))
        packets = _raw_packets(files.join(ref.uri, "oxts", "data"), t_ns)
        ego, world_from_ego = _ego(packets, t_ns, rig)
        tracklets = files.join(ref.uri, "tracklet_labels.xml")
        if rig is not None and files.is_file(tracklets):
            agents = read_tracklets(tracklets, rig, t_ns, world_from_ego)
    return _log(ref, frames, ego, agents, set())


def _raw_rig(date: str) -> tuple[geometry.Rig | None, dict[int, tuple[int, int]]]:
    """The rig of a date and the sizes of its rectified pictures; None where the calibration was not unpacked."""
    paths = [files.join(date, name) for name in _RAW_CALIBRATION]
    if not all(files.is_file(path) for path in paths):
        return None, {}
    imu, velodyne, camera = (geometry.read_calibration(path) for path in paths)
    poses = [
        geometry.rigid(np.r_[np.c_[_get(c, "R", path).reshape(3, 3), _get(c, "T", path)].ravel()], path)
        for c, path in ((imu, paths[0]), (velodyne, paths[1]))
        if _get(c, "R", path).size == 9 and _get(c, "T", path).size == 3
    ]
    if len(poses) != 2:
        raise DataError("damaged_calibration", f"{date}: expected R of 9 and T of 3 numbers in {_RAW_CALIBRATION[:2]}")
    rectified = geometry.rigid(_get(camera, "R_rect_00", paths[2]), paths[2])
    projections, sizes = {}, {}
    for number in range(4):
        if f"P_rect_0{number}" in camera:
            projections[number] = _projection(camera[f"P_rect_0{number}"], paths[2])
        if (size := camera.get(f"S_rect_0{number}")) is not None and size.size == 2:
            sizes[number] = (int(size[0]), int(size[1]))
    return geometry.build_rig(poses[0], poses[1], rectified, projections), sizes


def _raw_packets(folder: str, t_ns: NDArray[np.int64]) -> NDArray[np.float64]:
    paths = [path for path in files.list_folder(folder) if path.endswith(".txt")]
    if len(paths) != len(t_ns):
        raise DataError(
            "missing_file", f"{folder}: expected {len(t_ns)} packets, one for each time, found {len(paths)}"
        )
    return np.concatenate([geometry.read_numbers(path, geometry.OXTS_COLUMNS)[:1] for path in paths])


def _tracking_files(calib: str) -> tuple[str, str, str]:
    """(oxts, label_02, folder or start of name of the pictures of one sequence)."""
    if files.name(calib) == "calib.txt":
        folder = files.parent(calib)
        return files.join(folder, "oxts.txt"), files.join(folder, "label_02.txt"), folder
    split, sequence = files.parent(files.parent(calib)), files.name(calib)
    return files.join(split, "oxts", sequence), files.join(split, "label_02", sequence), split


def _tracking_ref(calib: str) -> LogRef:
    frames = _tracking_frames(calib, None)
    oxts, labels, root = _tracking_files(calib)
    if files.is_file(oxts):
        last = len(geometry.read_text(oxts).splitlines()) - 1
    elif frames:
        last = frames[-1].t_ns // TRACKING_STEP_NS
    else:
        raise DataError("empty_log", f"{calib}: expected {oxts} or pictures, found neither ({labels} has no poses)")
    if files.name(calib) == "calib.txt":
        log_id = files.name(root)
    else:
        sequence = files.name(calib).removesuffix(".txt")
        log_id = sequence if files.name(root) == "training" else f"{files.name(root)}_{sequence}"
    return LogRef(KittiReader.name, calib, log_id, "kitti_tracking", 0, max(last, 0) * TRACKING_STEP_NS)


def _read_tracking(ref: LogRef) -> DrivingLog:
    calibration = geometry.read_calibration(ref.uri)
    poses = {}
    for key, other in (("Tr_imu_velo", "Tr_imu_to_velo"), ("Tr_velo_cam", "Tr_velo_to_cam"), ("R_rect", "R0_rect")):
        numbers = calibration.get(key, calibration.get(other))
        poses[key] = geometry.rigid(_get({key: numbers}, key, ref.uri), f"{ref.uri} {key}")
    projections = {k: _projection(calibration[f"P{k}"], ref.uri) for k in range(4) if f"P{k}" in calibration}
    rig = geometry.build_rig(poses["Tr_imu_velo"], poses["Tr_velo_cam"], poses["R_rect"], projections)
    oxts, labels, _ = _tracking_files(ref.uri)
    ego = agents = None
    if files.is_file(oxts):
        packets = geometry.read_numbers(oxts, geometry.OXTS_COLUMNS)
        t_ns = np.arange(len(packets), dtype=np.int64) * TRACKING_STEP_NS
        ego, world_from_ego = _ego(packets, t_ns, rig)
        if files.is_file(labels):
            agents = read_labels(labels, rig, t_ns, world_from_ego)
    return _log(ref, _tracking_frames(ref.uri, rig), ego, agents, {TIME_ASSUMED})


def _tracking_frames(calib: str, rig: geometry.Rig | None) -> list[Frame]:
    _, _, root = _tracking_files(calib)
    frames = []
    for number in (2, 3):
        camera = f"image_0{number}"
        if files.name(calib) == "calib.txt":
            numbered = _numbered(root, f"{camera}_")
        else:
            numbered = _numbered(files.join(root, camera, files.name(calib).removesuffix(".txt")))
        intrinsics, pose = (rig.camera(number) if rig else None) or (None, None)
        for index, picture in numbered:
            stamp = index * TRACKING_STEP_NS
            frames.append(Frame(camera, stamp, picture, intrinsics=intrinsics, ego_from_camera=pose))
    return sorted(frames, key=lambda frame: (frame.t_ns, frame.camera))


def _numbered(folder: str, prefix: str = "") -> list[tuple[int, str]]:
    """(number, path) of the pictures "<prefix>000012.png" of a folder, in order; none where there is no folder."""
    if not files.is_folder(folder):
        return []
    pattern = re.compile(re.escape(prefix) + r"(\d+)\.\w+")
    found = [(pattern.fullmatch(files.name(path)), path) for path in files.list_folder(folder)]
    return sorted((int(match[1]), path) for match, path in found if match and path.lower().endswith(_PICTURES))


def _ego(
    packets: NDArray[np.float64], t_ns: NDArray[np.int64], rig: geometry.Rig | None
) -> tuple[EgoTrack, NDArray[np.float64]]:
    """(the ego's track, world_from_ego [T, 4, 4])."""
    if not len(packets):
        raise DataError("empty_table", "oxts: expected at least one packet, found none")
    imu_from_ego = np.eye(4)
    imu_from_ego[:3, 3] = geometry.NOMINAL_LEVER_M if rig is None else np.linalg.inv(rig.ego_from_imu)[:3, 3]
    world_from_ego = geometry.world_from_imu(packets) @ imu_from_ego
    states = geometry.ego_states(packets, world_from_ego)
    return EgoTrack(t_ns, states, geometry.EGO_SIZE_M, geometry.EGO_CENTER_AHEAD_M), world_from_ego


def _log(
    ref: LogRef, frames: list[Frame], ego: EgoTrack | None, agents: tuple[Track, ...] | None, flags: set[str]
) -> DrivingLog:
    missing = {NO_PICTURES: not frames, NO_EGO: ego is None, NO_AGENTS: agents is None}
    flags |= {flag for flag, is_missing in missing.items() if is_missing}
    if ego is not None:
        flags.add(EGO_REFERENCE_ASSUMED)
    ordered = tuple(sorted(frames, key=lambda frame: (frame.t_ns, frame.camera)))
    return DrivingLog(ref=ref, frames=ordered, ego=ego, agents=agents, flags=tuple(sorted(flags)))


def _timestamps(path: str) -> NDArray[np.int64]:
    """Times of "2011-09-26 13:02:25.594360375", one a line, in ns.

    Raises:
        DataError: `impossible_time`.
    """
    times = []
    for k, line in enumerate(geometry.read_text(path).split("\n")):
        if not line.strip():
            continue
        match = _STAMP.fullmatch(line.strip())
        try:
            second = datetime.fromisoformat(match[1]).replace(tzinfo=UTC) if match else None
        except ValueError:
            second = None
        if match is None or second is None:
            raise DataError("impossible_time", f"{path} line {k + 1}: expected a date and time, found {line[:60]!r}")
        times.append(int(second.timestamp()) * 1_000_000_000 + int((match[2] or "0").ljust(9, "0")))
    t_ns = np.array(times, dtype=np.int64)
    if not len(t_ns) or (np.diff(t_ns) <= 0).any():
        line_number = int(np.argmax(np.diff(t_ns) <= 0)) + 2 if len(t_ns) else 1
        raise DataError("impossible_time", f"{path} line {line_number}: expected rising times")
    return t_ns


def _get(calibration: dict, key: str, path: str) -> NDArray[np.float64]:
    value = calibration.get(key)
    if value is None:
        raise DataError("damaged_calibration", f"{path}: expected {key!r}, found none")
    return value


def _projection(numbers: NDArray[np.float64], path: str) -> NDArray[np.float64]:
    if numbers.size != 12 or not (numbers[0] > 0 and numbers[5] > 0):
        raise DataError("damaged_calibration", f"{path}: expected a 3x4 projection, found {numbers.tolist()}")
    return numbers.reshape(3, 4)
