"""Cut logs into scene windows of a set length and stride."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from pydantic import Field

from system.config import FrozenConfig
from system.records import NO_CALIBRATION, NO_PICTURES, DrivingLog, Frame, LogRef, SceneWindow, WindowRef, scene_id

NS_PER_S = 1_000_000_000


class WindowConfig(FrozenConfig):
    """How logs are cut.

    length_s, stride_s: of the windows; a stride under the length makes them overlap.
    keyframe_hz: at most so many pictures a second and camera are kept, evenly in time.
    """

    length_s: float = Field(default=4.0, gt=0, le=3600)
    stride_s: float = Field(default=4.0, gt=0, le=3600)
    keyframe_hz: float = Field(default=2.0, gt=0, le=1000)

    @classmethod
    def of_options(cls, window_s: float, stride_s: float | None, keyframe_hz: float) -> WindowConfig:
        """From what a user typed; without a stride, windows follow each other.

        Raises:
            ConfigError: a value is out of range.
        """
        stride = window_s if stride_s is None else stride_s
        return cls.parse({"length_s": window_s, "stride_s": stride, "keyframe_hz": keyframe_hz}, "options")

    @property
    def length_ns(self) -> int:
        return round(self.length_s * NS_PER_S)

    @property
    def stride_ns(self) -> int:
        return round(self.stride_s * NS_PER_S)


def list_windows(log: LogRef, config: WindowConfig) -> Iterator[WindowRef]:
    """Windows that cover the log from its first to its last moment; the last may be cut short by the log's end."""
    span_ns = log.t_end_ns - log.t_start_ns
    count = 1 + max(0, -(-(span_ns - config.length_ns + 1) // config.stride_ns))
    for k in range(count):
        start_ns = log.t_start_ns + k * config.stride_ns
        end_ns = min(start_ns + config.length_ns, log.t_end_ns + 1)
        yield WindowRef(scene_id(log.source, log.log_id, start_ns, config.length_ns), log, start_ns, end_ns)


def cut_window(log: DrivingLog, window: WindowRef, config: WindowConfig) -> SceneWindow:
    """The part of a log inside one window, its pictures thinned to keyframes."""
    frames = tuple(f for f in log.frames if window.t_start_ns <= f.t_ns < window.t_end_ns)
    kept = _keyframes(frames, window.t_start_ns, config.keyframe_hz)
    ego = None if log.ego is None else log.ego.between(window.t_start_ns, window.t_end_ns)
    agents = None
    if log.agents is not None:
        parts = (track.between(window.t_start_ns, window.t_end_ns) for track in log.agents)
        agents = tuple(part for part in parts if part is not None)
    flags = set(log.flags) - {NO_PICTURES, NO_CALIBRATION}
    if not kept:
        flags.add(NO_PICTURES)
    elif not all(frame.is_calibrated for frame in kept):
        flags.add(NO_CALIBRATION)
    return SceneWindow(
        ref=window,
        frames=kept,
        ego=ego,
        agents=agents,
        flags=tuple(sorted(flags)),
        description=log.description,
        truth_tags=log.truth_tags,
        group=log.group,
    )


def _keyframes(frames: tuple[Frame, ...], t_start_ns: int, keyframe_hz: float) -> tuple[Frame, ...]:
    """The first picture of each camera in each slot of 1 / keyframe_hz seconds."""
    # Half a slot of tolerance: cameras of a 2 Hz log jitter by tens of milliseconds around the slot's edge.
    slot_ns = NS_PER_S / keyframe_hz
    last_taken_ns: dict[str, int] = {}
    kept = []
    for frame in sorted(frames, key=lambda f: (f.t_ns, f.camera)):
        last_ns = last_taken_ns.get(frame.camera)
        if last_ns is None or frame.t_ns - last_ns >= 0.75 * slot_ns:
            last_taken_ns[frame.camera] = frame.t_ns
            kept.append(frame)
    return tuple(kept)


def median_step_ns(t_ns: np.ndarray) -> int:
    """Median time between neighbours (ns); 0 for fewer than two."""
    return int(np.median(np.diff(t_ns))) if len(t_ns) > 1 else 0
