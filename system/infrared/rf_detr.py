"""The paper's class of detector: a DETR on a plain ViT, RF-DETR of transformers.

It is the one of transformers' DETRs that was made for DINOv2: its projector takes the outputs of several blocks of one
grid, where Deformable DETR and RT-DETRv2 expect a CNN's stages and LW-DETR a ViT of its own. Its ViT is left out here:
ours gives the features, with positions resampled as DINOv2 does and without windows, so that merged weights answer as
they did when they were distilled. As in the published models, the blocks become one map of the patches' grid, not a
pyramid: transformers' projector has one scale, whose decoder looks at several places of it for each query.
Source: Robinson et al., RF-DETR, 2025; Chen et al., LW-DETR, 2024.

Legend: N pictures, C channels, h x w patches, Q queries, K classes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.ops import box_convert
from transformers import RfDetrConfig, RfDetrForObjectDetection
from transformers.loss import loss_lw_detr

from system.errors import ModelError
from system.infrared.targets import Found, Target

_MOST_QUERIES, _GROUPS, _DECODER_LAYERS, _KEPT = 300, 13, 3, 100
_LEAST_SCORE = 0.02


class _GivenFeatures(nn.Module):
    """Stands where RF-DETR has its encoder: projects feature maps that were computed elsewhere."""

    def __init__(self, widths: Sequence[int], projector: nn.Module) -> None:
        super().__init__()
        # The published model ends each map with DINOv2's own norm, which the blocks in the middle have none of.
        self.norms = nn.ModuleList(nn.GroupNorm(1, width) for width in widths)
        self.projector = projector
        self.features: Sequence[Tensor] = ()

    def forward(self, pixels: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        features = tuple(norm(f) for norm, f in zip(self.norms, self.features, strict=True))
        projected = self.projector(features)
        return projected, mask.new_ones((projected.shape[0], *projected.shape[-2:]), dtype=torch.bool)


@contextmanager
def _means_of_this_worker() -> Iterator[None]:
    """Keep transformers from counting boxes over all workers within the loss.

    A worker whose part of a batch is empty has no loss, and the others would wait for its count for ever.
    """
    asks = loss_lw_detr._is_torch_distributed_initialized
    loss_lw_detr._is_torch_distributed_initialized = lambda: False
    try:
        yield
    finally:
        loss_lw_detr._is_torch_distributed_initialized = asks


class RfDetrHead(nn.Module):
    """Projector, encoder proposals and decoder; its losses are transformers' own."""

    loss_names = ("classification", "box", "overlap", "inner")

    def __init__(self, widths: Sequence[int], places: int, width: int, num_classes: int) -> None:
        """places: of a feature map; no more of them can be proposed."""
        super().__init__()
        config = RfDetrConfig(
            backbone_config={
                "model_type": "rf_detr_dinov2",
                "hidden_size": widths[0],
                "num_hidden_layers": len(widths),
                "num_attention_heads": 1,
                "mlp_ratio": 1,
                "image_size": 14,
                "num_windows": 1,
                "out_indices": list(range(1, len(widths) + 1)),
            },
            d_model=width,
            decoder_layers=_DECODER_LAYERS,
            num_queries=min(_MOST_QUERIES, places),
            group_detr=_GROUPS,
            # So that a training goes on after a kill to the same bits.
            dropout=0.0,
        )
        config.num_labels = num_classes
        detr: Any = RfDetrForObjectDetection(config)
        detr.model.backbone = _GivenFeatures(widths, detr.model.backbone.projector)
        self.detr = detr

    def losses(self, features: Sequence[Tensor], size: tuple[int, int], targets: Sequence[Target]) -> dict[str, Tensor]:
        """Weighted as RF-DETR weights them: classes, boxes, overlap; those of earlier layers together as `inner`.

        Ignored regions are background to it: each query is matched with an object or with nothing.

        Raises:
            ModelError: its boxes are no numbers.
        """
        height, width = size
        scale = features[0].new_tensor([width, height, width, height])
        labels = [
            {"class_labels": t.labels, "boxes": box_convert(t.boxes_xyxy, "xyxy", "cxcywh") / scale} for t in targets
        ]
        try:
            with _means_of_this_worker():
                answer = self._asked(features, size, labels)
        except ValueError as error:  # of the matcher, which compares boxes before anybody sees a loss
            raise ModelError(f"the detector's boxes are no numbers ({error}); lower the learning rate") from error
        parts = answer.loss_dict
        named = {"classification": parts["loss_ce"], "box": 5 * parts["loss_bbox"], "overlap": 2 * parts["loss_giou"]}
        return named | {"inner": answer.loss - sum(named.values())}

    def detect(self, features: Sequence[Tensor], size: tuple[int, int]) -> list[Found]:
        """The surest boxes of each picture; DETRs need no suppression."""
        boxes_NQ4, scores_NQK = self.raw(features, size)
        found = []
        for boxes_Q4, scores_QK in zip(boxes_NQ4, scores_NQK, strict=True):
            scores, place = scores_QK.flatten().topk(min(_KEPT, scores_QK.numel()))
            kept = scores > _LEAST_SCORE
            scores, place = scores[kept], place[kept]
            classes = scores_QK.shape[1]
            found.append(Found(boxes_Q4[place // classes], scores, place % classes))
        return found

    def raw(self, features: Sequence[Tensor], size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Before any choice: (boxes [N, Q, 4] in pixels, scores [N, Q, K])."""
        height, width = size
        answer = self._asked(features, size, None)
        boxes = box_convert(answer.pred_boxes, "cxcywh", "xyxy").clamp(0, 1)
        return boxes * boxes.new_tensor([width, height, width, height]), answer.logits.sigmoid()

    def _asked(self, features: Sequence[Tensor], size: tuple[int, int], labels: list[dict[str, Tensor]] | None) -> Any:
        self.detr.model.backbone.features = features
        try:
            # Its pixels are only asked for their shape.
            nothing = features[0].new_zeros(1).expand(features[0].shape[0], 3, *size)
            return self.detr(pixel_values=nothing, labels=labels)
        finally:
            self.detr.model.backbone.features = ()
