"""Make demo logs: all scenes, side by side in processes, each split in a root of its own."""

from __future__ import annotations

import json
import multiprocessing
import tempfile
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import cv2

from system.demo.coco_writer import outline_rows, write_coco
from system.demo.config import SceneConfig
from system.demo.nuscenes_writer import scene_rows, write_pictures, write_tables
from system.demo.recording import record
from system.demo.truth import scene_truth
from system.errors import ConfigError

TRUTH = "truth.json"
_HAZARD_WORDS = {
    "none": "",
    "hard_braking_lead": "lead brakes hard",
    "cut_in": "vehicle cuts in",
    "jaywalker": "pedestrian walks into the road",
    "red_light_runner": "car runs a red light",
}


def make_demo_logs(
    out: Path, scenes: list[SceneConfig], processes: int, on_done: Callable[[str, int], None]
) -> dict[str, Any]:
    """Write `<out>/train` and `<out>/test` in nuScenes' form; the same scenes give the same bytes.

    Args:
        on_done: told the name and number of pictures of each scene.
    Returns:
        {scenes, pictures, boxes, hazards: {kind: least TTC s}}.
    Raises:
        ConfigError: the folder is not empty, or SUMO or panda3d is missing.
    """
    if out.exists() and any(out.iterdir()):
        raise ConfigError(f"--out {out} is not empty; name a new folder, or remove it first")
    out.mkdir(parents=True, exist_ok=True)
    made: dict[str, _Made] = {}
    # A fresh process each: SUMO and panda3d keep state, which would make a scene depend on the one before it.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(processes, len(scenes)), mp_context=context, max_tasks_per_child=1) as pool:
        waiting = {pool.submit(_make_scene, scene, out / scene.split): scene for scene in scenes}
        for future in as_completed(waiting):
            made[waiting[future].name] = future.result()
            on_done(waiting[future].name, made[waiting[future].name]["pictures"])
    for split in sorted({scene.split for scene in scenes}):
        parts = [made[scene.name] for scene in scenes if scene.split == split]
        write_tables(out / split, [part["rows"] for part in parts])
        write_coco(out / split, [part["outlines"] for part in parts])
        truths = [part["truth"] for part in parts]
        (out / split / TRUTH).write_text(json.dumps(truths, indent=1), encoding="utf-8")
    truths = [made[scene.name]["truth"] for scene in scenes]
    return {
        "scenes": len(scenes),
        "pictures": sum(part["pictures"] for part in made.values()),
        "boxes": sum(len(part["rows"]["sample_annotation"]) for part in made.values()),
        "min_ttc_s": {t["scene"]: t["min_ttc_s"] for t in truths if t["hazard"] != "none"},
        "hazards": {t["scene"]: t["hazard"] for t in truths if t["hazard"] != "none"},
    }


_Made = dict[str, Any]


def _make_scene(scene: SceneConfig, root: Path) -> _Made:
    cv2.setNumThreads(1)  # one process for each CPU
    with tempfile.TemporaryDirectory() as folder:
        recording = record(scene, Path(folder))
    truth = scene_truth(recording)
    return {
        "pictures": write_pictures(root, recording),
        "rows": scene_rows(recording, truth["tags"], _describe(scene, truth)),
        "outlines": outline_rows(recording),
        "truth": truth,
    }


def _describe(scene: SceneConfig, truth: dict[str, Any]) -> str:
    weather = "" if scene.weather == "clear" else f", {scene.weather}"
    hazard = _HAZARD_WORDS[truth["hazard"]]
    return f"{scene.light.capitalize()}{weather}" + (f", {hazard}" if hazard else "")
