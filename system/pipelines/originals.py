"""The pictures of a mined scene in the log that it came from, as it lies there now. Free of Ray."""

from __future__ import annotations

import time
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from system.errors import ConfigError, DataError, storage_errors
from system.logs import files
from system.logs.fingerprint import log_fingerprint
from system.logs.pixels import PictureLimits, read_window_pictures
from system.logs.registry import read_log
from system.logs.windows import WindowConfig, cut_window
from system.records import DrivingLog, Frame, LogRef, WindowRef

# A page asks for many frames of a log at once: its files are looked at again only after so long.
LOOK_AGAIN_S = 3.0


def scene_frames(row: Mapping[str, Any]) -> tuple[Frame, ...]:
    """The keyframes of a scene, in order of time and camera.

    Args:
        row: of the store, with reader, log_uri, log_id, source, scene_id, t_start_ns and t_end_ns. Nothing else says
            what is opened.
    Raises:
        DataError: the log is not where it was, or cannot be read.
    """
    # Readers look a log up by name; with its times left open, all of its scenes share what was read.
    ref = LogRef(row["reader"], row["log_uri"], row["log_id"], row["source"], 0, 0)
    window = WindowRef(row["scene_id"], ref, row["t_start_ns"], row["t_end_ns"])
    try:
        log = _log(ref, _fingerprint(ref, int(time.monotonic() / LOOK_AGAIN_S)))
        return cut_window(log, window, WindowConfig()).frames
    except ConfigError as error:
        raise DataError("unreadable_file", f"{row['log_uri']}: {error}") from error
    except storage_errors() as error:
        raise DataError("unreadable_file", f"{row['log_uri']}: {error}") from error


def read_original(frame: Frame, limits: PictureLimits) -> NDArray[np.uint8]:
    """The picture of a frame, uint8 [H, W, 3].

    Raises:
        DataError: as `read_window_pictures`.
    """
    picture = read_window_pictures([frame], limits)[0]
    if isinstance(picture, DataError):
        raise picture
    return picture.rgb_HWC


@lru_cache(maxsize=64)
def _fingerprint(ref: LogRef, _: int) -> str:
    files.filesystem(ref.uri)[0].invalidate_cache()  # what was listed before says nothing of now
    return log_fingerprint(ref, shares_files=False).text


@lru_cache(maxsize=16)
def _log(ref: LogRef, _: str) -> DrivingLog:
    """Remembered by the fingerprint: a log with another content is read again."""
    return read_log(ref)
