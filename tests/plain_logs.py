"""Write small logs in the plain layout, with drawn pictures or given ones, for tests and benchmarks."""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

CAMERAS = ("CAM_FRONT", "CAM_BACK")


def write_plain_log(
    root: Path,
    log_id: str,
    seconds: float = 8.0,
    hz: float = 2.0,
    cameras: Sequence[str] = CAMERAS,
    pictures: Sequence[Path] = (),
    with_ego: bool = True,
    with_agents: bool = True,
    with_walker: bool = True,
    seed: int = 0,
) -> Path:
    """One log: the ego drives straight at 10 m/s, a lead ahead of it brakes to a stop.

    Args:
        pictures: real pictures to link to, in turn; without them, small ones are drawn.
    Returns:
        The log's folder.
    """
    folder = root / log_id
    (folder / "images").mkdir(parents=True)
    rng = np.random.default_rng(seed)
    frames = round(seconds * hz)
    images = []
    for frame in range(frames):
        for number, camera in enumerate(cameras):
            path = folder / "images" / f"{camera}_{frame:04d}.jpg"
            if pictures:
                picture = pictures[(frame * len(cameras) + number + 7 * seed) % len(pictures)]
                path = path.with_suffix(picture.suffix)
                os.symlink(picture, path)
                with Image.open(picture) as opened:
                    size = opened.size
            else:
                size = draw_picture(path, rng)
            images.append(
                {
                    "frame": frame,
                    "camera": camera,
                    "path": str(path.relative_to(folder)),
                    "width": size[0],
                    "height": size[1],
                }
            )
    log = {
        "log_id": log_id,
        "dataset": root.name,
        "n_frames": frames,
        "duration_s": (frames - 1) / hz,
        "hz": hz,
        "description": "",
        "ego_size": [4.1, 1.7, 1.6],
        "ego_reference": "box centre",
        "cameras": list(cameras),
        "images": images,
    }
    (folder / "log.json").write_text(json.dumps(log))
    t_s = np.arange(frames) / hz
    if with_ego:
        rows = [(k, t, 10 * t, 0.0, 0.0, 0.0, 10.0) for k, t in enumerate(t_s)]
        _write_csv(folder / "ego.csv", "frame,t,x,y,z,yaw,v", rows)
    if with_agents:
        speed = np.maximum(10 - 3 * t_s, 0)
        x = 20 + np.concatenate([[0], np.cumsum(speed[:-1] / hz)])
        lead = [(k, t, "lead", "vehicle.car", x[k], 0, 0.8, 0, 4.5, 1.8, 1.6, speed[k], 0) for k, t in enumerate(t_s)]
        walker = [
            (k, t, "walker", "pedestrian", 30, 8 - t, 0.9, -1.57, 0.6, 0.6, 1.8, 0, -1) for k, t in enumerate(t_s)
        ]
        columns = "frame,t,track_id,category,x,y,z,yaw,length,width,height,vx,vy"
        _write_csv(folder / "agents.csv.gz", columns, lead + (walker if with_walker else []))
    return folder


def draw_picture(path: Path, rng: np.random.Generator, size: tuple[int, int] = (320, 180)) -> tuple[int, int]:
    """A road-like picture: sky, ground and a few boxes. Returns its (width, height)."""
    width, height = size
    picture = np.zeros((height, width, 3), np.uint8)
    picture[: height // 2] = rng.integers(100, 220, 3)
    picture[height // 2 :] = rng.integers(40, 90, 3)
    for _ in range(5):
        x, y = int(rng.integers(0, width - 40)), int(rng.integers(height // 3, height - 40))
        picture[y : y + 30, x : x + 40] = rng.integers(0, 255, 3)
    Image.fromarray(picture).save(path, "JPEG", quality=85)
    return size


def _write_csv(path: Path, header: str, rows: Sequence[Sequence[object]]) -> None:
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(header.split(","))
    writer.writerows(rows)
    data = text.getvalue().encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
