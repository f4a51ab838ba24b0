"""The heads: each reads the stream through sub-modules of its own and adds to an answer that exists without it.

The last layer of every addition starts at zero, so that before training the answer is exactly the one without it: the
tower's zero-shot embedding and tags, the kinematic forecast. No head's parameters reach another head's output.
Legend: N scenes, K = 32 cells, D stream width, Q queries.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from system.miner.forecast import NUM_MODES, kinematic_modes
from system.miner.stream import attend


class StreamReader(nn.Module):
    """Attention of Q learned queries over the stream, then a perceptron: [N, K, D] -> [N, Q, outputs].

    The last layer is zero at first, and so is the output.
    """

    def __init__(self, stream_dim: int, hidden: int, outputs: int, num_heads: int, queries: int = 1) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.queries = nn.Parameter(0.02 * torch.randn(queries, stream_dim))
        self.norm_in = nn.LayerNorm(stream_dim)
        self.to_keys_values = nn.Linear(stream_dim, 2 * stream_dim)
        self.from_attention = nn.Linear(stream_dim, stream_dim)
        self.hidden = nn.Sequential(nn.LayerNorm(stream_dim), nn.Linear(stream_dim, hidden), nn.GELU())
        self.out = nn.Linear(hidden, outputs)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, stream_NKD: Tensor, is_read_NK: Tensor, extra_ND: Tensor | None = None) -> Tensor:
        """extra_ND: added to every query."""
        queries = self.queries.expand(len(stream_NKD), -1, -1)
        if extra_ND is not None:
            queries = queries + extra_ND[:, None]
        keys, values = self.to_keys_values(self.norm_in(stream_NKD)).chunk(2, -1)
        read = queries + self.from_attention(attend(queries, keys, values, is_read_NK, self.num_heads))
        return self.out(self.hidden(read))


class EmbeddingHead(nn.Module):
    """normalise(g + W_o h(stream)), W_o zero at first; g is the tower's mean embedding."""

    def __init__(self, stream_dim: int, hidden: int, embedding_dim: int, num_heads: int) -> None:
        super().__init__()
        self.reader = StreamReader(stream_dim, hidden, embedding_dim, num_heads)

    def forward(self, stream_NKD: Tensor, is_read_NK: Tensor, mean_embedding_NE: Tensor) -> Tensor:
        return F.normalize(mean_embedding_NE + self.reader(stream_NKD, is_read_NK)[:, 0], dim=-1)


class TagHead(nn.Module):
    """sigmoid(zero-shot logits + W_o h(stream)), W_o zero at first."""

    def __init__(self, stream_dim: int, hidden: int, num_tags: int, num_heads: int) -> None:
        super().__init__()
        self.reader = StreamReader(stream_dim, hidden, num_tags, num_heads)

    def forward(self, stream_NKD: Tensor, is_read_NK: Tensor, zero_shot_logits_NT: Tensor) -> Tensor:
        return torch.sigmoid(zero_shot_logits_NT + self.reader(stream_NKD, is_read_NK)[:, 0])


class RiskHead(nn.Module):
    """Risk in [0, 1) from pictures alone. It has no zero-shot answer, so that a model has it only once trained.

    With hazard H = softplus(logit), 1 - exp(-H) is sigmoid(logit): the form of the physics score that it learns.
    """

    def __init__(self, stream_dim: int, hidden: int, num_heads: int) -> None:
        super().__init__()
        self.reader = StreamReader(stream_dim, hidden, 1, num_heads)

    def forward(self, stream_NKD: Tensor, is_read_NK: Tensor) -> Tensor:
        return torch.sigmoid(self.reader(stream_NKD, is_read_NK)[:, 0, 0]).clamp_max(1.0 - 2.0**-24)


class ForecastHead(nn.Module):
    """The kinematic modes, each moved and weighed by what the stream shows; unmoved at first."""

    # Typical sizes of speed (m/s), yaw rate (rad/s) and acceleration (m/s^2).
    _EGO_SCALE = (10.0, 0.3, 2.0)

    def __init__(self, stream_dim: int, hidden: int, horizon_s: float, num_steps: int, num_heads: int) -> None:
        super().__init__()
        self.horizon_s, self.num_steps = horizon_s, num_steps
        self.ego_in = nn.Linear(len(self._EGO_SCALE), stream_dim)
        self.reader = StreamReader(stream_dim, hidden, 2 * num_steps + 1, num_heads, queries=NUM_MODES)

    def forward(self, stream_NKD: Tensor, is_read_NK: Tensor, ego_N3: Tensor) -> tuple[Tensor, Tensor]:
        """(forecast_NMT2 in m, probability_NM); NaN where the ego's speed is unknown."""
        paths, logits = kinematic_modes(ego_N3, self.horizon_s, self.num_steps)
        scaled_ego = ego_N3.nan_to_num() / torch.tensor(self._EGO_SCALE, device=ego_N3.device)
        residual = self.reader(stream_NKD, is_read_NK, self.ego_in(scaled_ego))
        offsets = residual[..., 1:].unflatten(-1, (self.num_steps, 2))
        return paths + offsets, (logits + residual[..., 0]).softmax(-1)
