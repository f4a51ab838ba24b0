"""LLVIP: {visible,infrared}/{train,test}/NAME.jpg and Annotations/NAME.xml (Pascal VOC); visible/ may be missing.

Boxes were drawn on the infrared pictures. Corners are taken as written; VOC's own start at 1, so that they may lie one
pixel off.
"""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass

from system.errors import DataError
from system.pairs import files
from system.pairs.boxes import GivenBox, check_boxes
from system.pairs.matching import match_names, names_below, split_of
from system.pairs.records import Pair, PairCorpus, PairFault

_MAX_XML_BYTES = 4 << 20


@dataclass(frozen=True)
class VocFile:
    """objects: (class, x1, y1, x2, y2, is difficult)."""

    width: int | None
    height: int | None
    objects: tuple[tuple[str, float, float, float, float, bool], ...]


class LlvipReader:
    """Reads the folder that holds visible/, infrared/ and, where there are labels, Annotations/."""

    name = "llvip"
    looks_for = "visible/{train,test} or Annotations beside infrared/{train,test}"

    def recognise(self, uri: str) -> str | None:
        below = files.folders_in(uri) if files.is_folder(uri) else {}
        if not {"visible", "infrared"} <= below.keys():
            return None
        if not files.folders_in(below["visible"]) and not files.pictures_in(below["visible"]):
            return self.recognise_infrared(uri)
        return _holds_splits(below["visible"])

    def recognise_infrared(self, uri: str) -> str | None:
        below = files.folders_in(uri) if files.is_folder(uri) else {}
        return _holds_splits(below["infrared"]) if {"infrared", "Annotations"} <= below.keys() else None

    def read(self, uri: str) -> PairCorpus:
        below = files.folders_in(uri)
        visible = names_below(below["visible"]) if "visible" in below else []
        matched = match_names(visible, names_below(below["infrared"]))
        texts = {}
        if "Annotations" in below:
            texts = {files.stem(entry): entry for entry in files.list_folder(below["Annotations"])}
        found: dict[str, VocFile] = {}
        faults = list(matched.faults)
        pictures = {**matched.names, **matched.infrared_alone}
        for pair_id in pictures:
            text_uri = texts.get(pair_id.rsplit("/", 1)[-1], "")
            if not text_uri.endswith(".xml"):
                continue
            try:
                found[pair_id] = read_voc(text_uri)
            except DataError as error:
                faults.append(PairFault(pair_id, "bad_annotation", error.message, is_skipped=False))
        categories = sorted({row[0] for voc in found.values() for row in voc.objects})
        pairs = []
        for pair_id, (rgb_uri, infrared_uri) in pictures.items():
            voc = found.get(pair_id, VocFile(None, None, ()))
            given = [GivenBox(*row[1:5], categories.index(row[0]), row[5]) for row in voc.objects]
            checked = check_boxes(given, voc.width, voc.height, pair_id)
            faults += checked.faults
            pairs.append(
                Pair(
                    pair_id=pair_id,
                    corpus=files.name(uri),
                    rgb_uri=rgb_uri,
                    infrared_uri=infrared_uri,
                    boxes_xyxy=checked.boxes_xyxy,
                    labels=checked.labels,
                    is_ignored=checked.is_ignored,
                    alignment="registered",
                    width=voc.width,
                    height=voc.height,
                    is_labelled=pair_id in found,
                    split=split_of(pair_id),
                )
            )
        return PairCorpus(
            name=files.name(uri),
            reader=self.name,
            pairs=tuple(pairs),
            categories=tuple(categories),
            unmatched=matched.unmatched,
            faults=tuple(faults),
            infrared_alone_faults=matched.infrared_alone_faults,
        ).with_infrared_alone()


def _holds_splits(folder: str) -> str | None:
    splits = sorted(name for name in files.folders_in(folder) if split_of(f"{name}/"))
    return f"{files.name(folder)} holds {' and '.join(splits)}" if splits else None


def read_voc(uri: str) -> VocFile:
    """Size and objects of a Pascal VOC file.

    Raises:
        DataError: it cannot be read, is no such XML, or has entities of its own, which can unfold without end.
    """
    data = files.read_bytes(uri, _MAX_XML_BYTES)
    if b"<!DOCTYPE" in data or b"<!ENTITY" in data:
        raise DataError("bad_annotation", f"{uri}: expected no DOCTYPE and no entities")
    try:
        root = ElementTree.fromstring(data)
        size = root.find("size")
        width, height = (_side(size, "width"), _side(size, "height")) if size is not None else (None, None)
        objects = tuple(_object(row) for row in root.iter("object"))
    except (ElementTree.ParseError, ValueError, LookupError) as error:
        raise DataError("bad_annotation", f"{uri}: expected Pascal VOC boxes: {error}") from error
    return VocFile(width, height, objects)


def _object(row: ElementTree.Element) -> tuple[str, float, float, float, float, bool]:
    box = row.find("bndbox")
    if box is None:
        raise ValueError("an object has no bndbox")
    x1, y1, x2, y2 = (float(box.findtext(key, "")) for key in ("xmin", "ymin", "xmax", "ymax"))
    return row.findtext("name", "").strip() or "object", x1, y1, x2, y2, row.findtext("difficult", "0").strip() == "1"


def _side(size: ElementTree.Element, key: str) -> int | None:
    value = int(float(size.findtext(key, "0")))
    return value if value > 0 else None
