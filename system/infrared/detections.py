"""The records of detection: what a detector says of one picture, and what is really there.

Legend: M boxes of one picture.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from system.errors import DataError


@dataclass(frozen=True, eq=False)
class Detections:
    """What a detector says of one picture.

    Attributes:
        boxes_xyxy: float32 [M, 4], corners in pixels of the picture.
        scores: float32 [M], in [0, 1].
        labels: int64 [M], places in the detector's classes.
        image_size: (height, width) in pixels.
    """

    boxes_xyxy: NDArray[np.float32]
    scores: NDArray[np.float32]
    labels: NDArray[np.int64]
    image_size: tuple[int, int]

    @classmethod
    def of(cls, boxes_xyxy: ArrayLike, scores: ArrayLike, labels: ArrayLike, image_size: tuple[int, int]) -> Self:
        """From anything like arrays.

        Raises:
            DataError: their lengths differ.
        """
        boxes = np.asarray(boxes_xyxy, np.float32).reshape(-1, 4)
        found = cls(boxes, np.asarray(scores, np.float32).ravel(), np.asarray(labels, np.int64).ravel(), image_size)
        if not len(boxes) == len(found.scores) == len(found.labels):
            told = f"{len(boxes)} boxes, {len(found.scores)} scores, {len(found.labels)} labels"
            raise DataError("ragged", f"expected as many scores and labels as boxes, found {told}")
        return found

    @classmethod
    def none(cls, image_size: tuple[int, int]) -> Self:
        """Of a picture that shows nothing."""
        return cls.of([], [], [], image_size)

    def __len__(self) -> int:
        return len(self.scores)

    def chosen(self, which: ArrayLike) -> Self:
        """A part of them: by a mask or by places."""
        rows = np.asarray(which)
        rows = rows.astype(np.int64) if not rows.size else rows
        return replace(self, boxes_xyxy=self.boxes_xyxy[rows], scores=self.scores[rows], labels=self.labels[rows])

    def above(self, score: float) -> Self:
        """Those with at least this score."""
        return self.chosen(self.scores >= score)

    def resized(self, size: tuple[int, int]) -> Self:
        """As they lie in the same picture at another (height, width)."""
        factor_y, factor_x = size[0] / self.image_size[0], size[1] / self.image_size[1]
        scale = np.array([factor_x, factor_y, factor_x, factor_y], np.float32)
        return replace(self, boxes_xyxy=self.boxes_xyxy * scale, image_size=size)


@dataclass(frozen=True, eq=False)
class Truth:
    """What is really in one picture.

    Attributes:
        boxes_xyxy, labels: as of `Detections`.
        is_ignored: bool [M], neither an object nor background.
    """

    boxes_xyxy: NDArray[np.float32]
    labels: NDArray[np.int64]
    is_ignored: NDArray[np.bool_]

    def of_class(self, label: int) -> Self:
        """The boxes of one class."""
        mine = self.labels == label
        return type(self)(self.boxes_xyxy[mine], self.labels[mine], self.is_ignored[mine])


def box_areas(boxes_xyxy: NDArray[np.float32]) -> NDArray[np.float64]:
    """Square pixels, [M]."""
    boxes = boxes_xyxy.astype(np.float64)
    return (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
