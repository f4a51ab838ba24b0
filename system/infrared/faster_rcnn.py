"""Faster R-CNN on a pyramid of features: proposals, then a closer look at each. Parts and losses are torchvision's.

What is drawn to be learnt from comes from torch's generator, which the trainer seeds for each step.
Source: Ren et al., Faster R-CNN, NeurIPS 2015; Lin et al., FPN, CVPR 2017.

Legend: N pictures, C channels, h x w places of a feature map, A anchors, P proposals of one picture, K classes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.roi_heads import RoIHeads
from torchvision.models.detection.rpn import RegionProposalNetwork, RPNHead
from torchvision.ops import MultiScaleRoIAlign, box_area
from torchvision.ops.poolers import initLevelMapper

from system.infrared.backbone import BackboneFacts
from system.infrared.pyramid import middles, pyramid_of
from system.infrared.targets import Found, Target

# Half of torchvision's, whose pictures are about twice as large: sides of 4 strides, of three shapes.
_ANCHOR_STRIDES, _SHAPES = 4, (0.5, 1.0, 2.0)
_LEAST_SCORE, _SUPPRESS_OVERLAP, _KEPT = 0.02, 0.5, 100
_CANDIDATES, _PROPOSALS, _PROPOSAL_OVERLAP = 600, 300, 0.7
_ANCHORS_LEARNT, _PROPOSALS_LEARNT = 256, 128
_POOLED, _FINER = 7, 2
_NOBODY = -1
# A box of which this much, or whose middle, lies in an ignored region is neither right nor wrong.
_IGNORED_SHARE = 0.5


class FasterRcnnHead(nn.Module):
    """Everything of the detector that comes after the backbone."""

    loss_names = ("objectness", "proposal_box", "classification", "box")

    def __init__(self, facts: BackboneFacts, channels: int, num_classes: int) -> None:
        super().__init__()
        self.pyramid = pyramid_of(facts, channels)
        anchors = _Anchors(self.pyramid.sides, self.pyramid.firsts)
        self.proposals = _Proposals(
            anchors,
            RPNHead(channels, anchors.per_place),
            fg_iou_thresh=0.7,
            bg_iou_thresh=0.3,
            batch_size_per_image=_ANCHORS_LEARNT,
            positive_fraction=0.5,
            pre_nms_top_n={"training": _CANDIDATES, "testing": _CANDIDATES},
            post_nms_top_n={"training": _PROPOSALS, "testing": _PROPOSALS},
            nms_thresh=_PROPOSAL_OVERLAP,
        )
        width = 4 * channels
        self.regions = _Regions(
            _pooler(self.pyramid.sides),
            TwoMLPHead(channels * _POOLED**2, width),
            FastRCNNPredictor(width, num_classes + 1),
            fg_iou_thresh=0.5,
            bg_iou_thresh=0.5,
            batch_size_per_image=_PROPOSALS_LEARNT,
            positive_fraction=0.25,
            bbox_reg_weights=None,
            score_thresh=_LEAST_SCORE,
            nms_thresh=_SUPPRESS_OVERLAP,
            detections_per_img=_KEPT,
        )

    def losses(self, features: Sequence[Tensor], size: tuple[int, int], targets: Sequence[Target]) -> dict[str, Tensor]:
        """Of proposals (is there anything, its box) and of what is made of them (its class, its box)."""
        # torchvision's class 0 is the background.
        wanted = [{"boxes": t.boxes_xyxy, "labels": t.labels + 1, "ignored": t.ignored_xyxy} for t in targets]
        _, found = self._asked(features, size, wanted)
        return {
            "objectness": found["loss_objectness"],
            "proposal_box": found["loss_rpn_box_reg"],
            "classification": found["loss_classifier"],
            "box": found["loss_box_reg"],
        }

    def detect(self, features: Sequence[Tensor], size: tuple[int, int]) -> list[Found]:
        """The best boxes of each picture, in its pixels."""
        chosen, _ = self._asked(features, size, None)
        return [Found(row["boxes"], row["scores"], row["labels"] - 1) for row in chosen]

    def _asked(
        self, features: Sequence[Tensor], size: tuple[int, int], wanted: list[dict[str, Tensor]] | None
    ) -> tuple[list[dict[str, Tensor]], dict[str, Tensor]]:
        levels = {str(k): level.float() for k, level in enumerate(self.pyramid(features))}
        pictures = features[0].shape[0]
        for part in (self.proposals, self.regions):
            part.train(wanted is not None)
        sizes = [size] * pictures
        # Pictures are only asked for their number and size. Half precision knows places by pixels at best.
        nothing = ImageList(features[0].new_zeros(1).expand(pictures, 3, *size), sizes)
        with torch.autocast(features[0].device.type, enabled=False):
            proposals, losses = self.proposals(nothing, levels, wanted)
            found, more = self.regions(levels, proposals, sizes, wanted)
        if wanted is not None and not self.regions.num_learnt:
            more = {name: levels["0"].sum() * 0 for name in more}  # means over nothing are no numbers
        return found, losses | more


def _pooler(sides: Sequence[float]) -> MultiScaleRoIAlign:
    """Looks at each level by its own stride; torchvision's guess is a power of two, which a patch of 14 is not."""
    pooler = MultiScaleRoIAlign([str(k) for k in range(len(sides))], _POOLED, _FINER)
    pooler.scales = [1 / side for side in sides]
    least, most = (round(math.log2(sides[k])) for k in (0, -1))
    pooler.map_levels = initLevelMapper(least, most, pooler.canonical_scale, pooler.canonical_level)
    return pooler


class _Anchors(nn.Module):
    """Boxes of some shapes around where each place of each level looks."""

    def __init__(self, sides: Sequence[float], firsts: Sequence[float]) -> None:
        super().__init__()
        self.per_place = len(_SHAPES)
        self._sides, self._firsts = tuple(sides), tuple(firsts)

    def forward(self, images: ImageList, levels: Sequence[Tensor]) -> list[Tensor]:
        """[A, 4] for each picture, places in order, the shapes of each place together."""
        found = []
        for level, side, first in zip(levels, self._sides, self._firsts, strict=True):
            heights = _ANCHOR_STRIDES * side * torch.tensor(_SHAPES, device=level.device).sqrt()
            halves = torch.stack([(_ANCHOR_STRIDES * side) ** 2 / heights, heights], dim=1) / 2
            centres = middles(level, side, first)[:, None]
            found.append(torch.cat([centres - halves, centres + halves], dim=2).flatten(0, 1))
        return [torch.cat(found)] * len(images.image_sizes)


class _Proposals(RegionProposalNetwork):
    def assign_targets_to_anchors(self, anchors: list[Tensor], targets: list[Any]) -> tuple[list[Tensor], list[Tensor]]:
        labels, boxes = super().assign_targets_to_anchors(anchors, targets)
        for label, anchor, target in zip(labels, anchors, targets, strict=True):
            label[(label == 0) & _is_ignored(anchor, target["ignored"])] = _NOBODY
        return labels, boxes

    def compute_loss(
        self, objectness: Tensor, pred_bbox_deltas: Tensor, labels: list[Tensor], regression_targets: list[Tensor]
    ) -> tuple[Tensor, Tensor]:
        if not any((label != _NOBODY).any() for label in labels):
            return objectness.sum() * 0, pred_bbox_deltas.sum() * 0
        return super().compute_loss(objectness, pred_bbox_deltas, labels, regression_targets)


class _Regions(RoIHeads):
    """num_learnt: proposals that the last losses are means over."""

    _ignored: Sequence[Tensor] = ()
    num_learnt = 0

    def subsample(self, labels: list[Tensor]) -> list[Tensor]:
        sampled: list[Tensor] = super().subsample(labels)
        self.num_learnt = sum(map(len, sampled))
        return sampled

    def select_training_samples(self, proposals: list[Tensor], targets: list[Any] | None) -> Any:
        self._ignored = [target["ignored"] for target in targets or ()]
        return super().select_training_samples(proposals, targets)

    def assign_targets_to_proposals(
        self, proposals: list[Tensor], gt_boxes: list[Tensor], gt_labels: list[Tensor]
    ) -> tuple[list[Tensor], list[Tensor]]:
        matched, labels = super().assign_targets_to_proposals(proposals, gt_boxes, gt_labels)
        for label, boxes, ignored in zip(labels, proposals, self._ignored, strict=True):
            label[(label == 0) & _is_ignored(boxes, ignored)] = _NOBODY
        return matched, labels


def _is_ignored(boxes_P4: Tensor, regions_xyxy: Tensor) -> Tensor:
    """Of which boxes enough, or the middle, lies in one ignored region, [P]; anchors reach beyond the picture."""
    if not len(regions_xyxy):
        return torch.zeros(len(boxes_P4), dtype=torch.bool, device=boxes_P4.device)
    upper = torch.maximum(boxes_P4[:, None, :2], regions_xyxy[None, :, :2])
    lower = torch.minimum(boxes_P4[:, None, 2:], regions_xyxy[None, :, 2:])
    shared = (lower - upper).clamp_min(0).prod(2).amax(1)
    middle = ((boxes_P4[:, :2] + boxes_P4[:, 2:]) / 2)[:, None]
    is_inside = ((middle > regions_xyxy[None, :, :2]) & (middle < regions_xyxy[None, :, 2:])).all(2).any(1)
    return is_inside | (shared >= _IGNORED_SHARE * box_area(boxes_P4).clamp_min(1e-6))
