"""Where the class of each pixel comes from: label pictures, outlines of a COCO file, or a guess from boxes.

A guess is a pseudo-mask and is called so wherever it is named.
Legend: H x W pixels of the picture.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import cv2
import numpy as np
from numpy.typing import NDArray

from system.errors import DataError
from system.pairs.box_masks import guess_from_boxes
from system.pairs.pixels import read_mask

# The label of pixels of which nothing is known, as label pictures of the field have it: neither learnt nor judged.
IGNORED = 255
BACKGROUND = "background"
# At the start of what a set tells of masks that nobody drew.
PSEUDO = "pseudo-masks"
_MAX_CLASSES = 255
_LEAST_CORNERS = 3
# Outlines may leave the picture; drawing one takes memory for every pixel of its edges.
_FARTHEST_SIDES = 4

Labels = NDArray[np.uint8]


@dataclass(frozen=True)
class Outline:
    """One annotation of a COCO file.

    segmentation: polygons or RLE as the file gives them, or None. box_xywh in pixels. is_ignored: a crowd.
    """

    label: int
    segmentation: Any
    box_xywh: tuple[float, float, float, float]
    is_ignored: bool = False


@dataclass(frozen=True, eq=False)
class Mask:
    """The label map of one picture, read or made when it is asked for.

    places: of each class as the source numbers them, its place in the set's classes or `IGNORED`.
    """

    places: tuple[int, ...]

    def label_map(self, pixels_HW: NDArray[np.uint8]) -> Labels:
        """Places in the set's classes or `IGNORED`, uint8 [H, W] of the picture that is given.

        Raises:
            DataError: the mask cannot be read, is of another size, or holds classes that are not in its source's list.
        """
        own = self._own_map(pixels_HW)
        if own.shape != pixels_HW.shape[:2]:
            raise DataError(
                "wrong_shape",
                f"{self.name}: a mask of {own.shape[1]}x{own.shape[0]} for a picture of "
                f"{pixels_HW.shape[1]}x{pixels_HW.shape[0]}; expected the same size",
            )
        unknown = [int(n) for n in np.unique(own) if n != IGNORED and n >= len(self.places)]
        if unknown:
            raise DataError(
                "unknown_class",
                f"{self.name}: holds class {unknown[0]}; expected 0 to {len(self.places) - 1}, or {IGNORED} for pixels "
                "that are ignored; name all classes with --mask-classes",
            )
        table = np.full(256, IGNORED, np.uint8)
        table[: len(self.places)] = self.places
        found: Labels = table[own]
        return found

    def of_classes(self, places: Sequence[int]) -> Self:
        """With `places[k]` for what was place k; what is ignored stays so."""
        return replace(self, places=tuple(IGNORED if k == IGNORED else places[k] for k in self.places))

    def described(self) -> list[Any]:
        """What tells this mask from others, as JSON."""
        return [type(self).__name__, self.name, list(self.places)]

    @property
    def name(self) -> str:
        """For messages."""
        raise NotImplementedError

    def _own_map(self, pixels_HW: NDArray[np.uint8]) -> Labels:
        raise NotImplementedError


@dataclass(frozen=True, eq=False)
class PictureMask(Mask):
    """A picture of class numbers."""

    uri: str

    @property
    def name(self) -> str:
        """Where it lies."""
        return self.uri

    def _own_map(self, pixels_HW: NDArray[np.uint8]) -> Labels:
        return read_mask(self.uri)


@dataclass(frozen=True, eq=False)
class OutlineMask(Mask):
    """Outlines of a COCO file; what is small is painted over what is large. Class 0 is the background.

    Crowds, and boxes that nobody outlined, are ignored.
    """

    picture: str
    outlines: tuple[Outline, ...]

    @property
    def name(self) -> str:
        """The picture's."""
        return self.picture

    def described(self) -> list[Any]:
        """With everything that is drawn."""
        return [*super().described(), [[o.label, o.segmentation, o.box_xywh, o.is_ignored] for o in self.outlines]]

    def _own_map(self, pixels_HW: NDArray[np.uint8]) -> Labels:
        height, width = pixels_HW.shape[:2]
        labels = np.zeros((height, width), np.uint8)
        drawn = [(_inside(outline, height, width, self.picture), outline) for outline in self.outlines]
        for is_inside, outline in sorted(drawn, key=lambda pair: -int(pair[0].sum())):
            is_known = outline.segmentation is not None and not outline.is_ignored
            labels[is_inside] = outline.label + 1 if is_known else IGNORED
        return labels


@dataclass(frozen=True, eq=False)
class BoxMask(Mask):
    """A pseudo-mask: what GrabCut takes for the object in each box. Class 0 is the background."""

    picture: str
    boxes_xyxy: NDArray[np.float32]
    labels: NDArray[np.int64]
    is_ignored: NDArray[np.bool_]

    @property
    def name(self) -> str:
        """The picture's."""
        return self.picture

    def described(self) -> list[Any]:
        """With its boxes."""
        boxes = [self.boxes_xyxy.tolist(), self.labels.tolist(), self.is_ignored.tolist()]
        return [*super().described(), boxes]

    def _own_map(self, pixels_HW: NDArray[np.uint8]) -> Labels:
        return guess_from_boxes(pixels_HW, self.boxes_xyxy, self.labels + 1, self.is_ignored, IGNORED)


def fit_labels(labels_HW: Labels, size: tuple[int, int]) -> Labels:
    """A label map at (height, width): each place takes the label in its middle."""
    if labels_HW.shape == size:
        return labels_HW
    return cv2.resize(labels_HW, (size[1], size[0]), interpolation=cv2.INTER_NEAREST_EXACT).astype(np.uint8)


def refuse_too_many(classes: Sequence[str], where: str) -> None:
    """Raises DataError: more classes than a label picture can number, or two of one name."""
    if len(classes) > _MAX_CLASSES or len(set(classes)) < len(classes):
        raise DataError("bad_classes", f"{where}: expected at most {_MAX_CLASSES} classes, each once: {classes}")


def _inside(outline: Outline, height: int, width: int, picture: str) -> NDArray[np.bool_]:
    if outline.segmentation is None:
        inside = np.zeros((height, width), bool)
        x, y, w, h = outline.box_xywh
        inside[max(0, int(y)) : max(0, round(y + h)), max(0, int(x)) : max(0, round(x + w))] = True
        return inside
    # It takes half a second to import, and most corpora have no outlines.
    from faster_coco_eval.core import mask as rle

    given = outline.segmentation
    try:
        if isinstance(given, list):
            _refuse_corners(given, _FARTHEST_SIDES * max(height, width))
            found = rle.decode(rle.merge(rle.frPyObjects(given, height, width)))
        else:
            rows, columns = given["size"]
            if (rows, columns) != (height, width):
                raise DataError(
                    "wrong_shape",
                    f"{picture}: an RLE of {columns}x{rows} for a picture of {width}x{height}; expected the same size",
                )
            if isinstance(given["counts"], str):
                found = rle.decode({"size": given["size"], "counts": given["counts"].encode()})
            else:
                found = rle.decode(rle.frPyObjects(given, height, width))
    except (RuntimeError, ValueError, TypeError, KeyError, OverflowError) as error:
        raise DataError(
            "bad_outline", f"{picture}: expected polygons [x1, y1, ...] or RLE, found {str(given)[:60]}: {error}"
        ) from error
    return np.asarray(found, bool)


def _refuse_corners(polygons: Sequence[Sequence[float]], farthest_px: float) -> None:
    """Raises ValueError: too few corners, or one that is no place near the picture."""
    for polygon in polygons:
        if len(polygon) < 2 * _LEAST_CORNERS:
            raise ValueError(f"a polygon of fewer than {_LEAST_CORNERS} corners")
        # NaN is not below anything.
        if not (np.abs(np.asarray(polygon, float)) <= farthest_px).all():
            raise ValueError(f"a corner that is no number or more than {farthest_px:g} pixels away")
