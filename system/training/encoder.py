"""A backbone as a probe reads it: features of one block or stage on a grid of patches.

Legend: N pictures, H x W pixels, h x w patches, C channels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from system.backbones.cnn import STRIDES, cnn_facts, refuse_stages, stage_features
from system.backbones.vit import (
    architecture_of,
    block_features,
    build_vit,
    normalise,
    pad_to_patch,
    refuse_blocks,
    vit_facts,
)
from system.freqkd.distiller import DistillConfig
from system.freqkd.student import resampled, teacher_name
from system.training.probe_set import Bytes

_PICTURES_AT_ONCE = 16
# Of DINOv2; a network that nobody teaches is read on a grid of the same.
PROBED_PATCH = 14


@dataclass(frozen=True, eq=False)
class Encoder:
    """model: a vision transformer, or a network of convolutions, whose stages are resampled to patches of `patch`
    pixels, so that both are asked of the same places."""

    model: nn.Module
    patch: int

    @classmethod
    def of(cls, model: nn.Module, config: DistillConfig | None = None) -> Self:
        """config: of a distillation, on whose teacher's patches a network is read."""
        if isinstance(model, VisionTransformer):
            return cls(model, vit_facts(model).patch)
        if config is None:
            return cls(model, PROBED_PATCH)
        return cls(model, vit_facts(build_vit(architecture_of(teacher_name(config)), device="meta")).patch)

    def width(self, block: int) -> int:
        """Channels of a block or stage."""
        if isinstance(self.model, VisionTransformer):
            return vit_facts(self.model).width
        return cnn_facts(self.model).widths[block]

    def refuse_block(self, block: int) -> None:
        """Raises ConfigError: a block or stage that it lacks."""
        if isinstance(self.model, VisionTransformer):
            refuse_blocks(self.model, [block])
        else:
            refuse_stages([block])

    @torch.no_grad()
    def __call__(self, images_NHWC: Bytes, block: int) -> Tensor:
        """What a block adds up to or a stage gives, float32 [N, C, h, w] on the CPU; pictures are padded to whole
        patches."""
        # A copy: arrays that Ray shares are read-only, of which torch warns.
        pictures = torch.from_numpy(images_NHWC.copy()).to(next(self.model.parameters()).device)
        if isinstance(self.model, VisionTransformer):
            facts = vit_facts(self.model)
            return block_features(self.model, pad_to_patch(normalise(pictures, facts), facts.patch), [block])[0].cpu()
        pixels = pad_to_patch(normalise(pictures, cnn_facts(self.model)), self.patch)
        grid = (pixels.shape[2] // self.patch, pixels.shape[3] // self.patch)
        features = stage_features(self.model, pad_to_patch(pixels, max(STRIDES)), [block])[0]
        return resampled(features, STRIDES[block], self.patch, grid).cpu()


def pooled(encoder: Encoder, images_NHWC: Bytes, block: int) -> Tensor:
    """The mean patch of each picture, [N, C]."""
    return torch.cat([encoder(images, block).mean((2, 3)) for images in batches(images_NHWC)])


def batches(images_NHWC: Bytes) -> list[Bytes]:
    """Some pictures at a time."""
    return [images_NHWC[start : start + _PICTURES_AT_ONCE] for start in range(0, len(images_NHWC), _PICTURES_AT_ONCE)]
