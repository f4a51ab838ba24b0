"""Segmentation as a task of the trainer, the judge and the study.

Legend: N pictures, K classes, B bootstrap draws, H x W pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from system.infrared.augment import Example
from system.infrared.detector import InfraredModel
from system.infrared.detector_config import InfraredModelConfig
from system.infrared.segment_judge import Counts, confusion, drawn_overlaps, intersection_over_union
from system.infrared.segmenter import Segmenter, SegmenterConfig, label_map
from system.pairs.infrared_set import InfraredPicture
from system.pairs.pixels import InfraredMapping
from system.report.label_sheet import LabelCell, label_sheet
from system.training.detect_data import read_masked
from system.training.infrared_task import Floats, Judgement


@dataclass(frozen=True)
class SegmentationTask:
    """The class of every pixel, judged by intersection over union; an answer is a segmenter's logits [K, h, w].

    masks: what the masks of a set are, as of `InfraredSet`.
    """

    masks: str = ""

    model: ClassVar[type[InfraredModel]] = Segmenter
    config: ClassVar[type[InfraredModelConfig]] = SegmenterConfig
    figures: ClassVar[tuple[str, ...]] = ("miou",)
    use: ClassVar[str] = (
        "    from system.infrared.segmenter import Segmenter\n"
        "    labels_HW, = Segmenter.load('<this folder>').segment([picture_HW])"
    )

    def target(self, example: Example, device: torch.device | None) -> Tensor:
        """Its label map, int64 [H, W]."""
        assert example.labels_HW is not None, "sets of masks have one for each picture"
        return torch.from_numpy(example.labels_HW.astype(np.int64)).to(device)

    def answer(self, model: Segmenter, features: Sequence[Tensor]) -> Tensor:
        """Logits at the decoder's size, on the CPU."""
        logits: Tensor = model.head(features)[0].float().cpu()
        return logits

    def evidence(self, classes: Sequence[str], example: Example, answer: Tensor) -> Counts:
        """Its confusion."""
        assert example.labels_HW is not None, "sets of masks have one for each picture"
        return confusion(example.labels_HW, _labels(answer, example.labels_HW), len(classes))

    def own_evidence(
        self, classes: Sequence[str], picture: InfraredPicture, mapping: InfraredMapping, answer: Tensor
    ) -> Counts:
        """Its confusion.

        Raises:
            DataError: as `read_masked`.
        """
        _, labels_HW = read_masked(picture, mapping)
        return confusion(labels_HW, _labels(answer, labels_HW), len(classes))

    def judge(self, classes: Sequence[str], evidence: Sequence[Counts], counts_BN: Floats) -> Judgement:
        """miou; of classes that the pictures do not show nothing is known."""
        confusions_NKK = np.stack(list(evidence))
        whole_KK = confusions_NKK.sum(0)
        is_shown = whole_KK.sum(1) > 0
        value_K = np.where(is_shown, intersection_over_union(whole_KK), np.nan)
        return {"miou": (value_K, np.where(is_shown, drawn_overlaps(confusions_NKK, counts_BN), np.nan))}

    def sheet(self, title: str, classes: Sequence[str], cells: Sequence[tuple[Example, Any, str]]) -> bytes:
        """True and found classes."""
        drawn = [
            LabelCell(example.picture_HW, example.labels_HW, _labels(logits, example.picture_HW), (name,))
            for example, logits, name in cells
            if example.labels_HW is not None
        ]
        return label_sheet(title, drawn, classes, self.masks)


def _labels(logits_Khw: Tensor, like_HW: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return label_map(logits_Khw, (like_HW.shape[0], like_HW.shape[1]))
