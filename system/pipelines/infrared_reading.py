"""What a detector is to look at, in pieces for workers, and its pixels.

A piece names pictures, or windows of driving logs, whose pictures of infrared cameras are taken: of cameras that the
log or their names call infrared, or of all where the user says that these are. Legend: H x W pixels.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache

from system.errors import ConfigError, DataError, storage_errors
from system.logs.pixels import Picture, PictureLimits, picture_name, read_each
from system.logs.reader import BadLog
from system.logs.registry import discover, list_logs, read_log
from system.logs.video import VideoReader
from system.logs.windows import WindowConfig, cut_window, list_windows
from system.pairs.pixels import InfraredMapping, InfraredPixels, decode_infrared, infrared_of, read_infrared
from system.records import Container, DrivingLog, Frame, LogRef, WindowRef

NO_INFRARED = "no_infrared"
_UNREAD = "unreadable_file"
_PART_PICTURES, _PART_WINDOWS = 16, 4
# Of a recording, whole pictures in memory.
_SHOTS_AT_ONCE = 16
Fault = tuple[str, str]


@dataclass(frozen=True)
class Shot:
    """Where a picture lies: uri, container and locator as of `system.records.Frame`; camera, time and scene of a log's.

    Of a window without pictures, uri is the log's. is_calibrated: it is taken as it is stored, however its camera was
    held.
    """

    uri: str
    container: Container = "file"
    locator: str = ""
    camera: str | None = None
    t_ns: int | None = None
    scene_id: str | None = None
    is_calibrated: bool = False

    @classmethod
    def of(cls, frame: Frame, scene_id: str) -> Shot:
        """A picture of a log."""
        calibrated = frame.intrinsics is not None
        return cls(frame.uri, frame.container, frame.locator, frame.camera, frame.t_ns, scene_id, calibrated)

    def frame(self) -> Frame:
        """As mining reads it."""
        intrinsics = tuple(float(k in (0, 4, 8)) for k in range(9)) if self.is_calibrated else None
        camera, t_ns = self.camera or "", self.t_ns or 0
        return Frame(camera, t_ns, self.uri, self.container, self.locator, intrinsics=intrinsics)

    @property
    def name(self) -> str:
        """Tells it from all others."""
        return f"{self.uri}#{self.locator}" if self.locator else self.uri


@dataclass(frozen=True)
class Part:
    """What one task reads. keyframe_hz: as of `WindowConfig`. all_cameras: of windows, whatever they are called."""

    pictures: tuple[str, ...] = ()
    windows: tuple[WindowRef, ...] = ()
    keyframe_hz: float = 2.0
    all_cameras: bool = False

    def to_json(self) -> str:
        """For a row of Ray Data."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Part:
        """The inverse of `to_json`."""
        held = json.loads(text)
        windows = tuple(WindowRef(**window | {"log": LogRef(**window["log"])}) for window in held["windows"])
        return cls(**held | {"pictures": tuple(held["pictures"]), "windows": windows})


def picture_parts(uris: Sequence[str]) -> list[Part]:
    """Pictures by name."""
    return [Part(pictures=tuple(uris[k : k + _PART_PICTURES])) for k in range(0, len(uris), _PART_PICTURES)]


def window_parts(windows: Sequence[WindowRef], keyframe_hz: float, all_cameras: bool = False) -> list[Part]:
    """Windows of logs."""
    return [
        Part((), tuple(windows[k : k + _PART_WINDOWS]), keyframe_hz, all_cameras)
        for k in range(0, len(windows), _PART_WINDOWS)
    ]


def windows_of(uris: Sequence[str], log_format: str, config: WindowConfig) -> tuple[list[WindowRef], list[BadLog]]:
    """All windows of the logs at or below some paths, each once, and the logs that cannot be listed.

    Videos of one name that begin at one time are told apart by where they lie, though their scenes share an id.

    Raises:
        ConfigError: no log there, or an unknown format. DataError: nothing is there.
    """
    windows: dict[tuple[str, str], WindowRef] = {}
    bad: list[BadLog] = []
    for uri in uris:
        found, _ = discover(uri, log_format)
        for log in (log for place in found for log in list_logs(place)):
            if isinstance(log, BadLog):
                bad.append(log)
            else:
                windows |= {(window.scene_id, log.uri): window for window in list_windows(log, config)}
    if not windows and not bad:
        raise ConfigError(f"no log was recognised below {', '.join(uris)}")
    return list(windows.values()), bad


def read_part(part: Part, mapping: InfraredMapping) -> Iterator[tuple[Shot, int, InfraredPixels | Fault]]:
    """Each picture of a part, how many its window has (1 without one), and its pixels or (code, message)."""
    for uri in part.pictures:
        yield Shot(uri), 1, read_shots([Shot(uri)], mapping)[0]
    for window in part.windows:
        try:
            scene = cut_window(_cached_log(window.log), window, WindowConfig(keyframe_hz=part.keyframe_hz))
        except DataError as error:
            yield Shot(window.log.uri, scene_id=window.scene_id), 1, (error.code, error.message)
            continue
        except storage_errors() as error:
            yield Shot(window.log.uri, scene_id=window.scene_id), 1, (_UNREAD, f"{window.log.uri}: {error}")
            continue
        except Exception as error:  # noqa: BLE001 - one log that we did not foresee must not end the run
            told = f"{window.log.uri}: {type(error).__name__}: {error}; please report it"
            yield Shot(window.log.uri, scene_id=window.scene_id), 1, ("internal_error", told)
            continue
        frames = [frame for frame in scene.frames if part.all_cameras or frame.modality == "infrared"]
        if not frames and window.log.reader == VideoReader.name:
            told = f"{window.log.uri}: holds no picture where its length promises some; it may be cut"
            yield Shot(window.log.uri, scene_id=window.scene_id), 1, ("damaged_video", told)
        elif not frames:
            told = f"{window.log.uri}: scene {window.scene_id}: no picture of an infrared camera"
            yield Shot(window.log.uri, scene_id=window.scene_id), 0, (NO_INFRARED, told)
        shots = [Shot.of(frame, window.scene_id) for frame in frames]
        for start in range(0, len(shots), _SHOTS_AT_ONCE):
            few = shots[start : start + _SHOTS_AT_ONCE]
            for shot, read in zip(few, read_shots(few, mapping), strict=True):
                yield shot, len(shots), read


def read_shots(shots: Sequence[Shot], mapping: InfraredMapping) -> list[InfraredPixels | Fault]:
    """Pixels of each picture, or (code, message). A recording (video, MCAP, compressed archive) is opened once.

    Whatever holds a picture, more than 8 bits become 8 by the mapping.
    """

    def from_bytes(data: bytes, frame: Frame) -> InfraredPixels | DataError:
        try:
            return decode_infrared(data, picture_name(frame), mapping, upright=frame.intrinsics is None)
        except DataError as error:
            return error

    def from_pixels(picture: Picture, frame: Frame) -> InfraredPixels:
        return infrared_of(picture.rgb_HWC)

    recorded = [shot for shot in shots if shot.container != "file"]
    read = read_each([shot.frame() for shot in recorded], PictureLimits(), from_bytes, from_pixels)
    held = dict(zip(recorded, read, strict=True))
    found: list[InfraredPixels | Fault] = []
    for shot in shots:
        try:
            pixels = held[shot] if shot in held else read_infrared(shot.uri, mapping)
        except DataError as error:
            pixels = error
        except storage_errors() as error:
            pixels = DataError(_UNREAD, f"{shot.name}: {error}")
        found.append((pixels.code, pixels.message) if isinstance(pixels, DataError) else pixels)
    return found


@lru_cache(maxsize=2)
def _cached_log(ref: LogRef) -> DrivingLog:
    """Neighbouring windows share a log."""
    return read_log(ref)
