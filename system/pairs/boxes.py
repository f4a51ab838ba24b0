"""Boxes as annotation files give them, checked: inside their picture or counted as a fault."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from system.pairs.records import PairFault

# Boxes drawn by hand touch the border by a pixel or two.
_OVERHANG_PX = 2.0


@dataclass(frozen=True)
class GivenBox:
    """A box as written: corners in pixels, the place of its class, and whether it is to be ignored."""

    x1: float
    y1: float
    x2: float
    y2: float
    label: int
    is_ignored: bool = False


@dataclass(frozen=True, eq=False)
class CheckedBoxes:
    """boxes_xyxy: float32 [N, 4]; labels: int64 [N]; is_ignored: bool [N]; faults: one for each dropped or cut box."""

    boxes_xyxy: NDArray[np.float32]
    labels: NDArray[np.int64]
    is_ignored: NDArray[np.bool_]
    faults: tuple[PairFault, ...]


def check_boxes(given: Sequence[GivenBox], width: int | None, height: int | None, pair_id: str) -> CheckedBoxes:
    """Cut boxes to their picture and drop those that have no area in it.

    Faults: `box_outside` (dropped), `box_cut` (reached out by more than 2 px), `empty_box` and `not_finite` (dropped).
    """
    kept: list[GivenBox] = []
    faults: list[PairFault] = []
    w, h = width or np.inf, height or np.inf
    for box in given:
        corners = (box.x1, box.y1, box.x2, box.y2)
        told = f"box [{', '.join(f'{value:g}' for value in corners)}]"
        picture = f"a picture of {width}x{height}"
        if not np.isfinite(corners).all():
            faults.append(PairFault(pair_id, "not_finite", f"{told}: expected numbers; dropped", is_skipped=False))
        elif box.x2 <= box.x1 or box.y2 <= box.y1:
            faults.append(PairFault(pair_id, "empty_box", f"{told}: expected an area; dropped", is_skipped=False))
        elif box.x1 >= w or box.y1 >= h or box.x2 <= 0 or box.y2 <= 0:
            faults.append(
                PairFault(pair_id, "box_outside", f"{told} lies outside {picture}; dropped", is_skipped=False)
            )
        else:
            cut = GivenBox(max(box.x1, 0), max(box.y1, 0), min(box.x2, w), min(box.y2, h), box.label, box.is_ignored)
            kept.append(cut)
            if max(cut.x1 - box.x1, cut.y1 - box.y1, box.x2 - cut.x2, box.y2 - cut.y2) > _OVERHANG_PX:
                faults.append(PairFault(pair_id, "box_cut", f"{told} reaches out of {picture}; cut", is_skipped=False))
    return CheckedBoxes(
        boxes_xyxy=np.array([(b.x1, b.y1, b.x2, b.y2) for b in kept], np.float32).reshape(-1, 4),
        labels=np.array([b.label for b in kept], np.int64),
        is_ignored=np.array([b.is_ignored for b in kept], np.bool_),
        faults=tuple(faults),
    )
