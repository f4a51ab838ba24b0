"""A dataset folder that `fiftyone.Dataset.from_dir(DIR, dataset_type=fiftyone.types.FiftyOneDataset)` imports.

metadata.json, samples.json and data/: the form without a database's ids and schema, which FiftyOne's importer knows by
a metadata.json without "version" and whose field types it infers from the samples. One sample a picture; `tags` are
those of its scene, `road_users` its boxes, relative to the picture.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from system.export.coco import KINDS, write_pictures
from system.export.json_arrays import JsonArrays
from system.export.projection import ProjectedBox, project_boxes
from system.export.scene import Added, SceneExport, scene_facts
from system.miner.sightings import kind_of

METADATA_NAME, SAMPLES_NAME = "metadata.json", "samples.json"


class FiftyOneWriter:
    reads_pictures = needs_pictures = True

    def __init__(self, folder: Path, provenance: Mapping[str, Any]) -> None:
        self._folder = folder
        self._json = JsonArrays(folder / SAMPLES_NAME, ("samples",))
        metadata = {
            "name": "nightminer",
            "media_type": "image",
            "info": {"provenance": provenance},
            "classes": {"road_users": list(KINDS)},
        }
        (folder / METADATA_NAME).write_text(json.dumps(metadata, indent=1), "utf-8")

    def add(self, scene: SceneExport) -> Added:
        facts = {key: value for key, value in scene_facts(scene.row).items() if value is not None}
        tags = facts.pop("tags", [])
        chances = facts.pop("tag_probabilities", {})
        boxes = 0
        for path, picture in zip(write_pictures(self._folder, scene), scene.pictures, strict=True):
            frame, file = picture.frame, picture.file
            found = project_boxes(frame, file.width, file.height, scene.window.ego, scene.window.agents)
            boxes += len(found)
            sample = {
                "filepath": path,
                "tags": tags,
                "metadata": None,
                "_media_type": "image",
                "camera": frame.camera,
                "t_ns": frame.t_ns,
                **facts,
                "scene_tags": {
                    "_cls": "Classifications",
                    "classifications": [
                        {"_cls": "Classification", "tags": [], "label": tag, "confidence": chances.get(tag)}
                        for tag in tags
                    ],
                },
                "road_users": {
                    "_cls": "Detections",
                    "detections": [_detection(box, file.width, file.height) for box in found],
                },
            }
            self._json.add("samples", sample)
        return Added(len(scene.pictures), boxes)

    def abandon(self) -> None:
        self._json.abandon()

    def close(self) -> None:
        self._json.close({})


def _detection(box: ProjectedBox, width: int, height: int) -> dict[str, Any]:
    x, y, w, h = box.bbox_xywh
    return {
        "_cls": "Detection",
        "attributes": {},
        "tags": [],
        "label": kind_of(box.category),
        "bounding_box": [x / width, y / height, w / width, h / height],
        "source_category": box.category,
        "track_id": box.track_id,
        "distance_m": round(box.distance_m, 2),
    }
