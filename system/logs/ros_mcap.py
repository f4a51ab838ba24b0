"""MCAP recordings: pictures, calibration, transforms and odometry in ROS 2 or Foxglove schemas.

All times are log times, which every channel has and which the file's index holds: a header's stamp may be of another
clock. ROS frames are ours: base x forward, y left, z up (REP 103), cameras by their optical frame x right, y down, z
forward. The ego's motion comes from, in this order: Odometry; the transforms from a world frame to the base; a pose in
a world frame. A recording in several files is several logs; those after the first may lack what was sent once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from system.errors import OUTAGE_CODES, DataError
from system.logs import files, mcap_schema
from system.logs.mcap_messages import McapFile, open_mcap
from system.logs.mcap_schema import CameraModel, Decode, Pose, Role
from system.logs.motion import forward_speed_mps
from system.logs.names import modality_of
from system.logs.plain import MAX_COORDINATE_M, MAX_SPEED_MPS
from system.logs.reader import BadLog, list_one
from system.logs.transform_tree import TransformTree
from system.records import NO_AGENTS, NO_EGO, NO_PICTURES, DrivingLog, EgoTrack, Frame, LogRef

SUFFIX = ".mcap"
EGO_SIZE_UNKNOWN = "ego_size_unknown"
DAMAGED_PARTS = "damaged_parts"  # chunks or messages of calibration or motion could not be read; the rest was
# Names by REP 105 and of simulators, the better known first.
WORLD_FRAMES = ("map", "world", "odom", "local", "global", "utm", "earth")
BASE_FRAMES = ("base_link", "base_footprint", "ego_vehicle", "ego", "base", "vehicle", "rear_axle", "body")


class McapReader:
    """Reads MCAP files. A log is a file; its frames' locators are "topic@log_time_ns"."""

    name = "mcap"
    looks_for = f"*{SUFFIX} files"

    def recognise(self, uri: str) -> str | None:
        found = next(_recordings(uri), None)
        return None if found is None else f"{files.name(found)} is there"

    def list_logs(self, uri: str) -> Iterator[LogRef | BadLog]:
        for recording in _recordings(uri):
            yield list_one(recording, self.name, partial(_log_ref, recording))

    def read_log(self, ref: LogRef) -> DrivingLog:
        with open_mcap(ref.uri) as file:
            roles = _roles(file)
            times = file.times_ns({k for k, role in roles.items() if role in ("picture", "raw_picture")})
            found = _read_messages(file, roles)
            ego = _ego(ref.uri, found)
            base = _base_frame(found)
            frames = [
                frame for channel_id in times for frame in _frames(file, channel_id, times[channel_id], found, base)
            ]
        flags = {NO_AGENTS} | ({EGO_SIZE_UNKNOWN} if ego is not None else {NO_EGO})
        if not frames:
            flags.add(NO_PICTURES)
        if found.is_damaged:
            flags.add(DAMAGED_PARTS)
        ordered = tuple(sorted(frames, key=lambda frame: (frame.t_ns, frame.camera)))
        return DrivingLog(ref=ref, frames=ordered, ego=ego, agents=None, flags=tuple(sorted(flags)))


@dataclass
class _Found:
    """What the small messages of a recording say."""

    cameras: dict[str, CameraModel] = field(default_factory=dict)  # by topic
    tree: TransformTree = field(default_factory=TransformTree)
    odometry: dict[str, list[tuple[int, Pose]]] = field(default_factory=dict)  # by topic, with log times
    poses: dict[str, list[tuple[int, Pose]]] = field(default_factory=dict)
    is_damaged: bool = False


_READ: dict[Role, Callable[[Any], Any]] = {
    "calibration": mcap_schema.camera_model,
    "transforms": mcap_schema.transforms,
    "odometry": mcap_schema.odometry,
    "pose": mcap_schema.poses,
}


def _recordings(uri: str) -> Iterator[str]:
    if uri.lower().endswith(SUFFIX) and files.is_file(uri):
        yield uri
    elif files.is_folder(uri):
        yield from (entry for entry in files.list_folder(uri) if entry.lower().endswith(SUFFIX))


def _log_ref(uri: str) -> LogRef:
    with open_mcap(uri) as file:
        statistics = file.summary.statistics
        if not _roles(file):
            names = sorted({f"{s.name} ({s.encoding})" for s in file.summary.schemas.values()})
            raise DataError("empty_log", f"{uri}: expected pictures or odometry, found {', '.join(names) or 'nothing'}")
        if statistics is None or not statistics.message_count:
            raise DataError("empty_log", f"{uri}: expected messages, found none")
        start_ns, end_ns = statistics.message_start_time, statistics.message_end_time
    if not 0 <= start_ns <= end_ns < 2**63:
        raise DataError("impossible_time", f"{uri}: messages from {start_ns} to {end_ns} ns, expected rising times")
    log_id = files.name(uri)[: -len(SUFFIX)]
    return LogRef(McapReader.name, uri, log_id, files.name(files.parent(uri)), start_ns, end_ns)


def _roles(file: McapFile) -> dict[int, Role]:
    """What each channel is for, of those that can be read."""
    roles: dict[int, Role] = {}
    for channel_id, channel in file.summary.channels.items():
        schema = file.summary.schemas.get(channel.schema_id)
        role = mcap_schema.role_of(schema)
        if role is not None and schema is not None and mcap_schema.decoder_for(channel, schema) is not None:
            roles[channel_id] = role
    return roles


def _read_messages(file: McapFile, roles: dict[int, Role]) -> _Found:
    """Calibration (the first of each topic), transforms, odometry and poses."""
    found = _Found()
    wanted = {channel_id for channel_id, role in roles.items() if role in _READ}
    decoders: dict[int, Decode] = {}
    for channel_id in wanted:
        channel = file.summary.channels[channel_id]
        decode = mcap_schema.decoder_for(channel, file.summary.schemas[channel.schema_id])
        if decode is not None:
            decoders[channel_id] = decode
    for batch in file.batches(wanted.__contains__):
        if isinstance(batch, DataError):
            if batch.code in OUTAGE_CODES:
                raise batch
            found.is_damaged = True
            continue
        for message in batch:
            channel_id = message.channel_id
            if channel_id not in wanted:
                continue
            topic, role = file.topic(channel_id), roles[channel_id]
            try:
                said = mcap_schema.understood(_READ[role], decoders[channel_id], message.data, topic)
            except DataError:
                found.is_damaged = True
                continue
            if isinstance(said, CameraModel):
                found.cameras[topic] = said
                wanted.discard(channel_id)
                continue
            for pose in said:
                if role == "transforms":
                    found.tree.add(message.log_time_ns, pose)
                else:
                    by_topic = found.odometry if role == "odometry" else found.poses
                    by_topic.setdefault(topic, []).append((message.log_time_ns, pose))
    return found


def _base_frame(found: _Found) -> str | None:
    """The frame that is the ego: what odometry moves, or the best known name among the transforms."""
    for topic in sorted(found.odometry):
        if child := found.odometry[topic][0][1].child:
            return child
    return next((name for name in BASE_FRAMES if name in found.tree), None)


def _ego(uri: str, found: _Found) -> EgoTrack | None:
    for topic in sorted(found.odometry):
        return _track(f"{uri} topic {topic}", found.odometry[topic])
    base = _base_frame(found)
    for world in WORLD_FRAMES:
        if base is not None and (moves := found.tree.motion(world, base)):
            return _track(f"{uri} transforms {world} to {base}", moves)
    for topic in sorted(found.poses):
        if found.poses[topic][0][1].parent in WORLD_FRAMES:
            return _track(f"{uri} topic {topic}", found.poses[topic])
    return None


def _track(where: str, moves: list[tuple[int, Pose]]) -> EgoTrack:
    """The ego's track; of messages that share a log time the first counts.

    Raises:
        DataError: `nan_pose`, `impossible_value`.
    """
    t_ns, first = np.unique(np.array([t for t, _ in moves], dtype=np.int64), return_index=True)
    matrices = np.array([moves[k][1].matrix for k in first])
    speeds = [moves[k][1].speed_mps for k in first]
    if not np.isfinite(matrices).all():
        bad = int(np.argmin(np.isfinite(matrices).all(axis=(1, 2))))
        raise DataError("nan_pose", f"{where} at {t_ns[bad]} ns: expected a finite place and a rotation")
    place = matrices[:, :3, 3]
    yaw = np.arctan2(matrices[:, 1, 0], matrices[:, 0, 0])
    known = np.array([np.nan if speed is None else speed for speed in speeds], dtype=float)
    # Publishers without a speedometer leave the twist at zero.
    has_speed = np.isfinite(known).all() and known.any()
    speed_mps = known if has_speed else forward_speed_mps(t_ns, place[:, :2], yaw)
    if np.abs(place).max() > MAX_COORDINATE_M or (has_speed and np.abs(known).max() > MAX_SPEED_MPS):
        raise DataError("impossible_value", f"{where}: expected a possible place and speed")
    states = np.concatenate([place, yaw[:, None], speed_mps[:, None]], axis=1)
    return EgoTrack(t_ns, states, (0.0, 0.0, 0.0), 0.0)


def _frames(file: McapFile, channel_id: int, times_ns: list[int], found: _Found, base: str | None) -> Iterator[Frame]:
    topic = file.topic(channel_id)
    camera = _camera_name(topic)
    model = _model_of(topic, found.cameras)
    intrinsics = pose = None
    width = height = None
    if model is not None:
        intrinsics = _intrinsics(model, topic)
        if model.width > 0 and model.height > 0:
            width, height = model.width, model.height
        matrix = found.tree.fixed(base, model.frame_id) if base is not None else None
        if matrix is not None and np.isfinite(matrix).all():
            pose = tuple(map(float, matrix.ravel()))
    modality = modality_of(topic)
    for t_ns in dict.fromkeys(times_ns):
        locator = f"{topic}@{t_ns}"
        yield Frame(camera, t_ns, file.uri, "mcap", locator, width, height, intrinsics, pose, modality)


def _camera_name(topic: str) -> str:
    """The topic without what says only that it is a picture: "/cam_front/image_raw/compressed" is "cam_front"."""
    parts = [part for part in topic.split("/") if part]
    while len(parts) > 1 and (parts[-1] in ("compressed", "image") or parts[-1].startswith("image_")):
        parts.pop()
    return "/".join(parts)


def _model_of(topic: str, cameras: dict[str, CameraModel]) -> CameraModel | None:
    """The calibration whose topic lies in the nearest folder above a picture's; two in one folder belong to nobody."""
    parts = topic.strip("/").split("/")
    by_depth: dict[int, list[CameraModel]] = {}
    for other, model in cameras.items():
        folder = other.strip("/").split("/")[:-1]
        if parts[: len(folder)] == folder and (folder or len(parts) <= 2):
            by_depth.setdefault(len(folder), []).append(model)
    nearest = by_depth[max(by_depth)] if by_depth else []
    return nearest[0] if len(nearest) == 1 else None


def _intrinsics(model: CameraModel, topic: str) -> tuple[float, ...] | None:
    """P of rectified pictures, K of others, 3x3 row-major; None where the publisher left zeros."""
    rectified: NDArray[np.float64] = np.array(model.p).reshape(3, 4)[:, :3]
    matrix = rectified if "rect" in topic and rectified[0, 0] > 0 else np.array(model.k).reshape(3, 3)
    return tuple(map(float, matrix.ravel())) if matrix[0, 0] > 0 and matrix[1, 1] > 0 else None
