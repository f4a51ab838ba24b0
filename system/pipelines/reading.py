"""The read stage: metadata, pixels and physics of a few scenes, every fault caught where it happens."""

from __future__ import annotations

import io
import json
import time
import traceback
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import pyarrow as pa
import ray
from numpy.typing import NDArray
from PIL import Image

from system.backbones.preprocess import resize_for_tower
from system.errors import LASTING_OUTAGE, OUTAGE_CODES, DataError, storage_errors
from system.logs.pixels import Picture, PictureLimits, read_window_pictures
from system.logs.registry import read_log
from system.logs.windows import WindowConfig, cut_window
from system.miner.kinematics import KinematicConfig
from system.miner.motion_tags import motion_tags
from system.miner.risk import RiskConfig
from system.miner.scene_risk import SceneRisk, score_scene
from system.pipelines import metrics
from system.pipelines.config import ThumbnailConfig
from system.pipelines.crashes import MAX_ATTEMPTS
from system.pipelines.plan import Chunk
from system.pipelines.rows import READ_SCHEMA
from system.records import DrivingLog, EgoTrack, Frame, LogRef, SceneWindow, WindowRef
from system.report.birds_eye import birds_eye_of

_NO_EGO = (float("nan"),) * 3


@dataclass(frozen=True)
class ReadSettings:
    """What a read task has to know. input_size: (height, width) of the tower's pictures."""

    input_size: tuple[int, int]
    windows: WindowConfig
    limits: PictureLimits
    thumbnails: ThumbnailConfig
    risk: RiskConfig
    kinematics: KinematicConfig


def read_chunk(chunk: Chunk, settings: ReadSettings, ledger: ray.actor.ActorHandle | None) -> pa.Table:
    """All scenes of a chunk as rows of READ_SCHEMA, the bad ones marked and without pictures."""
    rows = []
    finished: str | None = None
    for window in chunk.windows:
        attempts: Any = 1 if ledger is None else ray.get(ledger.begin.remote(window.scene_id, finished))
        if attempts > MAX_ATTEMPTS:
            message = f"{window.log.uri}: {attempts - 1} workers died reading scene {window.scene_id}; not tried again"
            rows.append(_bad_row(window, DataError("worker_crash", message)))
        else:
            rows.append(_read_or_explain(window, settings, window.scene_id in chunk.last_tries))
            metrics.worked("read", 1, rows[-1]["num_pictures"], rows[-1]["read_s"])
        finished = window.scene_id
    if ledger is not None and finished is not None:
        ledger.end.remote(finished)
    return pa.Table.from_pylist(rows, schema=READ_SCHEMA)


def _read_or_explain(window: WindowRef, settings: ReadSettings, is_last_try: bool) -> dict[str, Any]:
    """The row of a scene, or the row that says why there is none."""
    try:
        return _read_scene(window, settings, is_last_try)
    except DataError as error:
        return _bad_row(window, _lasting(error) if is_last_try else error)
    except storage_errors() as error:
        away = DataError("unreadable_file", f"{window.log.uri}: {type(error).__name__}: {error}")
        return _bad_row(window, _lasting(away) if is_last_try else away)
    except Exception as error:  # noqa: BLE001 - one scene that we did not foresee must not end a fleet's night
        where = traceback.extract_tb(error.__traceback__)[-1]
        message = (
            f"{window.log.uri}: {type(error).__name__}: {error} (at {where.name}:{where.lineno}); please report it"
        )
        return _bad_row(window, DataError("internal_error", message))


def _read_scene(window: WindowRef, settings: ReadSettings, is_last_try: bool) -> dict[str, Any]:
    started_s = time.perf_counter()
    scene = cut_window(_cached_log(window.log), window, settings.windows)
    risk = score_scene(scene, settings.risk, settings.kinematics)
    worst_ns = risk.agents[0].t_ns if risk.agents else (window.t_start_ns + window.t_end_ns) // 2
    # Scaled decoding has to leave enough for the tower and for the small pictures.
    min_side = max(*settings.input_size, settings.thumbnails.long_side_px * 9 // 16)
    pictures = read_window_pictures(scene.frames, settings.limits, min_side)
    good = [(f, p) for f, p in zip(scene.frames, pictures, strict=True) if not isinstance(p, DataError)]
    bad = [(f, p) for f, p in zip(scene.frames, pictures, strict=True) if isinstance(p, DataError)]
    faults = [_fault("frame", f"{frame.uri}#{frame.locator}".rstrip("#"), error) for frame, error in bad]
    away = [error for _, error in bad if error.code in OUTAGE_CODES]
    if away and not is_last_try:
        # Whole at the next run rather than committed without what the storage kept back.
        message = f"{window.log.uri}: {len(away)} pictures of scene {window.scene_id} were not given: {away[0]}"
        return _bad_row(window, DataError(away[0].code, message), faults)
    if scene.frames and not good:
        codes = sorted({error.code for _, error in bad})
        message = (
            f"{window.log.uri}: none of the {len(bad)} pictures of scene {window.scene_id} is readable: {bad[0][1]}"
        )
        lost = DataError(codes[0] if len(codes) == 1 else "no_readable_picture", message)
        return _bad_row(window, _lasting(lost), faults)
    return _identity(window) | {
        "cameras": sorted({frame.camera for frame, _ in good}),
        "num_pictures": len(good),
        "num_bad_pictures": len(bad),
        "flags": list(scene.flags),
        "description": scene.description,
        "truth_tags": list(scene.truth_tags),
        "track_tags": json.dumps(motion_tags(scene)),
        "physics_risk": risk.risk,
        "physics_source": risk.source,
        "risk_detail": json.dumps(asdict(risk)),
        "min_ttc_s": risk.min_ttc_s,
        "birds_eye": _birds_eye_json(scene, risk),
        "is_bad": False,
        "faults": faults,
        "pictures": _small_pictures(good, worst_ns, settings.thumbnails),
        "images": b"".join(resize_for_tower(p.rgb_HWC, settings.input_size).tobytes() for _, p in good),
        "time_s": [(frame.t_ns - window.t_start_ns) / 1e9 for frame, _ in good],
        "intrinsics": [value for frame, p in good for value in _scaled_intrinsics(frame, p, settings.input_size)],
        "ego_from_camera": [value for frame, _ in good for value in frame.ego_from_camera or np.eye(4).ravel()],
        "is_calibrated": [frame.is_calibrated for frame, _ in good],
        "ego": list(_ego_motion(scene.ego)),
        "read_s": time.perf_counter() - started_s,
    }


@lru_cache(maxsize=2)
def _cached_log(ref: LogRef) -> DrivingLog:
    """A log's metadata; neighbouring windows share it."""
    return read_log(ref)


def _identity(window: WindowRef) -> dict[str, Any]:
    return {
        "scene_id": window.scene_id,
        "source": window.log.source,
        "log_id": window.log.log_id,
        "log_uri": window.log.uri,
        "reader": window.log.reader,
        "t_start_ns": window.t_start_ns,
        "t_end_ns": window.t_end_ns,
    }


def _bad_row(window: WindowRef, error: DataError, faults: Sequence[dict[str, str]] = ()) -> dict[str, Any]:
    return _identity(window) | {
        "is_bad": True,
        "faults": [_fault("scene", window.log.uri, error), *faults],
        "num_pictures": 0,
        "num_bad_pictures": len(faults),
        "read_s": 0.0,
    }


def _lasting(error: DataError) -> DataError:
    """What the last try of a scene met: an outage is then a fault like any other."""
    return DataError(LASTING_OUTAGE, error.message) if error.code in OUTAGE_CODES else error


def _fault(level: str, uri: str, error: DataError) -> dict[str, str]:
    return {"level": level, "uri": uri, "stage": "read", "code": error.code, "message": error.message}


def _birds_eye_json(scene: SceneWindow, risk: SceneRisk) -> str | None:
    plot = birds_eye_of(scene, risk)
    return None if plot is None else plot.to_json()


def _scaled_intrinsics(frame: Frame, picture: Picture, input_size: tuple[int, int]) -> Sequence[float]:
    """The camera matrix for the picture squashed to the tower's input; the identity where it is unknown."""
    if frame.intrinsics is None:
        return np.eye(3).ravel().tolist()
    scale = np.array([input_size[1] / picture.full_width, input_size[0] / picture.full_height, 1.0])
    return (np.array(frame.intrinsics).reshape(3, 3) * scale[:, None]).ravel().tolist()


def _ego_motion(ego: EgoTrack | None) -> tuple[float, ...]:
    """(speed m/s, yaw rate rad/s, acceleration m/s^2) over the last second of the window; NaN where unknown."""
    if ego is None or len(ego.t_ns) < 2:
        return _NO_EGO
    last = ego.t_ns >= ego.t_ns[-1] - 1_000_000_000
    if last.sum() < 2:
        last[-2:] = True
    t_s = (ego.t_ns[last] - ego.t_ns[-1]) / 1e9
    yaw, speed = np.unwrap(ego.states[last, 3]), ego.states[last, 4]
    return float(speed[-1]), float(np.polyfit(t_s, yaw, 1)[0]), float(np.polyfit(t_s, speed, 1)[0])


def _small_pictures(
    good: Sequence[tuple[Frame, Picture]], worst_ns: int, config: ThumbnailConfig
) -> list[dict[str, Any]]:
    """JPEGs of the moment that matters from every camera; of a single camera, a strip over the window."""
    by_camera: dict[str, list[tuple[Frame, Picture]]] = {}
    for frame, picture in good:
        by_camera.setdefault(frame.camera, []).append((frame, picture))
    if len(by_camera) == 1:
        only = next(iter(by_camera.values()))
        steps = np.unique(np.linspace(0, len(only) - 1, min(4, len(only))).round().astype(int))
        chosen = [only[k] for k in steps]
    else:
        chosen = [min(frames, key=lambda pair: abs(pair[0].t_ns - worst_ns)) for frames in by_camera.values()]
    return [_small_picture(frame, picture, config) for frame, picture in chosen[: config.max_pictures]]


def _small_picture(frame: Frame, picture: Picture, config: ThumbnailConfig) -> dict[str, Any]:
    height, width = picture.rgb_HWC.shape[:2]
    scale = min(1.0, config.long_side_px / max(height, width))
    size_HW = (max(1, round(height * scale)), max(1, round(width * scale)))
    small: NDArray[np.uint8] = resize_for_tower(picture.rgb_HWC, size_HW) if scale < 1.0 else picture.rgb_HWC
    buffer = io.BytesIO()
    Image.fromarray(small).save(buffer, "JPEG", quality=config.jpeg_quality)
    return {
        "camera": frame.camera,
        "t_ns": frame.t_ns,
        "width": size_HW[1],
        "height": size_HW[0],
        "jpeg": buffer.getvalue(),
    }
