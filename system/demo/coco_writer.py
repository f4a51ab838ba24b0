"""Write the road users of the front camera as COCO boxes and masks, for the RGB and for the infrared picture."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from system.demo.nuscenes_writer import picture_path
from system.demo.recording import Recording
from system.demo.rig import HEIGHT, INFRARED, WIDTH

CATEGORIES = ("person", "bicycle", "car", "motorcycle", "bus", "truck")
_NAMES = {"pedestrian": "person"}


def outline_rows(recording: Recording) -> list[dict[str, Any]]:
    """One mapping a keyframe: the two pictures, and the boxes and runs of pixels in each."""
    return [
        {
            "rgb": picture_path("CAM_FRONT", recording, keyframe),
            "infrared": picture_path(INFRARED, recording, keyframe),
            "boxes": [(_NAMES.get(o.kind, o.kind), o.bbox, o.runs, o.is_seen_in_rgb) for o in keyframe.outlines],
        }
        for keyframe in recording.keyframes
    ]


def write_coco(root: Path, parts: list[list[dict[str, Any]]]) -> None:
    """coco_visible.json and coco_infrared.json; file_name is the RGB picture, file_name2 the infrared one, in both."""
    frames = [frame for part in parts for frame in part]
    for name, is_rgb in (("visible", True), ("infrared", False)):
        images: list[dict[str, Any]] = []
        annotations: list[dict[str, Any]] = []
        for number, frame in enumerate(frames, start=1):
            files = {"file_name": frame["rgb"], "file_name2": frame["infrared"]}
            images.append({"id": number, "width": WIDTH, "height": HEIGHT, **files})
            for category, bbox, runs, is_seen_in_rgb in frame["boxes"]:
                if is_seen_in_rgb or not is_rgb:
                    annotations.append(
                        {
                            "id": len(annotations) + 1,
                            "image_id": number,
                            "category_id": CATEGORIES.index(category) + 1,
                            "bbox": list(bbox),
                            "segmentation": {"size": [HEIGHT, WIDTH], "counts": list(runs)},
                            "area": sum(runs[1::2]),
                            "iscrowd": 0,
                        }
                    )
        categories = [{"id": k, "name": category} for k, category in enumerate(CATEGORIES, start=1)]
        coco = {"images": images, "annotations": annotations, "categories": categories}
        (root / f"coco_{name}.json").write_text(json.dumps(coco), encoding="utf-8")
