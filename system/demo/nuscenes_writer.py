"""Write recordings as nuScenes tables: what the nuScenes reader and other people's code read."""

from __future__ import annotations

import hashlib
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from system.demo.recording import Keyframe, Recording
from system.demo.rig import HEIGHT, RIG, WIDTH

VERSION = "v1.0-demo"
JPEG_QUALITY = 88
# Demo logs begin on this day, an hour apart.
_EPOCH_US = 1_767_258_000_000_000
_CATEGORIES = {
    "car": "vehicle.car",
    "truck": "vehicle.truck",
    "bus": "vehicle.bus.rigid",
    "motorcycle": "vehicle.motorcycle",
    "bicycle": "vehicle.bicycle",
    "pedestrian": "human.pedestrian.adult",
}
_TABLES = (
    "attribute", "calibrated_sensor", "category", "ego_pose", "instance", "log", "map", "sample", "sample_annotation",
    "sample_data", "scene", "sensor", "visibility", "scene_tags",
)  # fmt: skip

Rows = dict[str, list[dict[str, Any]]]


def picture_path(channel: str, recording: Recording, keyframe: Keyframe) -> str:
    """Where a picture lies below the root."""
    return f"samples/{channel}/{recording.config.name}__{channel}__{_stamp_us(recording, keyframe.t_s)}.jpg"


def write_pictures(root: Path, recording: Recording) -> int:
    """Write all pictures of a recording; returns how many."""
    count = 0
    for keyframe in recording.keyframes:
        for channel, picture in keyframe.pictures.items():
            path = root / picture_path(channel, recording, keyframe)
            path.parent.mkdir(parents=True, exist_ok=True)
            buffer = io.BytesIO()
            Image.fromarray(picture).save(buffer, "JPEG", quality=JPEG_QUALITY)
            path.write_bytes(buffer.getvalue())
            count += 1
    return count


def scene_rows(recording: Recording, tags: list[str], description: str) -> Rows:
    """The rows of one recording, by table."""
    rows: Rows = {table: [] for table in _TABLES}
    name = recording.config.name
    town = f"demo-town-{recording.config.town_seed}"
    log = {"logfile": name, "vehicle": "demo", "date_captured": "2026-01-01", "location": town}
    rows["log"].append({"token": _token("log", name), **log})
    samples = [_token("sample", name, k) for k in range(len(recording.keyframes))]
    rows["scene"].append(
        {
            "token": _token("scene", name),
            "log_token": _token("log", name),
            "nbr_samples": len(samples),
            "first_sample_token": samples[0],
            "last_sample_token": samples[-1],
            "name": name,
            "description": description,
        }
    )
    rows["scene_tags"].append({"scene": name, "tags": tags})
    for camera in RIG:
        rows["calibrated_sensor"].append(
            {
                "token": _token("calibration", name, camera.channel),
                "sensor_token": _token("sensor", camera.channel),
                "translation": list(camera.at_m),
                "rotation": list(camera.rotation_wxyz),
                "camera_intrinsic": camera.intrinsics.tolist(),
            }
        )
    for k, keyframe in enumerate(recording.keyframes):
        stamp = _stamp_us(recording, keyframe.t_s)
        rows["sample"].append(
            {
                "token": samples[k],
                "timestamp": stamp,
                "prev": samples[k - 1] if k else "",
                "next": samples[k + 1] if k + 1 < len(samples) else "",
                "scene_token": _token("scene", name),
            }
        )
        for camera in RIG:
            rows["sample_data"].append(_sample_data(recording, camera.channel, k, samples[k], stamp))
            rows["ego_pose"].append(
                {
                    "token": _token("pose", name, camera.channel, k),
                    "timestamp": stamp,
                    "rotation": _about_z(keyframe.pose[2]),
                    "translation": [round(keyframe.pose[0], 4), round(keyframe.pose[1], 4), 0.0],
                }
            )
    _add_annotations(rows, recording, samples)
    return rows


def write_tables(root: Path, parts: list[Rows]) -> None:
    """Join the rows of all recordings of a root and write its tables."""
    rows: Rows = {table: [row for part in parts for row in part[table]] for table in _TABLES}
    rows["sensor"] = [{"token": _token("sensor", c.channel), "channel": c.channel, "modality": "camera"} for c in RIG]
    rows["category"] = [
        {"token": _token("category", name), "name": name, "description": ""} for name in _CATEGORIES.values()
    ]
    rows["visibility"] = [
        {"token": str(k + 1), "level": f"v{low}-{low + 20 if k else 40}", "description": ""}
        for k, low in enumerate((0, 40, 60, 80))
    ]
    (root / "maps").mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(root / "maps" / "empty.png")
    logs = [row["token"] for row in rows["log"]]
    rows["map"] = [
        {"token": _token("map"), "log_tokens": logs, "category": "semantic_prior", "filename": "maps/empty.png"}
    ]
    folder = root / VERSION
    folder.mkdir(parents=True, exist_ok=True)
    for table in _TABLES:
        (folder / f"{table}.json").write_text(json.dumps(rows[table], indent=0), encoding="utf-8")


def _sample_data(recording: Recording, channel: str, k: int, sample: str, stamp: int) -> dict[str, Any]:
    name, last = recording.config.name, len(recording.keyframes) - 1
    return {
        "token": _token("data", name, channel, k),
        "sample_token": sample,
        "ego_pose_token": _token("pose", name, channel, k),
        "calibrated_sensor_token": _token("calibration", name, channel),
        "timestamp": stamp,
        "fileformat": "jpg",
        "is_key_frame": True,
        "height": HEIGHT,
        "width": WIDTH,
        "filename": picture_path(channel, recording, recording.keyframes[k]),
        "prev": _token("data", name, channel, k - 1) if k else "",
        "next": _token("data", name, channel, k + 1) if k < last else "",
    }


def _add_annotations(rows: Rows, recording: Recording, samples: list[str]) -> None:
    name = recording.config.name
    seen: dict[str, list[tuple[int, Any]]] = {}
    for k, keyframe in enumerate(recording.keyframes):
        for box in keyframe.boxes:
            seen.setdefault(box.user, []).append((k, box))
    for user, boxes in seen.items():
        instance = _token("instance", name, user)
        tokens = [_token("annotation", name, user, k) for k, _ in boxes]
        rows["instance"].append(
            {
                "token": instance,
                "category_token": _token("category", _CATEGORIES[boxes[0][1].kind]),
                "nbr_annotations": len(tokens),
                "first_annotation_token": tokens[0],
                "last_annotation_token": tokens[-1],
            }
        )
        for n, (k, box) in enumerate(boxes):
            length, width, height = box.size
            rows["sample_annotation"].append(
                {
                    "token": tokens[n],
                    "sample_token": samples[k],
                    "instance_token": instance,
                    "visibility_token": str(1 + sum(box.visible >= limit for limit in (0.4, 0.6, 0.8))),
                    "attribute_tokens": [],
                    "translation": [round(box.x, 4), round(box.y, 4), round(height / 2, 4)],
                    "size": [width, length, height],
                    "rotation": _about_z(box.yaw),
                    "prev": tokens[n - 1] if n else "",
                    "next": tokens[n + 1] if n + 1 < len(tokens) else "",
                    "num_lidar_pts": 0,
                    "num_radar_pts": 0,
                }
            )


def _stamp_us(recording: Recording, t_s: float) -> int:
    return _EPOCH_US + (recording.config.seed % 10_000) * 3_600_000_000 + round(t_s * 1e6)


def _about_z(yaw: float) -> list[float]:
    return [round(float(np.cos(yaw / 2)), 9), 0.0, 0.0, round(float(np.sin(yaw / 2)), 9)]


def _token(*parts: object) -> str:
    return hashlib.blake2b("\x1f".join(map(str, parts)).encode(), digest_size=16).hexdigest()
