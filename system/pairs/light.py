"""Day or night, from how bright the RGB picture is, where neither names nor metadata say."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from system.pairs.records import Light

# Tells 98 % of 112 pairs of MSRS; three of five night frames of KAIST, in lit streets, are brighter.
NIGHT_BELOW = 44.0


def luminance(rgb_HWC: NDArray[np.uint8]) -> float:
    """Median brightness, 0 to 255: lamps and a bright sky move it little."""
    return float(np.median(cv2.cvtColor(rgb_HWC, cv2.COLOR_RGB2GRAY)))


def light_of_luminance(value: float) -> Light:
    """A guess: lit streets and pictures brightened by their makers (RoadScene) are taken for day, tunnels for night."""
    return "night" if value < NIGHT_BELOW else "day"
