"""A tower of a few numbers that keeps the contract of the real ones, and counts what it is asked."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from system.miner.scene_batch import SceneBatch


@dataclass(frozen=True, eq=False)
class FakeAnswer:
    pooled_NE: Tensor
    patches_NPC: Tensor


class FakeTower:
    """Patch tokens are random projections of the patch's mean colour, the embedding one of their mean."""

    name = "fake"
    embedding_dim, patch_dim = 16, 24
    input_size, patch_grid = (28, 28), (7, 7)

    def __init__(self, tower_id: str = "fake-1") -> None:
        self.tower_id = tower_id
        self.images_seen = 0
        generator = torch.Generator().manual_seed(1)
        self._to_patch = torch.randn(3, self.patch_dim, generator=generator) / 128
        self._to_pooled = torch.randn(self.patch_dim, self.embedding_dim, generator=generator)

    def text_prompt(self, words: str) -> str:
        return f"a photo of {words}"

    def encode_texts(self, texts: Sequence[str]) -> Tensor:
        generators = (torch.Generator().manual_seed(zlib.crc32(text.encode())) for text in texts)
        return F.normalize(torch.stack([torch.randn(self.embedding_dim, generator=g) for g in generators]), dim=-1)

    def encode_images(self, images_NHWC: Tensor) -> FakeAnswer:
        self.images_seen += len(images_NHWC)
        colours = images_NHWC.float().view(-1, 7, 4, 7, 4, 3).mean((2, 4)).flatten(1, 2)
        patches = colours @ self._to_patch
        return FakeAnswer(F.normalize(patches.mean(1) @ self._to_pooled, dim=-1), patches)


def fake_batch(pictures_of_scene: Sequence[int], seed: int = 0) -> SceneBatch:
    """Random pictures of uncalibrated cameras; the ego of every scene drives at 10 m/s in a slight bend."""
    generator = torch.Generator().manual_seed(seed)
    count, scenes = sum(pictures_of_scene), len(pictures_of_scene)
    return SceneBatch(
        images_MHWC=torch.randint(0, 256, (count, 28, 28, 3), dtype=torch.uint8, generator=generator),
        scene_M=torch.repeat_interleave(torch.arange(scenes), torch.tensor(pictures_of_scene)),
        time_s_M=4 * torch.rand(count, generator=generator),
        intrinsics_M33=torch.full((count, 3, 3), torch.nan),
        ego_from_camera_M44=torch.full((count, 4, 4), torch.nan),
        is_calibrated_M=torch.zeros(count, dtype=torch.bool),
        ego_N3=torch.tensor([[10.0, 0.1, -0.5]]).repeat(scenes, 1),
        num_scenes=scenes,
    )
