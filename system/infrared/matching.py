"""Which detection found which object, by the rules of COCO.

Detections of a class are taken by falling score; each takes the object that it overlaps most among those that are not
taken, at an overlap of at least the threshold; a real object goes before an ignored region. What matches an ignored
region counts neither for nor against, and a region can take many. Overlap is intersection over union; with an ignored
region it is intersection over the detection's own area.

Source: pycocotools, cocoeval.py (evaluateImg, accumulate), whose figures a test compares.

Legend: N pictures, M detections of one class, G its objects, T overlap thresholds, B bootstrap draws, R recalls,
F found objects.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from system.infrared.detections import Detections, Truth, box_areas

Floats = NDArray[np.floating]
# COCO's: 0.50, 0.55, ... 0.95; its recalls 0, 0.01, ... 1; and how many detections of a class and picture it looks at.
COCO_OVERLAPS = tuple(round(0.5 + 0.05 * k, 2) for k in range(10))
RECALLS_R = np.linspace(0.0, 1.0, 101)
MAX_DETECTIONS = 100
FALSE, TRUE, IGNORED = 0, 1, -1
# Draws times detections that are looked at together: 8 MB, of which a few copies are held.
_NUMBERS_AT_ONCE = 1 << 20


@dataclass(frozen=True, eq=False)
class Matches:
    """Detections of one class in all pictures, by falling score.

    Attributes:
        scores_M, image_M: each one's score and the place of its picture.
        outcome_TM: int8 [T, M]: TRUE (found an object), FALSE, or IGNORED.
        place_M: the detection's place in its picture's `Detections`.
        truths_N: objects that are to be found in each picture.
    """

    scores_M: Floats
    image_M: NDArray[np.int64]
    outcome_TM: NDArray[np.int8]
    place_M: NDArray[np.int64]
    truths_N: NDArray[np.int64]


def overlaps(boxes_M4: NDArray[np.float32], truths_G4: NDArray[np.float32], is_ignored_G: NDArray[np.bool_]) -> Floats:
    """[M, G] in [0, 1]: intersection over union, or over the detection's area where the other is ignored."""
    a_M14, b_1G4 = boxes_M4[:, None].astype(np.float64), truths_G4[None].astype(np.float64)
    sides_MG2 = np.minimum(a_M14[..., 2:], b_1G4[..., 2:]) - np.maximum(a_M14[..., :2], b_1G4[..., :2])
    shared_MG = np.clip(sides_MG2, 0, None).prod(-1)
    area_M1 = box_areas(boxes_M4)[:, None]
    joined_MG = area_M1 + box_areas(truths_G4)[None] - shared_MG
    return shared_MG / np.maximum(np.where(is_ignored_G, area_M1, joined_MG), 1e-12)


def match(
    found: Sequence[Detections],
    truths: Sequence[Truth],
    label: int,
    thresholds: Sequence[float] = COCO_OVERLAPS,
    max_detections: int = MAX_DETECTIONS,
) -> Matches:
    """Match the detections of one class in every picture."""
    scores, images, outcomes, places, counts = [], [], [], [], []
    for n, (detections, truth) in enumerate(zip(found, truths, strict=True)):
        mine = np.flatnonzero(detections.labels == label)
        mine = mine[np.argsort(-detections.scores[mine], kind="stable")][:max_detections]
        real = truth.of_class(label)
        scores.append(detections.scores[mine].astype(np.float64))
        images.append(np.full(len(mine), n))
        places.append(mine)
        outcomes.append(_outcomes(detections.boxes_xyxy[mine], real, thresholds))
        counts.append(int((~real.is_ignored).sum()))
    scores_M = np.concatenate([np.zeros(0), *scores])
    order = np.argsort(-scores_M, kind="stable")
    empty = np.zeros((len(thresholds), 0), np.int8)
    return Matches(
        scores_M=scores_M[order],
        image_M=np.concatenate([np.zeros(0, int), *images])[order],
        outcome_TM=np.concatenate([empty, *outcomes], axis=1)[:, order],
        place_M=np.concatenate([np.zeros(0, int), *places])[order],
        truths_N=np.array(counts, np.int64),
    )


def _outcomes(boxes_M4: NDArray[np.float32], real: Truth, thresholds: Sequence[float]) -> NDArray[np.int8]:
    outcome_TM = np.zeros((len(thresholds), len(boxes_M4)), np.int8)
    first = np.argsort(real.is_ignored, kind="stable")
    ignored_G = real.is_ignored[first]
    overlap_MG = overlaps(boxes_M4, real.boxes_xyxy[first], ignored_G)
    for t, threshold in enumerate(thresholds):
        is_free_G = np.ones(len(first), bool)
        for m in range(len(boxes_M4)):
            for kind, candidates_G in ((TRUE, is_free_G & ~ignored_G), (IGNORED, ignored_G)):
                reached_G = np.flatnonzero(candidates_G & (overlap_MG[m] >= min(threshold, 1 - 1e-10)))
                if len(reached_G):
                    # The last of equals, as COCO's loop leaves it.
                    best = reached_G[::-1][np.argmax(overlap_MG[m, reached_G[::-1]])]
                    is_free_G[best] = False
                    outcome_TM[t, m] = kind
                    break
    return outcome_TM


def precision_recall(matches: Matches, threshold: int) -> tuple[Floats, Floats]:
    """(precision, recall) after each detection.

    Precision is the highest at this recall or a higher one. Both are empty where there is nothing to find.
    """
    total = int(matches.truths_N.sum())
    if not total:
        return np.zeros(0), np.zeros(0)
    outcome_M = matches.outcome_TM[threshold]
    true_M, false_M = np.cumsum(outcome_M == TRUE), np.cumsum(outcome_M == FALSE)
    precision_M = true_M / np.maximum(true_M + false_M, np.finfo(float).eps)
    return np.maximum.accumulate(precision_M[::-1])[::-1], true_M / total


def average_precision(matches: Matches) -> Floats:
    """COCO's, at each threshold [T]: mean precision over 101 recalls. NaN where there is nothing to find."""
    return drawn_average_precision(matches, np.ones((1, len(matches.truths_N))))[0]


def drawn_average_precision(matches: Matches, counts_BN: Floats) -> Floats:
    """`average_precision` of bootstrap draws that hold each picture so many times, [B, T].

    Recall grows at found objects alone, and precision is highest there, so that only they are looked at.
    """
    at_once = max(1, _NUMBERS_AT_ONCE // max(1, len(matches.image_M)))
    blocks = [_drawn(matches, counts_BN[start : start + at_once]) for start in range(0, len(counts_BN), at_once)]
    return np.concatenate([np.zeros((0, len(matches.outcome_TM))), *blocks])


def _drawn(matches: Matches, counts_BN: Floats) -> Floats:
    total_B = counts_BN @ matches.truths_N.astype(float)
    found_BT = np.full((len(counts_BN), len(matches.outcome_TM)), np.nan)
    drawn_BM = counts_BN[:, matches.image_M]
    for t, outcome_M in enumerate(matches.outcome_TM):
        places_F = np.flatnonzero(outcome_M == TRUE)
        true_BF = drawn_BM[:, places_F].cumsum(1)
        false_BF = (drawn_BM * (outcome_M == FALSE)).cumsum(1)[:, places_F]
        precision_BF = true_BF / np.maximum(true_BF + false_BF, np.finfo(float).eps)
        precision_BF = np.maximum.accumulate(precision_BF[:, ::-1], axis=1)[:, ::-1]
        for b in np.flatnonzero(total_B):
            place_R = np.searchsorted(true_BF[b] / total_B[b], RECALLS_R, side="left")
            found_BT[b, t] = np.append(precision_BF[b], 0.0)[place_R].mean()
    return found_BT
