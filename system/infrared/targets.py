"""What a head is taught with and what it answers, as tensors at network size.

Legend: M boxes of one picture.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from system.infrared.detections import Detections, Truth


@dataclass(frozen=True, eq=False)
class Target:
    """boxes_xyxy [M, 4], labels [M] of objects; ignored_xyxy: regions in which nothing is right or wrong."""

    boxes_xyxy: Tensor
    labels: Tensor
    ignored_xyxy: Tensor

    @classmethod
    def of(cls, truth: Truth, device: torch.device | None = None) -> Target:
        """At the truth's own size."""
        boxes = torch.tensor(truth.boxes_xyxy, dtype=torch.float32, device=device).reshape(-1, 4)
        is_ignored = torch.tensor(truth.is_ignored, dtype=torch.bool, device=device)
        labels = torch.tensor(truth.labels, dtype=torch.int64, device=device)
        return cls(boxes[~is_ignored], labels[~is_ignored], boxes[is_ignored])


@dataclass(frozen=True, eq=False)
class Found:
    """boxes_xyxy [M, 4], scores [M], labels [M], by falling score."""

    boxes_xyxy: Tensor
    scores: Tensor
    labels: Tensor

    def detections(self, size: tuple[int, int]) -> Detections:
        """On the CPU, for a picture of (height, width)."""
        boxes, scores, labels = (p.detach().float().cpu().numpy() for p in (self.boxes_xyxy, self.scores, self.labels))
        return Detections.of(boxes, scores, labels, size)
