"""nuScenes' own tables: <root>/v1.0-*/{scene,sample,sample_data,...}.json, pictures below <root>.

World: the map's frame, x east, y north, z up. The ego's reference point is the middle of the rear axle on the ground.
Boxes are centres in the world frame; sizes come as width, length, height. Velocities of boxes are differences of
annotated places, by the rule of the devkit.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from system.errors import DataError
from system.logs import files
from system.logs.plain import rigid_transform
from system.logs.reader import BadLog
from system.records import NO_AGENTS, NO_EGO, NO_PICTURES, DrivingLog, EgoTrack, Frame, LogRef, Modality, Track

# The recording car, a Renault Zoe: length, width, height, and its centre ahead of the rear axle.
EGO_SIZE_M, EGO_CENTER_AHEAD_M = (4.084, 1.730, 1.562), 1.4
# Every camera of nuScenes takes pictures of this size; tables of resized copies keep its matrices.
NATIVE_WIDTH = 1600
# The devkit's rule: a velocity spans at most this much time for each neighbour that it uses.
_MAX_STEP_S = 1.5


class _Row(msgspec.Struct):
    token: str


class _Scene(_Row):
    name: str
    log_token: str
    first_sample_token: str
    last_sample_token: str
    description: str = ""


class _Log(_Row):
    location: str = ""


class _Sample(_Row):
    timestamp: int
    scene_token: str


class _SampleData(_Row):
    sample_token: str
    ego_pose_token: str
    calibrated_sensor_token: str
    timestamp: int
    filename: str
    width: int | None = None
    height: int | None = None


class _Pose(_Row):
    timestamp: int
    rotation: list[float]
    translation: list[float]


class _Calibration(_Row):
    sensor_token: str
    translation: list[float]
    rotation: list[float]
    camera_intrinsic: list[list[float]]


class _Sensor(_Row):
    channel: str
    modality: str


class _Annotation(_Row):
    sample_token: str
    instance_token: str
    translation: list[float]
    size: list[float]
    rotation: list[float]


class _Instance(_Row):
    category_token: str


class _Category(_Row):
    name: str


class _SceneTags(msgspec.Struct):
    """Not of nuScenes: what a simulator or an annotator says of a scene, in scene_tags.json beside the tables."""

    scene: str
    tags: list[str]


class NuScenesReader:
    """Reads nuScenes tables, and whatever is written in their form."""

    name = "nuscenes"
    looks_for = "scene.json, sample.json and sample_data.json in a folder v1.0-* or in the folder itself"

    def recognise(self, uri: str) -> str | None:
        tables = _tables_folders(uri)
        return f"{tables[0]}/sample_data.json is there" if tables else None

    def list_logs(self, uri: str) -> Iterator[LogRef | BadLog]:
        for tables in _tables_folders(uri):
            try:
                yield from _list_scenes(tables)
            except DataError as error:
                yield BadLog(tables, self.name, error.code, error.message)

    def read_log(self, ref: LogRef) -> DrivingLog:
        tables = _load(ref.uri, files.stamp(ref.uri))
        scene = tables.scenes.get(ref.log_id)
        if scene is None:
            raise DataError("missing_log", f"{ref.uri}/scene.json: expected a scene {ref.log_id!r}, found none")
        samples = tables.samples_of[scene.token]
        data = [row for sample in samples for row in tables.data_of[sample.token]]
        frames, flags = _frames(ref.uri, tables, data)
        ego = _ego_track(ref, tables, data)
        agents = _agents(ref, tables, samples) if tables.annotations_of else None
        missing = {NO_PICTURES: not frames, NO_EGO: ego is None, NO_AGENTS: agents is None}
        return DrivingLog(
            ref=ref,
            frames=frames,
            ego=ego,
            agents=agents,
            flags=tuple(sorted({*flags, *(flag for flag, is_missing in missing.items() if is_missing)})),
            description=scene.description,
            truth_tags=tables.truth_tags.get(scene.name, ()),
            group=log.location if (log := tables.logs.get(scene.log_token)) else "",
        )


def sample_tokens(tables_uri: str, scene_name: str, t_start_ns: int, t_end_ns: int) -> tuple[str, list[str]]:
    """(token of a scene, tokens of its samples within [t_start_ns, t_end_ns)), in order of time.

    Raises:
        DataError: the tables are not there, or do not hold the scene.
    """
    samples_of, scenes = _sample_index(tables_uri, files.stamp(tables_uri))
    scene = scenes.get(scene_name)
    if scene is None:
        raise DataError("missing_log", f"{tables_uri}/scene.json: expected a scene {scene_name!r}, found none")
    within = [s.token for s in samples_of[scene.token] if t_start_ns <= s.timestamp * 1000 < t_end_ns]
    return scene.token, within


@lru_cache(maxsize=2)
def _sample_index(folder: str, _: str) -> tuple[dict[str, list[_Sample]], dict[str, _Scene]]:
    """Two small tables, where nothing else of a log is wanted."""
    samples_of: dict[str, list[_Sample]] = defaultdict(list)
    for sample in sorted(_read(folder, "sample", _Sample), key=lambda sample: sample.timestamp):
        samples_of[sample.scene_token].append(sample)
    return samples_of, {scene.name: scene for scene in reversed(_read(folder, "scene", _Scene))}


@dataclass(frozen=True, eq=False)
class _Tables:
    """The tables of one version, joined by token."""

    scenes: dict[str, _Scene]
    samples_of: dict[str, list[_Sample]]
    data_of: dict[str, list[_SampleData]]
    poses: dict[str, _Pose]
    calibrations: dict[str, _Calibration]
    sensors: dict[str, _Sensor]
    annotations_of: dict[str, list[_Annotation]]
    instances: dict[str, _Instance]
    categories: dict[str, _Category]
    truth_tags: dict[str, tuple[str, ...]]
    logs: dict[str, _Log]


def _tables_folders(uri: str) -> list[str]:
    """Folders with tables: the path itself, or v1.0-* below it."""
    if not files.is_folder(uri):
        return []
    entries = files.list_folder(uri)
    folders = [
        uri.rstrip("/"),
        *(e.rstrip("/") for e in entries if e.endswith("/") and files.name(e).startswith("v1.0-")),
    ]
    wanted = ("scene.json", "sample.json", "sample_data.json")
    return [folder for folder in folders if all(files.is_file(files.join(folder, name)) for name in wanted)]


def _source(tables: str) -> str:
    return f"nuscenes-{files.name(tables)}"


def _list_scenes(folder: str) -> Iterator[LogRef | BadLog]:
    """One log a scene; only three small tables are read."""
    samples: dict[str, list[int]] = defaultdict(list)
    for sample in _read(folder, "sample", _Sample):
        samples[sample.scene_token].append(sample.timestamp)
    names: set[str] = set()
    for scene in _read(folder, "scene", _Scene):
        times = samples.get(scene.token)
        where = f"{folder} {scene.name}"
        if not times:
            told = f"{folder}/sample.json: expected samples of scene {scene.name}, found none"
            yield BadLog(where, NuScenesReader.name, "dangling_token", told)
            continue
        if scene.name in names:
            told = f"{folder}/scene.json: expected scenes of different names, found a second {scene.name}"
            yield BadLog(where, NuScenesReader.name, "repeated_name", told)
            continue
        names.add(scene.name)
        # Sweeps and cameras fire around a sample: half a keyframe period on either side belongs to the scene.
        yield LogRef(
            NuScenesReader.name,
            folder,
            scene.name,
            _source(folder),
            (min(times) - 250_000) * 1000,
            (max(times) + 250_000) * 1000,
        )


@lru_cache(maxsize=2)
def _load(folder: str, _: str) -> _Tables:
    samples_of: dict[str, list[_Sample]] = defaultdict(list)
    for sample in _read(folder, "sample", _Sample):
        samples_of[sample.scene_token].append(sample)
    for samples in samples_of.values():
        samples.sort(key=lambda sample: sample.timestamp)
    data_of: dict[str, list[_SampleData]] = defaultdict(list)
    for row in _read(folder, "sample_data", _SampleData):
        data_of[row.sample_token].append(row)
    annotations_of: dict[str, list[_Annotation]] = defaultdict(list)
    if files.is_file(files.join(folder, "sample_annotation.json")):
        for annotation in _read(folder, "sample_annotation", _Annotation):
            annotations_of[annotation.sample_token].append(annotation)
    return _Tables(
        # Of two scenes of one name the first, as in listing.
        scenes={scene.name: scene for scene in reversed(_read(folder, "scene", _Scene))},
        samples_of=samples_of,
        data_of=data_of,
        poses=_by_token(_read(folder, "ego_pose", _Pose)),
        calibrations=_by_token(_read(folder, "calibrated_sensor", _Calibration)),
        sensors=_by_token(_read(folder, "sensor", _Sensor)),
        annotations_of=annotations_of,
        instances=_by_token(_read(folder, "instance", _Instance)) if annotations_of else {},
        categories=_by_token(_read(folder, "category", _Category)) if annotations_of else {},
        truth_tags=_truth_tags(folder),
        logs=_by_token(_read(folder, "log", _Log)) if files.is_file(files.join(folder, "log.json")) else {},
    )


def _truth_tags(folder: str) -> dict[str, tuple[str, ...]]:
    if not files.is_file(files.join(folder, "scene_tags.json")):
        return {}
    return {row.scene: tuple(row.tags) for row in _read(folder, "scene_tags", _SceneTags)}


def _read(folder: str, table: str, row: type) -> list[Any]:
    path = files.join(folder, f"{table}.json")
    try:
        return msgspec.json.decode(files.read_bytes(path), type=list[row])  # type: ignore[valid-type]
    except msgspec.DecodeError as error:
        raise DataError("damaged_json", f"{path}: expected the nuScenes table {table}: {error}") from error


def _by_token(rows: Iterable[Any]) -> dict[str, Any]:
    return {row.token: row for row in rows}


def _look_up(table: dict[str, Any], token: str, where: str) -> Any:
    try:
        return table[token]
    except KeyError as error:
        raise DataError("dangling_token", f"{where}: token {token!r} names no row") from error


def _frames(folder: str, tables: _Tables, data: list[_SampleData]) -> tuple[tuple[Frame, ...], set[str]]:
    """Pictures in order of time and camera. Channels whose folder is not there at all are flagged and left out."""
    root = files.parent(folder)
    frames, flags = [], set()
    for row in data:
        calibration = _look_up(tables.calibrations, row.calibrated_sensor_token, f"{folder}/calibrated_sensor.json")
        sensor = _look_up(tables.sensors, calibration.sensor_token, f"{folder}/sensor.json")
        if sensor.modality != "camera":
            continue
        uri = files.join(root, row.filename)
        if not _has_folder(files.parent(uri), files.moment()):
            flags.add(f"no_files_of_{sensor.channel.lower()}")
            continue
        modality: Modality = "infrared" if sensor.channel.startswith("CAM_IR") else "rgb"
        frames.append(
            Frame(
                camera=sensor.channel,
                t_ns=row.timestamp * 1000,
                uri=uri,
                width=row.width,
                height=row.height,
                intrinsics=_intrinsics(calibration, row),
                ego_from_camera=tuple(
                    map(float, rigid_transform(calibration.rotation, calibration.translation).ravel())
                ),
                modality=modality,
            )
        )
    return tuple(sorted(frames, key=lambda frame: (frame.t_ns, frame.camera))), flags


@lru_cache(maxsize=256)
def _has_folder(uri: str, _: int) -> bool:
    return files.is_folder(uri)


def _intrinsics(calibration: _Calibration, row: _SampleData) -> tuple[float, ...] | None:
    """The camera matrix of the stored picture.

    A principal point outside of the picture says that the picture is a smaller copy, the matrix that of the 1600
    pixels that every nuScenes camera has.
    """
    if not calibration.camera_intrinsic:
        return None
    matrix = np.array(calibration.camera_intrinsic, dtype=float)
    if matrix.shape != (3, 3):
        raise DataError(
            "wrong_shape", f"calibrated_sensor {calibration.token}: camera_intrinsic of shape {matrix.shape}"
        )
    if row.width and not (0 < matrix[0, 2] < row.width and 0 < matrix[1, 2] < (row.height or np.inf)):
        matrix[:2] *= row.width / NATIVE_WIDTH
    return tuple(map(float, matrix.ravel()))


def _ego_track(ref: LogRef, tables: _Tables, data: list[_SampleData]) -> EgoTrack | None:
    """Poses of the sensor that fired most often; speeds are differences of places along the heading."""
    by_sensor: dict[str, list[_SampleData]] = defaultdict(list)
    for row in data:
        by_sensor[row.calibrated_sensor_token].append(row)
    if not by_sensor:
        return None
    rows = max(by_sensor.values(), key=len)
    poses = [_look_up(tables.poses, row.ego_pose_token, f"{ref.uri}/ego_pose.json") for row in rows]
    poses = [pose for _, pose in sorted({pose.timestamp: pose for pose in poses}.items())]
    values = np.array([[*pose.translation, *pose.rotation] for pose in poses], dtype=float)
    if not np.isfinite(values).all():
        bad = int(np.argmin(np.isfinite(values).all(1)))
        raise DataError("nan_pose", f"{ref.uri}/ego_pose.json {poses[bad].token}: expected finite numbers")
    t_ns = np.array([pose.timestamp for pose in poses], dtype=np.int64) * 1000
    yaw = np.unwrap(_yaw(values[:, 3:7]))
    speed = np.zeros(len(t_ns))
    if len(t_ns) > 1:
        velocity = np.gradient(values[:, :2], (t_ns - t_ns[0]) / 1e9, axis=0)
        speed = velocity[:, 0] * np.cos(yaw) + velocity[:, 1] * np.sin(yaw)
    states = np.column_stack([values[:, :3], yaw, speed])
    return EgoTrack(t_ns, states, EGO_SIZE_M, EGO_CENTER_AHEAD_M)


def _agents(ref: LogRef, tables: _Tables, samples: list[_Sample]) -> tuple[Track, ...]:
    rows: dict[str, list[tuple[int, _Annotation]]] = defaultdict(list)
    for sample in samples:
        for annotation in tables.annotations_of.get(sample.token, ()):
            rows[annotation.instance_token].append((sample.timestamp, annotation))
    tracks = []
    for instance_token, seen in sorted(rows.items()):
        instance = _look_up(tables.instances, instance_token, f"{ref.uri}/instance.json")
        category = _look_up(tables.categories, instance.category_token, f"{ref.uri}/category.json")
        t_ns = np.array([timestamp for timestamp, _ in seen], dtype=np.int64) * 1000
        if (np.diff(t_ns) <= 0).any():
            raise DataError("impossible_time", f"{ref.uri}: instance {instance_token} is annotated twice at one moment")
        place = np.array([annotation.translation for _, annotation in seen], dtype=float)
        size = np.array([annotation.size for _, annotation in seen], dtype=float)
        rotation = np.array([annotation.rotation for _, annotation in seen], dtype=float)
        if not (np.isfinite(place).all() and np.isfinite(rotation).all()):
            raise DataError("nan_agent", f"{ref.uri}/sample_annotation.json: instance {instance_token} is not finite")
        if not (size > 0).all():
            raise DataError(
                "impossible_box", f"{ref.uri}/sample_annotation.json: instance {instance_token} has no size"
            )
        velocity = box_velocities((t_ns - t_ns[0]) / 1e9, place[:, :2])
        states = np.column_stack([place, _yaw(rotation), size[:, [1, 0, 2]], velocity])
        tracks.append(Track(instance_token, category.name, t_ns, states))
    return tuple(tracks)


def box_velocities(t_s: NDArray[np.float64], places_T2: NDArray[np.float64]) -> NDArray[np.float64]:
    """Velocities of a track's boxes, [T, 2] m/s: from the box before to the box after, or the one of them there is.

    0 where there is no neighbour, or where the neighbours are further away than 1.5 s each; the devkit says
    not-a-number there.
    """
    count = len(t_s)
    before, after = np.maximum(np.arange(count) - 1, 0), np.minimum(np.arange(count) + 1, count - 1)
    span = t_s[after] - t_s[before]
    limit = _MAX_STEP_S * (after - before)
    usable = (span > 0) & (span <= limit)
    return np.where(usable[:, None], (places_T2[after] - places_T2[before]) / np.where(usable, span, 1.0)[:, None], 0.0)


def _yaw(quaternions_wxyz: NDArray[np.float64]) -> NDArray[np.float64]:
    w, x, y, z = quaternions_wxyz.T
    return np.arctan2(2 * (w * z + x * y), 1 - 2 * (y * y + z * z))
