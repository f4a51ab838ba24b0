"""How good detections are: COCO's figures, intervals over pictures, calibration, and the worst errors.

COCO's figures come from faster-coco-eval. Their intervals come from our own matching, which gives the same AP (a test
compares them): each bootstrap round draws pictures, the same for whatever is compared.

Legend: N pictures, K classes, T overlap thresholds, B rounds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from faster_coco_eval import COCO, COCOeval_faster

from system.infrared.detections import Detections, Truth, box_areas
from system.infrared.matching import (
    COCO_OVERLAPS,
    FALSE,
    IGNORED,
    TRUE,
    Floats,
    Matches,
    average_precision,
    drawn_average_precision,
    match,
    overlaps,
)

# AR_third: of at most 100 detections a picture, as COCO reports it.
_STATS = {
    "ap": "AP_all",
    "ap50": "AP_50",
    "ap75": "AP_75",
    "ap_small": "AP_small",
    "ap_medium": "AP_medium",
    "ap_large": "AP_large",
    "ar": "AR_third",
    "ar_small": "AR_small",
    "ar_medium": "AR_medium",
    "ar_large": "AR_large",
}
_BINS = 10


@dataclass(frozen=True, eq=False)
class Judged:
    """Detections of some pictures beside what is really there. matches: of each class."""

    classes: tuple[str, ...]
    found: tuple[Detections, ...]
    truths: tuple[Truth, ...]
    matches: tuple[Matches, ...]

    @classmethod
    def of(cls, classes: Sequence[str], found: Sequence[Detections], truths: Sequence[Truth]) -> Judged:
        """Match every class."""
        matches = tuple(match(found, truths, k) for k in range(len(classes)))
        return cls(tuple(classes), tuple(found), tuple(truths), matches)

    def average_precision(self) -> Floats:
        """[K, T]; NaN for a class that is not there."""
        return np.stack([average_precision(m) for m in self.matches])

    def drawn(self, counts_BN: Floats) -> Floats:
        """[B, K, T] of bootstrap draws."""
        return np.stack([drawn_average_precision(m, counts_BN) for m in self.matches], axis=1)


def coco_figures(judged: Judged) -> dict[str, float | None]:
    """AP, AP50, AP75, AR, and AP and AR by object size (areas under 32^2, 96^2, beyond), in points of 100.

    Areas are those of boxes, also where annotations state those of outlines. None where no such object is there.
    """
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    results: list[dict[str, Any]] = []
    for n, (found, truth) in enumerate(zip(judged.found, judged.truths, strict=True)):
        height, width = found.image_size
        images.append({"id": n, "height": height, "width": width})
        for box, area, label, ignored in zip(
            truth.boxes_xyxy.tolist(), box_areas(truth.boxes_xyxy), truth.labels, truth.is_ignored, strict=True
        ):
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": n,
                    "category_id": int(label),
                    "bbox": _xywh(box),
                    "area": float(area),
                    "iscrowd": int(ignored),
                }
            )
        results += coco_results(found, n, range(len(judged.classes)))
    if not annotations:
        return dict.fromkeys(_STATS)
    # COCO's tools cannot take an empty list: a box of nobody's, which lies outside, changes no figure.
    results = results or [{"image_id": 0, "category_id": 0, "bbox": [-9.0, -9.0, 1.0, 1.0], "score": 0.0}]
    categories = [{"id": k, "name": name} for k, name in enumerate(judged.classes)]
    truth_coco = COCO({"images": images, "annotations": annotations, "categories": categories, "info": {}})
    scored = COCOeval_faster(truth_coco, truth_coco.loadRes(results), "bbox", print_function=lambda *_: None)
    scored.evaluate()
    scored.accumulate()
    scored.summarize()
    stats = scored.stats_as_dict
    return {key: _points(float(stats[name])) if stats[name] >= 0 else None for key, name in _STATS.items()}


def coco_results(found: Detections, image_id: int | str, category_ids: Sequence[int]) -> list[dict[str, Any]]:
    """Rows of a COCO result file."""
    rows = zip(found.boxes_xyxy.tolist(), found.scores.tolist(), found.labels.tolist(), strict=True)
    return [
        {"image_id": image_id, "category_id": category_ids[label], "bbox": _xywh(box), "score": score}
        for box, score, label in rows
    ]


def figures(judged: Judged, counts_BN: Floats) -> dict[str, Any]:
    """What a job prints: COCO's figures, AP and AP50 with intervals, per class, in points of 100."""
    drawn_BKT, precision_KT = judged.drawn(counts_BN), judged.average_precision()
    classes = {}
    for k, name in enumerate(judged.classes):
        objects = int(judged.matches[k].truths_N.sum())
        classes[name] = {
            "objects": objects,
            "ap50": with_interval(precision_KT[k, 0], drawn_BKT[:, k, 0]),
            "ap": with_interval(float(precision_KT[k].mean()), drawn_BKT[:, k].mean(1)),
        }
    return {
        "ap50": with_interval(_mean(precision_KT[:, 0]), over_classes(drawn_BKT[:, :, 0])),
        "ap": with_interval(_mean(precision_KT.mean(1)), over_classes(drawn_BKT.mean(2))),
        "coco": coco_figures(judged),
        "classes": classes,
    }


def calibration(judged: Judged) -> dict[str, Any]:
    """Whether a score of 0.7 is right seven times of ten, at an overlap of 0.5.

    Returns:
        bins [{low, high, detections, mean_score, precision}] and their expected calibration error: the mean gap of
        score and precision, weighted by detections.
    """
    scores = np.concatenate([m.scores_M[m.outcome_TM[0] != IGNORED] for m in judged.matches])
    right = np.concatenate([m.outcome_TM[0][m.outcome_TM[0] != IGNORED] == TRUE for m in judged.matches])
    place = np.minimum((scores * _BINS).astype(int), _BINS - 1)
    bins, gap = [], 0.0
    for b in range(_BINS):
        mine = place == b
        if not mine.any():
            continue
        score, precision = float(scores[mine].mean()), float(right[mine].mean())
        gap += abs(score - precision) * float(mine.mean())
        low_high = {"low": b / _BINS, "high": (b + 1) / _BINS}
        bins.append(
            {**low_high, "detections": int(mine.sum()), "mean_score": round(score, 4), "precision": round(precision, 4)}
        )
    return {"bins": bins, "expected_calibration_error": round(gap, 4) if bins else None}


@dataclass(frozen=True)
class PictureError:
    """One thing that is wrong. kind: false_alarm or missed. score: of the alarm; of a miss, how large it is."""

    picture: int
    kind: str
    label: int
    box_xyxy: tuple[float, ...]
    score: float


def worst_errors(judged: Judged, at_least: float, count: int) -> list[PictureError]:
    """The surest false alarms and the largest objects that no detection of `at_least` finds, half and half."""
    alarms, misses = [], []
    for k, matches in enumerate(judged.matches):
        for m in np.flatnonzero(matches.outcome_TM[0] == FALSE)[:count]:
            picture, place = int(matches.image_M[m]), int(matches.place_M[m])
            box = tuple(judged.found[picture].boxes_xyxy[place].tolist())
            alarms.append(PictureError(picture, "false_alarm", k, box, float(matches.scores_M[m])))
        for picture, (found, truth) in enumerate(zip(judged.found, judged.truths, strict=True)):
            real = truth.of_class(k)
            seen = found.chosen((found.labels == k) & (found.scores >= at_least))
            boxes = real.boxes_xyxy[~real.is_ignored]
            if not len(boxes):
                continue
            overlap = overlaps(seen.boxes_xyxy, boxes, np.zeros(len(boxes), bool))
            missed = boxes[overlap.max(0, initial=0.0) < COCO_OVERLAPS[0]]
            misses += [
                PictureError(picture, "missed", k, tuple(box.tolist()), float(area))
                for box, area in zip(missed, box_areas(missed), strict=True)
            ]
    half = (count + 1) // 2
    worst = [sorted(errors, key=lambda e: -e.score)[:half] for errors in (alarms, misses)]
    return [*worst[0], *worst[1]][:count]


def over_classes(drawn_BK: Floats) -> Floats:
    """Mean over the classes that a draw shows, [B]."""
    known = np.isfinite(drawn_BK)
    means = np.where(known, drawn_BK, 0).sum(1) / np.maximum(known.sum(1), 1)
    return np.where(known.any(1), means, np.nan)


def with_interval(value: float, drawn_B: Floats) -> dict[str, float | None]:
    """{value, low, high} in points of 100, 95 %."""
    known = drawn_B[np.isfinite(drawn_B)]
    if not np.isfinite(value) or not len(known):
        return {"value": None, "low": None, "high": None}
    low, high = np.percentile(known, [2.5, 97.5])
    return {"value": _points(value), "low": _points(low), "high": _points(high)}


def _mean(values_K: Floats) -> float:
    return float(values_K[np.isfinite(values_K)].mean()) if np.isfinite(values_K).any() else float("nan")


def _points(value: float) -> float:
    return round(100 * float(value), 2)


def _xywh(box: Sequence[float]) -> list[float]:
    return [box[0], box[1], box[2] - box[0], box[3] - box[1]]
