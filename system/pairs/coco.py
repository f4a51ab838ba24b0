"""COCO files whose images carry `file_name` (RGB) and `file_name2` (infrared); one file is one split.

Paths are relative to the file's folder, its parent or its grandparent: whichever holds most of the first pictures.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import replace

from system.errors import DataError
from system.pairs import files
from system.pairs.boxes import check_boxes
from system.pairs.coco_file import CocoFile, CocoImage, read_coco
from system.pairs.reader import known_alignment
from system.pairs.records import Light, Pair, PairCorpus, PairFault

_ASKED_FOR_ROOT = 16


class CocoReader:
    """Reads one COCO file."""

    name = "coco"
    looks_for = "a .json file whose images have file_name and file_name2"

    def recognise(self, uri: str) -> str | None:
        return "a COCO file" if uri.lower().endswith(".json") and files.is_file(uri) else None

    def read(self, uri: str) -> PairCorpus:
        coco = read_coco(uri)
        if not coco.images:
            raise DataError("no_pairs", f"{uri}: expected images, found an empty list")
        if not any(image.file_name2 for image in coco.images):
            raise DataError(
                "no_partner", f"{uri}: expected file_name2 (infrared) beside file_name (RGB) in its images, found none"
            )
        root = _root(coco)
        folders = _Folders()
        stems = Counter(files.stem(image.file_name) for image in coco.images)
        entries: dict[str, list[CocoImage]] = defaultdict(list)
        for image in coco.images:
            entries[image.file_name].append(image)
        pairs, faults = [], []
        ids: dict[int | str, str] = {}
        for image in coco.images:
            stem = files.stem(image.file_name)
            pair_id = stem if stems[stem] == 1 else image.file_name.rsplit(".", 1)[0]
            ids[image.number] = pair_id
            entry, *again = entries[image.file_name]
            is_pair = all(other.file_name2 == entry.file_name2 for other in again)
            if again and is_pair and image is not entry:
                continue
            if again:
                told = f"{uri}: {image.file_name} is listed {1 + len(again)} times"
                faults.append(PairFault(pair_id, "listed_twice", told, is_skipped=not is_pair))
            if not is_pair:
                continue
            try:
                rgb_uri, infrared_uri = files.join(root, image.file_name), _infrared(root, image)
                is_there = folders.hold(rgb_uri), folders.hold(infrared_uri)
            except DataError as error:
                faults.append(PairFault(pair_id, error.code, error.message))
                continue
            if not all(is_there):
                missing = infrared_uri if is_there[0] else rgb_uri
                faults.append(PairFault(pair_id, "missing_file", f"{missing}: expected a picture, found no file"))
                continue
            # Each entry may hold a part of the boxes, so that a pair of two has none.
            labels = replace(coco, boxes={}, is_labelled=False) if again else coco
            pair, wrong = _pair(labels, image, _name(root, uri), pair_id, rgb_uri, infrared_uri)
            pairs.append(pair)
            faults += wrong
        faults += [PairFault(ids.get(n, "(none)"), code, told, is_skipped=False) for n, code, told in coco.faults]
        return PairCorpus(
            name=_name(root, uri),
            reader=self.name,
            pairs=tuple(pairs),
            categories=coco.categories,
            faults=tuple(faults),
        )


class _Folders:
    """Which pictures exist; each folder is listed once, which object stores answer fast."""

    def __init__(self) -> None:
        self._entries: dict[str, frozenset[str]] = {}

    def hold(self, uri: str) -> bool:
        folder = files.parent(uri)
        if folder not in self._entries:
            listed = files.list_folder(folder) if files.is_folder(folder) else []
            self._entries[folder] = frozenset(listed)
        return uri in self._entries[folder]


def _root(coco: CocoFile) -> str:
    """Raises DataError: `missing_file`: none of the three folders holds any of the first pictures."""
    folder = files.parent(coco.uri)
    candidates = [folder, files.parent(folder), files.parent(files.parent(folder))]
    folders = _Folders()
    # Spread over the file, so that one missing piece of a corpus does not hide the root.
    asked = coco.images[:: max(1, len(coco.images) // _ASKED_FOR_ROOT)]
    held = [sum(_is_held(folders, root, image) for image in asked) for root in candidates]
    if not max(held):
        first = coco.images[0].file_name
        raise DataError(
            "missing_file", f"{coco.uri}: none of its pictures ({first}, ...) lies under any of {', '.join(candidates)}"
        )
    return candidates[held.index(max(held))]


def _is_held(folders: _Folders, root: str, image: CocoImage) -> bool:
    try:
        return folders.hold(files.join(root, image.file_name)) or folders.hold(_infrared(root, image))
    except DataError:
        return False


def _infrared(root: str, image: CocoImage) -> str:
    if not image.file_name2:
        raise DataError("no_partner", f"{image.file_name}: expected file_name2 (infrared) beside it, found none")
    return files.join(root, image.file_name2)


def _pair(
    coco: CocoFile, image: CocoImage, corpus: str, pair_id: str, rgb_uri: str, infrared_uri: str
) -> tuple[Pair, tuple[PairFault, ...]]:
    checked = check_boxes(coco.boxes.get(image.number, ()), image.width, image.height, pair_id)
    light: Light = "day" if image.light == "day" else "night" if image.light == "night" else ""
    pair = Pair(
        pair_id=pair_id,
        corpus=corpus,
        rgb_uri=rgb_uri,
        infrared_uri=infrared_uri,
        boxes_xyxy=checked.boxes_xyxy,
        labels=checked.labels,
        is_ignored=checked.is_ignored,
        light=light,
        alignment=known_alignment(rgb_uri),
        width=image.width,
        height=image.height,
        is_labelled=coco.is_labelled and image.is_labelled,
    )
    return pair, checked.faults


def _name(root: str, uri: str) -> str:
    return f"{files.name(root)}/{files.stem(uri)}"
