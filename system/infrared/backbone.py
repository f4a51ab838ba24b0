"""Backbones of detectors: a ViT's blocks or a CNN's stages, as lists of feature maps.

Legend: N pictures, C channels, H x W pixels, h x w places of a feature map.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from system.backbones.cnn import (
    build_cnn,
    cnn_facts,
    freeze_batch_norms,
    is_cnn_architecture,
    refuse_stages,
    stage_features,
)
from system.backbones.vit import block_features, build_vit, normalise, refuse_blocks, set_normalisation, vit_facts


@dataclass(frozen=True)
class BackboneFacts:
    """architecture: of timm. widths: channels of each map. strides: pixels between two places of each map.

    mean, std: of RGB in [0, 1], by which pictures are normalised.
    """

    architecture: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    widths: tuple[int, ...]
    strides: tuple[int, ...]


class VitBackbone(nn.Module):
    """Outputs of some blocks, without the final norm; blocks beyond the last of them are not kept."""

    def __init__(self, vit: VisionTransformer, blocks: Sequence[int]) -> None:
        super().__init__()
        refuse_blocks(vit, blocks)
        self._vit_facts = vit_facts(vit)
        vit.blocks = vit.blocks[: max(blocks) + 1]
        vit.norm = nn.Identity()
        self.vit, self.blocks = vit, tuple(blocks)
        patch = self._vit_facts.patch
        self.facts = BackboneFacts(
            architecture=self._vit_facts.architecture,
            mean=self._vit_facts.mean,
            std=self._vit_facts.std,
            widths=(self._vit_facts.width,) * len(blocks),
            strides=(patch,) * len(blocks),
        )

    @property
    def network(self) -> nn.Module:
        """All weights."""
        return self.vit

    def pixels(self, images_NHWC: Tensor) -> Tensor:
        """uint8 pictures as the backbone wants them, [N, 3, H, W] float32."""
        return normalise(images_NHWC, self._vit_facts)

    def forward(self, pixels_NCHW: Tensor) -> list[Tensor]:
        """One [N, C, h, w] for each block."""
        return block_features(self.vit, pixels_NCHW, self.blocks)


class CnnBackbone(nn.Module):
    """Outputs of some stages of a convolutional network, always in evaluation mode; its batch norms do not learn."""

    def __init__(self, network: nn.Module, stages: Sequence[int]) -> None:
        super().__init__()
        refuse_stages(stages)
        self.network, self.stages = freeze_batch_norms(network), tuple(stages)
        own = cnn_facts(network)
        self.facts = BackboneFacts(
            architecture=own.architecture,
            mean=own.mean,
            std=own.std,
            widths=tuple(own.widths[stage] for stage in stages),
            strides=tuple(own.strides[stage] for stage in stages),
        )

    def train(self, mode: bool = True) -> Self:
        """Stays in evaluation mode, whatever is asked."""
        return super().train(False)

    def pixels(self, images_NHWC: Tensor) -> Tensor:
        """uint8 pictures as the backbone wants them, [N, 3, H, W] float32."""
        return normalise(images_NHWC, self.facts)

    def forward(self, pixels_NCHW: Tensor) -> list[Tensor]:
        """One [N, C, h, w] for each stage."""
        return stage_features(self.network, pixels_NCHW, self.stages)


Backbone = VitBackbone | CnnBackbone


def backbone_of(network: nn.Module, blocks: Sequence[int]) -> Backbone:
    """Of a vision transformer's blocks, or a convolutional network's stages.

    Raises:
        ConfigError: one that the network lacks.
    """
    if isinstance(network, VisionTransformer):
        return VitBackbone(network, blocks)
    return CnnBackbone(network, blocks)


def empty_backbone(
    architecture: str, blocks: Sequence[int], mean: tuple[float, ...], std: tuple[float, ...]
) -> Backbone:
    """Without weights worth having, to load a detector's into. mean, std: of those weights."""
    network = build_cnn(architecture) if is_cnn_architecture(architecture) else build_vit(architecture)
    set_normalisation(network, mean, std)
    return backbone_of(network, blocks)
