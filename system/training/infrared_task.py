"""What a training, its judge and its study ask of what is learnt, and detection as such a task.

Legend: N pictures, K classes, B bootstrap draws, T overlap thresholds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from system.infrared.augment import Example
from system.infrared.detections import Detections, Truth
from system.infrared.detector import Detector, InfraredModel
from system.infrared.detector_config import DetectorConfig, InfraredModelConfig
from system.infrared.judge import Judged
from system.infrared.targets import Target
from system.pairs.infrared_set import InfraredPicture
from system.pairs.pixels import InfraredMapping
from system.report.detection_sheet import DetectionCell, detection_sheet

_SAMPLE_SCORE = 0.3
Floats = NDArray[np.floating]
Judgement = Mapping[str, tuple[Floats, Floats]]


def mean_points(judgement: Judgement) -> dict[str, float]:
    """Means over the classes that are known, in points of 100; figures of no known class are left out."""
    known = {figure: value_K[np.isfinite(value_K)] for figure, (value_K, _) in judgement.items()}
    return {figure: 100 * float(value_K.mean()) for figure, value_K in known.items() if len(value_K)}


class InfraredTask(Protocol):
    """A kind of model, what it is taught, and how it is judged. Small and frozen: it goes to every worker.

    Attributes:
        model, config: the kind of model, and of its configuration. figures: of a judged set, means over classes, in
            fractions; the first is the headline. use: the lines of a model card that
            show how to use it.
    """

    model: ClassVar[type[InfraredModel]]
    config: ClassVar[type[InfraredModelConfig]]
    figures: ClassVar[tuple[str, ...]]
    use: ClassVar[str]

    def target(self, example: Example, device: torch.device | None) -> Any:
        """What the head's losses take of an example."""
        ...

    def answer(self, model: Any, features: Sequence[Tensor]) -> Any:
        """What a model says of one picture's feature maps, at the model's size."""
        ...

    def evidence(self, classes: Sequence[str], example: Example, answer: Any) -> Any:
        """The little that is kept of a picture to judge its answer by, at the model's size."""
        ...

    def own_evidence(
        self, classes: Sequence[str], picture: InfraredPicture, mapping: InfraredMapping, answer: Any
    ) -> Any:
        """The same in the picture's own pixels.

        Raises:
            DataError: the picture's annotations cannot be read.
        """
        ...

    def judge(self, classes: Sequence[str], evidence: Sequence[Any], counts_BN: Floats) -> Judgement:
        """By figure: (of each class [K], in each draw of pictures [B, K]), as fractions; NaN where it is not known."""
        ...

    def sheet(self, title: str, classes: Sequence[str], cells: Sequence[tuple[Example, Any, str]]) -> bytes:
        """Pictures with answer and truth, each with its name, as a JPEG."""
        ...


@dataclass(frozen=True)
class DetectionTask:
    """Boxes, judged by COCO's average precision."""

    model: ClassVar[type[InfraredModel]] = Detector
    config: ClassVar[type[InfraredModelConfig]] = DetectorConfig
    figures: ClassVar[tuple[str, ...]] = ("ap50", "ap")
    use: ClassVar[str] = "    python jobs/predict_infrared.py --images FOLDER --model <this folder> --out out/boxes"

    def target(self, example: Example, device: torch.device | None) -> Target:
        """Its boxes."""
        return Target.of(example.truth, device)

    def answer(self, model: Detector, features: Sequence[Tensor]) -> Detections:
        """Detections at the detector's size."""
        found: Detections = model.head.detect(features, model.size)[0].detections(model.size)
        return found

    def evidence(self, classes: Sequence[str], example: Example, answer: Detections) -> tuple[Detections, Truth]:
        """Boxes found and true."""
        return answer, example.truth

    def own_evidence(
        self, classes: Sequence[str], picture: InfraredPicture, mapping: InfraredMapping, answer: Detections
    ) -> tuple[Detections, Truth]:
        """Boxes found and true."""
        assert picture.width and picture.height, "checked before the first run"
        truth = Truth(picture.boxes_xyxy, picture.labels, picture.is_ignored)
        return answer.resized((picture.height, picture.width)), truth

    def judge(self, classes: Sequence[str], evidence: Sequence[Any], counts_BN: Floats) -> Judgement:
        """ap50 and ap."""
        judged = Judged.of(tuple(classes), [found for found, _ in evidence], [truth for _, truth in evidence])
        precision_KT = judged.average_precision()
        drawn_BKT = judged.drawn(counts_BN) if len(counts_BN) else np.zeros((0, *precision_KT.shape))
        return {"ap50": (precision_KT[:, 0], drawn_BKT[:, :, 0]), "ap": (precision_KT.mean(1), drawn_BKT.mean(2))}

    def sheet(self, title: str, classes: Sequence[str], cells: Sequence[tuple[Example, Any, str]]) -> bytes:
        """Boxes above a score, and the true ones."""
        drawn = [
            DetectionCell(example.picture_HW, found.above(_SAMPLE_SCORE), example.truth, (name,))
            for example, found, name in cells
        ]
        told = f"{title}: detections above {_SAMPLE_SCORE:g} (yellow), objects (green)"
        return detection_sheet(told, drawn, classes)
