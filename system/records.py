"""The few records that travel between the rooms.

Conventions, everywhere: time in integer nanoseconds; metres, seconds, radians; right-handed frames.
World: x, y horizontal, z up. Ego: x forward, y left, z up. Camera: x right, y down, z forward. Yaw counter-clockwise
from +x, seen from above. Intrinsics are in pixels of the picture as it is stored.
What a log lacks is None and named in `flags`; it is never invented.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Container = Literal["file", "tar", "mcap", "video"]
Modality = Literal["rgb", "infrared"]

# What `flags` may hold.
NO_PICTURES = "no_pictures"
NO_EGO = "no_ego"
NO_AGENTS = "no_agents"
NO_CALIBRATION = "no_calibration"  # at least one camera without intrinsics or extrinsics
TIME_ASSUMED = "time_assumed"  # the log carries no time; a stated rate was taken
RIG_ASSUMED = "rig_assumed"  # the bird's-eye lift took a stated pinhole camera

TRACK_COLUMNS = ("x_m", "y_m", "z_m", "yaw_rad", "length_m", "width_m", "height_m", "vx_mps", "vy_mps")
EGO_COLUMNS = ("x_m", "y_m", "z_m", "yaw_rad", "speed_mps")


@dataclass(frozen=True)
class Frame:
    """One picture of one camera, not yet read.

    Attributes:
        uri: file path or object-store URI of the file that holds the picture.
        container: how to find the picture in that file.
        locator: file: ""; tar: "offset:size" in bytes; mcap: "topic@log_time_ns"; video: presentation time stamp.
        width, height: pixels, where known without reading.
        intrinsics: 3x3 row-major camera matrix, or None.
        ego_from_camera: 4x4 row-major rigid transform, or None.
    """

    camera: str
    t_ns: int
    uri: str
    container: Container = "file"
    locator: str = ""
    width: int | None = None
    height: int | None = None
    intrinsics: tuple[float, ...] | None = None
    ego_from_camera: tuple[float, ...] | None = None
    modality: Modality = "rgb"

    @property
    def is_calibrated(self) -> bool:
        return self.intrinsics is not None and self.ego_from_camera is not None


@dataclass(frozen=True, eq=False)
class EgoTrack:
    """The ego's motion in the world frame.

    Attributes:
        t_ns: strictly increasing [T] int64.
        states: [T, 5] float64, columns EGO_COLUMNS, of the ego's reference point.
        size_m: (length, width, height) of the ego's box.
        center_ahead_m: from the reference point (often the rear axle) forward to the centre of the box.
    """

    t_ns: NDArray[np.int64]
    states: NDArray[np.float64]
    size_m: tuple[float, float, float]
    center_ahead_m: float

    def between(self, t_start_ns: int, t_end_ns: int) -> EgoTrack | None:
        """The part in [t_start_ns, t_end_ns), or None where nothing is left."""
        keep = (self.t_ns >= t_start_ns) & (self.t_ns < t_end_ns)
        return replace(self, t_ns=self.t_ns[keep], states=self.states[keep]) if keep.any() else None


@dataclass(frozen=True, eq=False)
class Track:
    """One road user's boxes in the world frame.

    Attributes:
        t_ns: strictly increasing [T] int64.
        states: [T, 9] float64, columns TRACK_COLUMNS; the box centre.
    """

    track_id: str
    category: str
    t_ns: NDArray[np.int64]
    states: NDArray[np.float64]

    def between(self, t_start_ns: int, t_end_ns: int) -> Track | None:
        """The part in [t_start_ns, t_end_ns), or None where nothing is left."""
        keep = (self.t_ns >= t_start_ns) & (self.t_ns < t_end_ns)
        return replace(self, t_ns=self.t_ns[keep], states=self.states[keep]) if keep.any() else None


@dataclass(frozen=True, slots=True)
class LogRef:
    """A log that was found, with as much as its metadata says cheaply.

    Attributes:
        reader: name of the reader that found it and can read it.
        uri: what that reader's `read_log` opens.
        log_id: unique within `source`.
        source: data set or fleet that the log belongs to.
        t_start_ns, t_end_ns: first and last moment of pictures or tracks, both inclusive.
    """

    reader: str
    uri: str
    log_id: str
    source: str
    t_start_ns: int
    t_end_ns: int


@dataclass(frozen=True, eq=False)
class DrivingLog:
    """All metadata of one log: no pixels.

    Attributes:
        frames: in order of (t_ns, camera).
        ego, agents: None where the log does not know them. An empty `agents` says that nobody was there.
        flags: what the log lacks.
        description: the makers' words, or "".
        truth_tags: tags that the makers or a simulator gave, as they wrote them.
        group: what the log belongs together with, a town or a sequence, or "": a split for training never parts it.
    """

    ref: LogRef
    frames: tuple[Frame, ...]
    ego: EgoTrack | None
    agents: tuple[Track, ...] | None
    flags: tuple[str, ...] = ()
    description: str = ""
    truth_tags: tuple[str, ...] = ()
    group: str = ""


@dataclass(frozen=True, slots=True)
class WindowRef:
    """A scene window by its time alone: [t_start_ns, t_end_ns) of a log."""

    scene_id: str
    log: LogRef
    t_start_ns: int
    t_end_ns: int


@dataclass(frozen=True, eq=False)
class SceneWindow:
    """A scene window with its metadata: what the miner gets. Attributes as in `DrivingLog`, cut to the window."""

    ref: WindowRef
    frames: tuple[Frame, ...]
    ego: EgoTrack | None
    agents: tuple[Track, ...] | None
    flags: tuple[str, ...] = ()
    description: str = ""
    truth_tags: tuple[str, ...] = ()
    group: str = ""

    @property
    def scene_id(self) -> str:
        return self.ref.scene_id


def scene_id(source: str, log_id: str, t_start_ns: int, length_ns: int) -> str:
    """32 hexadecimal digits that depend on nothing but the arguments: same logs in, same ids out."""
    key = "\x1f".join((source, log_id, str(t_start_ns), str(length_ns)))
    return hashlib.blake2b(key.encode(), digest_size=16).hexdigest()
