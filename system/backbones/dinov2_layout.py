"""DINOv2's weights under the names of timm and of transformers, both ways.

timm keeps query, key and value in one matrix; transformers keeps three, and a mask token that only pretraining uses.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from system.errors import ModelError

# (timm, transformers); a block's number stands where {} does.
_OUTER = (
    ("cls_token", "embeddings.cls_token"),
    ("pos_embed", "embeddings.position_embeddings"),
    ("patch_embed.proj.weight", "embeddings.patch_embeddings.projection.weight"),
    ("patch_embed.proj.bias", "embeddings.patch_embeddings.projection.bias"),
    ("norm.weight", "layernorm.weight"),
    ("norm.bias", "layernorm.bias"),
)
_IN_BLOCK = (
    *(
        (f"{name}.{part}", f"{name}.{part}")
        for name in ("norm1", "norm2", "mlp.fc1", "mlp.fc2")
        for part in ("weight", "bias")
    ),
    ("attn.proj.weight", "attention.o_proj.weight"),
    ("attn.proj.bias", "attention.o_proj.bias"),
    ("ls1.gamma", "layer_scale1.lambda1"),
    ("ls2.gamma", "layer_scale2.lambda1"),
)
_QKV = ("q_proj", "k_proj", "v_proj")


def to_timm(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """From transformers' names (`Dinov2Model`).

    Raises:
        ModelError: a tensor is missing.
    """
    found = {ours: _get(weights, theirs) for ours, theirs in _OUTER}
    for block in range(_num_blocks(weights, r"encoder\.layer\.(\d+)\.")):
        theirs = f"encoder.layer.{block}."
        found |= {f"blocks.{block}.{a}": _get(weights, theirs + b) for a, b in _IN_BLOCK}
        for part in ("weight", "bias"):
            three = [_get(weights, f"{theirs}attention.{name}.{part}") for name in _QKV]
            found[f"blocks.{block}.attn.qkv.{part}"] = torch.cat(three)
    return found


def to_transformers(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """From timm's names; the mask token, which no answer depends on, is zero.

    Raises:
        ModelError: a tensor is missing.
    """
    found = {theirs: _get(weights, ours) for ours, theirs in _OUTER}
    found["embeddings.mask_token"] = torch.zeros(1, weights["cls_token"].shape[-1])
    for block in range(_num_blocks(weights, r"blocks\.(\d+)\.")):
        theirs = f"encoder.layer.{block}."
        found |= {theirs + b: _get(weights, f"blocks.{block}.{a}") for a, b in _IN_BLOCK}
        for part in ("weight", "bias"):
            three = _get(weights, f"blocks.{block}.attn.qkv.{part}").chunk(3)
            found |= {f"{theirs}attention.{name}.{part}": value for name, value in zip(_QKV, three, strict=True)}
    return {name: tensor.contiguous() for name, tensor in found.items()}


def transformers_config(weights: Mapping[str, Tensor], num_heads: int) -> dict[str, Any]:
    """`config.json` of a `Dinov2Model` with such weights, in timm's names."""
    width, _, patch, _ = weights["patch_embed.proj.weight"].shape
    side = round((weights["pos_embed"].shape[1] - 1) ** 0.5)
    return {
        "architectures": ["Dinov2Model"],
        "model_type": "dinov2",
        "hidden_size": width,
        "num_hidden_layers": _num_blocks(weights, r"blocks\.(\d+)\."),
        "num_attention_heads": num_heads,
        "mlp_ratio": weights["blocks.0.mlp.fc1.weight"].shape[0] // width,
        "patch_size": patch,
        "image_size": side * patch,
        "qkv_bias": True,
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-6,
        "use_swiglu_ffn": False,
    }


def is_dinov2(architecture: str, weights: Mapping[str, Tensor]) -> bool:
    """Whether transformers' `Dinov2Model` computes the same: no registers, a plain MLP."""
    return "dinov2" in architecture and "reg_token" not in weights and "blocks.0.mlp.fc1_g.weight" not in weights


def _num_blocks(weights: Mapping[str, Tensor], pattern: str) -> int:
    return 1 + max((int(found[1]) for name in weights if (found := re.match(pattern, name))), default=-1)


def _get(weights: Mapping[str, Tensor], name: str) -> Tensor:
    if name not in weights:
        raise ModelError(f"weights of a DINOv2: {name} is missing")
    return weights[name]
