"""Bring pictures to a tower's input size, without torch, so that read tasks stay light."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

# One thread for each read task: Ray runs as many tasks as there are CPUs for them.
cv2.setNumThreads(1)


def resize_for_tower(rgb_HWC: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """Squash a picture to (height, width), uint8 [height, width, 3].

    The whole field of view is kept and the calibration follows by two scale factors. Areas are averaged when
    shrinking, so that nothing aliases; cubic interpolation when growing.
    """
    height, width = rgb_HWC.shape[:2]
    if (height, width) == size:
        return rgb_HWC
    shrinks = size[0] <= height and size[1] <= width
    resized = cv2.resize(rgb_HWC, (size[1], size[0]), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC)
    return resized.astype(np.uint8, copy=False)
