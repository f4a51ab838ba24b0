"""The tower that needs no network: EfficientNet-Lite0 pictures in the text space of all-MiniLM-L6-v2, by ConSE.

A picture's embedding is the convex mix of the embeddings of ImageNet's class names, weighted by the classifier's
probabilities (Norouzi et al., 2014, Zero-shot learning by convex combination of semantic embeddings). It knows the
thousand classes and what lies between their names, and no more: there is no person among them, and weather only by what
it hides. Use a CLIP or SigLIP where tags matter; `tests/benchmarks/tag_calibration.py` says how far this one goes.

Legend: N pictures, P patches, C channels, E embedding width, K classes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional as F

from system.backbones.convert import cache_folder
from system.backbones.efficientnet_lite import CHANNELS, GRID, INPUT_SIZE, fold_batch_norms, load_efficientnet_lite0
from system.backbones.minilm import EMBEDDING_DIM, MiniLm
from system.backbones.packaged_info import CLASSES_MIXED, TEMPERATURE, TOWER_ID
from system.backbones.runtime import Runtime
from system.backbones.tower import TowerOutput

# What the weights were trained with: (pixel - 127) / 128.
_MEAN, _SCALE = 127.0, 128.0


class PackagedTower:
    """`ImageTextTower` from two packages. Patch tokens are the 7x7 last maps, 1280 channels.

    Answers on a CPU do not depend on the batch beyond 1e-5.
    """

    name = "packaged"
    tower_id = TOWER_ID
    embedding_dim = EMBEDDING_DIM
    patch_dim = CHANNELS
    input_size = INPUT_SIZE
    patch_grid = GRID

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._texts = MiniLm()
        # timm types its models as plain modules.
        model: Any = fold_batch_norms(load_efficientnet_lite0()).to(runtime.device)
        self._model = model.to(memory_format=torch.channels_last)
        self._features = torch.compile(model.forward_features) if runtime.compile else model.forward_features
        self._classes_KE = self._class_embeddings().to(runtime.device)

    def text_prompt(self, words: str) -> str:
        """The words themselves: a sentence encoder wants no "a photo of"."""
        return words

    @torch.no_grad()
    def encode_texts(self, texts: Sequence[str]) -> Tensor:
        """[N, 384] float32, norm 1."""
        return F.normalize(self._texts.encode(texts) - self._mean_E, dim=-1).to(self._runtime.device)

    @torch.no_grad()
    def encode_images(self, images_NHWC: Tensor) -> TowerOutput:
        size = self._runtime.batch_size
        parts = [self._encode(images_NHWC[k : k + size]) for k in range(0, len(images_NHWC), size)]
        if not parts:
            return TowerOutput(torch.zeros(0, EMBEDDING_DIM), torch.zeros(0, GRID[0] * GRID[1], CHANNELS))
        return TowerOutput(torch.cat([pooled for pooled, _ in parts]), torch.cat([patches for _, patches in parts]))

    def _encode(self, images_NHWC: Tensor) -> tuple[Tensor, Tensor]:
        # A view of NHWC is channels_last already.
        pixels = images_NHWC.to(self._runtime.device).permute(0, 3, 1, 2).float().sub_(_MEAN).div_(_SCALE)
        dtype = getattr(torch, self._runtime.dtype)
        with torch.autocast(self._runtime.device, dtype, enabled=dtype != torch.float32):
            maps_NCHW = self._features(pixels)
            logits_NK = self._model.get_classifier()(maps_NCHW.mean((2, 3)))
        values, classes = (logits_NK.float() / TEMPERATURE).softmax(-1).topk(CLASSES_MIXED)
        weights = values / values.sum(-1, keepdim=True)
        mixed_NE = (weights[..., None] * self._classes_KE[classes]).sum(1)
        return F.normalize(mixed_NE, dim=-1), maps_NCHW.float().flatten(2).transpose(1, 2).contiguous()

    def _class_embeddings(self) -> Tensor:
        """Class names in text space, less their common mean, which says "thing" and nothing else; [K, E]."""
        names = class_names()
        digest = hashlib.sha256("\n".join([TOWER_ID, *names]).encode()).hexdigest()[:16]
        path = cache_folder() / f"imagenet-classes-{digest}.safetensors"
        embedded = load_file(path)["classes"] if path.is_file() else self._texts.encode(names)
        if not path.is_file():
            draft = path.with_suffix(f".{id(self)}")
            save_file({"classes": embedded}, draft)
            draft.replace(path)
        self._mean_E = embedded.mean(0)
        return embedded - self._mean_E


def class_names() -> list[str]:
    """The thousand ImageNet class names as torchvision ships them, in the classifier's order."""
    from torchvision.models import EfficientNet_B0_Weights

    return list(EfficientNet_B0_Weights.IMAGENET1K_V1.meta["categories"])
