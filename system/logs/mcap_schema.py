"""What MCAP messages say, whichever of three encodings they come in: ROS 2 CDR, Foxglove protobuf, Foxglove JSON.

The same thing has two names (sensor_msgs/msg/CameraInfo, foxglove.CameraCalibration) and the same fields with small
differences: ROS keeps the frame's id in a header, Foxglove writes K where ROS 2 writes k.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
import struct
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, Literal

import numpy as np
from google.protobuf.message import DecodeError
from mcap.exceptions import McapError
from mcap.records import Channel, Schema
from mcap_protobuf.decoder import DecoderFactory as ProtobufDecoders
from mcap_ros2._vendor.rosidl_adapter.parser import InvalidSpecification, InvalidValue
from mcap_ros2.decoder import DecoderFactory as Ros2Decoders
from numpy.typing import NDArray

from system.errors import DataError
from system.logs.plain import rigid_transform

Role = Literal["picture", "raw_picture", "calibration", "transforms", "odometry", "pose"]
Decode = Callable[[bytes], Any]

_PACKAGES = ("sensor_msgs", "tf2_msgs", "nav_msgs", "geometry_msgs", "foxglove", "foxglove_msgs")
_ROLES: dict[str, Role] = {
    "CompressedImage": "picture",
    "Image": "raw_picture",
    "RawImage": "raw_picture",
    "CameraInfo": "calibration",
    "CameraCalibration": "calibration",
    "TFMessage": "transforms",
    "FrameTransform": "transforms",
    "FrameTransforms": "transforms",
    "Odometry": "odometry",
    "PoseStamped": "pose",
    "PoseWithCovarianceStamped": "pose",
    "PoseInFrame": "pose",
    "PosesInFrame": "pose",
}
# A message that was damaged, or that is not what its schema says, fails in one of these ways in the decoders.
_WRONG_MESSAGE = (
    McapError,
    InvalidSpecification,
    InvalidValue,
    NameError,  # the ROS 2 parser's, for a field whose name is not allowed
    DecodeError,
    struct.error,
    binascii.Error,
    ValueError,
    TypeError,
    AttributeError,
    LookupError,
    ArithmeticError,
    AssertionError,
    RecursionError,
    RuntimeError,
    EOFError,
    MemoryError,
    NotImplementedError,
)
# Farther is no place on Earth, and products of such numbers would overflow.
_MAX_M = 1e12
# Pixel layouts of raw pictures: channels, bytes a value, whether blue comes first.
_RAW_LAYOUTS = {
    "rgb8": (3, 1, False),
    "bgr8": (3, 1, True),
    "8UC3": (3, 1, True),
    "mono8": (1, 1, False),
    "8UC1": (1, 1, False),
    "mono16": (1, 2, False),
    "16UC1": (1, 2, False),
}


@dataclass(frozen=True)
class CameraModel:
    """A camera's calibration; a size of 0 or a matrix of zeros means that it is unknown. k [9], p [12]."""

    frame_id: str
    width: int
    height: int
    k: tuple[float, ...]
    p: tuple[float, ...]


@dataclass(frozen=True, eq=False)
class Pose:
    """Where a frame is in its parent. matrix [4, 4]; speed_mps along the child's x, None where the message has none."""

    parent: str
    child: str
    matrix: NDArray[np.float64]
    speed_mps: float | None = None


def role_of(schema: Schema | None) -> Role | None:
    """What a channel's messages are for, or None for those that are not read."""
    if schema is None:
        return None
    package, _, rest = re.sub(r"[/.]", " ", schema.name).partition(" ")
    return _ROLES.get(rest.rpartition(" ")[2]) if package in _PACKAGES else None


def decoder_for(channel: Channel, schema: Schema) -> Decode | None:
    """The decoder of a channel's messages, or None for an encoding that is not read.

    Raises:
        DataError: `damaged_mcap`: the schema cannot be understood.
    """
    try:
        if channel.message_encoding == "json":
            return _decode_json
        return Ros2Decoders().decoder_for(channel.message_encoding, schema) or ProtobufDecoders().decoder_for(
            channel.message_encoding, schema
        )
    except _WRONG_MESSAGE as error:
        raise DataError("damaged_mcap", f"topic {channel.topic}: schema {schema.name} of no use: {error}") from error


def understood(read: Callable[[Any], Any], decode: Decode, data: bytes, where: str) -> Any:
    """What `read` finds in a message.

    Raises:
        DataError: `damaged_message`.
    """
    try:
        return read(decode(data))
    except _WRONG_MESSAGE as error:
        kind = f"{type(error).__name__}: {error}"
        raise DataError("damaged_message", f"{where}: expected a message of its schema: {kind}") from error


def _decode_json(data: bytes) -> Any:
    return json.loads(data, object_hook=lambda fields: SimpleNamespace(**fields))


def _frame_id(message: Any) -> str:
    return str(message.header.frame_id if hasattr(message, "header") else message.frame_id).lstrip("/")


def camera_model(message: Any) -> CameraModel:
    """From CameraInfo or CameraCalibration."""

    def matrix(name: str, size: int) -> tuple[float, ...]:
        values = getattr(message, name, None)
        values = getattr(message, name.upper()) if values is None else values
        numbers = tuple(float(value) for value in values)
        return numbers if len(numbers) == size and all(np.isfinite(numbers)) else (0.0,) * size

    return CameraModel(_frame_id(message), int(message.width), int(message.height), matrix("k", 9), matrix("p", 12))


def transforms(message: Any) -> list[Pose]:
    """From TFMessage, FrameTransforms or FrameTransform."""
    found = []
    for item in message.transforms if hasattr(message, "transforms") else [message]:
        if hasattr(item, "transform"):
            parent, shift, turn = item.header.frame_id, item.transform.translation, item.transform.rotation
        else:
            parent, shift, turn = item.parent_frame_id, item.translation, item.rotation
        matrix = _matrix(shift, turn)
        found.append(Pose(str(parent).lstrip("/"), str(item.child_frame_id).lstrip("/"), matrix))
    return found


def odometry(message: Any) -> list[Pose]:
    """From Odometry."""
    pose = message.pose.pose
    speed = float(message.twist.twist.linear.x)
    child = str(message.child_frame_id).lstrip("/")
    return [Pose(_frame_id(message), child, _matrix(pose.position, pose.orientation), speed)]


def poses(message: Any) -> list[Pose]:
    """From PoseStamped, PoseWithCovarianceStamped, PoseInFrame, or PosesInFrame of one pose: more are a path."""
    listed = list(message.poses) if hasattr(message, "poses") else [message.pose]
    if len(listed) != 1:
        return []
    pose = getattr(listed[0], "pose", listed[0])
    return [Pose(_frame_id(message), "", _matrix(pose.position, pose.orientation))]


def picture_bytes(message: Any, max_bytes: int) -> bytes:
    """The image file in a CompressedImage.

    Raises:
        DataError: too_large.
    """
    data = message.data
    if isinstance(data, str):  # JSON carries base64
        _check_bytes(len(data) * 3 // 4, max_bytes)
        return base64.b64decode(data, validate=True)
    _check_bytes(len(data), max_bytes)
    return bytes(data)


def raw_picture_bytes(message: Any, max_bytes: int) -> bytes:
    """A raw Image as a netpbm file, so that all pictures are decoded and checked in one place.

    Raises:
        DataError: too_large, unsupported_encoding.
    """
    layout = _RAW_LAYOUTS.get(str(message.encoding))
    if layout is None:
        expected = ", ".join(_RAW_LAYOUTS)
        raise DataError("unsupported_encoding", f"raw picture of {message.encoding!r}, expected one of {expected}")
    channels, value_bytes, is_blue_first = layout
    width, height, step = int(message.width), int(message.height), int(message.step)
    row_bytes = width * channels * value_bytes
    data = np.frombuffer(picture_bytes(message, max_bytes), np.uint8)
    if step < row_bytes or not width or len(data) < step * height:
        raise ValueError(f"{len(data)} bytes for {width}x{height} pixels in rows of {step} bytes")
    rows = data[: step * height].reshape(height, step)[:, :row_bytes]
    if is_blue_first:
        rows = rows.reshape(height, width, 3)[..., ::-1]
    elif value_bytes == 2 and not getattr(message, "is_bigendian", False):
        rows = rows.reshape(height, width, 2)[..., ::-1]  # netpbm is big-endian
    head = f"P{6 if channels == 3 else 5}\n{width} {height}\n{256**value_bytes - 1}\n"
    return head.encode() + np.ascontiguousarray(rows).tobytes()


def _check_bytes(count: int, max_bytes: int) -> None:
    if count > max_bytes:
        raise DataError("too_large", f"picture of {count} bytes, expected at most {max_bytes}")


def _matrix(position: Any, rotation: Any) -> NDArray[np.float64]:
    """[4, 4]; a pose that is not possible is all not-a-number, for the reader to name."""
    turn = np.array([rotation.w, rotation.x, rotation.y, rotation.z], dtype=float)
    place = np.array([position.x, position.y, position.z], dtype=float)
    is_possible = np.isfinite([*turn, *place]).all() and np.abs(turn).max() < 2.0 and np.abs(place).max() < _MAX_M
    if not is_possible or np.linalg.norm(turn) < 0.5:
        return np.full((4, 4), np.nan)
    return rigid_transform(turn, place)
