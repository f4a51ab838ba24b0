"""Infrared pictures with boxes, from any corpus of pairs or from a COCO file of infrared pictures alone.

Classes are matched by name, in small letters, so that corpora which spell them otherwise fit each other.
Legend: N boxes of a picture.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence, Set
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from system.errors import ConfigError, DataError
from system.pairs import files
from system.pairs.boxes import GivenBox, check_boxes
from system.pairs.coco_file import SEPARATOR, CocoFile, CocoImage, coco_and_images, read_coco
from system.pairs.masks import Mask
from system.pairs.pixels import picture_size
from system.pairs.records import Pair, PairFault
from system.pairs.registry import open_pairs
from system.pairs.subset import of_splits

# What corpora call regions in which nothing is to be found nor missed.
NOBODYS = ("dontcare", "don't care", "ignore", "__ignore__", "ignored regions", "ignored region")
_UP = 3
_READ_AT_ONCE = 8
# (height, width), or None where nobody says.
Size = tuple[int | None, int | None]


@dataclass(frozen=True, eq=False)
class InfraredPicture:
    """One picture; only its name and annotations, no pixels.

    Attributes:
        picture_id: unique in its set.
        boxes_xyxy, labels, is_ignored: as of `Pair`; labels are places in the set's classes.
        width, height: as its annotations state them, or, where it has boxes, its file does; else None.
        mask: where the class of each pixel comes from, in sets of masks.
    """

    picture_id: str
    uri: str
    boxes_xyxy: NDArray[np.float32]
    labels: NDArray[np.int64]
    is_ignored: NDArray[np.bool_]
    width: int | None = None
    height: int | None = None
    mask: Mask | None = None


@dataclass(frozen=True, eq=False)
class InfraredSet:
    """classes: by their place in labels. faults: pictures that were left out, boxes that were dropped or cut.

    masks: what its masks are, "" where it has none; those that nobody drew are told by `PSEUDO` at its start.
    """

    name: str
    pictures: tuple[InfraredPicture, ...]
    classes: tuple[str, ...]
    faults: tuple[PairFault, ...] = ()
    masks: str = ""

    def counts(self) -> dict[str, int]:
        """Boxes of each class that are not ignored."""
        found = [p.labels[~p.is_ignored] for p in self.pictures]
        numbers = np.bincount(np.concatenate([np.zeros(0, int), *found]), minlength=len(self.classes))
        return dict(zip(self.classes, numbers.tolist(), strict=True))

    def shown_classes(self) -> tuple[str, ...]:
        """Classes that there is an object of; names of nobody's regions are none."""
        return tuple(name for name, objects in self.counts().items() if objects and name not in NOBODYS)

    def of_classes(self, classes: Sequence[str], ignored: Sequence[str] = ()) -> InfraredSet:
        """The same pictures with labels that are places in `classes`; boxes of other classes are background.

        Regions of nobody, and boxes of the classes in `ignored`, are ignored for every class.

        Raises:
            ConfigError: the set knows none of the classes.
        """
        if not set(classes) & set(self.classes):
            raise ConfigError(
                f"{self.name}: knows {', '.join(self.classes) or 'no class'}, expected one of {', '.join(classes)}"
            )
        place = {name: k for k, name in enumerate(classes)}
        return replace(
            self,
            pictures=tuple(_relabelled(p, self.classes, place, {*NOBODYS, *ignored}) for p in self.pictures),
            classes=tuple(classes),
        )


def refuse_ignored(ignored: Sequence[str], classes: Sequence[str], sets: Sequence[InfraredSet]) -> None:
    """Raises ConfigError: a class of --ignore is one of `classes`, or none of the sets knows it."""
    known = list(dict.fromkeys(name for found in sets for name in found.classes))
    for name in ignored:
        if name in classes:
            told = f"is one of {', '.join(classes)}, which are to be found; expected a class beside them"
            raise ConfigError(f"--ignore {name}: {told}")
        if name not in known:
            where = ", ".join(found.name for found in sets)
            raise ConfigError(f"--ignore {name}: not known to {where}, which knows {', '.join(known) or 'no class'}")


def read_infrared_set(
    uri: str, images: str | None = None, splits: Sequence[str] | None = None, needs_boxes: bool = True
) -> InfraredSet:
    """List a labelled set.

    Args:
        uri: a COCO file (`file_name` is the infrared picture, or `file_name2` if any image has it), `FILE::IMAGES`
            where its pictures lie in another folder, or a corpus of pairs that `open_pairs` knows.
        splits: parts of a corpus of pairs that are taken, as its layout names them; all, if not given. What it puts in
            none is always taken.
        images: folder of a COCO file's pictures; the file's own, its parent or grandparent, if not given.
        needs_boxes: else a COCO file's pictures that it marks as not labelled are taken too.
    Infrared pictures of a corpus of pairs need no partner, where the layout may have labels for them.
    Faults beside those of readers: names of a list that are not found, and pictures whose labels cannot be read, are
        skipped; pictures without labels are counted.
    Raises:
        DataError: nobody drew boxes there, or none of its pictures can be found. FormatError: no reader knows it.
    """
    uri, images = coco_and_images(uri, images)
    uri = files.absolute(uri)  # whoever reads the pictures may stand in another folder
    if not uri.lower().endswith(".json"):
        if images is not None:
            raise ConfigError(f"--images goes with a COCO file, found {uri}")
        return _of_pairs(uri, splits)
    coco = read_coco(uri)
    if not coco.images:
        raise DataError("no_pictures", f"{uri}: expected images, found an empty list")
    if not coco.is_labelled:
        raise DataError("not_labelled", f"{uri}: expected annotations, found none; a detector is judged by boxes")
    names = coco.infrared_names()
    root = _root(uri, list(names.values()), images)
    faults = [PairFault(str(n), code, told, is_skipped=False) for n, code, told in coco.faults]
    there: list[tuple[CocoImage, str, str]] = []
    listed: dict[str, frozenset[str]] = {}
    entries = Counter(names.values())
    for image in coco.images:
        if (file_name := names.get(image.number)) is None:
            told = f"{uri}: expected file_name2 (infrared) beside it, as other images have, found none"
            faults.append(PairFault(image.file_name, "no_partner", told))
            continue
        if entries[file_name] > 1:  # each entry may hold a part of the boxes
            told = f"{uri}: {file_name} is listed {entries[file_name]} times"
            faults.append(PairFault(file_name, "listed_twice", told))
            continue
        try:
            picture_uri = files.join(root, file_name)
        except DataError as error:
            faults.append(PairFault(file_name, error.code, error.message))
            continue
        if not _is_there(picture_uri, listed):
            faults.append(PairFault(file_name, "missing_file", f"{picture_uri}: expected a picture, found no file"))
            continue
        there.append((image, file_name, picture_uri))
    if needs_boxes and (bare := sum(not image.is_labelled for image, _, _ in there)):
        if bare == len(there):
            raise DataError("not_labelled", f"{uri}: expected boxes, found {bare} pictures whose has_boxes is false")
        faults.append(_not_labelled(files.stem(uri), f"{bare} of {len(there)} pictures"))
        there = [entry for entry in there if entry[0].is_labelled]
    given = [coco.boxes.get(image.number, ()) for image, _, _ in there]
    stated = [(image.height, image.width) for image, _, _ in there]
    sizes = _sizes([uri for _, _, uri in there], stated, [len(boxes) for boxes in given])
    pictures = []
    for (_, file_name, picture_uri), of_picture, (height, width) in zip(there, given, sizes, strict=True):
        boxes = check_boxes(of_picture, width, height, file_name)
        faults += boxes.faults
        pictures.append(
            InfraredPicture(
                picture_id=file_name,
                uri=picture_uri,
                boxes_xyxy=boxes.boxes_xyxy,
                labels=boxes.labels,
                is_ignored=boxes.is_ignored,
                width=width,
                height=height,
            )
        )
    return InfraredSet(files.stem(uri), tuple(pictures), _classes(coco), tuple(faults))


def _of_pairs(uri: str, splits: Sequence[str] | None) -> InfraredSet:
    corpus = open_pairs(uri, needs_rgb=False)
    taken, told = of_splits(corpus, uri, splits)
    if not taken:
        held = ", ".join(sorted({pair.split for pair in (*corpus.pairs, *corpus.infrared_alone)}))
        raise DataError("no_pairs", f"{uri}: expected pairs of {', '.join(splits or ())}, found those of {held}")
    labelled = [pair for pair in taken if pair.is_labelled]
    if not labelled:
        why = f"; the first fault: {told[0]}" if told else ""
        raise DataError("not_labelled", f"{uri}: expected boxes, found {len(taken)} pictures without{why}")
    stated = [(pair.height, pair.width) for pair in labelled]
    sizes = _sizes([pair.infrared_uri for pair in labelled], stated, [len(pair.boxes_xyxy) for pair in labelled])
    pictures, faults = [], _of_lost_labels(corpus.name, taken, told)
    for pair, (height, width) in zip(labelled, sizes, strict=True):
        rows = zip(pair.boxes_xyxy.tolist(), pair.labels.tolist(), pair.is_ignored.tolist(), strict=True)
        boxes = check_boxes(
            [GivenBox(x1, y1, x2, y2, label, ignored) for (x1, y1, x2, y2), label, ignored in rows],
            width,
            height,
            pair.pair_id,
        )
        faults += boxes.faults
        pictures.append(
            InfraredPicture(
                picture_id=pair.pair_id,
                uri=pair.infrared_uri,
                boxes_xyxy=boxes.boxes_xyxy,
                labels=boxes.labels,
                is_ignored=boxes.is_ignored,
                width=width,
                height=height,
            )
        )
    return InfraredSet(corpus.name, tuple(pictures), tuple(name.lower() for name in corpus.categories), tuple(faults))


def _of_lost_labels(name: str, taken: Sequence[Pair], faults: Sequence[PairFault]) -> list[PairFault]:
    """The same faults, where a picture that lost its labels to one is left out and told once.

    Pictures that nobody labelled are normal, and are told by one line for all.
    """
    bare = {pair.pair_id for pair in taken if not pair.is_labelled}
    lost: dict[str, PairFault] = {}
    for fault in faults:
        if fault.pair_id in bare:
            lost.setdefault(fault.pair_id, replace(fault, is_skipped=True))
    found = [*lost.values(), *(fault for fault in faults if fault.pair_id not in bare)]
    if unlabelled := len(bare) - len(lost):
        found.append(_not_labelled(name, f"{unlabelled} of {len(taken)} pictures"))
    return found


def _not_labelled(name: str, which: str) -> PairFault:
    told = f"{which} have no labels, and are neither learnt from nor judged"
    return PairFault(name, "not_labelled", told, is_skipped=False)


def _sizes(uris: Sequence[str], stated: Sequence[Size], boxes: Sequence[int]) -> list[Size]:
    """Of each picture (height, width) as its annotations state it; where they do not, and it has boxes that are to be
    held against it, as its file does."""

    def of_one(uri: str, size: Size, count: int) -> Size:
        return size if None not in size or not count else picture_size(uri) or size

    with ThreadPoolExecutor(_READ_AT_ONCE) as pool:
        return list(pool.map(of_one, uris, stated, boxes))


def _classes(coco: CocoFile) -> tuple[str, ...]:
    names = tuple(name.strip().lower() for name in coco.categories)
    if len(set(names)) < len(names):
        raise DataError("not_coco", f"{coco.uri}: two of its categories are both called one of {', '.join(names)}")
    return names


def _relabelled(
    picture: InfraredPicture, classes: Sequence[str], place: dict[str, int], nobodys: Set[str]
) -> InfraredPicture:
    boxes, labels, ignored = [], [], []
    for box, label, is_ignored in zip(picture.boxes_xyxy, picture.labels, picture.is_ignored, strict=True):
        name = classes[label]
        meant = list(place.values()) if name in nobodys else [place[name]] if name in place else []
        boxes += [box] * len(meant)
        labels += meant
        ignored += [bool(is_ignored) or name in nobodys] * len(meant)
    return replace(
        picture,
        boxes_xyxy=np.array(boxes, np.float32).reshape(-1, 4),
        labels=np.array(labels, np.int64),
        is_ignored=np.array(ignored, np.bool_),
    )


def _root(uri: str, names: Sequence[str], images: str | None) -> str:
    """Raises DataError: none of the pictures lies where it is expected."""
    candidates = [files.absolute(images)] if images else []
    folder = uri
    while not images and len(candidates) < _UP:
        folder = files.parent(folder)
        candidates.append(folder)
    asked = names[:: max(1, len(names) // 16)]
    listed: dict[str, frozenset[str]] = {}
    held = [sum(_holds(root, name, listed) for name in asked) for root in candidates]
    if not max(held):
        told = f"none of its pictures ({names[0]}, ...) lies under {' or '.join(candidates)}"
        if all(name.startswith("/") or "://" in name for name in asked):
            told = f"its pictures are named from the root ({names[0]}, ...), expected names below a folder"
        raise DataError("missing_file", f"{uri}: {told}; name their folder: {uri}{SEPARATOR}FOLDER")
    return candidates[held.index(max(held))]


def _holds(root: str, name: str, listed: dict[str, frozenset[str]]) -> bool:
    try:
        return _is_there(files.join(root, name), listed)
    except DataError:
        return False


def _is_there(uri: str, listed: dict[str, frozenset[str]]) -> bool:
    folder = files.parent(uri)
    if folder not in listed:
        listed[folder] = frozenset(files.list_folder(folder)) if files.is_folder(folder) else frozenset()
    return uri in listed[folder]
