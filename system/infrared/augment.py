"""Infrared pictures as other cameras or other days would have shown them, boxes and label maps with them.

What it does is true to infrared: gain and offset (automatic gain control), noise of the sensor, blur of a lens, another
scale and another cut of the same view. It changes no colours and no polarity.

Legend: H x W pixels, M boxes.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from system.infrared.detections import Truth
from system.pairs.masks import IGNORED

Augment = Literal["none", "flip", "full"]
_GAIN, _OFFSET, _NOISE, _BLUR_PX = (0.7, 1.4), (-25.0, 25.0), 6.0, 1.2
_SCALE, _LEAST_SEEN = (0.7, 1.4), 0.3


@dataclass(frozen=True, eq=False)
class Example:
    """An infrared picture uint8 [H, W] and what is in it, in its pixels.

    labels_HW: uint8, the class of each pixel, where a mask tells.
    """

    picture_HW: NDArray[np.uint8]
    truth: Truth
    labels_HW: NDArray[np.uint8] | None = None


def augmented(example: Example, kind: Augment, rng: np.random.Generator) -> Example:
    """One view of an example, of the same size; what is drawn depends on `rng` alone."""
    if kind == "none":
        return example
    if rng.random() < 0.5:
        example = flipped(example)
    if kind == "flip":
        return example
    example = _rescaled(example, rng)
    return replace(example, picture_HW=_other_camera(example.picture_HW, rng))


def flipped(example: Example) -> Example:
    """Mirrored, left for right."""
    boxes = example.truth.boxes_xyxy.copy()
    boxes[:, [0, 2]] = example.picture_HW.shape[1] - boxes[:, [2, 0]]
    labels = None if example.labels_HW is None else np.ascontiguousarray(example.labels_HW[:, ::-1])
    truth = replace(example.truth, boxes_xyxy=boxes)
    return Example(np.ascontiguousarray(example.picture_HW[:, ::-1]), truth, labels)


def _rescaled(example: Example, rng: np.random.Generator) -> Example:
    """Larger and cut, or smaller with its edge drawn out, where no label is known; boxes of little are ignored."""
    height, width = example.picture_HW.shape
    factor = float(np.exp(rng.uniform(*np.log(_SCALE))))
    # Where the scaled picture's corner lies in the new one.
    left, top = (rng.uniform(min(0, side * (1 - factor)), max(0, side * (1 - factor))) for side in (width, height))
    matrix = np.array([[factor, 0, left], [0, factor, top]], np.float32)
    picture = cv2.warpAffine(
        example.picture_HW, matrix, (width, height), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
    )
    moved = example.truth.boxes_xyxy * factor + np.array([left, top, left, top], np.float32)
    cut = np.clip(moved, 0, np.array([width, height, width, height], np.float32)).astype(np.float32)
    sides, whole = cut[:, 2:] - cut[:, :2], moved[:, 2:] - moved[:, :2]
    share = sides.prod(1) / np.maximum(whole.prod(1), 1e-6)
    kept = (sides > 1).all(1)
    truth = Truth(cut[kept], example.truth.labels[kept], (example.truth.is_ignored | (share < _LEAST_SEEN))[kept])
    labels = example.labels_HW
    if labels is not None:
        warped = cv2.warpAffine(
            labels,
            matrix,
            (width, height),
            flags=cv2.INTER_NEAREST,
            borderMode=cv2.BORDER_CONSTANT,
            borderValue=IGNORED,
        )
        labels = warped.astype(np.uint8)
    return Example(picture.astype(np.uint8), truth, labels)


def _other_camera(picture_HW: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    values = picture_HW.astype(np.float32)
    if rng.random() < 0.3:
        values = cv2.GaussianBlur(values, (0, 0), rng.uniform(0.3, _BLUR_PX)).astype(np.float32)
    values = (values - values.mean()) * rng.uniform(*_GAIN) + values.mean() + rng.uniform(*_OFFSET)
    if rng.random() < 0.5:
        values += rng.normal(0, rng.uniform(0, _NOISE), values.shape).astype(np.float32)
    return np.clip(values, 0, 255).round().astype(np.uint8)
