"""How good label maps are: confusion of classes, intersection over union, intervals over pictures.

Source: intersection over union of a class over all pixels of a set, as PASCAL VOC and MFNet report it.

Legend: N pictures, K classes, B rounds, H x W pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from system.pairs.masks import IGNORED

Counts = NDArray[np.int64]
Floats = NDArray[np.floating]


def confusion(truth_HW: NDArray[np.uint8], found_HW: NDArray[np.uint8], classes: int) -> Counts:
    """Pixels by true class (rows) and found class (columns), [K, K]; those that are `IGNORED` in truth are left out."""
    known = truth_HW != IGNORED
    both = truth_HW[known].astype(np.int64) * classes + found_HW[known]
    return np.bincount(both, minlength=classes * classes).reshape(classes, classes)


def intersection_over_union(confusion_KK: NDArray[Any]) -> Floats:
    """Of each class, [..., K] of [..., K, K]; NaN where it is neither there nor found."""
    right = np.diagonal(confusion_KK, axis1=-2, axis2=-1).astype(float)
    either = confusion_KK.sum(-1) + confusion_KK.sum(-2) - right
    return np.where(either > 0, right / np.maximum(either, 1), np.nan)


def drawn_overlaps(confusions_NKK: Counts, counts_BN: Floats) -> Floats:
    """Overlap of each class in each bootstrap draw of pictures, [B, K]; NaN where the draw does not show the class."""
    number, classes = confusions_NKK.shape[:2]
    drawn_BKK = (counts_BN @ confusions_NKK.reshape(number, -1).astype(float)).reshape(-1, classes, classes)
    return np.where(drawn_BKK.sum(-1) > 0, intersection_over_union(drawn_BKK), np.nan)


def segment_figures(classes: Sequence[str], confusions_NKK: Counts, counts_BN: Floats) -> dict[str, Any]:
    """In points of 100, with intervals of 95 % over pictures.

    Returns:
        miou {value, low, high}: mean over classes, the background too; miou_objects: without it; classes {name: iou
        {value, low, high}, precision, recall, pixels}; pixel_accuracy; confusion: pixels by true and found class.
        A class that the set does not show takes part in no mean; its figures are None.
    """
    whole = confusions_NKK.sum(0)
    is_shown = whole.sum(1) > 0
    value_K = np.where(is_shown, intersection_over_union(whole), np.nan)
    drawn_BK = np.where(is_shown, drawn_overlaps(confusions_NKK, counts_BN), np.nan)
    right = np.diag(whole)
    told: dict[str, Any] = {
        "miou": _mean(value_K, drawn_BK),
        "miou_objects": _mean(value_K[1:], drawn_BK[:, 1:]),
        "pixel_accuracy": _points(float(right.sum() / max(1, whole.sum()))),
        "classes": {},
        "confusion": whole.tolist(),
    }
    for k, name in enumerate(classes):
        told["classes"][name] = {
            "iou": _mean(value_K[k : k + 1], drawn_BK[:, k : k + 1]),
            "precision": _points(right[k] / whole[:, k].sum()) if whole[:, k].sum() else None,
            "recall": _points(right[k] / whole[k].sum()) if is_shown[k] else None,
            "pixels": int(whole[k].sum()),
        }
    return told


def picture_scores(confusions_NKK: Counts) -> Floats:
    """Mean overlap of the classes that each picture shows or is said to show but the background, [N]; 1 for none."""
    overlap_NK = intersection_over_union(confusions_NKK)[:, 1:]
    known = np.isfinite(overlap_NK)
    return np.where(known.any(1), np.where(known, overlap_NK, 0).sum(1) / np.maximum(known.sum(1), 1), 1.0)


def _mean(value_K: Floats, drawn_BK: Floats) -> dict[str, float | None]:
    known = np.isfinite(drawn_BK)
    mean_B = np.where(known, drawn_BK, 0).sum(1)[known.any(1)] / known.sum(1)[known.any(1)]
    own = value_K[np.isfinite(value_K)]
    if not len(own) or not len(mean_B):
        return {"value": None, "low": None, "high": None}
    low, high = np.percentile(mean_B, [2.5, 97.5])
    return {"value": _points(float(own.mean())), "low": _points(float(low)), "high": _points(float(high))}


def _points(share: float) -> float:
    return round(100 * float(share), 2)
