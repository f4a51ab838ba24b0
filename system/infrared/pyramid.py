"""Feature maps of a backbone as levels of growing stride, of one width, for heads that look for small and large things.

Blocks of a vision transformer have one size and become three; stages of a convolutional network keep their sizes.
Source: Lin et al., FPN, CVPR 2017; levels from a plain ViT: Li et al., ViTDet, ECCV 2022.

Legend: N pictures, C channels, h x w places of a map, A places of a level.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import FeaturePyramidNetwork

from system.infrared.backbone import BackboneFacts


class PatchPyramid(nn.Module):
    """Features of some blocks, one size, as three sizes: twice the grid, the grid, half the grid.

    sides: pixels between two places of each level. firsts: where the first place of each looks.
    """

    def __init__(self, widths: Sequence[int], channels: int, patch: int) -> None:
        super().__init__()
        self.out_channels = channels
        self.sides = (patch // 2, patch, 2 * patch)
        # The coarse level's places see every second patch, and its neighbours.
        self.firsts = (patch / 4, patch / 2, patch / 2)
        # Blocks differ in scale.
        self.norms = nn.ModuleList(nn.GroupNorm(1, width) for width in widths)
        self.lateral = nn.ModuleList(nn.Conv2d(width, channels, 1) for width in widths)
        self.finer = nn.ConvTranspose2d(channels, channels, 2, stride=2)
        self.coarser = nn.Conv2d(channels, channels, 3, stride=2, padding=1)

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        """[N, C, h, w] of each block -> [N, channels, 2h, 2w], [N, channels, h, w], [N, channels, h/2, w/2]."""
        parts = [conv(norm(f)) for conv, norm, f in zip(self.lateral, self.norms, features, strict=True)]
        joined = F.gelu(torch.stack(parts).sum(0))
        return [self.finer(joined), joined, self.coarser(joined)]


class StagePyramid(nn.Module):
    """Features of some stages, finest first, each at its own size: torchvision's feature pyramid."""

    def __init__(self, widths: Sequence[int], channels: int, strides: Sequence[int]) -> None:
        super().__init__()
        self.out_channels = channels
        self.sides = tuple(strides)
        self.firsts = tuple(stride / 2 for stride in strides)
        # Stages differ in scale, and batch norms in front of them stay as they are.
        self.norms = nn.ModuleList(nn.GroupNorm(1, width) for width in widths)
        self.pyramid = FeaturePyramidNetwork(list(widths), channels)

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        """[N, C, h, w] of each stage -> [N, channels, h, w] of each."""
        normed = [norm(f) for norm, f in zip(self.norms, features, strict=True)]
        return list(self.pyramid(OrderedDict((str(k), f) for k, f in enumerate(normed))).values())


Pyramid = PatchPyramid | StagePyramid


def pyramid_of(facts: BackboneFacts, channels: int) -> Pyramid:
    """The levels of a backbone, `channels` wide."""
    if len(set(facts.strides)) == 1:
        return PatchPyramid(facts.widths, channels, facts.strides[0])
    return StagePyramid(facts.widths, channels, facts.strides)


def middles(level: Tensor, side: float, first: float) -> Tensor:
    """(x, y) in pixels of where each place of a level looks, row by row: [A, 2].

    torchvision's own anchors lie around the upper left corner of each place, and take the stride from sizes that need
    not divide.
    """
    rows, columns = (
        torch.arange(count, dtype=torch.float32, device=level.device) * side + first for count in level.shape[2:]
    )
    y, x = torch.meshgrid(rows, columns, indexing="ij")
    return torch.stack([x, y], dim=-1).flatten(0, 1)
