"""KAIST's pedestrian benchmark: its annotation file, result files, and who counts in which of its subsets.

Result files hold one detection a line: `image,x,y,w,h,score`, images counted from 1 in the annotation's order.
A subset's truths are the persons of its heights and occlusions; all others, `ignore`d ones and boxes that leave the
picture's inner frame are neither objects nor background.

Source: Hwang et al., CVPR 2015; improved test annotations of Liu et al., BMVC 2016; the "reasonable" subset and the
day and night parts as published miss rates use them, which a test reproduces.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from system.errors import ConfigError, DataError
from system.infrared.detections import Detections, Truth
from system.pairs import files

# Persons that reach out of it are cut by the picture's edge.
_INNER_XYXY = (5.0, 5.0, 635.0, 507.0)
PERSON = "person"
NO_OCCLUSION, PARTIAL, HEAVY = 0, 1, 2
# By their makers: set00 to set02 and set06 to set08 are by day, set03 to set05 and set09 to set11 by night.
_DAY_SETS = ("set00", "set01", "set02", "set06", "set07", "set08")


@dataclass(frozen=True)
class Subset:
    """Whom a miss rate is about: persons of heights in [low, high] pixels with one of these occlusions.

    Both bounds belong to it, as in the benchmark's own script: a person of 45 pixels is medium and far.
    """

    low_px: float
    high_px: float
    occlusions: tuple[int, ...]
    light: str = ""


_TO_PARTIAL, _EVERY = (NO_OCCLUSION, PARTIAL), (NO_OCCLUSION, PARTIAL, HEAVY)
# near, medium and far of Hwang et al.: 115 and 45 pixels of 512.
SUBSETS = {
    "all": Subset(55, math.inf, _TO_PARTIAL),
    "day": Subset(55, math.inf, _TO_PARTIAL, "day"),
    "night": Subset(55, math.inf, _TO_PARTIAL, "night"),
    "every_size": Subset(20, math.inf, _EVERY),
    "near": Subset(115, math.inf, (NO_OCCLUSION,)),
    "medium": Subset(45, 115, (NO_OCCLUSION,)),
    "far": Subset(1, 45, (NO_OCCLUSION,)),
    "no_occlusion": Subset(1, math.inf, (NO_OCCLUSION,)),
    "partial_occlusion": Subset(1, math.inf, (PARTIAL,)),
    "heavy_occlusion": Subset(1, math.inf, (HEAVY,)),
}


@dataclass(frozen=True, eq=False)
class KaistImage:
    """One picture: float32 boxes_xyxy [G, 4], occlusion [G], is_other [G] (ignored, or no single person)."""

    name: str
    size: tuple[int, int]
    boxes_xyxy: NDArray[np.float32]
    occlusion: NDArray[np.int64]
    is_other: NDArray[np.bool_]

    @property
    def light(self) -> str:
        return "day" if self.name.startswith(_DAY_SETS) else "night"

    def truth(self, subset: Subset) -> Truth:
        """Its persons for a subset; others are ignored."""
        heights = self.boxes_xyxy[:, 3] - self.boxes_xyxy[:, 1]
        x1, y1, x2, y2 = self.boxes_xyxy.T
        low_x, low_y, high_x, high_y = _INNER_XYXY
        is_inside = (x1 >= low_x) & (y1 >= low_y) & (x2 <= high_x) & (y2 <= high_y)
        is_meant = (heights >= subset.low_px) & (heights <= subset.high_px) & np.isin(self.occlusion, subset.occlusions)
        is_ignored = self.is_other | ~is_inside | ~is_meant
        return Truth(self.boxes_xyxy, np.zeros(len(heights), np.int64), is_ignored)


def read_kaist_annotations(file: Path) -> tuple[KaistImage, ...]:
    """All pictures of an annotation file, in its order.

    Raises:
        DataError: it is not of that form.
    """
    content = _json(file)
    try:
        persons = {int(row["id"]) for row in content["categories"] if row["name"] == PERSON}
        if not persons:
            raise DataError("not_kaist", f"{file}: expected a category {PERSON}, found {content['categories']}"[:300])
        if not content["images"]:
            raise DataError("no_pictures", f"{file}: expected images, found an empty list")
        rows: dict[int, list[dict[str, Any]]] = {int(image["id"]): [] for image in content["images"]}
        for row in content["annotations"]:
            rows[int(row["image_id"])].append(row)
        images = [(int(image["id"]), image) for image in content["images"]]
        return tuple(_image(image, rows[number], persons) for number, image in images)
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise DataError(
            "not_kaist",
            f"{file}: expected images {{id, im_name, height, width}} and annotations {{image_id, category_id, bbox, "
            f"occlusion, ignore}}: {error!r}",
        ) from error


def _image(image: dict[str, Any], rows: list[dict[str, Any]], persons: set[int]) -> KaistImage:
    boxes = np.array([row["bbox"] for row in rows], np.float32).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    return KaistImage(
        name=str(image["im_name"]),
        size=(int(image["height"]), int(image["width"])),
        boxes_xyxy=boxes,
        occlusion=np.array([int(row["occlusion"]) for row in rows], np.int64),
        is_other=np.array([bool(row["ignore"]) or int(row["category_id"]) not in persons for row in rows], np.bool_),
    )


def read_kaist_results(file: Path, images: tuple[KaistImage, ...]) -> list[Detections]:
    """The detections of each picture.

    Raises:
        DataError: a line is not of that form, or names a picture that the annotations do not hold.
    """
    lines: dict[int, list[list[float]]] = {}
    try:
        text = file.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError("unreadable_file", f"{file}: cannot be read: {error}") from error
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        try:
            number_of, *values = (float(part) for part in line.split(","))
            if len(values) != 5 or not number_of.is_integer() or not np.isfinite(values).all():
                raise ValueError
        except ValueError:
            told = f"expected image,x,y,w,h,score, found {line[:80]!r}"
            raise DataError("bad_line", f"{file}: line {number}: {told}") from None
        if not 1 <= number_of <= len(images):
            told = f"picture {number_of:g}, the annotations hold 1 to {len(images)}"
            raise DataError("unknown_image", f"{file}: line {number}: {told}")
        lines.setdefault(int(number_of) - 1, []).append(values)
    if not lines:
        raise DataError("empty_file", f"{file}: expected detections, found none")
    found = []
    for n, image in enumerate(images):
        values_M5 = np.array(lines.get(n, []), np.float64).reshape(-1, 5)
        boxes = values_M5[:, :4].copy()
        boxes[:, 2:] += boxes[:, :2]
        found.append(Detections.of(boxes, values_M5[:, 4], np.zeros(len(boxes)), image.size))
    return found


def write_kaist_results(file: Path, found: Sequence[Detections]) -> None:
    """The persons of each picture, in the annotation's order, as result files hold them; whole or not at all.

    Raises:
        ConfigError: the file cannot be written.
    """
    partial = file.with_name(f".{file.name}.partial")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("w", encoding="utf-8") as lines:
            for number, detections in enumerate(found, 1):
                for (x1, y1, x2, y2), score in zip(
                    detections.boxes_xyxy.tolist(), detections.scores.tolist(), strict=True
                ):
                    lines.write(f"{number},{x1:.4f},{y1:.4f},{x2 - x1:.4f},{y2 - y1:.4f},{score:.8f}\n")
        partial.replace(file)
    except OSError as error:
        raise ConfigError(f"{file}: cannot be written: {error.strerror or error}") from error


def infrared_pictures(root: str, images: Sequence[KaistImage]) -> list[str | None]:
    """The infrared picture of each image below `root`, [images/]setXX/VYYY/lwir/NAME; None where there is none.

    Raises:
        DataError: `root` is no folder or cannot be listed; a name that leaves it.
    """
    root = files.absolute(root)
    if not files.is_folder(root):
        raise DataError("missing_file", f"{root}: expected the folder of KAIST's pictures, found none")
    root = files.folders_in(root).get("images", root)
    listed: dict[str, dict[str, str]] = {}
    found = []
    for image in images:
        video, _, name = image.name.rpartition("/")
        folder = files.join(root, f"{video}/lwir")
        if folder not in listed:
            pictures = files.pictures_in(folder) if files.is_folder(folder) else []
            listed[folder] = {files.stem(picture): picture for picture in pictures}
        found.append(listed[folder].get(name))
    return found


def _json(file: Path) -> Any:
    try:
        return json.loads(file.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise DataError("not_json", f"{file}: cannot be read as JSON: {error}") from error
