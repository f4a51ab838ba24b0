"""Guess the pixels of objects from their boxes: GrabCut on the infrared picture around each box.

Nobody drew these masks. They serve to learn and to compare where there are no others; figures on them tell how well a
model agrees with the guess.
Source: Rother et al., GrabCut, SIGGRAPH 2004; boxes to masks: Khoreva et al., Simple Does It, CVPR 2017.

Legend: H x W pixels, M boxes.
"""

from __future__ import annotations

import hashlib
import threading
import zlib

import cv2
import numpy as np
from numpy.typing import NDArray

_ROUNDS = 3
# Smaller boxes are taken whole: there is nothing to divide.
_LEAST_SIDE_PX = 8
# A guess that fills less or more of its box than objects do is none; the box's middle is then taken, its rest ignored.
_LEAST_SHARE, _MOST_SHARE = 0.2, 0.97
# Around a box, as a share of its sides: what GrabCut learns the background from.
_MARGIN = 0.5
# GrabCut on a large box looks at a smaller picture of it.
_MOST_SIDE_PX = 160
# Guesses of one process, compressed to some hundred bytes each: every epoch asks for the same.
_HELD: dict[bytes, bytes] = {}
_MOST_HELD = 8192
_LOCK = threading.Lock()


def guess_from_boxes(
    pixels_HW: NDArray[np.uint8],
    boxes_xyxy: NDArray[np.float32],
    labels: NDArray[np.int64],
    is_ignored: NDArray[np.bool_],
    ignored_label: int,
) -> NDArray[np.uint8]:
    """Label of each pixel, uint8 [H, W]: 0 where there is no object; small boxes lie over large ones.

    A pixel's width around each object, where the guess is least sure, gets `ignored_label`, as do ignored boxes.
    """
    parts = (pixels_HW, boxes_xyxy, labels, is_ignored)
    digest = hashlib.blake2b(f"{pixels_HW.shape} {ignored_label}".encode(), digest_size=16)
    for part in parts:
        digest.update(np.ascontiguousarray(part).data)
    held = _HELD.get(digest.digest())
    if held is None:
        held = zlib.compress(_guess(*parts, ignored_label).tobytes(), 1)
        with _LOCK:
            if len(_HELD) >= _MOST_HELD:
                _HELD.clear()
            _HELD[digest.digest()] = held
    return np.frombuffer(zlib.decompress(held), np.uint8).reshape(pixels_HW.shape[:2])


def _guess(
    pixels_HW: NDArray[np.uint8],
    boxes_xyxy: NDArray[np.float32],
    labels: NDArray[np.int64],
    is_ignored: NDArray[np.bool_],
    ignored_label: int,
) -> NDArray[np.uint8]:
    height, width = pixels_HW.shape[:2]
    found = np.zeros((height, width), np.uint8)
    sides = (boxes_xyxy[:, 2:] - boxes_xyxy[:, :2]).prod(1)
    for n in np.argsort(-sides, kind="stable"):
        x1, y1, x2, y2 = (round(float(v)) for v in boxes_xyxy[n])
        x1, y1 = min(max(x1, 0), width - 1), min(max(y1, 0), height - 1)
        x2, y2 = min(max(x2, x1 + 1), width), min(max(y2, y1 + 1), height)
        view = found[y1:y2, x1:x2]
        if is_ignored[n]:
            view[:] = ignored_label
            continue
        is_object, is_sure = _object_in(pixels_HW, (x1, y1, x2, y2))
        rim = cv2.morphologyEx(is_object.astype(np.uint8), cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8)) > 0
        view[is_object] = labels[n]
        view[(rim if is_sure else True) & ~is_object] = ignored_label
    return found


def _object_in(pixels_HW: NDArray[np.uint8], box: tuple[int, int, int, int]) -> tuple[NDArray[np.bool_], bool]:
    """(which pixels of a box are the object, whether GrabCut found them)."""
    x1, y1, x2, y2 = box
    h, w = y2 - y1, x2 - x1
    if min(h, w) < _LEAST_SIDE_PX:
        return np.ones((h, w), bool), True
    left, top = max(0, x1 - round(_MARGIN * w)), max(0, y1 - round(_MARGIN * h))
    right, bottom = min(pixels_HW.shape[1], x2 + round(_MARGIN * w)), min(pixels_HW.shape[0], y2 + round(_MARGIN * h))
    around = pixels_HW[top:bottom, left:right]
    factor = min(1.0, _MOST_SIDE_PX / max(around.shape))
    size = max(3, round(around.shape[1] * factor)), max(3, round(around.shape[0] * factor))
    small = cv2.resize(around, size, interpolation=cv2.INTER_AREA)
    state = np.full(small.shape, cv2.GC_BGD, np.uint8)
    rows = slice(round((y1 - top) * factor), max(round((y1 - top) * factor) + 1, round((y2 - top) * factor)))
    columns = slice(round((x1 - left) * factor), max(round((x1 - left) * factor) + 1, round((x2 - left) * factor)))
    state[rows, columns] = cv2.GC_PR_FGD
    if (state == cv2.GC_BGD).sum() < _LEAST_SIDE_PX or float(small.std()) < 1.0:
        return _middle(h, w), False  # a box as large as the picture, or a picture that shows nothing
    cv2.setRNGSeed(0)  # its k-means draws from it
    models = np.zeros((1, 65)), np.zeros((1, 65))
    three = np.repeat(small[..., None], 3, axis=2)
    cv2.grabCut(three, state, (0, 0, 1, 1), *models, _ROUNDS, cv2.GC_INIT_WITH_MASK)
    chosen = np.isin(state, (cv2.GC_FGD, cv2.GC_PR_FGD))[rows, columns].astype(np.uint8)
    is_object = cv2.resize(chosen, (w, h), interpolation=cv2.INTER_NEAREST_EXACT) > 0
    if not _LEAST_SHARE <= float(is_object.mean()) <= _MOST_SHARE:
        return _middle(h, w), False
    return is_object, True


def _middle(height: int, width: int) -> NDArray[np.bool_]:
    """The ellipse that fills the middle of a box."""
    y, x = np.mgrid[:height, :width]
    found: NDArray[np.bool_] = ((x + 0.5) / width * 2 - 1) ** 2 + ((y + 0.5) / height * 2 - 1) ** 2 <= 0.7
    return found
