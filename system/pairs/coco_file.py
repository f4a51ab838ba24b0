"""A COCO file as records: its images, their boxes and classes, each fault by itself."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from system.errors import DataError
from system.pairs import files
from system.pairs.boxes import GivenBox
from system.pairs.masks import Outline

# Between a file and the folder of its pictures, in one argument.
SEPARATOR = "::"
# More annotations of categories that the file does not list, and it is a file of something else.
_MAX_UNKNOWN_SHARE = 0.5


@dataclass(frozen=True)
class CocoImage:
    """number: its id. file_name2: of the infrared picture, or "". is_labelled: as of `Pair`; not where `has_boxes` is
    false, as exports of scenes write it."""

    number: int | str
    file_name: str
    file_name2: str
    width: int | None
    height: int | None
    light: str
    is_labelled: bool = True


@dataclass(frozen=True)
class CocoFile:
    """boxes: image id -> its boxes, whose labels are places in `categories`. faults: (image id, code, message).

    outlines: image id -> what is drawn there, polygons or RLE; boxes without any among them.
    """

    uri: str
    images: tuple[CocoImage, ...]
    categories: tuple[str, ...]
    boxes: Mapping[int | str, tuple[GivenBox, ...]]
    faults: tuple[tuple[int | str, str, str], ...]
    is_labelled: bool
    outlines: Mapping[int | str, tuple[Outline, ...]] = field(default_factory=dict)

    def infrared_names(self) -> dict[int | str, str]:
        """Image id -> its infrared picture; in a file of pairs, images without `file_name2` are not among them."""
        if not any(image.file_name2 for image in self.images):
            return {image.number: image.file_name for image in self.images}
        return {image.number: image.file_name2 for image in self.images if image.file_name2}


def coco_and_images(uri: str, images: str | None = None) -> tuple[str, str | None]:
    """A COCO file and the folder of its pictures, which `FILE.json::FOLDER` names too."""
    file, separator, folder = uri.partition(SEPARATOR)
    return (file, folder) if separator and file.lower().endswith(".json") else (uri, images)


def read_coco(uri: str) -> CocoFile:
    """Read a COCO file; `iscrowd` or `ignore` of 1 marks boxes to be ignored.

    HIT-UAV's own files say `filename` in place of `file_name`, and `annotation` in place of `annotations`.

    Raises:
        DataError: it is not of that form as a whole. What is wrong with a single box is among the faults.
    """
    content = files.read_json(uri)
    if not isinstance(content, dict) or not isinstance(content.get("images"), list):
        raise DataError("not_coco", f"{uri}: expected a COCO object with the list 'images', found other JSON")
    listed = "annotation" if "annotation" in content and "annotations" not in content else "annotations"
    annotations, categories = content.get(listed) or [], content.get("categories") or []
    for key, value in ((listed, annotations), ("categories", categories)):
        if not isinstance(value, list) or not all(isinstance(row, dict) for row in value):
            raise DataError("not_coco", f"{uri}: expected {key!r} to be a list of objects")
    try:
        ordered = sorted((int(row["id"]), str(row["name"])) for row in categories)
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise DataError(
            "not_coco", f"{uri}: each of 'categories' needs an id (a number) and a name: {error}"
        ) from error
    if len({number for number, _ in ordered}) < len(ordered):
        raise DataError("not_coco", f"{uri}: two of 'categories' share an id; expected each once")
    place = {number: k for k, (number, _) in enumerate(ordered)}
    images = tuple(_image(row, uri) for row in content["images"])
    known = {image.number for image in images}
    if len(known) < len(images):
        raise DataError("not_coco", f"{uri}: {len(images) - len(known)} of {len(images)} images share an id")
    boxes: dict[int | str, list[GivenBox]] = defaultdict(list)
    outlines: dict[int | str, list[Outline]] = defaultdict(list)
    faults: list[tuple[int | str, str, str]] = []
    unknown: Counter[int] = Counter()
    for row in annotations:
        number = row.get("image_id")
        if not isinstance(number, int | str) or number not in known:
            faults.append(("", "unknown_image", f"annotation {row.get('id')}: no image has the id {number!r}; dropped"))
            continue
        category = _category(row, uri)
        if category not in place:
            unknown[category] += 1
            told = f"annotation {row.get('id')}: category_id {category}: expected one of {_some(place)}; dropped"
            faults.append((number, "bad_annotation", told))
            continue
        label = place[category]
        try:
            x, y, w, h = (float(value) for value in row["bbox"])
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            told = f"annotation {row.get('id')}: expected bbox [x, y, w, h]: {error!r}; dropped"
            faults.append((number, "bad_annotation", told))
            continue
        ignored = bool(row.get("iscrowd")) or bool(row.get("ignore"))
        boxes[number].append(GivenBox(x, y, x + w, y + h, label, ignored))
        if all(map(math.isfinite, (x, y, w, h))):
            outlines[number].append(Outline(label, row.get("segmentation") or None, (x, y, w, h), ignored))
    if (strange := unknown.total()) > _MAX_UNKNOWN_SHARE * len(annotations):
        raise DataError(
            "unknown_class",
            f"{uri}: {strange} of {len(annotations)} annotations are of categories that it does not list "
            f"({_some(unknown)}; listed: {_some(place)}); expected at most {_MAX_UNKNOWN_SHARE:.0%}: add them to "
            "'categories', or take the file that these annotations were made for",
        )
    lost = [told for _, code, told in faults if code == "unknown_image"]
    if len(lost) > _MAX_UNKNOWN_SHARE * len(annotations):
        told = f"{len(lost)} of {len(annotations)} annotations are of images that it does not list, e.g. {lost[0]}"
        raise DataError("unknown_image", f"{uri}: {told}; ids must be equal in type too ({next(iter(known), None)!r})")
    return CocoFile(
        uri=uri,
        images=images,
        categories=tuple(name for _, name in ordered),
        boxes={number: tuple(found) for number, found in boxes.items()},
        faults=tuple(faults),
        is_labelled=listed in content,
        outlines={number: tuple(found) for number, found in outlines.items()},
    )


def _category(row: dict[str, Any], uri: str) -> int:
    """Raises DataError: it is no whole number."""
    given = row.get("category_id")
    try:
        if given is None or int(given) != float(given):
            raise ValueError
        return int(given)
    except (TypeError, ValueError, OverflowError):
        raise DataError(
            "not_coco",
            f"{uri}: annotation {row.get('id')}: category_id {str(given)[:40]!r}: expected the whole number of one of "
            "'categories'",
        ) from None


def _some(numbers: Iterable[int]) -> str:
    """The first few."""
    ordered = sorted(numbers)
    return ", ".join(map(str, ordered[:10])) + (", ..." if len(ordered) > 10 else "") or "none"


def _image(row: Any, uri: str) -> CocoImage:
    file_name = (row.get("file_name") or row.get("filename")) if isinstance(row, dict) else None
    if not file_name or not isinstance(row.get("id"), int | str):
        raise DataError("not_coco", f"{uri}: each of 'images' needs id and file_name, found {str(row)[:80]}")
    light = str(row.get("daynight") or row.get("light") or "").lower()
    return CocoImage(
        number=row["id"],
        file_name=str(file_name),
        file_name2=str(row.get("file_name2") or ""),
        width=_side(row.get("width")),
        height=_side(row.get("height")),
        light=light if light in ("day", "night") else "",
        is_labelled=row.get("has_boxes") is not False,
    )


def _side(value: Any) -> int | None:
    return int(value) if isinstance(value, int | float) and 0 < value < 1 << 20 else None
