"""What the student is to match for the pairs of a step: registered where asked, mirrored, cached.

Legend: N pairs, C channels, H x W pixels, h x w patches.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from system.backbones.vit import vit_facts, vit_hash
from system.freqkd.distiller import DistillConfig, is_flipped, teacher_features
from system.freqkd.registration import REGISTRATION_VERSION, register_pair, shift_picture, valid_tokens
from system.pipelines.pair_stream import StepPairs
from system.pipelines.teacher_cache import TeacherCache, kept_as, key_of


@dataclass(frozen=True, eq=False)
class Lesson:
    """Arguments of `Distiller.step`. teacher: for each block [N, C, h, w]; valid_NHW: of patches, None for all."""

    infrared_NHWC: Tensor
    teacher: list[Tensor]
    valid_NHW: Tensor | None


class PairTeacher:
    """A frozen teacher with its cache.

    On a CPU pictures go through it one by one, so that their features have the same bits whoever is with them.
    """

    def __init__(self, teacher: VisionTransformer, config: DistillConfig, cache: TeacherCache) -> None:
        self._teacher, self._config, self._cache = teacher.eval().requires_grad_(False), config, cache
        self._facts = vit_facts(teacher)
        self._one_by_one = next(teacher.parameters()).device.type == "cpu"

    @staticmethod
    def space(teacher: VisionTransformer, config: DistillConfig) -> str:
        """What cached features depend on besides pixels."""
        facts = vit_facts(teacher)
        normalisation = f"{facts.mean} {facts.std}"
        return f"{vit_hash(teacher)} {normalisation} {config.blocks} {config.precision} {REGISTRATION_VERSION}"

    def __call__(self, pairs: StepPairs, epoch: int) -> Lesson:
        """The lesson of a step's pairs in an epoch."""
        views = [
            self._view(torch.tensor(rgb), torch.tensor(infrared), is_flipped(self._config.seed, epoch, number))
            for rgb, infrared, number in zip(pairs.rgb_NHWC, pairs.infrared_NHWC, pairs.numbers, strict=True)
        ]
        valid = [view[2] for view in views if view[2] is not None]
        return Lesson(
            infrared_NHWC=torch.stack([view[1] for view in views]) if views else torch.tensor(pairs.infrared_NHWC),
            teacher=self._features([view[0] for view in views]),
            valid_NHW=torch.stack(valid) if valid else None,
        )

    def _view(self, rgb_HWC: Tensor, infrared_HWC: Tensor, flipped: bool) -> tuple[Tensor, Tensor, Tensor | None]:
        """Both pictures of a pair as they are learnt from, and which patches count."""
        valid_HW = None
        if self._config.loss.register_pairs:
            dy_px, dx_px = self._shift(rgb_HWC, infrared_HWC)
            rgb_HWC, valid_HW = shift_picture(rgb_HWC, dy_px, dx_px)
        if self._config.flip and flipped:
            rgb_HWC, infrared_HWC = rgb_HWC.flip(1), infrared_HWC.flip(1)
            valid_HW = None if valid_HW is None else valid_HW.flip(1)
        if valid_HW is None:
            return rgb_HWC, infrared_HWC, None
        return rgb_HWC, infrared_HWC, valid_tokens(valid_HW, self._facts.patch)

    def _shift(self, rgb_HWC: Tensor, infrared_HWC: Tensor) -> tuple[int, int]:
        """By how many pixels the RGB picture is moved onto the infrared one: (down, right)."""
        key = key_of(rgb_HWC, infrared_HWC)
        known = self._cache.get(key)
        if known is None:
            both = [[f[0] for f in self._asked(picture[None])] for picture in (rgb_HWC, infrared_HWC)]
            found = register_pair(rgb_HWC, infrared_HWC, both[0], both[1], self._facts.patch)
            known = [torch.tensor([found.dy_px, found.dx_px])]
            self._cache.put(key, known)
        dy_px, dx_px = known[0].tolist()
        return int(dy_px), int(dx_px)

    def _features(self, pictures: Sequence[Tensor]) -> list[Tensor]:
        keys = [key_of(picture) for picture in pictures]
        found = {key: self._cache.get(key) for key in keys}
        missing = {key: picture for key, picture in zip(keys, pictures, strict=True) if found[key] is None}
        groups = [[key] for key in missing] if self._one_by_one else [list(missing)] if missing else []
        for group in groups:
            asked = self._asked(torch.stack([missing[key] for key in group]))
            for row, key in enumerate(group):
                found[key] = kept_as([features[row] for features in asked])
                self._cache.put(key, found[key] or [])
        rows = [found[key] or [] for key in keys]
        return [torch.stack([row[k].float() for row in rows]) for k in range(len(self._config.blocks))] if rows else []

    def _asked(self, rgb_NHWC: Tensor) -> list[Tensor]:
        return [f.cpu() for f in teacher_features(self._teacher, rgb_NHWC, self._config.blocks, self._config.precision)]
