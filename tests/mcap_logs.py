"""Write small MCAP recordings for tests: ROS 2 CDR, Foxglove protobuf and Foxglove JSON, all of the same drive."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from google.protobuf.descriptor_pb2 import FieldDescriptorProto, FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass
from mcap.writer import CompressionType, Writer
from mcap_protobuf.writer import Writer as ProtobufWriter
from mcap_ros2.writer import Writer as Ros2Writer

START_NS, STEP_NS = 1_700_000_000_000_000_000, 100_000_000
K = (100.0, 0.0, 32.0, 0.0, 100.0, 24.0, 0.0, 0.0, 1.0)
# A camera 1.5 m ahead and 1.2 m up that looks forward: z forward, x right, y down.
CAMERA_PLACE, CAMERA_TURN = (1.5, 0.0, 1.2), (0.5, -0.5, 0.5, -0.5)  # w, x, y, z

_HEADER = """
================================================================================
MSG: std_msgs/Header
builtin_interfaces/Time stamp
string frame_id
"""
_POINT = """
================================================================================
MSG: geometry_msgs/{0}
float64 x
float64 y
float64 z
"""
_QUATERNION = """
================================================================================
MSG: geometry_msgs/Quaternion
float64 x
float64 y
float64 z
float64 w
"""
ROS2_DEFINITIONS = {
    "sensor_msgs/msg/CompressedImage": "std_msgs/Header header\nstring format\nuint8[] data" + _HEADER,
    "sensor_msgs/msg/Image": (
        "std_msgs/Header header\nuint32 height\nuint32 width\nstring encoding\nuint8 is_bigendian\nuint32 step\n"
        "uint8[] data" + _HEADER
    ),
    "sensor_msgs/msg/CameraInfo": (
        "std_msgs/Header header\nuint32 height\nuint32 width\nstring distortion_model\nfloat64[] d\nfloat64[9] k\n"
        "float64[9] r\nfloat64[12] p\nuint32 binning_x\nuint32 binning_y" + _HEADER
    ),
    "tf2_msgs/msg/TFMessage": (
        "geometry_msgs/TransformStamped[] transforms\n"
        "================================================================================\n"
        "MSG: geometry_msgs/TransformStamped\nstd_msgs/Header header\nstring child_frame_id\n"
        "geometry_msgs/Transform transform\n"
        "================================================================================\n"
        "MSG: geometry_msgs/Transform\ngeometry_msgs/Vector3 translation\ngeometry_msgs/Quaternion rotation"
        + _HEADER
        + _POINT.format("Vector3")
        + _QUATERNION
    ),
    "nav_msgs/msg/Odometry": (
        "std_msgs/Header header\nstring child_frame_id\ngeometry_msgs/PoseWithCovariance pose\n"
        "geometry_msgs/TwistWithCovariance twist\n"
        "================================================================================\n"
        "MSG: geometry_msgs/PoseWithCovariance\ngeometry_msgs/Pose pose\nfloat64[36] covariance\n"
        "================================================================================\n"
        "MSG: geometry_msgs/Pose\ngeometry_msgs/Point position\ngeometry_msgs/Quaternion orientation\n"
        "================================================================================\n"
        "MSG: geometry_msgs/TwistWithCovariance\ngeometry_msgs/Twist twist\nfloat64[36] covariance\n"
        "================================================================================\n"
        "MSG: geometry_msgs/Twist\ngeometry_msgs/Vector3 linear\ngeometry_msgs/Vector3 angular"
        + _HEADER
        + _POINT.format("Point")
        + _POINT.format("Vector3")
        + _QUATERNION
    ),
}


@dataclass(frozen=True)
class Drive:
    """What a recording holds. ego_poses: (x, y, z, (w, x, y, z)) in "map" or "odom", one a picture; None: no motion."""

    pictures: Sequence[bytes]
    size: tuple[int, int]
    ego_poses: Sequence[tuple[float, float, float, tuple[float, float, float, float]]] | None = None
    speeds: Sequence[float] | None = None
    k: Sequence[float] = K

    def t_ns(self, number: int) -> int:
        return START_NS + number * STEP_NS


def _xyz(values: Sequence[float]) -> dict[str, float]:
    return dict(zip("xyz", values, strict=True))


def _wxyz(values: Sequence[float]) -> dict[str, float]:
    return dict(zip("wxyz", values, strict=True))


def write_ros2(path: Path, drive: Drive, chunk_size: int = 4096, compression=CompressionType.ZSTD, raw=False) -> Path:
    """Odometry where speeds are given, else transforms from map to base_link; rosbag2's usual topics."""
    with path.open("wb") as file:
        writer = Ros2Writer(file, chunk_size=chunk_size, compression=compression)
        schemas = {name: writer.register_msgdef(name, text) for name, text in ROS2_DEFINITIONS.items()}

        def send(topic: str, kind: str, message: dict[str, Any], t_ns: int) -> None:
            writer.write_message(topic, schemas[kind], message, log_time=t_ns)

        def header(frame: str) -> dict[str, Any]:
            return {"stamp": {"sec": 5, "nanosec": 0}, "frame_id": frame}

        def transform(parent: str, child: str, place: Sequence[float], turn: Sequence[float]) -> dict[str, Any]:
            moved = {"translation": _xyz(place), "rotation": _wxyz(turn)}
            return {"transforms": [{"header": header(parent), "child_frame_id": child, "transform": moved}]}

        mount = transform("base_link", "cam_front_optical", CAMERA_PLACE, CAMERA_TURN)
        send("/tf_static", "tf2_msgs/msg/TFMessage", mount, drive.t_ns(0))
        for number, picture in enumerate(drive.pictures):
            t_ns = drive.t_ns(number)
            optical = header("cam_front_optical")
            info = {"header": optical, "height": drive.size[1], "width": drive.size[0], "distortion_model": "plumb_bob"}
            info |= {"d": [], "k": list(drive.k), "r": [0.0] * 9, "p": [0.0] * 12, "binning_x": 0, "binning_y": 0}
            send("/cam_front/camera_info", "sensor_msgs/msg/CameraInfo", info, t_ns)
            if raw:
                width, height = drive.size
                message = {"header": optical, "height": height, "width": width, "encoding": "bgr8", "is_bigendian": 0}
                message |= {"step": len(picture) // height, "data": picture}
                send("/cam_front/image_raw", "sensor_msgs/msg/Image", message, t_ns)
            else:
                message = {"header": optical, "format": "png", "data": picture}
                send("/cam_front/image_raw/compressed", "sensor_msgs/msg/CompressedImage", message, t_ns)
            if drive.ego_poses is None:
                continue
            x, y, z, turn = drive.ego_poses[number]
            if drive.speeds is None:
                send("/tf", "tf2_msgs/msg/TFMessage", transform("map", "base_link", (x, y, z), turn), t_ns)
                continue
            zero = _xyz((0.0, 0.0, 0.0))
            pose = {"pose": {"position": _xyz((x, y, z)), "orientation": _wxyz(turn)}, "covariance": [0.0] * 36}
            twist = {"linear": _xyz((drive.speeds[number], 0.0, 0.0)), "angular": zero}
            odometry = {"header": header("odom"), "child_frame_id": "base_link", "pose": pose}
            odometry["twist"] = {"twist": twist, "covariance": [0.0] * 36}
            send("/odom", "nav_msgs/msg/Odometry", odometry, t_ns)
        writer.finish()
    return path


def _foxglove(drive: Drive, send: Callable[[str, str, dict[str, Any], int], None]) -> None:
    """The drive's messages as Foxglove's fields."""
    stamp = {"seconds": 5, "nanos": 0}
    for number, picture in enumerate(drive.pictures):
        t_ns = drive.t_ns(number)
        optical = {"timestamp": stamp, "frame_id": "CAM_FRONT"}
        send("/CAM_FRONT/image_rect_compressed", "CompressedImage", optical | {"data": picture, "format": "png"}, t_ns)
        size = {"width": drive.size[0], "height": drive.size[1]}
        p = [*drive.k[:3], 0.0, *drive.k[3:6], 0.0, *drive.k[6:], 0.0]
        send("/CAM_FRONT/camera_info", "CameraCalibration", optical | size | {"K": list(drive.k), "P": p}, t_ns)
        mount = {"timestamp": stamp, "parent_frame_id": "base_link", "child_frame_id": "CAM_FRONT"}
        mount |= {"translation": _xyz(CAMERA_PLACE), "rotation": _wxyz(CAMERA_TURN)}
        send("/tf", "FrameTransform", mount, t_ns)
        if drive.ego_poses is not None:
            x, y, z, turn = drive.ego_poses[number]
            pose = {"position": _xyz((x, y, z)), "orientation": _wxyz(turn)}
            send("/pose", "PosesInFrame", {"timestamp": stamp, "frame_id": "map", "poses": [pose]}, t_ns)


def write_json(path: Path, drive: Drive, chunk_size: int = 4096, use_chunking: bool = True) -> Path:
    with path.open("wb") as file:
        writer = Writer(file, chunk_size=chunk_size, use_chunking=use_chunking)
        writer.start()
        channels: dict[str, int] = {}

        def send(topic: str, kind: str, message: dict[str, Any], t_ns: int) -> None:
            if topic not in channels:
                schema_id = writer.register_schema(f"foxglove.{kind}", "jsonschema", b'{"type": "object"}')
                channels[topic] = writer.register_channel(topic, "json", schema_id)
            as_text = {k: base64.b64encode(v).decode() if isinstance(v, bytes) else v for k, v in message.items()}
            writer.add_message(channels[topic], t_ns, json.dumps(as_text).encode(), t_ns)

        _foxglove(drive, send)
        writer.finish()
    return path


def write_protobuf(path: Path, drive: Drive, chunk_size: int = 4096) -> Path:
    classes = _protobuf_classes()
    with path.open("wb") as file:
        writer = ProtobufWriter(file, chunk_size=chunk_size)

        def send(topic: str, kind: str, message: dict[str, Any], t_ns: int) -> None:
            writer.write_message(topic, classes[kind](**message), t_ns, t_ns)

        _foxglove(drive, send)
        writer.finish()
    return path


def _protobuf_classes() -> dict[str, type]:
    """Foxglove's published messages, as far as they are sent here."""
    file = FileDescriptorProto(name="foxglove_test.proto", package="foxglove", syntax="proto3")
    kinds = {
        "double": FieldDescriptorProto.TYPE_DOUBLE,
        "string": FieldDescriptorProto.TYPE_STRING,
        "bytes": FieldDescriptorProto.TYPE_BYTES,
        "fixed32": FieldDescriptorProto.TYPE_FIXED32,
        "int64": FieldDescriptorProto.TYPE_INT64,
    }
    messages = {
        "Time": "int64 seconds, int64 nanos",
        "Vector3": "double x, double y, double z",
        "Quaternion": "double x, double y, double z, double w",
        "Pose": "Vector3 position, Quaternion orientation",
        "CompressedImage": "Time timestamp, string frame_id, bytes data, string format",
        "CameraCalibration": ("Time timestamp, string frame_id, fixed32 width, fixed32 height, double* K, double* P"),
        "FrameTransform": (
            "Time timestamp, string parent_frame_id, string child_frame_id, Vector3 translation, Quaternion rotation"
        ),
        "PosesInFrame": "Time timestamp, string frame_id, Pose* poses",
    }
    for name, fields in messages.items():
        message = file.message_type.add(name=name)
        for number, words in enumerate(fields.split(", "), 1):
            kind, field_name = words.split()
            field = message.field.add(name=field_name, number=number, label=3 if kind.endswith("*") else 1)
            kind = kind.rstrip("*")
            if kind in kinds:
                field.type = kinds[kind]
            else:
                field.type, field.type_name = FieldDescriptorProto.TYPE_MESSAGE, f".foxglove.{kind}"
    pool = DescriptorPool()
    pool.Add(file)
    return {name: GetMessageClass(pool.FindMessageTypeByName(f"foxglove.{name}")) for name in messages}
