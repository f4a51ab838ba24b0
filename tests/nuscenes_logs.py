"""Write a small nuScenes root: two scenes of one drive, two cameras with pictures, a lidar without its files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from tests.plain_logs import draw_picture

VERSION = "v1.0-mini"
CAMERAS = ("CAM_FRONT", "CAM_BACK")
SIZE, FOCAL_PX = (320, 180), 250.0
START_US, STEP_US = 1_532_402_927_600_000, 500_000
# Forward: z forward, x right, y down. Backward: turned by half a turn about up.
_TURNS = {"CAM_FRONT": (0.5, -0.5, 0.5, -0.5), "CAM_BACK": (0.5, -0.5, -0.5, 0.5), "LIDAR_TOP": (1.0, 0.0, 0.0, 0.0)}


def write_nuscenes_root(root: Path, scenes: int = 2, samples: int = 20) -> Path:
    """The ego drives along x at 5 m/s; a car drives 12 m ahead of it, a walker stands beside the road."""
    tables: dict[str, list[dict[str, Any]]] = {
        "sensor": [
            {"token": f"sensor-{c}", "channel": c, "modality": "camera" if c in CAMERAS else "lidar"} for c in _TURNS
        ],
        "category": [
            {"token": f"category-{name}", "name": name, "description": ""}
            for name in ("vehicle.car", "human.pedestrian.adult")
        ],
        "attribute": [{"token": "attribute-1", "name": "vehicle.moving", "description": ""}],
        "visibility": [{"token": "4", "level": "v80-100", "description": ""}],
        "log": [{"token": "log-1", "logfile": "n1", "vehicle": "n1", "date_captured": "2018", "location": "town"}],
        "map": [{"token": "map-1", "log_tokens": ["log-1"], "category": "semantic_prior", "filename": "maps/1.png"}],
    }
    rng = np.random.default_rng(0)
    for scene in range(scenes):
        _add_scene(root, tables, scene, samples, rng)
    (root / "maps").mkdir()
    draw_picture(root / "maps" / "1.png", rng)
    (root / VERSION).mkdir()
    for table, rows in tables.items():
        (root / VERSION / f"{table}.json").write_text(json.dumps(rows))
    return root


def _add_scene(root: Path, tables: dict[str, list[dict[str, Any]]], scene: int, count: int, rng: Any) -> None:
    def add(table: str, row: dict[str, Any]) -> None:
        tables.setdefault(table, []).append(row)

    name = f"scene-{scene:04d}"
    tokens = _chain([f"sample-{scene}-{k}" for k in range(count)])
    about = {"name": name, "description": "a test drive", "log_token": "log-1", "nbr_samples": count}
    ends = {"first_sample_token": tokens[0]["token"], "last_sample_token": tokens[-1]["token"]}
    add("scene", {"token": name, **about, **ends})
    for channel, turn in _TURNS.items():
        k = [[FOCAL_PX, 0, SIZE[0] / 2], [0, FOCAL_PX, SIZE[1] / 2], [0, 0, 1]] if channel in CAMERAS else []
        mount = {"translation": [1.5, 0.0, 1.5], "rotation": list(turn), "camera_intrinsic": k}
        add("calibrated_sensor", {"token": f"rig-{scene}-{channel}", "sensor_token": f"sensor-{channel}", **mount})
    for k, links in enumerate(tokens):
        t_us = START_US + scene * 60_000_000 + k * STEP_US
        add("sample", {**links, "timestamp": t_us, "scene_token": name})
        for channel in _TURNS:
            is_camera = channel in CAMERAS
            file = f"samples/{channel}/{name}_{t_us}.{'jpg' if is_camera else 'pcd.bin'}"
            data = _chain([f"data-{scene}-{channel}-{n}" for n in range(count)])[k]
            if is_camera:
                (root / file).parent.mkdir(parents=True, exist_ok=True)
                draw_picture(root / file, rng, SIZE)
            pose = f"pose-{scene}-{channel}-{k}"
            place = [5.0 * k * STEP_US / 1e6, 0.0, 0.0]
            add("ego_pose", {"token": pose, "timestamp": t_us, "rotation": [1.0, 0.0, 0.0, 0.0], "translation": place})
            row = {**data, "sample_token": links["token"], "ego_pose_token": pose, "timestamp": t_us, "filename": file}
            row |= {"calibrated_sensor_token": f"rig-{scene}-{channel}", "is_key_frame": True}
            row |= {"fileformat": "jpg" if is_camera else "pcd"}
            row |= {"width": SIZE[0], "height": SIZE[1]} if is_camera else {"width": 0, "height": 0}
            add("sample_data", row)
    for user, category, size in (
        ("car", "vehicle.car", [1.8, 4.5, 1.6]),
        ("walker", "human.pedestrian.adult", [0.6, 0.6, 1.8]),
    ):
        boxes = _chain([f"box-{scene}-{user}-{k}" for k in range(count)])
        instance = {"token": f"instance-{scene}-{user}", "category_token": f"category-{category}"}
        ends = {"first_annotation_token": boxes[0]["token"], "last_annotation_token": boxes[-1]["token"]}
        add("instance", {**instance, "nbr_annotations": count, **ends})
        for k, links in enumerate(boxes):
            x = 5.0 * k * STEP_US / 1e6 + 12.0 if user == "car" else 30.0
            place = [x, 0.0 if user == "car" else 4.0, size[2] / 2]
            row = {**links, "sample_token": tokens[k]["token"], "instance_token": instance["token"], "size": size}
            row |= {"translation": place, "rotation": [1.0, 0.0, 0.0, 0.0], "visibility_token": "4"}
            row |= {"attribute_tokens": [], "num_lidar_pts": 1, "num_radar_pts": 0}
            add("sample_annotation", row)


def _chain(tokens: list[str]) -> list[dict[str, str]]:
    padded = ["", *tokens, ""]
    return [{"token": token, "prev": padded[k], "next": padded[k + 2]} for k, token in enumerate(tokens)]
