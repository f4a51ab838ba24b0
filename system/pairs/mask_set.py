"""Infrared pictures with masks: label pictures of a corpus or any folder, outlines of a COCO file, guesses from boxes.

Class 0 is the background. Classes are matched by name, in small letters.
"""

from __future__ import annotations

import posixpath
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from pydantic import Field

from system.config import FrozenConfig
from system.errors import ConfigError, DataError
from system.pairs import files
from system.pairs.coco_file import coco_and_images, read_coco
from system.pairs.infrared_set import NOBODYS, InfraredPicture, InfraredSet, read_infrared_set
from system.pairs.masks import BACKGROUND, IGNORED, PSEUDO, BoxMask, Mask, OutlineMask, PictureMask, refuse_too_many
from system.pairs.matching import names_below
from system.pairs.records import PairFault
from system.pairs.registry import open_pairs
from system.pairs.subset import of_splits

OWN, BOXES = "own", "boxes"
_BOXES_TOLD = f"{PSEUDO} that GrabCut made from boxes, drawn by nobody"


class MaskSource(FrozenConfig):
    """Where the masks of a set come from.

    kind: `own`, label pictures or outlines of the set itself; `boxes`, pseudo-masks from its boxes; or a folder of
        label pictures, nested as the pictures are, or each named as one of them alone is.
    classes: names by number in the label pictures of a folder, the background first.
    pseudo: what made the masks, where nobody drew them: a teacher on RGB, another tool.
    """

    kind: str = Field(default=OWN, min_length=1)
    classes: tuple[str, ...] = ()
    pseudo: str = ""


def read_mask_set(
    uri: str, source: MaskSource | None = None, images: str | None = None, splits: Sequence[str] | None = None
) -> InfraredSet:
    """List a set with masks.

    Args:
        uri, images, splits: as of `read_infrared_set`.
    Raises:
        DataError: there are no masks, or none of its pictures can be found. ConfigError: a source that does not fit.
    """
    source = source or MaskSource()
    uri, images = coco_and_images(uri, images)
    uri = files.absolute(uri)
    if source.kind not in (OWN, BOXES):
        return _of_folder(uri, source, images, splits)
    if source.classes:
        raise ConfigError(f"--mask-classes goes with a folder of label pictures, found --masks {source.kind}")
    if source.kind == BOXES:
        return _of_boxes(uri, source, images, splits)
    return _of_outlines(uri, source, images) if uri.lower().endswith(".json") else _of_corpus(uri, source, splits)


def of_mask_classes(found: InfraredSet, classes: Sequence[str]) -> InfraredSet:
    """The same pictures with labels that are places in (background, *classes); other classes are background.

    Raises:
        ConfigError: the set knows none of the classes.
    """
    asked = tuple(name for name in classes if name != BACKGROUND)
    if not set(asked) & set(found.classes):
        raise ConfigError(
            f"{found.name}: knows {', '.join(found.classes[1:]) or 'no class'}, expected one of {', '.join(asked)}"
        )
    named = (BACKGROUND, *asked)
    refuse_too_many(named, found.name)
    places = [named.index(name) if name in named else 0 for name in found.classes]
    pictures = tuple(replace(p, mask=p.mask.of_classes(places)) for p in found.pictures if p.mask is not None)
    return replace(found, pictures=pictures, classes=named)


def drawn_classes(found: InfraredSet) -> tuple[str, ...]:
    """Classes, but the background, that outlines show; all, where only label pictures or boxes tell."""
    outlined = [p.mask for p in found.pictures if isinstance(p.mask, OutlineMask)]
    if not outlined:
        return found.classes[1:]
    places = {mask.places[o.label + 1] for mask in outlined for o in mask.outlines if o.segmentation}
    return tuple(name for place, name in enumerate(found.classes) if place and place in places)


def _of_boxes(uri: str, source: MaskSource, images: str | None, splits: Sequence[str] | None) -> InfraredSet:
    found = read_infrared_set(uri, images, splits)
    shown = found.shown_classes()
    if not shown:
        raise DataError("no_positive", f"{uri}: shows no object to make masks from")
    found = found.of_classes(shown)
    places = tuple(range(len(shown) + 1))
    pictures = [_bare(p, BoxMask(places, p.picture_id, p.boxes_xyxy, p.labels, p.is_ignored)) for p in found.pictures]
    told = source.pseudo and f"{PSEUDO}: {source.pseudo}"
    return InfraredSet(found.name, tuple(pictures), (BACKGROUND, *shown), found.faults, told or _BOXES_TOLD)


def _of_outlines(uri: str, source: MaskSource, images: str | None) -> InfraredSet:
    coco = read_coco(uri)
    if not any(outline.segmentation for found in coco.outlines.values() for outline in found):
        raise DataError(
            "no_masks",
            f"{uri}: expected annotations with a segmentation, found boxes alone; --masks boxes makes pseudo-masks "
            "from them, --masks FOLDER takes label pictures",
        )
    found = read_infrared_set(uri, images)
    classes, places = _numbered((BACKGROUND, *found.classes), uri)
    faults = list(found.faults)
    by_name = {name: coco.outlines.get(number, ()) for number, name in coco.infrared_names().items()}
    pictures = []
    for picture in found.pictures:
        outlines = by_name[picture.picture_id]
        pictures.append(_bare(picture, OutlineMask(places, picture.picture_id, outlines)))
        if bare := sum(o.segmentation is None and not o.is_ignored for o in outlines):
            told = f"{bare} boxes without an outline; what lies in them is ignored"
            faults.append(PairFault(picture.picture_id, "no_outline", told, is_skipped=False))
    told = f"{PSEUDO}: {source.pseudo}" if source.pseudo else "outlines of the COCO file"
    return InfraredSet(found.name, tuple(pictures), classes, tuple(faults), told)


def _of_corpus(uri: str, source: MaskSource, splits: Sequence[str] | None) -> InfraredSet:
    corpus = open_pairs(uri)
    taken, faults = of_splits(corpus, uri, splits)
    masked = [pair for pair in taken if pair.mask_uri]
    if not masked:
        raise DataError(
            "no_masks",
            f"{uri}: expected label pictures beside the pairs ({corpus.reader}), found none of {len(taken)} pairs "
            "with one; --masks boxes makes pseudo-masks from boxes, --masks FOLDER takes label pictures",
        )
    classes, places = _numbered(corpus.mask_classes, uri)
    faults += [
        PairFault(pair.pair_id, "no_mask", "expected a label picture of its name, found none")
        for pair in taken
        if not pair.mask_uri
    ]
    pictures = [_picture(pair.pair_id, pair.infrared_uri, PictureMask(places, pair.mask_uri)) for pair in masked]
    told = f"{PSEUDO}: {source.pseudo}" if source.pseudo else "label pictures of the corpus"
    return InfraredSet(corpus.name, tuple(pictures), classes, tuple(faults), told)


def _of_folder(uri: str, source: MaskSource, images: str | None, splits: Sequence[str] | None) -> InfraredSet:
    if not files.is_folder(source.kind):
        raise DataError(
            "missing_file", f"--masks {source.kind}: expected {OWN}, {BOXES} or a folder of label pictures, found none"
        )
    if len(source.classes) < 2:
        raise ConfigError(f"--masks {source.kind}: name its classes by number with --mask-classes background,...")
    classes, places = _numbered(source.classes, source.kind)
    listed, others, faults = _listed(uri, images, splits)
    masks, alone = _masks_below(source.kind, listed, others)
    pictures = [_picture(name, at, PictureMask(places, masks[name])) for name, at in listed if name in masks]
    if not pictures:
        told = f"{source.kind}: holds a label picture of none of {len(listed)} pictures of {uri}"
        raise DataError("no_masks", told + (f", e.g. {alone[0]}" if alone else ""))
    told = f"{PSEUDO}: {source.pseudo}" if source.pseudo else "label pictures of a folder"
    return InfraredSet(files.stem(uri), tuple(pictures), classes, (*faults, *alone), told)


def _numbered(names: Sequence[str], where: str) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """(background and classes, of each number its place among them), of names by number, the background first.

    Regions of nobody are no class: their place is `IGNORED`.
    """
    known = (BACKGROUND, *(name.strip().lower() for name in names[1:]))
    refuse_too_many(known, where)
    classes = tuple(name for name in known if name not in NOBODYS)
    return classes, tuple(classes.index(name) if name in classes else IGNORED for name in known)


def _masks_below(
    folder: str, listed: Sequence[tuple[str, str]], others: Sequence[str]
) -> tuple[dict[str, str], list[PairFault]]:
    """Label pictures by picture id, and faults of the pictures that have none.

    A label picture is of the picture at the same place below its own folder, else of the only one of its name.

    Args:
        listed: id and URI of each picture. others: URIs of pictures that are not taken and may share a name.
    Faults: `no_mask`; `ambiguous_mask`: several pictures or label pictures share a name, and no place tells them apart.
    """
    by_place: dict[str, list[str]] = defaultdict(list)
    by_stem: dict[str, list[str]] = defaultdict(list)
    for place, mask in names_below(files.absolute(folder)):
        by_place[place].append(mask)
        by_stem[files.stem(mask)].append(mask)
    places = [_place_of(*picture) for picture in listed]
    at_place = Counter(places)
    stems = Counter(files.stem(uri) for uri in (*others, *(uri for _, uri in listed)))
    masks = {
        picture_id: by_place[place][0]
        for (picture_id, _), place in zip(listed, places, strict=True)
        if at_place[place] == len(by_place[place]) == 1
    }
    claimed, faults = set(masks.values()), []
    for picture_id, uri in listed:
        free = [mask for mask in by_stem[files.stem(uri)] if mask not in claimed]
        if picture_id in masks:
            continue
        if not free:
            faults.append(PairFault(picture_id, "no_mask", f"{folder}: holds no label picture of its name"))
        elif stems[files.stem(uri)] == len(by_stem[files.stem(uri)]) == 1:
            masks[picture_id] = free[0]
        else:
            told = f"{folder}: {free[0]}: may be of another picture of this name, or this picture have another; "
            faults.append(PairFault(picture_id, "ambiguous_mask", told + "expected both folders nested alike"))
    return masks, faults


def _place_of(picture_id: str, uri: str) -> str:
    """Relative path without a suffix; ids are such paths, though some without the word for the modality in a name."""
    return posixpath.normpath(posixpath.join(posixpath.dirname(picture_id.replace("\\", "/")), files.stem(uri)))


def _listed(
    uri: str, images: str | None, splits: Sequence[str] | None
) -> tuple[list[tuple[str, str]], list[str], list[PairFault]]:
    """Of a COCO file, a corpus of pairs, or a folder of infrared pictures: id and URI of each picture, URIs of those of
    other parts, faults."""
    if uri.lower().endswith(".json"):
        found = read_infrared_set(uri, images, needs_boxes=False)
        return [(p.picture_id, p.uri) for p in found.pictures], [], list(found.faults)
    if files.is_folder(uri) and files.pictures_in(uri):
        return [(files.stem(p), p) for p in files.pictures_in(uri)], [], []
    corpus = open_pairs(uri, needs_rgb=False)
    taken, faults = of_splits(corpus, uri, splits)
    ids = {pair.pair_id for pair in taken}
    others = [pair.infrared_uri for pair in (*corpus.pairs, *corpus.infrared_alone) if pair.pair_id not in ids]
    return [(pair.pair_id, pair.infrared_uri) for pair in taken], others, faults


def _picture(picture_id: str, uri: str, mask: Mask) -> InfraredPicture:
    nothing = np.zeros((0, 4), np.float32), np.zeros(0, np.int64), np.zeros(0, np.bool_)
    return InfraredPicture(picture_id, uri, *nothing, mask=mask)


def _bare(picture: InfraredPicture, mask: Mask) -> InfraredPicture:
    """With a mask in place of boxes, which a segmenter does not ask for."""
    return replace(_picture(picture.picture_id, picture.uri, mask), width=picture.width, height=picture.height)
