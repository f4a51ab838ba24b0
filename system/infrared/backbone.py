"""Backbones of detectors: a ViT's blocks or a CNN's stages, as lists of feature maps.

Legend: N pictures, C channels, H x W pixels, h x w places of a feature map.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

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

    def pixels(self, images_NHWC: Tensor) -> Tensor:
        """uint8 pictures as the backbone wants them, [N, 3, H, W] float32."""
        return normalise(images_NHWC, self._vit_facts)

    def forward(self, pixels_NCHW: Tensor) -> list[Tensor]:
        """One [N, C, h, w] for each block."""
        return block_features(self.vit, pixels_NCHW, self.blocks)


def empty_backbone(
    architecture: str, blocks: Sequence[int], mean: tuple[float, ...], std: tuple[float, ...]
) -> VitBackbone:
    """Without weights worth having, to load a detector's into."""
    return VitBackbone(build_vit(architecture), blocks, mean, std)
