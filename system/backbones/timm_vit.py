"""Any vision transformer of timm as a dense tower: `NAME` with weights of the hub, or `NAME@FILE.safetensors`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import timm
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from system.backbones.contrastive import weights_fingerprint
from system.backbones.runtime import Runtime
from system.backbones.vit import take_normalisation
from system.errors import ConfigError, ModelError


class TimmViT:
    """`DenseTower` around `timm.create_model`."""

    def __init__(self, name: str, source: str, runtime: Runtime) -> None:
        architecture, at, file = source.partition("@")
        if not timm.is_model(architecture.partition(".")[0]):
            raise ConfigError(f"{name}: timm knows no model {architecture!r}; see timm.list_models('vit_*')")
        try:
            model: Any = timm.create_model(architecture, pretrained=not at, num_classes=0)
            if at:
                model.load_state_dict(load_file(file))
                take_normalisation(model, file)
        except (RuntimeError, OSError, ValueError, SafetensorError) as error:
            raise ModelError(
                f"{name}: cannot be loaded: {str(error).splitlines()[0]}. Without a network, name "
                "timm:NAME@FILE.safetensors"
            ) from error
        if not hasattr(model, "blocks") or not hasattr(model, "forward_intermediates"):
            raise ConfigError(f"{name}: expected a vision transformer with blocks")
        self.name, self._runtime = name, runtime
        self._model = model.eval().to(runtime.device)
        self.tower_id = weights_fingerprint(model)
        config = timm.data.resolve_model_data_config(model)
        self.input_size = (int(config["input_size"][1]), int(config["input_size"][2]))
        self.num_blocks = len(model.blocks)
        self._mean = torch.tensor(config["mean"], device=runtime.device).view(3, 1, 1)
        self._std = torch.tensor(config["std"], device=runtime.device).view(3, 1, 1)
        features = self.encode_blocks(torch.zeros(1, *self.input_size, 3, dtype=torch.uint8), [0])[0]
        self.patch_dim, self.patch_grid = features.shape[1], (features.shape[2], features.shape[3])

    @torch.no_grad()
    def encode_blocks(self, images_NHWC: Tensor, blocks: Sequence[int]) -> list[Tensor]:
        """Patch features after some blocks, counted from 0: each [N, C, rows, columns] float32.

        Raises:
            ConfigError: a block beyond the last.
        """
        if not all(0 <= block < self.num_blocks for block in blocks):
            raise ConfigError(f"blocks {list(blocks)}: expected numbers in 0..{self.num_blocks - 1}")
        size = self._runtime.batch_size
        parts = [self._encode(images_NHWC[k : k + size], blocks) for k in range(0, len(images_NHWC), size)]
        return [torch.cat(features) for features in zip(*parts, strict=True)]

    def _encode(self, images_NHWC: Tensor, blocks: Sequence[int]) -> list[Tensor]:
        pixels = images_NHWC.to(self._runtime.device).permute(0, 3, 1, 2).float() / 255.0
        dtype = getattr(torch, self._runtime.dtype)
        with torch.autocast(self._runtime.device, dtype, enabled=dtype != torch.float32):
            features = self._model.forward_intermediates(
                (pixels - self._mean) / self._std, indices=list(blocks), output_fmt="NCHW", intermediates_only=True
            )
        # timm answers in the order of the network, the caller asked in an order of his own.
        rank = {block: k for k, block in enumerate(sorted(set(blocks)))}
        return [features[rank[block]].float() for block in blocks]
