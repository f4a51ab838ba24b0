"""Backbones of detectors: a ViT's blocks or a CNN's stages, as lists of feature maps.

Legend: N pictures, C channels, H x W pixels, h x w places of a feature map.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
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
from system.backbones.vit import block_features, build_vit, normalise, refuse_blocks, vit_facts


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

    def __init__(
        self,
        vit: VisionTransformer,
        blocks: Sequence[int],
        mean: tuple[float, ...] | None = None,
        std: tuple[float, ...] | None = None,
    ) -> None:
        """mean, std: other than the architecture's own."""
        super().__init__()
        refuse_blocks(vit, blocks)
        own = vit_facts(vit)
        self._vit_facts = replace(own, mean=mean or own.mean, std=std or own.std)
        vit.blocks = vit.blocks[: max(blocks) + 1]
        vit.norm = nn.Identity()
        self.vit, self.blocks = vit, tuple(blocks)
        patch = self._vit_facts.patch
        self.facts = BackboneFacts(
            architecture=own.architecture,
            mean=self._vit_facts.mean,
            std=self._vit_facts.std,
            widths=(own.width,) * len(blocks),
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

    def __init__(
        self,
        network: nn.Module,
        stages: Sequence[int],
        mean: tuple[float, ...] | None = None,
        std: tuple[float, ...] | None = None,
    ) -> None:
        """mean, std: other than the architecture's own."""
        super().__init__()
        refuse_stages(stages)
        self.network, self.stages = freeze_batch_norms(network), tuple(stages)
        own = cnn_facts(network)
        self.facts = BackboneFacts(
            architecture=own.architecture,
            mean=mean or own.mean,
            std=std or own.std,
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


def backbone_of(
    network: nn.Module,
    blocks: Sequence[int],
    mean: tuple[float, ...] | None = None,
    std: tuple[float, ...] | None = None,
) -> Backbone:
    """Of a vision transformer's blocks, or a convolutional network's stages.

    Raises:
        ConfigError: one that the network lacks.
    """
    if isinstance(network, VisionTransformer):
        return VitBackbone(network, blocks, mean, std)
    return CnnBackbone(network, blocks, mean, std)


def empty_backbone(
    architecture: str, blocks: Sequence[int], mean: tuple[float, ...], std: tuple[float, ...]
) -> Backbone:
    """Without weights worth having, to load a detector's into."""
    build = build_cnn if is_cnn_architecture(architecture) else build_vit
    return backbone_of(build(architecture), blocks, mean, std)
