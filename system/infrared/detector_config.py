"""What a model of infrared pictures is made of."""

from __future__ import annotations

import math
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from system.config import FrozenConfig
from system.pairs.pixels import InfraredMapping

Architecture = Literal["fcos", "faster_rcnn", "rf_detr"]


class InfraredModelConfig(FrozenConfig):
    """A backbone and a head, without their weights.

    architecture: of the head.
    backbone: of `load_network`, or the folder of a distillation. merge: the factor of that distillation's update; None
        for the one that its merged weights have.
    classes: by their place in labels.
    height, width: pictures are resized to it, shape not kept.
    blocks: of the ViT, or stages of the convolutional network, whose features the head reads, counted from 0; stages of
        a detector are neighbours.
    channels: width of the head. convs: 3x3 convolutions of it.
    is_frozen: whether the backbone stays as it is.
    mapping: of infrared values to 8 bits.
    """

    architecture: str
    backbone: str = "dinov2-packaged"
    merge: float | None = Field(default=None, ge=0, le=4)
    classes: tuple[str, ...]
    height: int = Field(default=336, ge=28, le=8192)
    width: int = Field(default=448, ge=28, le=8192)
    blocks: tuple[int, ...] = (3, 6, 9)
    channels: int = Field(default=64, ge=32, le=1024, multiple_of=32)
    convs: int = Field(default=2, ge=1, le=8)
    is_frozen: bool = True
    mapping: InfraredMapping = InfraredMapping()

    @model_validator(mode="after")
    def _is_whole(self) -> Self:
        if not self.classes or len(set(self.classes)) < len(self.classes):
            raise ValueError(f"classes {self.classes}: expected at least one, each once")
        if not self.blocks or list(self.blocks) != sorted(set(self.blocks)):
            raise ValueError(f"blocks {self.blocks}: expected at least one, rising")
        return self


class DetectorConfig(InfraredModelConfig):
    """A detector, without its weights.

    architecture: fcos, an anchor-free dense head, trains on CPUs (`convs` in each of two branches); faster_rcnn,
        proposals and a closer look at each; rf_detr, a DETR of transformers on ViT features.
    """

    architecture: Architecture = "fcos"


def sizes_for(is_network: bool, scale: float = 1.0, patch: int = 14) -> dict[str, Any]:
    """Height, width and blocks where none are given: of a ViT, or of a convolutional network, whose stride is 32.

    scale: 1 for 336x448, or less. patch: of the ViT, in pixels.
    """
    side, blocks = (32, (0, 1, 2, 3)) if is_network else (patch, (3, 6, 9))
    height, width = (max(2, math.ceil(px * scale / side)) * side for px in (336, 448))
    return {"height": height, "width": width, "blocks": blocks}
