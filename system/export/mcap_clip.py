"""MCAP clips, one file a scene, in Foxglove's protobuf schemas: Foxglove opens them, and so does our own reader.

/<camera>/image_compressed  foxglove.CompressedImage    /<camera>/camera_info  foxglove.CameraCalibration
/tf         foxglove.FrameTransforms: map to base_link (the ego), base_link to cameras
/tracks     foxglove.SceneUpdate: a cube and a label for each road user, in map
/risk       JSON: hazard_hz, risk_so_far, min_ttc_s (see `system.miner.risk_series`), to plot
/ego        JSON: speed_mps
/scene      JSON: what the store knows of the scene, once
The file's metadata record "nightminer" holds the provenance. Log times are the log's own.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from foxglove_schemas_protobuf.CameraCalibration_pb2 import CameraCalibration
from foxglove_schemas_protobuf.CompressedImage_pb2 import CompressedImage
from foxglove_schemas_protobuf.FrameTransform_pb2 import FrameTransform
from foxglove_schemas_protobuf.FrameTransforms_pb2 import FrameTransforms
from foxglove_schemas_protobuf.SceneUpdate_pb2 import SceneUpdate
from mcap.writer import CompressionType, Writer
from mcap_protobuf.schema import register_schema
from numpy.typing import NDArray

from system.errors import DataError
from system.export.scene import Added, SceneExport, ScenePicture, scene_facts
from system.miner.risk import RiskConfig
from system.miner.risk_series import risk_series
from system.miner.sightings import kind_of
from system.records import Frame, SceneWindow

WORLD, BASE = "map", "base_link"
# A cube stays until the next sample of labels at 2 Hz, with some jitter.
_LIFETIME_NS = 600_000_000
_COLORS = {
    "vehicle": (0.27, 0.47, 0.67), "large": (0.13, 0.53, 0.6), "motorcycle": (0.67, 0.2, 0.47),
    "bicycle": (0.8, 0.73, 0.27), "rider": (0.8, 0.73, 0.27), "pedestrian": (0.93, 0.4, 0.47),
    "roadwork": (0.93, 0.53, 0.2),
}  # fmt: skip
_OTHER_COLOR = (0.73, 0.73, 0.73)
_OPACITY = 0.6
_JSON_SCHEMAS: dict[str, dict[str, Any]] = {
    "/risk": {"hazard_hz": "number", "risk_so_far": "number", "min_ttc_s": ["number", "null"], "t_ns": "integer"},
    "/ego": {"speed_mps": "number"},
    "/scene": {"scene_id": "string"},
}


class McapWriter:
    reads_pictures, needs_pictures = True, False

    def __init__(self, folder: Path, provenance: Mapping[str, Any]) -> None:
        self._folder, self._provenance = folder, provenance

    def add(self, scene: SceneExport) -> Added:
        window = scene.window
        if window.ref.t_start_ns < 0:
            told = f"scene {scene.scene_id} begins {window.ref.t_start_ns} ns from 1970; MCAP has no times before that"
            raise DataError("negative_time", told)
        with (self._folder / f"{scene.scene_id}.mcap").open("wb") as file:
            clip = _Clip(Writer(file, compression=CompressionType.ZSTD))
            clip.json("/scene", window.ref.t_start_ns, scene_facts(scene.row))
            _add_transforms(clip, window, scene.pictures)
            for picture in scene.pictures:
                _add_picture(clip, picture)
            boxes = _add_tracks(clip, window)
            for moment in risk_series(window, RiskConfig()):
                clip.json("/risk", moment.t_ns, asdict(moment))
            clip.finish({"scene_id": scene.scene_id, "provenance": json.dumps(self._provenance)})
        return Added(len(scene.pictures), boxes)

    def close(self) -> None:
        pass  # a clip is finished when it is added

    def abandon(self) -> None:
        pass


class _Clip:
    """One MCAP file; a topic's channel is made with its first message."""

    def __init__(self, writer: Writer) -> None:
        self._writer, self._channels, self._schemas = writer, dict[str, int](), dict[str, int]()
        writer.start(profile="", library="nightminer")

    def protobuf(self, topic: str, t_ns: int, message: Any) -> None:
        if topic not in self._channels:
            kind = type(message).DESCRIPTOR.full_name
            if kind not in self._schemas:
                self._schemas[kind] = register_schema(self._writer, type(message))
            self._channels[topic] = self._writer.register_channel(topic, "protobuf", self._schemas[kind])
        self._writer.add_message(self._channels[topic], t_ns, message.SerializeToString(), t_ns)

    def json(self, topic: str, t_ns: int, message: Mapping[str, Any]) -> None:
        if topic not in self._channels:
            fields = {name: {"type": kind} for name, kind in _JSON_SCHEMAS[topic].items()}
            schema = json.dumps({"type": "object", "properties": fields}).encode()
            name = f"nightminer.{topic[1:].capitalize()}"
            schema_id = self._writer.register_schema(name, "jsonschema", schema)
            self._channels[topic] = self._writer.register_channel(topic, "json", schema_id)
        data = json.dumps(message, allow_nan=False).encode()
        self._writer.add_message(self._channels[topic], t_ns, data, t_ns)

    def finish(self, metadata: dict[str, str]) -> None:
        self._writer.add_metadata("nightminer", metadata)
        self._writer.finish()


def _add_transforms(clip: _Clip, window: SceneWindow, pictures: tuple[ScenePicture, ...]) -> None:
    mounts = {p.frame.camera: p.frame for p in pictures if p.frame.ego_from_camera is not None}
    fixed = FrameTransforms()
    for frame in mounts.values():
        matrix = np.array(frame.ego_from_camera).reshape(4, 4)
        w, x, y, z = _quaternion(matrix[:3, :3])
        _add_transform(fixed, window.ref.t_start_ns, BASE, frame.camera, matrix[:3, 3], (w, x, y, z))
    if mounts:
        clip.protobuf("/tf", window.ref.t_start_ns, fixed)
    ego = window.ego
    if ego is None:
        return
    for t_ns, state in zip(ego.t_ns.tolist(), ego.states, strict=True):
        moved = FrameTransforms()
        turn = (np.cos(state[3] / 2), 0.0, 0.0, np.sin(state[3] / 2))
        _add_transform(moved, t_ns, WORLD, BASE, state[:3], turn)
        clip.protobuf("/tf", t_ns, moved)
        clip.json("/ego", t_ns, {"speed_mps": float(state[4])})


def _add_transform(
    batch: FrameTransforms, t_ns: int, parent: str, child: str, place: NDArray[np.float64], turn_wxyz: Any
) -> None:
    transform: FrameTransform = batch.transforms.add(parent_frame_id=parent, child_frame_id=child)
    transform.timestamp.FromNanoseconds(t_ns)
    transform.translation.x, transform.translation.y, transform.translation.z = map(float, place)
    rotation = transform.rotation
    rotation.w, rotation.x, rotation.y, rotation.z = map(float, turn_wxyz)


def _add_picture(clip: _Clip, picture: ScenePicture) -> None:
    frame, file = picture.frame, picture.file
    message = CompressedImage(frame_id=frame.camera, data=file.data, format="jpeg" if file.suffix == ".jpg" else "png")
    message.timestamp.FromNanoseconds(frame.t_ns)
    topic = f"/{frame.camera.strip('/')}"
    clip.protobuf(f"{topic}/image_compressed", frame.t_ns, message)
    if frame.intrinsics is not None:
        clip.protobuf(f"{topic}/camera_info", frame.t_ns, _calibration(frame, file.width, file.height))


def _calibration(frame: Frame, width: int, height: int) -> CameraCalibration:
    k = np.array(frame.intrinsics).reshape(3, 3)
    p = np.column_stack([k, np.zeros(3)])
    message = CameraCalibration(frame_id=frame.camera, width=width, height=height)
    message.timestamp.FromNanoseconds(frame.t_ns)
    message.K.extend(k.ravel().tolist())
    message.P.extend(p.ravel().tolist())
    message.R.extend(np.eye(3).ravel().tolist())
    return message


def _add_tracks(clip: _Clip, window: SceneWindow) -> int:
    """One message a moment, with the boxes of that moment; returns how many boxes."""
    by_moment: dict[int, SceneUpdate] = {}
    boxes = 0
    for track in window.agents or ():
        color = _COLORS.get(kind_of(track.category), _OTHER_COLOR)
        for t_ns, state in zip(track.t_ns.tolist(), track.states, strict=True):
            entity = by_moment.setdefault(t_ns, SceneUpdate()).entities.add(id=track.track_id, frame_id=WORLD)
            entity.timestamp.FromNanoseconds(t_ns)
            entity.lifetime.FromNanoseconds(_LIFETIME_NS)
            entity.metadata.add(key="category", value=track.category)
            entity.metadata.add(key="speed_mps", value=f"{float(np.hypot(state[7], state[8])):.2f}")
            for primitive in (entity.cubes.add(), entity.texts.add(text=track.category, font_size=0.5, billboard=True)):
                position, turn, shade = primitive.pose.position, primitive.pose.orientation, primitive.color
                position.x, position.y, position.z = map(float, state[:3])
                turn.w, turn.z = float(np.cos(state[3] / 2)), float(np.sin(state[3] / 2))
                shade.r, shade.g, shade.b = color
                shade.a = _OPACITY
            entity.texts[0].pose.position.z += float(state[6]) / 2 + 0.5
            size = entity.cubes[0].size
            size.x, size.y, size.z = map(float, state[4:7])
            boxes += 1
    for t_ns in sorted(by_moment):
        clip.protobuf("/tracks", t_ns, by_moment[t_ns])
    return boxes


def _quaternion(rotation: NDArray[np.float64]) -> tuple[float, float, float, float]:
    """(w, x, y, z) of a rotation matrix [3, 3]."""
    from scipy.spatial.transform import Rotation

    x, y, z, w = Rotation.from_matrix(rotation).as_quat()
    return float(w), float(x), float(y), float(z)
