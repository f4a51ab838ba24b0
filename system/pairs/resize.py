"""Bring pairs and their boxes to one size."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
from numpy.typing import NDArray

from system.errors import ConfigError
from system.pairs.pixels import PairPixels


def fit_pair(pixels: PairPixels, size: tuple[int, int]) -> PairPixels:
    """Both pictures at (height, width), resized alike: by area where they shrink, else linearly. Shape is not kept.

    Raises:
        ConfigError: a side under one pixel.
    """
    height, width = size
    if height < 1 or width < 1:
        raise ConfigError(f"size {size}: expected (height, width) of at least one pixel each")
    if pixels.infrared_HWC.shape[:2] == (height, width):
        return pixels
    return replace(
        pixels,
        rgb_HWC=_resized(pixels.rgb_HWC, height, width),
        infrared_HWC=_resized(pixels.infrared_HWC, height, width),
    )


def scale_boxes(
    boxes_xyxy: NDArray[np.float32], from_size: tuple[int, int], to_size: tuple[int, int]
) -> NDArray[np.float32]:
    """Boxes [N, 4] of a picture of (height, width) `from_size` as they lie in it at `to_size`."""
    factor_y, factor_x = to_size[0] / from_size[0], to_size[1] / from_size[1]
    scale = np.array([factor_x, factor_y, factor_x, factor_y], np.float32)
    return (np.asarray(boxes_xyxy, np.float32).reshape(-1, 4) * scale).astype(np.float32)


def fit_picture(image: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """One picture, [H, W] or [H, W, 3], at (height, width), as `fit_pair` resizes."""
    return image if image.shape[:2] == size else _resized(image, *size)


def _resized(image: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    shrinks = height * width < image.shape[0] * image.shape[1]
    resized = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
    return resized.astype(np.uint8, copy=False)
