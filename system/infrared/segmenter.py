"""An infrared segmenter: a light decoder on the backbones of detectors gives each pixel a class.

The features of a few blocks are joined, brought to about a quarter of the picture's size and smoothed by convolutions;
the logits of their places are read between them at every pixel. The loss is cross-entropy with weights of classes, and
the overlap (Dice) where it is asked for; pixels labelled `IGNORED` take no part in either.
Source: Dice loss: Milletari et al., V-Net, 3DV 2016; weights: Paszke et al., ENet, 2016.

    segmenter.json          configuration, the backbone's architecture, SHA-256 of the weights
    segmenter.safetensors   weights of both

Legend: N pictures, C channels, h x w places of a feature map, H x W pixels, K classes, the background first.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal, Self

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from system.infrared.backbone import Backbone
from system.infrared.detector import InfraredModel, SavedModel, fitted
from system.infrared.detector_config import InfraredModelConfig
from system.pairs.masks import IGNORED

FORMAT = "nightminer.segmenter.v1"
CONFIG_NAME, WEIGHTS_NAME = "segmenter.json", "segmenter.safetensors"
# Pixels between two places of the decoder's output, about.
_STRIDE_PX = 4
# ENet's bound: a class of no pixels weighs 50 times as much as a picture full of one weighs 1.4.
_WEIGHT_OFFSET = 1.02


class SegmenterConfig(InfraredModelConfig):
    """A segmenter, without its weights.

    classes: the background first. class_weights: of the cross-entropy, one a class; all 1, if not given.
    dice_weight: of the overlap loss beside the cross-entropy.
    masks: what the masks are that it learns from; pseudo-masks are called so.
    """

    architecture: Literal["dense"] = "dense"
    class_weights: tuple[float, ...] | None = None
    dice_weight: float = Field(default=0.0, ge=0, le=100)
    masks: str = ""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if not 2 <= len(self.classes) <= IGNORED:
            raise ValueError(f"classes {self.classes}: expected the background and 1 to {IGNORED - 1} others")
        weights = self.class_weights
        if weights is not None and (len(weights) != len(self.classes) or not all(0 < w < math.inf for w in weights)):
            raise ValueError(f"class_weights {weights}: expected {len(self.classes)} numbers above 0")
        return self


def class_weights(pixels_K: Sequence[int]) -> tuple[float, ...]:
    """Of the cross-entropy, by how many pixels each class has: 1 / ln(1.02 + share), with a mean of 1 over pixels."""
    shares = np.asarray(pixels_K, float) / max(1, sum(pixels_K))
    weights = 1 / np.log(_WEIGHT_OFFSET + shares)
    weights /= float((weights * shares).sum()) or 1.0
    return tuple(round(float(weight), 5) for weight in weights)


class DenseHead(nn.Module):
    """Everything of the segmenter that comes after the backbone."""

    def __init__(self, widths: Sequence[int], strides: Sequence[int], config: SegmenterConfig) -> None:
        super().__init__()
        channels = config.channels
        self.dice_weight = config.dice_weight
        self.loss_names: tuple[str, ...] = ("cross_entropy", "dice") if config.dice_weight else ("cross_entropy",)
        # Blocks differ in scale.
        self.norms = nn.ModuleList(nn.GroupNorm(1, width) for width in widths)
        self.lateral = nn.ModuleList(nn.Conv2d(width, channels, 1) for width in widths)
        doublings = max(0, round(math.log2(min(strides) / _STRIDE_PX)))
        finer = [
            nn.Sequential(nn.ConvTranspose2d(channels, channels, 2, stride=2), nn.GroupNorm(1, channels), nn.GELU())
            for _ in range(doublings)
        ]
        smooth = [
            nn.Sequential(nn.Conv2d(channels, channels, 3, padding=1), nn.GroupNorm(1, channels), nn.GELU())
            for _ in range(config.convs)
        ]
        self.decoder = nn.Sequential(*finer, *smooth, nn.Conv2d(channels, len(config.classes), 1))
        weights = torch.tensor(config.class_weights or [1.0] * len(config.classes))
        self.register_buffer("weights", weights, persistent=False)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """[N, C, h, w] of each block -> logits [N, K, h', w'] at about a quarter of the picture's sides."""
        largest = max((f.shape[2], f.shape[3]) for f in features)
        parts = []
        for conv, norm, feature in zip(self.lateral, self.norms, features, strict=True):
            part = conv(norm(feature))
            if part.shape[2:] != largest:
                part = F.interpolate(part, size=largest, mode="bilinear", align_corners=False)
            parts.append(part)
        logits: Tensor = self.decoder(F.gelu(torch.stack(parts).sum(0)))
        return logits

    def logits(self, features: Sequence[Tensor], size: tuple[int, int]) -> Tensor:
        """[N, K, H, W] of each pixel of (height, width) `size`, single precision."""
        return F.interpolate(self(features).float(), size=size, mode="bilinear", align_corners=False)

    def losses(self, features: Sequence[Tensor], size: tuple[int, int], targets: Sequence[Tensor]) -> dict[str, Tensor]:
        """Means over the pixels that are known. targets: int64 [H, W] of each picture."""
        logits_NKHW, labels_NHW = self.logits(features, size), torch.stack(list(targets))
        found = {"cross_entropy": cross_entropy(logits_NKHW, labels_NHW, self.get_buffer("weights"))}
        if self.dice_weight:
            found["dice"] = self.dice_weight * dice_loss(logits_NKHW, labels_NHW)
        return found


def cross_entropy(logits_NKHW: Tensor, labels_NHW: Tensor, weights_K: Tensor) -> Tensor:
    """Weighted mean over pixels that are not `IGNORED`; 0 where all are."""
    if not (labels_NHW != IGNORED).any():
        return logits_NKHW.sum() * 0
    return F.cross_entropy(logits_NKHW, labels_NHW, weight=weights_K, ignore_index=IGNORED)


def dice_loss(logits_NKHW: Tensor, labels_NHW: Tensor) -> Tensor:
    """1 - 2 |A B| / (|A| + |B|), mean over the classes that the batch shows, over pixels that are not `IGNORED`."""
    known_N1HW = (labels_NHW != IGNORED)[:, None]
    chance_NKHW = logits_NKHW.softmax(1) * known_N1HW
    labels = labels_NHW.clamp(max=logits_NKHW.shape[1] - 1)
    truth_NKHW = F.one_hot(labels, logits_NKHW.shape[1]).permute(0, 3, 1, 2) * known_N1HW
    both_K = (chance_NKHW * truth_NKHW).sum((0, 2, 3))
    either_K = chance_NKHW.sum((0, 2, 3)) + truth_NKHW.sum((0, 2, 3))
    is_shown = truth_NKHW.sum((0, 2, 3)) > 0
    if not is_shown.any():
        return logits_NKHW.sum() * 0
    return (1 - 2 * both_K / either_K.clamp(min=1e-6))[is_shown].mean()


class SavedSegmenter(SavedModel):
    """The segmenter.json of a folder."""

    format: str = Field(pattern=r"^nightminer\.segmenter\.v1$")
    config: SegmenterConfig


class Segmenter(InfraredModel):
    """Infrared pictures in, label maps out."""

    noun, format, saved = "segmenter", FORMAT, SavedSegmenter
    config_name, weights_name = CONFIG_NAME, WEIGHTS_NAME

    @staticmethod
    def new_head(config: SegmenterConfig, backbone: Backbone) -> Any:
        """The decoder."""
        return DenseHead(backbone.facts.widths, backbone.facts.strides, config)

    @torch.no_grad()
    def segment(self, pictures: Sequence[NDArray[np.uint8]]) -> list[NDArray[np.uint8]]:
        """The class of every pixel, uint8 [H, W] of each picture, uint8 [H, W] or [H, W, 3] of any size."""
        if not pictures:
            return []
        coarse_NKhw = self.head(self.features(fitted(self, pictures))).float()
        return [label_map(coarse_NKhw[n], (picture.shape[0], picture.shape[1])) for n, picture in enumerate(pictures)]


def label_map(logits_Khw: Tensor, size: tuple[int, int]) -> NDArray[np.uint8]:
    """The likeliest class of each pixel of a picture of (height, width) `size`, uint8."""
    fine = F.interpolate(logits_Khw[None], size=size, mode="bilinear", align_corners=False)[0]
    return fine.argmax(0).to(torch.uint8).cpu().numpy()
