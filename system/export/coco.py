"""COCO detection: annotations.json and data/<scene>/<camera>_<time>.jpg.

Boxes are road users projected from tracks (`system.export.projection`); pictures without calibration or tracks come
without boxes and say so by `has_boxes`. A picture carries its scene's tags, risk and ids under `scene`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from system.export.json_arrays import JsonArrays
from system.export.projection import project_boxes
from system.export.scene import Added, SceneExport, scene_facts
from system.miner.sightings import kind_of

ANNOTATIONS_NAME, DATA_NAME = "annotations.json", "data"
# `kind_of` of the category names of all logs; the log's own name is the annotation's `source_category`.
KINDS = ("vehicle", "large", "motorcycle", "bicycle", "rider", "pedestrian", "roadwork", "other")


def write_pictures(folder: Path, scene: SceneExport) -> list[str]:
    """Write a scene's pictures below `folder`/data; returns their paths relative to `folder`, in order."""
    (folder / DATA_NAME / scene.scene_id).mkdir(parents=True, exist_ok=True)
    paths = [f"{DATA_NAME}/{scene.scene_id}/{p.stem}{p.file.suffix}" for p in scene.pictures]
    for path, picture in zip(paths, scene.pictures, strict=True):
        (folder / path).write_bytes(picture.file.data)
    return paths


class CocoWriter:
    reads_pictures = needs_pictures = True

    def __init__(self, folder: Path, provenance: Mapping[str, Any]) -> None:
        self._folder, self._provenance = folder, provenance
        self._licences = {source: k for k, source in enumerate(provenance["sources"], start=1)}
        self._json = JsonArrays(folder / ANNOTATIONS_NAME, ("images", "annotations"))

    def add(self, scene: SceneExport) -> Added:
        facts = scene_facts(scene.row)
        ego, agents = scene.window.ego, scene.window.agents
        boxes = 0
        for path, picture in zip(write_pictures(self._folder, scene), scene.pictures, strict=True):
            frame, file = picture.frame, picture.file
            number = self._json.counts["images"] + 1
            image = {
                "id": number,
                "file_name": path,
                "width": file.width,
                "height": file.height,
                "license": self._licences[scene.row["source"]],
                "camera": frame.camera,
                "t_ns": frame.t_ns,
                "source_uri": frame.uri,
                "has_boxes": frame.is_calibrated and ego is not None and agents is not None,
                "scene": facts,
            }
            self._json.add("images", image)
            for box in project_boxes(frame, file.width, file.height, ego, agents):
                bbox = [round(value, 2) for value in box.bbox_xywh]
                boxes += 1
                self._json.add(
                    "annotations",
                    {
                        "id": self._json.counts["annotations"] + 1,
                        "image_id": number,
                        "category_id": KINDS.index(kind_of(box.category)) + 1,
                        "bbox": bbox,
                        "area": round(bbox[2] * bbox[3], 2),
                        "iscrowd": 0,
                        "source_category": box.category,
                        "track_id": box.track_id,
                        "distance_m": round(box.distance_m, 2),
                        "shown": round(box.shown, 3),
                    },
                )
        return Added(len(scene.pictures), boxes)

    def abandon(self) -> None:
        self._json.abandon()

    def close(self) -> None:
        categories = [{"id": k, "name": name} for k, name in enumerate(KINDS, start=1)]
        described = "road users projected from tracks; hidden ones are not left out"
        info = {"description": f"Nightminer scenes; {described}", "provenance": self._provenance}
        sources = self._provenance["sources"]
        licences = [{"id": k, "name": sources[source]["licence"], "url": ""} for source, k in self._licences.items()]
        self._json.close({"info": info, "licenses": licences, "categories": categories})
