"""The shared stream: 32 bird's-eye tokens of a scene, with place and time, through a small transformer.

Heads read it and never write to it. After base training it is frozen.
Legend: N scenes, K = 32 cells, C channels of a patch, D stream width.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from system.miner.bev import NUM_CELLS, NUM_RINGS, NUM_SECTORS, BevTokens

# Periods of the time encoding; windows are a few seconds long.
_PERIODS_S = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0)


class SceneStream(nn.Module):
    """Bird's-eye tokens to the stream [N, K, D]; cells that nobody saw are neither read nor given meaning."""

    def __init__(self, patch_dim: int, stream_dim: int, num_blocks: int, num_heads: int) -> None:
        super().__init__()
        self.mean_in = nn.Linear(patch_dim, stream_dim)
        self.trend_in = nn.Linear(patch_dim, stream_dim, bias=False)
        self.sector = nn.Parameter(0.02 * torch.randn(NUM_SECTORS, 1, stream_dim))
        self.ring = nn.Parameter(0.02 * torch.randn(1, NUM_RINGS, stream_dim))
        self.time_in = nn.Linear(2 * len(_PERIODS_S), stream_dim)
        self.blocks = nn.ModuleList(_Block(stream_dim, num_heads) for _ in range(num_blocks))
        self.norm_out = nn.LayerNorm(stream_dim)

    def forward(self, tokens: BevTokens) -> Tensor:
        # The trend is measured in the token's own spread, so that neither depends on the tower's scale.
        centre = tokens.mean_NKC.mean(-1, keepdim=True)
        spread = tokens.mean_NKC.std(-1, keepdim=True, unbiased=False) + 1e-5
        stream = self.mean_in((tokens.mean_NKC - centre) / spread) + self.trend_in(tokens.trend_NKC / spread)
        stream = stream + (self.sector + self.ring).view(NUM_CELLS, -1) + self.time_in(_waves(tokens.time_s_NK))
        is_read = readable(tokens.is_seen_NK)
        for block in self.blocks:
            stream = block(stream, is_read)
        return self.norm_out(stream)


def readable(is_seen_NK: Tensor) -> Tensor:
    """Cells that attention may read: the seen ones, or all of a scene without pictures, since some must be."""
    return is_seen_NK | ~is_seen_NK.any(-1, keepdim=True)


def attend(queries_NQD: Tensor, keys_NKD: Tensor, values_NKD: Tensor, is_read_NK: Tensor, num_heads: int) -> Tensor:
    """Multi-head attention [N, Q, D] over the readable cells.

    Written out, because torch's fused kernels differ in the last bit between training and inference, and a head's
    output has to be the same in both.
    """
    queries, keys, values = (
        x.unflatten(-1, (num_heads, -1)).transpose(1, 2) for x in (queries_NQD, keys_NKD, values_NKD)
    )
    scores = queries @ keys.transpose(-1, -2) / math.sqrt(queries.shape[-1])
    weights = scores.masked_fill(~is_read_NK[:, None, None], -torch.inf).softmax(-1)
    return (weights @ values).transpose(1, 2).flatten(-2)


class _Block(nn.Module):
    """Pre-norm transformer block; its width is 4 D inside the perceptron."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.norm_attention = nn.LayerNorm(dim)
        self.to_qkv = nn.Linear(dim, 3 * dim)
        self.from_attention = nn.Linear(dim, dim)
        self.perceptron = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim))

    def forward(self, stream_NKD: Tensor, is_read_NK: Tensor) -> Tensor:
        queries, keys, values = self.to_qkv(self.norm_attention(stream_NKD)).chunk(3, -1)
        stream_NKD = stream_NKD + self.from_attention(attend(queries, keys, values, is_read_NK, self.num_heads))
        return stream_NKD + self.perceptron(stream_NKD)


def _waves(time_s: Tensor) -> Tensor:
    """Sines and cosines of a time at each period: [..., 2 * periods]."""
    angles = time_s[..., None] * (2 * math.pi / torch.tensor(_PERIODS_S, device=time_s.device, dtype=time_s.dtype))
    return torch.cat([angles.sin(), angles.cos()], -1)
