"""What CLIP-like towers have in common: batches, normalisation, autocast, text prompts."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from system.backbones.runtime import Runtime
from system.backbones.tower import TowerOutput


class ContrastiveTower(ABC):
    """An `ImageTextTower` around somebody else's model. Answers on a CPU do not depend on the batch beyond 1e-4."""

    name: str
    tower_id: str
    embedding_dim: int
    patch_dim: int
    input_size: tuple[int, int]
    patch_grid: tuple[int, int]

    def __init__(self, name: str, runtime: Runtime, mean: Sequence[float], std: Sequence[float]) -> None:
        self.name = name
        self._runtime = runtime
        self._mean = torch.tensor(mean, device=runtime.device).view(3, 1, 1)
        self._std = torch.tensor(std, device=runtime.device).view(3, 1, 1)

    @abstractmethod
    def _image_features(self, pixels_NCHW: Tensor) -> tuple[Tensor, Tensor]:
        """(pooled [N, E], patches [N, P, C]) of normalised pixels."""

    @abstractmethod
    def _text_features(self, texts: Sequence[str]) -> Tensor:
        """[N, E]."""

    def text_prompt(self, words: str) -> str:
        """As CLIP was used from the beginning (Radford et al., 2021)."""
        return f"a photo of {words}"

    @torch.no_grad()
    def encode_images(self, images_NHWC: Tensor) -> TowerOutput:
        size = self._runtime.batch_size
        parts = [self._encode(images_NHWC[k : k + size]) for k in range(0, len(images_NHWC), size)]
        if not parts:
            patches = self.patch_grid[0] * self.patch_grid[1]
            return TowerOutput(torch.zeros(0, self.embedding_dim), torch.zeros(0, patches, self.patch_dim))
        return TowerOutput(torch.cat([pooled for pooled, _ in parts]), torch.cat([patches for _, patches in parts]))

    @torch.no_grad()
    def encode_texts(self, texts: Sequence[str]) -> Tensor:
        """[N, E] float32, norm 1."""
        return F.normalize(self._text_features(list(texts)).float(), dim=-1)

    def _encode(self, images_NHWC: Tensor) -> tuple[Tensor, Tensor]:
        pixels = images_NHWC.to(self._runtime.device).permute(0, 3, 1, 2).float() / 255.0
        dtype = getattr(torch, self._runtime.dtype)
        with torch.autocast(self._runtime.device, dtype, enabled=dtype != torch.float32):
            pooled, patches = self._image_features((pixels - self._mean) / self._std)
        return F.normalize(pooled.float(), dim=-1), patches.float().contiguous()

    def _probe(self) -> None:
        """Learn the widths from one grey picture."""
        grey = torch.full((1, *self.input_size, 3), 128, dtype=torch.uint8)
        pooled, patches = self._encode(grey)
        self.embedding_dim, self.patch_dim = pooled.shape[1], patches.shape[2]
        side = round(patches.shape[1] ** 0.5)
        self.patch_grid = (side, patches.shape[1] // side)


def weights_fingerprint(model: torch.nn.Module) -> str:
    """What tells two sets of weights apart: the names, shapes and bytes of all tensors."""
    from system.backbones.loading import fingerprint

    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return fingerprint(digest.hexdigest())
