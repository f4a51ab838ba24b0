"""Which detection found which object, by the rules of COCO.

Detections of a class are taken by falling score; each takes the object that it overlaps most among those that are not
taken, at an overlap of at least the threshold; a real object goes before an ignored region. What matches an ignored
region counts neither for nor against, and a region can take many. Overlap is intersection over union; with an ignored
region it is intersection over the detection's own area.

Source: pycocotools, cocoeval.py (evaluateImg, accumulate), whose figures a test compares.

Legend: N pictures, M detections of one class, G its objects, T overlap thresholds, B bootstrap draws, R recalls.
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


def precision_recall(matches: Matches, threshold: int, weight_N: Floats | None = None) -> tuple[Floats, Floats]:
    """(precision, recall) after each detection that counts; each picture as often as its weight says.

    Precision is the highest at this recall or a higher one. Both are empty where there is nothing to find.
    """
    weight_N = np.ones(len(matches.truths_N)) if weight_N is None else weight_N
    total = float(weight_N @ matches.truths_N)
    if not total:
        return np.zeros(0), np.zeros(0)
    outcome_M = matches.outcome_TM[threshold]
    weight_M = weight_N[matches.image_M]
    true_M = np.cumsum(weight_M * (outcome_M == TRUE))
    false_M = np.cumsum(weight_M * (outcome_M == FALSE))
    precision_M = true_M / np.maximum(true_M + false_M, np.finfo(float).eps)
    return np.maximum.accumulate(precision_M[::-1])[::-1], true_M / total


def average_precision(matches: Matches, weight_N: Floats | None = None) -> Floats:
    """COCO's, at each threshold [T]: mean precision over 101 recalls. NaN where there is nothing to find."""
    found = []
    for threshold in range(len(matches.outcome_TM)):
        precision_M, recall_M = precision_recall(matches, threshold, weight_N)
        if weight_N is None:
            is_empty = not matches.truths_N.sum()
        else:
            is_empty = not float(weight_N @ matches.truths_N)
        if is_empty:
            found.append(np.nan)
            continue
        place_R = np.searchsorted(recall_M, RECALLS_R, side="left")
        found.append(float(np.append(precision_M, 0.0)[place_R].mean()))
    return np.array(found)


def drawn_average_precision(matches: Matches, counts_BN: Floats) -> Floats:
    """`average_precision` of bootstrap draws of pictures, [B, T]."""
    return np.stack([average_precision(matches, counts_N.astype(float)) for counts_N in counts_BN])
