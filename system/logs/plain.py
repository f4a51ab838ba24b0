"""The plain layout: one folder a log, with log.json and, where known, ego.csv, agents.csv.gz and pictures.

    log.json        log_id, dataset, hz; ego_size [length, width, height] in m; ego_center_ahead_m or ego_reference;
                    cameras {name: {intrinsics 3x3 or intrinsic_WxH, ego_from_camera 4x4 or sensor2ego_*}};
                    images [{frame, camera, path, width, height}]; description; tags
    ego.csv         frame, t (s), x, y, z (m), yaw (rad, counter-clockwise from +x), v (m/s); t_ns or t_us since 1970
    agents.csv.gz   frame, t, track_id, category, x, y, z (box centre), yaw, length, width, height, vx, vy

Tables may or may not be gzipped. Waymo, Lyft and other object lists come to this layout by one small export.
"""

from __future__ import annotations

import gzip
import io
import json
import math
import re
import zlib
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
from numpy.typing import NDArray

from system.errors import DataError
from system.logs import files
from system.logs.names import place_digest
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

EGO_REFERENCE_ASSUMED = "ego_reference_assumed"  # the log does not say where the ego's box lies; its centre was taken
DEFAULT_HZ = 10.0
MAX_TABLE_BYTES = 1 << 30
# Beyond these a number is a fault and not a place or a speed on Earth.
MAX_COORDINATE_M, MAX_SPEED_MPS, MAX_BOX_M = 1e8, 150.0, 200.0
# Columns of ego.csv that give nanoseconds since 1970, times a scale.
_SINCE_1970 = {"t_ns": 1, "t_us": 1000}
_EGO_COLUMNS = ("t", "x", "y", "z", "yaw", "v")
_AGENT_COLUMNS = ("x", "y", "z", "yaw", "length", "width", "height", "vx", "vy")


class PlainReader:
    """Reads the plain layout."""

    name = "plain"
    looks_for = "log.json in the folder, or in every folder directly below"

    def recognise(self, uri: str) -> str | None:
        # A folder that holds other formats too is not claimed as a whole: they would be lost.
        if not files.is_folder(uri):
            return None
        entries = files.list_folder(uri)
        if _is_log(uri, entries):
            return "log.json is there"
        folders = [entry.rstrip("/") for entry in entries if entry.endswith("/")]
        are_logs = all(_is_log(folder, files.list_folder(folder)) for folder in folders)
        return f"log.json is in each of its {len(folders)} folders" if folders and are_logs else None

    def list_logs(self, uri: str) -> Iterator[LogRef | BadLog]:
        for folder in _log_folders(uri):
            yield list_one(folder, self.name, partial(_log_ref, folder))

    def read_log(self, ref: LogRef) -> DrivingLog:
        head = _read_head(ref.uri)
        origin_ns, ego_table = _read_ego_table(ref.uri)
        ego, flags = _ego_track(ref.uri, head, ego_table, origin_ns)
        agents = _agent_tracks(ref.uri, origin_ns)
        frames, times_assumed = _frames(ref.uri, head, ego_table, origin_ns)
        missing = {NO_EGO: ego is None, NO_AGENTS: agents is None, NO_PICTURES: not frames, TIME_ASSUMED: times_assumed}
        return DrivingLog(
            ref=ref,
            frames=frames,
            ego=ego,
            agents=agents,
            flags=tuple(sorted({*flags, *(flag for flag, is_missing in missing.items() if is_missing)})),
            description=str(head.get("description") or ""),
            truth_tags=tuple(str(tag) for tag in head.get("tags") or ()),
        )


def _log_folders(uri: str) -> Iterator[str]:
    """Folders with a log.json, at most two levels below."""

    def search(folder: str, depth: int) -> Iterator[str]:
        entries = files.list_folder(folder)
        if _is_log(folder, entries):
            yield folder.rstrip("/")
        elif depth:
            for entry in entries:
                if entry.endswith("/"):
                    yield from search(entry.rstrip("/"), depth - 1)

    if files.is_folder(uri):
        yield from search(uri, 2)


def _is_log(folder: str, entries: list[str]) -> bool:
    is_table = files.join(folder, "scene.json") in entries  # nuScenes has a table of that name
    return files.join(folder, "log.json") in entries and not is_table


def _log_ref(folder: str) -> LogRef:
    head = _read_head(folder)
    origin_ns, ego = _read_ego_table(folder)
    times_s = [0.0] if ego is None else [float(t) for t in ego["t"].to_numpy()[[0, -1]]]
    frame_ns = [_frame_ns(folder, image, head, ego, origin_ns) for image in _images(folder, head)]
    if ego is None and files.is_file(agents := files.join(folder, "agents.csv.gz")):
        t = _read_table(agents, ("t",))["t"].to_numpy()
        times_s += [float(t.min()), float(t.max())] if len(t) else []
    span_ns = [origin_ns + round(t * 1e9) for t in times_s if np.isfinite(t)] + frame_ns
    return LogRef(
        reader=PlainReader.name,
        uri=folder,
        # A folder's name alone (run1) would not tell two drives apart.
        log_id=str(head.get("log_id") or f"{files.name(folder)}@{place_digest(folder)}"),
        source=str(head.get("dataset") or files.name(files.parent(folder))),
        t_start_ns=min(span_ns, default=0),
        t_end_ns=max(span_ns, default=0),
    )


def _read_head(folder: str) -> dict[str, Any]:
    path = files.join(folder, "log.json")
    try:
        head = json.loads(files.read_bytes(path))
    except (ValueError, RecursionError) as error:
        raise DataError("damaged_json", f"{path}: expected a JSON object: {error}") from error
    if not isinstance(head, dict):
        raise DataError("damaged_json", f"{path}: expected a JSON object, found {type(head).__name__}")
    return head


def _read_table(path: str, columns: tuple[str, ...]) -> pa.Table:
    """A CSV table with at least these columns, as numbers.

    Raises:
        DataError: `damaged_table`, `missing_column`, `too_large`.
    """
    raw = files.read_bytes(path)
    try:
        if path.endswith(".gz"):
            with gzip.GzipFile(fileobj=io.BytesIO(raw)) as opened:
                raw = opened.read(MAX_TABLE_BYTES + 1)
        if len(raw) > MAX_TABLE_BYTES:
            raise DataError("too_large", f"{path}: more than {MAX_TABLE_BYTES} bytes")
        types = {column: pa.float64() for column in (*columns, *_EGO_COLUMNS, *_AGENT_COLUMNS)}
        types |= {"track_id": pa.string(), "category": pa.string()}
        types |= dict.fromkeys(("frame", *_SINCE_1970), pa.int64())
        convert = pa.csv.ConvertOptions(column_types=types)
        table = pa.csv.read_csv(io.BytesIO(raw), convert_options=convert)
        names = table.column_names  # decoded only now: a name that is no text fails here
    except (pa.ArrowInvalid, OSError, EOFError, UnicodeDecodeError, zlib.error) as error:
        raise DataError("damaged_table", f"{path}: expected a CSV table of numbers: {error}") from error
    for column in columns:
        if column not in names:
            raise DataError("missing_column", f"{path}: expected column {column!r}, found {names}")
    return table


def _read_ego_table(folder: str) -> tuple[int, pa.Table | None]:
    """(nanoseconds since 1970 at t = 0, or 0 where the log does not say; ego.csv or None)."""
    for name in ("ego.csv", "ego.csv.gz"):
        path = files.join(folder, name)
        if files.is_file(path):
            table = _read_table(path, _EGO_COLUMNS)
            if not len(table):
                raise DataError("empty_table", f"{path}: expected at least one row, found none")
            wrong = np.flatnonzero(~np.isfinite(table["t"].to_numpy()))
            if len(wrong):
                raise DataError("nan_pose", f"{path}: expected a time in each row, found none in row {wrong[0]}")
            for column, scale in _SINCE_1970.items():
                if column in table.column_names:
                    absolute, relative_s = table[column][0].as_py(), table["t"][0].as_py()
                    if absolute is None or relative_s is None or not np.isfinite(relative_s):
                        raise DataError("damaged_table", f"{path}: expected times in row 0, found {column} {absolute}")
                    return absolute * scale - round(relative_s * 1e9), table
            return 0, table
    return 0, None


def _ego_track(
    folder: str, head: Mapping[str, Any], table: pa.Table | None, origin_ns: int
) -> tuple[EgoTrack | None, set[str]]:
    if table is None:
        return None, set()
    values = _numbers(table, _EGO_COLUMNS, f"{folder}/ego.csv", "nan_pose")
    t_ns = _rising(origin_ns + np.round(values[:, 0] * 1e9).astype(np.int64), f"{folder}/ego.csv")
    size = head.get("ego_size")
    if size is None:
        # Without its size the ego has no box: its motion is known, its encounters are not.
        return EgoTrack(t_ns, values[:, 1:], (0.0, 0.0, 0.0), 0.0), {"ego_size_unknown"}
    if not (isinstance(size, list) and len(size) == 3 and all(0 < float(s) < MAX_BOX_M for s in size)):
        raise DataError("impossible_box", f"{folder}/log.json: ego_size {size}, expected 3 lengths in metres")
    ahead_m, is_known = _center_ahead_m(head, float(size[0]))
    track = EgoTrack(t_ns, values[:, 1:], (float(size[0]), float(size[1]), float(size[2])), ahead_m)
    return track, set() if is_known else {EGO_REFERENCE_ASSUMED}


def _center_ahead_m(head: Mapping[str, Any], length_m: float) -> tuple[float, bool]:
    """(from the reference point to the box centre, m; whether the log says so)."""
    if "ego_center_ahead_m" in head:
        return float(head["ego_center_ahead_m"]), True
    words = str(head.get("ego_reference") or "")
    if ahead := re.search(r"box centre (?:is )?~?([0-9.]+) m ahead", words):
        return float(ahead[1]), True
    if bumper := re.search(r"front bumper is ~?([0-9.]+) m ahead", words):
        return float(bumper[1]) - length_m / 2, True
    return 0.0, "box centre" in words or "vehicle centre" in words


def _agent_tracks(folder: str, origin_ns: int) -> tuple[Track, ...] | None:
    for name in ("agents.csv.gz", "agents.csv"):
        path = files.join(folder, name)
        if files.is_file(path):
            break
    else:
        return None
    table = _read_table(path, ("t", "track_id", "category", *_AGENT_COLUMNS))
    values = _numbers(table, ("t", *_AGENT_COLUMNS), path, "nan_agent")
    if len(values) and (values[:, 5:8].min() <= 0 or values[:, 5:8].max() > MAX_BOX_M):
        bad = int(np.argmax((values[:, 5:8] <= 0).any(1) | (values[:, 5:8] > MAX_BOX_M).any(1)))
        size = values[bad, 5:8].tolist()
        raise DataError("impossible_box", f"{path} row {bad}: box size {size} m, expected each in (0, {MAX_BOX_M:.0f}]")
    t_ns = origin_ns + np.round(values[:, 0] * 1e9).astype(np.int64)
    ids = np.array(table["track_id"].to_pylist(), dtype=object).astype(str)
    categories = table["category"].to_pylist()
    order = np.lexsort((t_ns, ids))
    starts = np.flatnonzero(np.r_[True, ids[order][1:] != ids[order][:-1]]) if len(order) else np.zeros(0, int)
    tracks = []
    for rows in np.split(order, starts[1:]) if len(order) else ():
        track_id = str(ids[rows[0]])
        times = _rising(t_ns[rows], f"{path} track {track_id}")
        tracks.append(Track(track_id, str(categories[rows[0]]), times, values[rows, 1:]))
    return tuple(tracks)


def _images(folder: str, head: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    images = head.get("images") or []
    if not isinstance(images, list) or not all(isinstance(i, dict) and "path" in i and "camera" in i for i in images):
        raise DataError("damaged_json", f"{folder}/log.json: expected images as [{{frame, camera, path}}]")
    return images


def _number(value: Any, key: str, folder: str, whole: bool = False) -> Any:
    """A number of log.json that has to be at least 0, and positive where it may be broken."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if not is_number or value < 0 or (whole and value != int(value)) or (not whole and value == 0):
        wanted = "a whole number from 0" if whole else "a positive number"
        raise DataError("impossible_value", f"{folder}/log.json: expected {key} as {wanted}, found {value!r}")
    return int(value) if whole else float(value)


def _frame_ns(
    folder: str, image: Mapping[str, Any], head: Mapping[str, Any], ego: pa.Table | None, origin_ns: int
) -> int:
    frame = _number(image.get("frame") or 0, "frame", folder, whole=True)
    if ego is not None and "frame" in ego.column_names and frame < len(ego) and ego["frame"][frame].as_py() == frame:
        return origin_ns + round(ego["t"][frame].as_py() * 1e9)
    return origin_ns + round(frame / _number(head.get("hz") or DEFAULT_HZ, "hz", folder) * 1e9)


def _frames(
    folder: str, head: Mapping[str, Any], ego: pa.Table | None, origin_ns: int
) -> tuple[tuple[Frame, ...], bool]:
    """(frames in order of time and camera, whether their times follow from a stated rate only)."""
    cameras = head.get("cameras")
    frames = []
    for image in _images(folder, head):
        calibration = cameras.get(image["camera"]) if isinstance(cameras, dict) else None
        intrinsics, pose = _calibration(calibration, image) if isinstance(calibration, dict) else (None, None)
        frames.append(
            Frame(
                camera=str(image["camera"]),
                t_ns=_frame_ns(folder, image, head, ego, origin_ns),
                uri=files.join(folder, str(image["path"])),
                width=image.get("width"),
                height=image.get("height"),
                intrinsics=intrinsics,
                ego_from_camera=pose,
                modality="infrared" if str(image.get("modality")) == "infrared" else "rgb",
            )
        )
    return tuple(sorted(frames, key=lambda f: (f.t_ns, f.camera))), bool(frames) and ego is None


def _calibration(
    camera: Mapping[str, Any], image: Mapping[str, Any]
) -> tuple[tuple[float, ...] | None, tuple[float, ...] | None]:
    """(intrinsics of the stored picture, ego_from_camera), each None where the log does not say."""
    intrinsics = None
    for key, value in camera.items():
        if key == "intrinsics" and isinstance(value, list):
            intrinsics = np.array(value, dtype=float).reshape(3, 3)
        elif (sized := re.fullmatch(r"intrinsic_(\d+)x(\d+)", key)) and image.get("width"):
            scale = np.array([image["width"] / int(sized[1]), image["height"] / int(sized[2]), 1.0])
            intrinsics = np.array(value, dtype=float).reshape(3, 3) * scale[:, None]
    pose = None
    if "ego_from_camera" in camera:
        pose = np.array(camera["ego_from_camera"], dtype=float).reshape(4, 4)
    elif "sensor2ego_translation" in camera:
        pose = rigid_transform(camera["sensor2ego_rotation_wxyz"], camera["sensor2ego_translation"])
    return (
        None if intrinsics is None else tuple(map(float, intrinsics.ravel())),
        None if pose is None else tuple(map(float, pose.ravel())),
    )


def rigid_transform(quaternion_wxyz: Any, translation_m: Any) -> NDArray[np.float64]:
    """4x4 matrix of a rotation (unit quaternion, scalar first) and a translation."""
    w, x, y, z = np.array(quaternion_wxyz, dtype=float) / np.linalg.norm(quaternion_wxyz)
    pose = np.eye(4)
    pose[:3, :3] = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ]
    pose[:3, 3] = translation_m
    return pose


def _numbers(table: pa.Table, columns: tuple[str, ...], path: str, code: str) -> NDArray[np.float64]:
    """[rows, columns], finite and of this Earth."""
    values = np.stack([table[column].to_numpy().astype(np.float64) for column in columns], axis=1)
    wrong = ~np.isfinite(values)
    for k, column in enumerate(columns):
        limit = MAX_SPEED_MPS if column in ("v", "vx", "vy") else MAX_COORDINATE_M
        wrong[:, k] |= np.abs(values[:, k]) > limit
    if wrong.any():
        row, number = (int(k) for k in np.argwhere(wrong)[0])
        actual = values[row, number]
        if np.isfinite(actual):
            code = "impossible_value"
        raise DataError(code, f"{path} row {row}: {columns[number]} is {actual}, expected a possible number")
    return values


def _rising(t_ns: NDArray[np.int64], where: str) -> NDArray[np.int64]:
    steps = np.diff(t_ns)
    if (steps <= 0).any():
        row = int(np.argmax(steps <= 0))
        raise DataError(
            "impossible_time",
            f"{where} row {row + 1}: time {t_ns[row + 1]} ns after {t_ns[row]} ns, expected rising times",
        )
    return t_ns
