"""The light detector: FCOS, anchor-free and dense, on a pyramid of features.

torchvision gives head, losses and the choice of boxes.
Source: Tian et al., FCOS, ICCV 2019.

Legend: N pictures, C channels, h x w places, K classes, A places of all levels.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.fcos import FCOS, FCOSHead

from system.infrared.backbone import BackboneFacts
from system.infrared.pyramid import middles, pyramid_of
from system.infrared.targets import Found, Target

_LEAST_SCORE, _SUPPRESS_OVERLAP, _CANDIDATES, _KEPT = 0.02, 0.6, 1000, 100
# A logit of no class: neither loss nor gradient comes from it.
_NOBODY = -50.0


class FcosHead(nn.Module):
    """Everything of the detector that comes after the backbone."""

    loss_names = ("classification", "box", "centre")

    def __init__(self, facts: BackboneFacts, channels: int, convs: int, num_classes: int) -> None:
        super().__init__()
        pyramid = pyramid_of(facts, channels)
        self._sides, self._firsts = pyramid.sides, pyramid.firsts
        self.fcos = FCOS(
            pyramid,
            num_classes,
            anchor_generator=AnchorGenerator(tuple((side,) for side in self._sides), ((1.0,),) * len(self._sides)),
            head=FCOSHead(channels, 1, num_classes, convs),
            score_thresh=_LEAST_SCORE,
            nms_thresh=_SUPPRESS_OVERLAP,
            detections_per_img=_KEPT,
            topk_candidates=_CANDIDATES,
        )
        # Distances are cut at 0: a side that begins there, and is pushed below, has no gradient ever after.
        nn.init.ones_(self.fcos.head.regression_head.bbox_reg.bias)

    def losses(self, features: Sequence[Tensor], size: tuple[int, int], targets: Sequence[Target]) -> dict[str, Tensor]:
        """Means over the places that show an object: classification, box, centre."""
        outputs, anchors = self._asked(features)
        anchors_A4 = torch.cat(anchors)
        for row, target in enumerate(targets):
            nobody_A = _in_ignored(anchors_A4, target)
            if nobody_A.any():
                outputs["cls_logits"] = outputs["cls_logits"].clone()
                outputs["cls_logits"][row, nobody_A] = _NOBODY
        wanted = [{"boxes": target.boxes_xyxy, "labels": target.labels} for target in targets]
        counts = [len(level) for level in anchors]
        # Half precision knows places by pixels at best.
        with torch.autocast(anchors_A4.device.type, enabled=False):
            found = self.fcos.compute_loss(wanted, outputs, [anchors_A4] * len(targets), counts)
        return {
            "classification": found["classification"],
            "box": found["bbox_regression"],
            "centre": found["bbox_ctrness"],
        }

    def detect(self, features: Sequence[Tensor], size: tuple[int, int]) -> list[Found]:
        """The best boxes of each picture, in its pixels."""
        outputs, anchors = self._asked(features)
        pictures, counts = features[0].shape[0], [len(level) for level in anchors]
        split = {name: list(value.split(counts, dim=1)) for name, value in outputs.items()}
        chosen = self.fcos.postprocess_detections(split, [anchors] * pictures, [size] * pictures)
        return [Found(row["boxes"], row["scores"], row["labels"]) for row in chosen]

    def raw(self, features: Sequence[Tensor], size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Before any choice: (boxes [N, A, 4] in pixels, scores [N, A, K])."""
        outputs, anchors = self._asked(features)
        boxes = self.fcos.box_coder.decode(outputs["bbox_regression"], torch.cat(anchors)[None])
        return boxes, torch.sqrt(outputs["cls_logits"].sigmoid() * outputs["bbox_ctrness"].sigmoid())

    def _asked(self, features: Sequence[Tensor]) -> tuple[dict[str, Tensor], list[Tensor]]:
        """(outputs of the head in single precision, anchors [A, 4] of each level)."""
        levels = self.fcos.backbone(features)
        outputs = {name: value.float() for name, value in self.fcos.head(levels).items()}
        return outputs, [self._anchors(level, k) for k, level in enumerate(levels)]

    def _anchors(self, level: Tensor, number: int) -> Tensor:
        """A square of a stride's side around the middle of what each place of a level sees, [A, 4]."""
        side = self._sides[number]
        middle_A2 = middles(level, side, self._firsts[number])
        return torch.cat([middle_A2 - side / 2, middle_A2 + side / 2], dim=1)


def _in_ignored(anchors_A4: Tensor, target: Target) -> Tensor:
    """Whose middle lies in an ignored region and in no object, [A]."""
    middle_A2 = (anchors_A4[:, :2] + anchors_A4[:, 2:]) / 2
    return _inside(middle_A2, target.ignored_xyxy) & ~_inside(middle_A2, target.boxes_xyxy)


def _inside(points_A2: Tensor, boxes_xyxy: Tensor) -> Tensor:
    points_A12 = points_A2[:, None]
    return ((points_A12 > boxes_xyxy[None, :, :2]) & (points_A12 < boxes_xyxy[None, :, 2:])).all(-1).any(1)
