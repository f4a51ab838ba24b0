"""What the simulator knows of a scene: its tags and its staged hazard."""

from __future__ import annotations

from typing import Any

import numpy as np

from system.demo.config import STEP_S
from system.demo.hazards import least_ttc
from system.demo.recording import Recording

_NEAR_M = 40.0


def scene_truth(recording: Recording) -> dict[str, Any]:
    """{tags, hazard, hazard_actor, hazard_s, min_ttc_s, ...} of a scene; the tags are those of `taxonomy.toml`."""
    drive = recording.drive
    ttc_s, actor = least_ttc(drive.ego, drive.others)
    return {
        "scene": recording.config.name,
        "split": recording.config.split,
        "town_seed": recording.config.town_seed,
        "light": recording.config.light,
        "weather": recording.config.weather,
        "tags": _tags(recording),
        "hazard": drive.hazard,
        "hazard_actor": drive.hazard_actor,
        "hazard_s": drive.hazard_s,
        "min_ttc_s": None if np.isinf(ttc_s) else round(ttc_s, 2),
        "min_ttc_actor": actor,
    }


def _tags(recording: Recording) -> list[str]:
    town, ego = recording.town, recording.drive.ego.states
    kinds: dict[str, int] = {}
    for keyframe in recording.keyframes:
        counts: dict[str, int] = {}
        for box in keyframe.boxes:
            if np.hypot(box.x - keyframe.pose[0], box.y - keyframe.pose[1]) < _NEAR_M and box.visible > 0.2:
                counts[box.kind] = counts.get(box.kind, 0) + 1
        for kind, count in counts.items():
            kinds[kind] = max(kinds.get(kind, 0), count)
    speed = ego[:, 4]
    acceleration = np.gradient(speed, STEP_S)
    vehicles = sum(kinds.get(kind, 0) for kind in ("car", "truck", "bus", "motorcycle"))
    at_junction = _least_distance(ego[:, 1:3], town.junction_centres)
    works = _least_distance(ego[:, 1:3], town.cones) if len(town.cones) else np.inf
    posts = np.array([(signal.x, signal.y) for signal in town.signals]).reshape(-1, 2)
    facts = {
        "night": recording.config.light == "night",
        "dusk": recording.config.light == "dusk",
        "rain": recording.config.weather == "rain",
        "fog": recording.config.weather == "fog",
        "intersection": at_junction < 15,
        "construction": works < 30,
        "dense_traffic": vehicles >= 8,
        "pedestrian": kinds.get("pedestrian", 0) > 0,
        "many_pedestrians": kinds.get("pedestrian", 0) >= 8,
        "pedestrian_crossing": recording.drive.hazard == "jaywalker" or _somebody_crosses(recording),
        "cyclist": kinds.get("bicycle", 0) > 0,
        "motorcycle": kinds.get("motorcycle", 0) > 0,
        "large_vehicle": kinds.get("truck", 0) + kinds.get("bus", 0) > 0,
        "traffic_light": _least_distance(ego[:, 1:3], posts) < 40,
        "turning": float(np.ptp(np.unwrap(ego[:, 3]))) > np.radians(30),
        "stopped_in_traffic": bool((speed < 0.3).mean() > 0.3),
        "hard_braking": float(acceleration.min()) < -5.0,
        "cut_in": recording.drive.hazard == "cut_in",
        "close_lead": recording.drive.hazard == "hard_braking_lead",
    }
    return [name for name, is_true in facts.items() if is_true]


def _least_distance(places: np.ndarray, others: np.ndarray) -> float:
    return float(np.hypot(*(places[:, None] - others[None, :, :2]).transpose(2, 0, 1)).min())


def _somebody_crosses(recording: Recording) -> bool:
    """Whether somebody on foot was on the carriageway, near and ahead."""
    from shapely import contains_xy

    for keyframe in recording.keyframes:
        for box in keyframe.boxes:
            if box.kind == "pedestrian" and box.visible > 0.2:
                dx, dy = box.x - keyframe.pose[0], box.y - keyframe.pose[1]
                ahead = np.cos(keyframe.pose[2]) * dx + np.sin(keyframe.pose[2]) * dy
                if 0 < ahead < 35 and contains_xy(recording.town.carriageway, box.x, box.y):
                    return True
    return False
