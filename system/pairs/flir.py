"""FLIR ADAS, both of its layouts. The two cameras are not registered and see different fields of view.

    2018   [train|val|video/]{RGB, thermal_8_bit or thermal_16_bit}/NAME and thermal_annotations.json beside them
    2022   {images,video}_{rgb,thermal}_{train,val,test}/{data/NAME.jpg, coco.json},
           rgb_to_thermal*.json {RGB name: thermal name}

Boxes are those of the thermal pictures, by their names without suffixes: 2018's annotations name 8-bit pictures where
the 16-bit ones may be all there is. Of the RGB pictures the middle in the thermal ones' shape is taken; registered
copies of the corpus are two plain folders. Pictures that the map does not name are matched by their own names.
RGB may be missing where annotations are there.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from system.errors import DataError
from system.pairs import files
from system.pairs.boxes import GivenBox, check_boxes
from system.pairs.coco_file import CocoFile, read_coco
from system.pairs.matching import Matched, match_names, names_below, split_of
from system.pairs.records import Pair, PairCorpus, PairFault

_NEW_FOLDER = re.compile(r"^(images|video)_(rgb|thermal)_(train|val|test)$")
_THERMAL_FOLDERS = ("thermal_8_bit", "thermal_16_bit")


@dataclass(frozen=True)
class _Part:
    """A part: its folders of RGB pictures, or "", and of thermal ones, and where the COCO file of these would lie."""

    split: str
    rgb: str
    thermal: str
    coco: str


@dataclass
class _Boxes:
    """By thermal URI without its suffix, over all parts. sizes: (width, height). labelled: those that somebody looked
    at, with boxes or without. twice: why, of those that are listed more than once. damaged: folder of thermal pictures
    -> why."""

    categories: list[str] = field(default_factory=list)
    given: dict[str, list[GivenBox]] = field(default_factory=dict)
    sizes: dict[str, tuple[int | None, int | None]] = field(default_factory=dict)
    labelled: set[str] = field(default_factory=set)
    twice: dict[str, str] = field(default_factory=dict)
    faults: list[PairFault] = field(default_factory=list)
    damaged: dict[str, str] = field(default_factory=dict)


class FlirReader:
    """Reads both layouts."""

    name = "flir"
    looks_for = (
        "RGB or thermal_annotations.json beside thermal_8_bit or thermal_16_bit; or images_thermal_train/data beside "
        "images_rgb_train/data or images_thermal_train/coco.json"
    )

    def recognise(self, uri: str) -> str | None:
        thermal = next((part.thermal for part in _parts(uri) if part.rgb), None)
        return f"{files.name(files.parent(thermal))}/{files.name(thermal)} is there" if thermal else None

    def recognise_infrared(self, uri: str) -> str | None:
        coco = next((part.coco for part in _parts(uri) if files.is_file(part.coco)), None)
        return f"{files.name(files.parent(coco))}/{files.name(coco)} is there" if coco else None

    def read(self, uri: str) -> PairCorpus:
        parts = _parts(uri)
        matched = _match(parts, _thermal_names(uri))
        boxes = _boxes(parts)
        pairs = []
        faults = [*matched.faults, *boxes.faults]
        for pair_id, (rgb_uri, thermal_uri) in {**matched.names, **matched.infrared_alone}.items():
            if (why := boxes.damaged.get(files.parent(thermal_uri))) is not None:
                faults.append(PairFault(pair_id, "bad_annotation", why, is_skipped=False))
            picture = _without_suffix(thermal_uri)
            if (why := boxes.twice.get(picture)) is not None:
                faults.append(PairFault(pair_id, "listed_twice", why, is_skipped=False))
            width, height = boxes.sizes.get(picture, (None, None))
            checked = check_boxes(boxes.given.get(picture, ()), width, height, pair_id)
            faults += checked.faults
            pairs.append(
                Pair(
                    pair_id=pair_id,
                    corpus=files.name(uri),
                    rgb_uri=rgb_uri,
                    infrared_uri=thermal_uri,
                    boxes_xyxy=checked.boxes_xyxy,
                    labels=checked.labels,
                    is_ignored=checked.is_ignored,
                    width=width,
                    height=height,
                    is_labelled=picture in boxes.labelled,
                    crop_rgb=True,
                    split=split_of(pair_id),
                )
            )
        return PairCorpus(
            name=files.name(uri),
            reader=self.name,
            pairs=tuple(pairs),
            categories=tuple(boxes.categories),
            unmatched=matched.unmatched,
            faults=tuple(faults),
            infrared_alone_faults=matched.infrared_alone_faults,
        ).with_infrared_alone()


def _parts(uri: str) -> list[_Part]:
    """Parts with thermal pictures."""
    below = files.folders_in(uri) if files.is_folder(uri) else {}
    new = {found.groups(): folder for name, folder in sorted(below.items()) if (found := _NEW_FOLDER.match(name))}
    parts = []
    for (kind, side, split), folder in new.items():
        if side == "thermal" and files.is_folder(f"{folder}/data"):
            rgb = f"{new[kind, 'rgb', split]}/data" if (kind, "rgb", split) in new else ""
            name = split if kind == "images" else f"{kind}_{split}"
            parts.append(
                _Part(name, rgb if rgb and files.is_folder(rgb) else "", f"{folder}/data", f"{folder}/coco.json")
            )
    if parts:
        return parts
    if "RGB" in below:
        return _old_part("", uri, below)
    splits = {name: folder for name, folder in sorted(below.items()) if split_of(f"{name}/")}
    parts = [part for name, folder in splits.items() for part in _old_part(name, folder, files.folders_in(folder))]
    return parts or _old_part("", uri, below)


def _old_part(split: str, folder: str, held: Mapping[str, str]) -> list[_Part]:
    """The part in a folder of 2018's layout that holds other folders, if thermal pictures are among these."""
    thermal = next((held[name] for name in _THERMAL_FOLDERS if name in held), None)
    rgb, coco = held.get("RGB", ""), f"{folder}/thermal_annotations.json"
    return [] if thermal is None else [_Part(split, rgb, thermal, coco)]


def _thermal_names(uri: str) -> dict[str, str]:
    """RGB stem -> thermal stem, of every rgb_to_thermal*.json at the root.

    Raises:
        DataError: one is not an object of names.
    """
    names: dict[str, str] = {}
    for entry in files.list_folder(uri):
        if not re.match(r"rgb_to_thermal.*\.json$", files.name(entry)):
            continue
        content = files.read_json(entry)
        if not isinstance(content, dict) or not all(isinstance(value, str) for value in content.values()):
            raise DataError("bad_annotation", f"{entry}: expected an object {{RGB name: thermal name}}")
        names |= {files.stem(rgb): files.stem(thermal) for rgb, thermal in content.items()}
    return names


def _match(parts: Sequence[_Part], thermal_names: Mapping[str, str]) -> Matched:
    rgb: list[tuple[str, str]] = []
    thermal: list[tuple[str, str]] = []
    for part in parts:
        prefix = f"{part.split}/" if part.split else ""
        if part.rgb:
            rgb += [(prefix + thermal_names.get(stem, stem), uri) for stem, uri in names_below(part.rgb, is_deep=False)]
        thermal += [(prefix + stem, uri) for stem, uri in names_below(part.thermal, is_deep=False)]
    return match_names(rgb, thermal)


def _without_suffix(uri: str) -> str:
    return f"{files.parent(uri)}/{files.stem(uri)}"


def _boxes(parts: Sequence[_Part]) -> _Boxes:
    """Boxes of all parts; a COCO file that cannot be read is a fault of each of its pairs, which have none."""
    found = _Boxes()
    cocos: list[tuple[_Part, CocoFile]] = []
    for part in parts:
        if not files.is_file(part.coco):
            continue
        try:
            cocos.append((part, read_coco(part.coco)))
        except DataError as error:
            found.damaged[part.thermal] = error.message
    # Files of one corpus may list other classes: numbers are given to the names of all.
    used = {coco.categories[box.label] for _, coco in cocos for boxes in coco.boxes.values() for box in boxes}
    found.categories = [name for name in dict.fromkeys(n for _, coco in cocos for n in coco.categories) if name in used]
    place = {name: k for k, name in enumerate(found.categories)}
    for part, coco in cocos:
        # Written as data/NAME or thermal_8_bit/NAME; only the name is used, so that no path can leave the folder.
        stems = [files.stem(image.file_name.replace("\\", "/")) for image in coco.images]
        for stem, count in Counter(stems).items():
            if count > 1:
                found.twice[f"{part.thermal}/{stem}"] = f"{part.coco}: {stem} is listed {count} times"
        for stem, image in zip(stems, coco.images, strict=True):
            picture = f"{part.thermal}/{stem}"
            if picture in found.twice:  # each entry may hold a part of the boxes, so that it has none
                continue
            found.sizes[picture] = image.width, image.height
            if coco.is_labelled and image.is_labelled:
                found.labelled.add(picture)
            found.given[picture] = [
                replace(box, label=place[coco.categories[box.label]]) for box in coco.boxes.get(image.number, ())
            ]
        prefix = f"{part.split}/" if part.split else ""
        ids = {image.number: prefix + stem for stem, image in zip(stems, coco.images, strict=True)}
        found.faults += [
            PairFault(ids.get(number, f"{part.split}: image {number}"), code, told, is_skipped=False)
            for number, code, told in coco.faults
        ]
    return found
