"""Log-average miss rate, the field's figure for pedestrians: what is missed at so many false alarms a picture.

    exp(mean(log(miss rate at FPPI = 10^-2, 10^-1.75, ..., 10^0)))

FPPI: false positives per image. The miss rate at an FPPI is that of the lowest score whose false positives do not
exceed it; 1 where the first detection is already too much.

Source: Dollar et al., Pedestrian Detection: An Evaluation of the State of the Art, PAMI 2012; KAIST's benchmark
(Hwang et al., CVPR 2015) with the same points.
"""

from __future__ import annotations

import numpy as np

from system.infrared.matching import FALSE, TRUE, Floats, Matches

FPPI_POINTS = 10.0 ** np.arange(-2, 0.01, 0.25)
_LEAST = 1e-10


def miss_rate_curve(matches: Matches, weight_N: Floats | None = None) -> tuple[Floats, Floats]:
    """(FPPI, miss rate) after each detection, by falling score, at the first overlap threshold."""
    weight_N = np.ones(len(matches.truths_N)) if weight_N is None else weight_N
    weight_M, outcome_M = weight_N[matches.image_M], matches.outcome_TM[0]
    true_M, false_M = (np.cumsum(weight_M * (outcome_M == kind)) for kind in (TRUE, FALSE))
    return false_M / weight_N.sum(), 1 - true_M / max(float(weight_N @ matches.truths_N), _LEAST)


def log_average_miss_rate(matches: Matches, weight_N: Floats | None = None) -> float:
    """In [0, 1]; NaN where there is nobody to find."""
    total = matches.truths_N.sum() if weight_N is None else weight_N @ matches.truths_N
    if not total:
        return float("nan")
    fppi_M, missed_M = miss_rate_curve(matches, weight_N)
    place = np.searchsorted(fppi_M, FPPI_POINTS, side="right") - 1
    missed = np.where(place >= 0, missed_M[np.maximum(place, 0)] if len(missed_M) else 1.0, 1.0)
    return float(np.exp(np.log(np.maximum(missed, _LEAST)).mean()))
