"""KAIST's miss rates of a result file, with intervals over pictures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from system.bootstrap import draw_pictures
from system.infrared.detections import Detections
from system.infrared.judge import with_interval
from system.infrared.kaist import SUBSETS, KaistImage
from system.infrared.matching import Matches, average_precision, drawn_average_precision, match
from system.infrared.miss_rate import log_average_miss_rate

_OVERLAP, _MAX_DETECTIONS = 0.5, 1000


def kaist_matches(
    images: Sequence[KaistImage], found: Sequence[Detections], only_with_people: bool = False
) -> dict[str, Matches]:
    """Matches of every subset.

    Args:
        only_with_people: pictures without a person of the subset are left out, as FreqKD's paper does.
    """
    matched = {}
    for name, subset in SUBSETS.items():
        truths = {n: image.truth(subset) for n, image in enumerate(images) if subset.light in ("", image.light)}
        if only_with_people:
            truths = {n: truth for n, truth in truths.items() if not truth.is_ignored.all()}
        matched[name] = match([found[n] for n in truths], list(truths.values()), 0, [_OVERLAP], _MAX_DETECTIONS)
    return matched


def kaist_figures(matched: dict[str, Matches], rounds: int, seed: int = 0) -> dict[str, Any]:
    """mr_<subset> in points of 100, ap50 of the reasonable subset, intervals and counts."""
    told: dict[str, Any] = {}
    intervals, counts = {}, {}
    for name, matches in matched.items():
        drawn = draw_pictures(len(matches.truths_N), rounds, seed)
        value = with_interval(
            log_average_miss_rate(matches), np.array([log_average_miss_rate(matches, w) for w in drawn])
        )
        told[f"mr_{name}"] = value["value"]
        intervals[f"mr_{name}"] = {"low": value["low"], "high": value["high"]}
        counts[name] = {"pictures": len(matches.truths_N), "persons": int(matches.truths_N.sum())}
    reasonable = matched["all"]
    drawn = draw_pictures(len(reasonable.truths_N), rounds, seed)
    ap50 = with_interval(average_precision(reasonable)[0], drawn_average_precision(reasonable, drawn)[:, 0])
    intervals["ap50"] = {"low": ap50["low"], "high": ap50["high"]}
    return {**told, "ap50": ap50["value"], "intervals": intervals, "counts": counts}
