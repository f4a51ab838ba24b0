"""KAIST multispectral pedestrians: [images/]setXX/VYYY/{visible,lwir}/NAME.png and annotations/setXX/VYYY/NAME.txt;
visible/ may be missing.

Annotations are text boxes (`% bbGt version=3`): class x y w h occluded vx vy vw vh ignore angle.
"person?" is a person to be ignored. Sets 00-02 and 06-08 are day, 03-05 and 09-11 night, as its makers tell.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from system.errors import DataError
from system.pairs import files
from system.pairs.boxes import GivenBox, check_boxes
from system.pairs.matching import match_names, names_below
from system.pairs.records import Light, Pair, PairCorpus, PairFault

CATEGORIES = ("person", "cyclist", "people")
WIDTH, HEIGHT = 640, 512
_NIGHT_SETS = (3, 4, 5, 9, 10, 11)
_SET, _VIDEO = re.compile(r"^set(\d\d)$"), re.compile(r"^V\d{3}$")
_MAX_TXT_BYTES = 1 << 20
# Place of the ignore flag after the class.
_IGNORE = 9
_CLASSES = {"person": 0, "person?": 0, "person?a": 0, "cyclist": 1, "people": 2}


class KaistReader:
    """Reads a folder of KAIST's layout."""

    name = "kaist"
    looks_for = "[images/]setXX/VYYY/visible and lwir, or lwir where annotations/ is"

    def recognise(self, uri: str) -> str | None:
        for video, folder in _videos(uri):
            if {"visible", "lwir"} <= files.folders_in(folder).keys():
                return f"{video} holds visible and lwir"
        return None

    def recognise_infrared(self, uri: str) -> str | None:
        if not files.is_folder(uri) or "annotations" not in files.folders_in(uri):
            return None
        found = next((video for video, folder in _videos(uri) if "lwir" in files.folders_in(folder)), None)
        return f"{found} holds lwir" if found else None

    def read(self, uri: str) -> PairCorpus:
        name = files.name(uri)
        annotations = files.folders_in(uri).get("annotations", "")
        pairs: list[Pair] = []
        unmatched: list[str] = []
        faults: list[PairFault] = []
        alone_faults: list[PairFault] = []
        for video, folder in _videos(uri):
            sides = files.folders_in(folder)
            listed = [names_below(sides[side], is_deep=False) if side in sides else [] for side in ("visible", "lwir")]
            matched = match_names(*([(f"{video}/{stem}", picture) for stem, picture in side] for side in listed))
            unmatched += matched.unmatched
            faults += matched.faults
            alone_faults += matched.infrared_alone_faults
            texts = _texts(annotations, video)
            for pair_id, (rgb_uri, infrared_uri) in {**matched.names, **matched.infrared_alone}.items():
                text_uri = texts.get(files.stem(infrared_uri))
                given, wrong = _read_boxes(text_uri, pair_id) if text_uri else ([], [])
                checked = check_boxes(given, WIDTH, HEIGHT, pair_id)
                faults += [*wrong, *checked.faults]
                pairs.append(
                    Pair(
                        pair_id=pair_id,
                        corpus=name,
                        rgb_uri=rgb_uri,
                        infrared_uri=infrared_uri,
                        boxes_xyxy=checked.boxes_xyxy,
                        labels=checked.labels,
                        is_ignored=checked.is_ignored,
                        light=_light(video),
                        alignment="nominal",
                        width=WIDTH,
                        height=HEIGHT,
                        is_labelled=text_uri is not None and not any(f.code == "bad_annotation" for f in wrong),
                        split="train" if int(video[3:5]) < 6 else "test",
                    )
                )
        return PairCorpus(
            name=name,
            reader=self.name,
            pairs=tuple(pairs),
            categories=CATEGORIES,
            unmatched=tuple(unmatched),
            faults=tuple(faults),
            infrared_alone_faults=tuple(alone_faults),
        ).with_infrared_alone()


def _videos(uri: str) -> Iterator[tuple[str, str]]:
    """("set00/V000", its folder) of each."""
    if not files.is_folder(uri):
        return
    below = files.folders_in(uri)
    if "images" in below:
        below = files.folders_in(below["images"])
    for set_name, set_folder in sorted(below.items()):
        if not _SET.match(set_name):
            continue
        for video, folder in sorted(files.folders_in(set_folder).items()):
            if _VIDEO.match(video):
                yield f"{set_name}/{video}", folder


def _texts(annotations: str, video: str) -> dict[str, str]:
    """stem -> text file of a video; its folder may be missing or, in some copies, hold visible/."""
    folder = f"{annotations}/{video}"
    if not annotations or not files.is_folder(folder):
        return {}
    entries = files.list_folder(folder)
    if f"{folder}/visible/" in entries:
        entries = files.list_folder(f"{folder}/visible")
    return {files.stem(entry): entry for entry in entries if entry.endswith(".txt")}


def _read_boxes(uri: str, pair_id: str) -> tuple[list[GivenBox], list[PairFault]]:
    try:
        lines = files.read_bytes(uri, _MAX_TXT_BYTES).decode("utf-8").splitlines()
    except (DataError, UnicodeDecodeError) as error:
        return [], [PairFault(pair_id, "bad_annotation", f"{uri}: {error}", is_skipped=False)]
    given, faults = [], []
    for number, line in enumerate(lines, start=1):
        if not line.strip() or line.startswith("%"):
            continue
        word, *fields = line.split()
        try:
            x, y, w, h = (float(value) for value in fields[:4])
            ignored = len(fields) > _IGNORE and float(fields[_IGNORE]) != 0
            label = _CLASSES[word]
        except (ValueError, KeyError) as error:
            told = f"{uri} line {number}: expected a class of {', '.join(_CLASSES)} and x y w h: {error!r}; dropped"
            faults.append(PairFault(pair_id, "bad_annotation", told, is_skipped=False))
            continue
        given.append(GivenBox(x, y, x + w, y + h, label, ignored or word.startswith("person?")))
    return given, faults


def _light(video: str) -> Light:
    return "night" if int(video[3:5]) in _NIGHT_SETS else "day"
